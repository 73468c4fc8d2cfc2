"""What every release wrote is read by today's code, means the same, and is what today's code writes for its newest."""

import json
from collections import defaultdict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from domain.events import TaskStarted
from domain.state import replay
from ledger.codec import EVENTS, decode, encode
from ledger.recorded import Recorded
from ledger.verify import GENESIS
from ops import golden
from ops.golden import GOLDEN, SUMS, Line

RELEASES = sorted(folder.name for folder in GOLDEN.iterdir())
FILES = sorted(str(file.relative_to(GOLDEN)) for file in GOLDEN.glob("*/*.jsonl") if file.stem != "history")
HISTORIES = sorted(str(file.relative_to(GOLDEN)) for file in GOLDEN.glob("*/history.jsonl"))


def recorded(file: Path) -> list[Recorded]:
    lines = [msgspec.json.decode(line, type=Line) for line in file.read_bytes().splitlines()]
    return [
        Recorded(
            line.position, line.stream, line.version, line.type, line.id, line.recorded_at, line.correlation_id,
            line.causation_id, line.actor, line.traceparent, bytes(line.state), bytes.fromhex(line.digest),
        )
        for line in lines
    ]  # fmt: skip


def lost(golden: Any, today: Any, path: str = "$") -> Iterator[str]:
    """Where something that was written is not there any more, or is something else."""
    if isinstance(golden, dict) and isinstance(today, dict):
        for key, value in golden.items():
            if key in today:
                yield from lost(value, today[key], f"{path}.{key}")
            else:
                yield f"{path}.{key}"
    elif golden != today:
        yield path


def defaults(value: Any, path: str = "$") -> Iterator[str]:
    """Every field, at any depth, that has its default."""
    if isinstance(value, msgspec.Struct):
        for field in msgspec.structs.fields(value):
            inner = getattr(value, field.name)
            if inner == (field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()):
                yield f"{path}.{field.name}"
            yield from defaults(inner, f"{path}.{field.name}")
    elif isinstance(value, tuple | dict):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from defaults(inner, f"{path}[{key}]")


def test_there_are_golden_files() -> None:
    assert RELEASES and FILES and HISTORIES


@pytest.mark.parametrize("release", RELEASES)
def test_golden_files_are_never_changed(release: str) -> None:
    lines = (line.split("  ") for line in (GOLDEN / release / SUMS).read_text().splitlines())
    sums = {name: digest for digest, name in lines}
    files = {file.name: sha256(file.read_bytes()).hexdigest() for file in (GOLDEN / release).iterdir()}
    del files[SUMS]
    assert files == sums


@pytest.mark.parametrize("name", FILES)
def test_every_event_ever_written_is_read_and_nothing_of_it_is_lost(name: str) -> None:
    for state in (GOLDEN / name).read_bytes().splitlines():
        tag = json.loads(state)["type"]
        event = decode(1, tag, state)
        if tag in EVENTS:  # else it was read as what replaced it
            assert [*lost(json.loads(state), json.loads(encode(event)))] == []


def test_what_events_look_like_today_is_kept() -> None:
    """Where this fails an event has changed its shape: run `python -m ops.golden <next release>`."""
    assert [name for name in golden.missing() if name not in ("history.jsonl", "states.json")] == []


@pytest.mark.parametrize("tag", EVENTS)
def test_a_full_event_has_every_field_and_a_minimal_one_no_more_than_it_needs(tag: str) -> None:
    event = EVENTS[tag]
    full, least = golden.sample(event, full=True), golden.sample(event, full=False)
    assert [*defaults(full)] == []
    required = {field.encode_name for field in msgspec.structs.fields(event) if field.required}
    assert msgspec.to_builtins(least).keys() == {"type", *required}


@pytest.mark.parametrize("name", HISTORIES)
def test_the_digests_of_a_golden_ledger_are_computed_again(name: str) -> None:
    digest, plain = GENESIS, GENESIS
    for event in recorded(GOLDEN / name):
        assert event.continues(digest), f"position {event.position}"
        digest = event.digest
        # And by what the docstring of ledger.codec says alone.
        at = event.recorded_at.isoformat().replace("+00:00", "Z")
        envelope = [*event.envelope[:4], str(event.id), at, *event.envelope[6:]]
        said = json.dumps(envelope, ensure_ascii=False, separators=(",", ":")).encode()
        plain = sha256(plain + said + event.state).digest()
        assert plain == digest, f"position {event.position}"


@pytest.mark.parametrize("name", HISTORIES)
def test_a_golden_history_folds_to_its_golden_states(name: str) -> None:
    streams = defaultdict(list)
    for event in recorded(GOLDEN / name):
        streams[event.stream].append(event.event)
    told = json.loads((GOLDEN / name).with_name("states.json").read_bytes())
    workflows = {stream: events for stream, events in streams.items() if stream.startswith("workflow-")}
    assert {stream: golden.outline(replay(events)) for stream, events in workflows.items()} == told


def test_a_golden_history_holds_every_kind_of_event_of_today() -> None:
    assert {line.type for line in golden.history()} == set(EVENTS)


def test_a_release_is_written_once_and_only_what_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert golden.main(["1.0"], tmp_path) == 0
    assert {file.name for file in (tmp_path / "1.0").iterdir()} == {*golden.documents(), SUMS}
    before = {file: file.read_bytes() for file in tmp_path.glob("*/*")}
    assert golden.main(["1.1"], tmp_path) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["1.0"], "nothing is written otherwise than before"

    class Later(TaskStarted, frozen=True, tag="task.started"):
        host: str = ""

    monkeypatch.setitem(EVENTS, "task.started", Later)
    assert golden.main(["1.0"], tmp_path) == 1
    assert "never change" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in tmp_path.glob("*/*")} == before
    assert list(golden.missing(tmp_path)) == ["task.started.jsonl"]
    assert golden.main(["1.1"], tmp_path) == 0
    assert {file.name for file in (tmp_path / "1.1").iterdir()} == {"task.started.jsonl", SUMS}
    assert golden.missing(tmp_path) == {}


def test_a_field_that_is_gone_or_says_something_else_is_seen() -> None:
    assert [*lost({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}, "new": 4})] == ["$.a.b", "$.a.c"]
