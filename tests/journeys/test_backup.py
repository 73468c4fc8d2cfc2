"""Back to the past: restored in the middle of plans, beside a NATS and agents that remember the future of the old life."""

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn.bus import Bus
from cairn.calls import NotFound
from ledger.stream import streams_of

from .desk import CAIRN, Desk, git
from .stage import Json, System, data_folder, is_a, kept, layers, system
from .test_faults import yours

DOCS = (Path(__file__).parents[2] / "docs" / "backup.md").read_text()
PATIENT = layers("patient", 1, agent_role="writer", acceptance_criteria={})


def cairn(*arguments: str | Path, **environment: str) -> str:
    """Calls it in the environment of a system; what it says on stdout."""
    done = subprocess.run([*CAIRN, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"cairn {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def commits_named(stage: System) -> set[str]:
    """Of work that was reported or accepted, and where it began."""
    found: set[str] = set()
    for event in stage.client.events():
        data: Json = event["data"]
        found |= {commit for commit in (data.get("base"), (data.get("result") or {}).get("commit")) if commit}
    return found


def unended(name: str, *widths: int) -> Json:
    """Layers and a last task of a role that nobody has yet, so that the plan is under way for as long as a test wants."""
    plan = layers(name, *widths)
    before = [f"t{len(widths)}-{number}" for number in range(1, widths[-1] + 1)]
    plan["tasks"].append({"id": "last", "agent_role": "debugger", "dependencies": before})
    return plan


def test_a_system_at_work_is_backed_up_and_its_plans_go_on_elsewhere() -> None:
    with data_folder() as place, system() as stage:
        for name in ("ann", "bob"):
            stage.agent("worker", "coder", name, "2")
        workflow = stage.submit(unended("busy", 2, 3, 3, 2))
        stage.reached(20)
        environment = dict(stage._environment)
        taken = json.loads(cairn("backup", place / "backup", "-o", "json", **environment))
        [main] = taken["tenants"]
        assert main["position"] >= 20
        stage.agent("worker", "debugger", "dora")
        assert stage.finished(workflow) == "completed"
        stage.intact()
        stage.end_agents()
        stage.kill()
        [back] = json.loads(
            cairn("restore", place / "backup", "--data-dir", place / "data", "-o", "json", **environment)
        )
        assert back["position"] >= main["position"] and back["epoch"] == main["epoch"] + 1
        assert back["workflows"] == 1
        with kept(System(place / "data")) as restored:
            restored.start()
            repository = place / "data" / "artifacts.git"
            for commit in commits_named(restored):
                assert git(repository, "cat-file", "-t", commit) == "commit\n"
            git(repository, "fsck", "--strict")
            restored.agent("worker", "coder", "cleo", "2")
            restored.agent("worker", "debugger", "dan")
            assert restored.finished(workflow) == "completed"
            event = restored.seen(lambda event: is_a(event, "ledger.restored"))
            assert int(event["sequence"]) == back["position"] + 1
            assert event["data"]["position"] == back["position"] and event["data"]["taken_at"] == taken["taken_at"]
            restored.intact()


def test_a_nats_and_agents_that_remember_the_future_do_not_bring_it_into_the_past() -> None:
    """The old life goes on after its backup; then it ends, and what it told NATS and its agents stays behind."""
    with yours() as servers, data_folder() as place, system(NATS_URL=servers.nats_url) as stage:
        stage.agent("zombie", "writer", "zed", str(stage.folder))
        stage.agent("worker", "coder", "ann", "2")
        patient = stage.submit(PATIENT, bare=True)
        stage.seen(lambda event: is_a(event, "task.started", agent="zed"), workflow=patient)
        (stage.folder / "freeze").touch()
        stage.until((stage.folder / "frozen").exists, "the zombie stands still")
        shared = stage.submit(unended("shared", 1, 3, 1))
        stage.seen(lambda event: is_a(event, "task.started"), workflow=shared)
        environment = dict(stage._environment)
        cairn("backup", place / "backup", **environment)
        stage.agent("worker", "debugger", "dora")
        assert stage.finished(shared) == "completed"
        future = stage.submit(layers("future", 1))
        assert stage.finished(future) == "completed"
        end = max(int(event["sequence"]) for event in stage.client.events())
        stage.until(lambda: stage.client.ready()["checks"]["relay"]["behind"] == 0, "NATS holds the future")
        stage.kill()
        [back] = json.loads(
            cairn("restore", place / "backup", "--data-dir", place / "data", "-o", "json", **environment)
        )
        assert back["position"] < end and back["workflows"] == 2
        (stage.folder / "wake").touch()  # it reports into the inbox that both lives share
        with kept(System(place / "data", NATS_URL=servers.nats_url)) as restored:
            restored.start()
            assert restored.client.workflow(patient)["workflow"]["status"] == "running"
            with pytest.raises(NotFound):
                restored.client.workflow(future)
            refused = restored.seen(lambda event: is_a(event, "report.refused", kind="completed"), workflow=patient)
            assert refused["data"]["agent"] == "zed" and refused["data"]["token"] == 1
            assert restored.finished(patient) == "completed"
            assert restored.finished(shared) == "completed"
            done = restored.seen(lambda event: is_a(event, "task.completed"), workflow=patient)
            assert int(done["sequence"]) > int(refused["sequence"])
            assert asyncio.run(streams(servers.nats_url)) == {f"MAIN_EVENTS_{back['epoch']}": back["epoch"]}
            with pytest.raises(NotFound):
                restored.client.workflow(future)
            assert "/future/" not in git(restored.folder / "artifacts.git", "for-each-ref", "refs/heads/")
            stage.end_agents()
            restored.intact()


async def streams(url: str) -> dict[str, int]:
    async with Bus.connect(url, name="journey") as bus:
        return await streams_of(bus, "main")


@pytest.fixture
def reader() -> Iterator[Desk]:
    """Somebody who reads `docs/backup.md`, with a system of small partitions that is up and an agent that works for it."""
    path, small = f"{Path(sys.executable).parent}:/usr/bin:/bin", "-c cairn.partition_events=8"
    with data_folder() as folder, data_folder() as at, kept(Desk(folder, at, PATH=path, PGOPTIONS=small)) as one:
        one.start()
        one.agent("worker", "coder", "ann", "2")
        yield one


def test_what_the_page_tells_to_type_works_and_leads_to_the_moment_it_names(reader: Desk) -> None:
    blocks = re.findall(r"^```console\n(.*?)^```$", DOCS, re.MULTILINE | re.DOTALL)
    typed = [line.removeprefix("$ cairn ") for block in blocks for line in block.splitlines()]
    assert len(typed) == 8 and all("$" not in line for line in typed)
    first = reader.submit(layers("first", 1, 2))
    assert reader.finished(first) == "completed"
    monday, back, up, wal, tuesday, recover, up_again, finish = (line.removesuffix(" &").split() for line in typed)
    reader.cairn(*monday)
    reader.cairn(*back)
    with living(reader, up) as restored:
        assert restored.client.workflow(first)["workflow"]["status"] == "completed"
        restored.intact()

    reader.begin_cairn("wal", *wal)
    reader.until(lambda: "archiving" in reader.log("wal"), "it archives")
    reader.cairn(*tuesday)
    middle = reader.submit(unended("middle", 1, 3, 1))
    quiet = reader.seen(lambda event: is_a(event, "task.dispatched", task="last"), workflow=middle)
    assert reader.ended("wal", signal.SIGINT) == 0, reader.log("wal")
    moved = json.loads(reader.cairn("archive", "--before", "9", "-o", "json").out)
    reader.begin_cairn("wal", *wal)
    reader.until(lambda: reader.log("wal").count("archiving") == 2, "it archives again")
    moved += json.loads(reader.cairn("archive", "--before", quiet["sequence"], "-o", "json").out)
    assert len(moved) > 2
    reader.agent("worker", "debugger", "dora")
    assert reader.finished(middle) == "completed"
    last = reader.submit(layers("last", 1))
    assert reader.finished(last) == "completed"
    end = max(int(event["sequence"]) for event in reader.client.events())
    segments = {one["where"]: (reader.folder / "archive" / one["where"]).read_bytes() for one in moved}
    there = reader.at / wal[1] / "archive"
    reader.until(lambda: set(segments) == {path.name for path in there.iterdir()}, "the segments are copied meanwhile")
    assert reader.ended("wal", signal.SIGINT) == 0, reader.log("wal")
    copied = [said.count("copied ") for said in reader.log("wal").split("archiving")]
    assert copied == [0, 1, len(segments) - 1], "each once, and what there is before any WAL is received"
    reader.end_agents()
    reader.kill()
    reader.until(lambda: not reader.left(), "nobody writes any more")
    for path in reader.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)

    until = recover.index("--until")
    to_the_end = ["restore", "--data-dir", "after", "-o", "json", *recover[1:until]]
    [after] = json.loads(reader.cairn(*to_the_end).out)
    assert after["position"] >= end, "verified from the first event to the last, whether in a segment or not"
    assert {path.name: path.read_bytes() for path in (reader.at / "after" / "archive").iterdir()} == segments

    # The last moment at which none of them had left Postgres.
    recover[until + 1] = moved[0]["archived_at"]
    reader.cairn(*recover)
    with living(reader, up_again) as recovered:
        assert recovered.client.workflow(middle)["workflow"]["status"] == "running"
        with pytest.raises(NotFound):
            recovered.client.workflow(last)
        restored_at = recovered.seen(lambda event: is_a(event, "ledger.restored"))
        assert restored_at["data"]["position"] == int(quiet["sequence"])
        recovered.agent("worker", "coder", "bob", "2")
        recovered.agent("worker", "debugger", "dan")
        assert recovered.finished(middle) == "completed"
        recovered.intact()
    reader.cairn(*finish)
    with living(reader, up_again) as again:
        epochs = [event["data"]["epoch"] for event in again.client.events() if is_a(event, "ledger.restored")]
        assert epochs == [2, 3]
        again.intact()


def living(reader: Desk, up: list[str]) -> "Iterator[System]":
    """The system that `cairn up --data-dir FOLDER` starts."""
    assert up[:2] == ["up", "--data-dir"]
    one = System(reader.at / up[2])
    one.start()
    return kept(one)  # type: ignore[return-value]
