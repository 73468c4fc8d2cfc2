"""What the bytes of events promise: old ones are read, newer ones are not read by halves, large ones are refused."""

import re
from typing import Any

import msgspec
import pytest
from appends import started

from domain.events import TaskDispatched, TaskStarted, TaskVerified, WorkflowStarted
from domain.outcome import Receipt, Result
from domain.plan import Plan, Task
from ledger import codec
from ledger.codec import EVENTS, STATE_BYTES, decode, encode, tag_of
from ledger.errors import NotRecordable, UnknownEvent
from ledger.upcast import UPCASTS, Json, Upcasts


def begun(old: Json) -> Json:
    """`task.begun` of an imagined past named its agent `by`, and knew seconds only."""
    return {**{key: old[key] for key in ("task", "run")}, "type": "task.begun.2", "agent": old["by"], "for": old["for"]}


def begun_2(old: Json) -> Json:
    """`task.begun.2` had one time for both limits."""
    return {
        **{key: old[key] for key in ("task", "run", "agent")},
        "type": "task.started", "lease_until": old["for"], "timeout_at": old["for"],
    }  # fmt: skip


PAST: Upcasts = {"task.begun": begun, "task.begun.2": begun_2}
LEAST: Json = {"task": "a", "run": "a/1", "agent": "ann"}
OLD = b'{"type":"task.begun","task":"a","run":"a/1","by":"ann","for":30}'


def test_an_old_event_is_read_as_what_it_is_called_today() -> None:
    today = TaskStarted(task="a", run="a/1", agent="ann", lease_until=30.0, timeout_at=30.0)
    assert decode(7, "task.begun", OLD, PAST) == today
    between = b'{"type":"task.begun.2","task":"a","run":"a/1","agent":"ann","for":30}'
    assert decode(7, "task.begun.2", between, PAST) == today


def test_what_is_read_today_costs_nothing_for_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("asked of a current event")

    monkeypatch.setattr(codec, "upcast", never)
    assert decode(1, "task.started", encode(started()), {"task.started": never}) == started()


def test_an_old_event_without_a_reader_is_unknown() -> None:
    with pytest.raises(UnknownEvent, match=r"Position 7 holds 'task\.begun'"):
        decode(7, "task.begun", OLD)
    with pytest.raises(UnknownEvent, match=r"Position 7 holds 'task\.begun\.2'"):
        decode(7, "task.begun", OLD, {"task.begun": begun})
    with pytest.raises(UnknownEvent, match=r"Position 7 holds 'task\.begun'.*`lease_until`"):
        decode(7, "task.begun", OLD, {"task.begun": lambda old: {**LEAST, "type": "task.started"}})


def test_nothing_current_is_called_old() -> None:
    assert not UPCASTS.keys() & EVENTS.keys()


@pytest.mark.parametrize("tag", EVENTS)
def test_a_field_of_a_newer_program_is_not_passed_over(tag: str) -> None:
    """It stands in the bytes only where it says something, and that would be lost on this program."""
    newer = b'{"type":"%s","moon":"full"}' % tag.encode()
    with pytest.raises(UnknownEvent, match=rf"Position 3 holds '{re.escape(tag)}'.*`moon`.*upgrade"):
        decode(3, tag, newer)


def test_fields_of_a_newer_plan_are_not_passed_over_either() -> None:
    event = WorkflowStarted(workflow="w", plan=Plan(id="w", tasks=(Task("a"),)))
    newer = msgspec.json.decode(encode(event))
    newer["plan"]["tasks"][0]["moon"] = "full"
    with pytest.raises(UnknownEvent, match=r"`moon` - at `\$.plan.tasks"):
        decode(3, "workflow.started", msgspec.json.encode(newer))


def test_what_agents_say_beyond_what_is_known_is_passed_over() -> None:
    state = b'{"type":"task.completed","task":"a","run":"a/1","agent":"ann","result":{"summary":"done","moon":"full"}}'
    assert decode(3, "task.completed", state).result == Result("done")  # type: ignore[attr-defined]


HUGE = "x" * STATE_BYTES
RECEIPT = Receipt("make test", 0, False, 1.0, "process", None, 0, "0", HUGE)
DISPATCHED: Json = {
    "workflow": "w", "task": "a", "run": "a/1", "attempt": 1, "role": "coder", "token": 1, "due": 1.0,
    "lease_seconds": 30.0, "timeout_seconds": 60.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("event", "path", "size"),
    [
        (started(agent=HUGE), "$.agent", STATE_BYTES + 2),
        (started(task=HUGE, agent=HUGE), "$.run", STATE_BYTES + 4),
        (TaskDispatched(**DISPATCHED, inputs={"a": 1, "big": [1, {"text": HUGE}]}), "$.inputs.big[1].text", STATE_BYTES + 2),
        (TaskDispatched(**DISPATCHED, files=("x" * 70,) * 300_000), "$.files", 300_000 * 73 + 1),
        (
            WorkflowStarted(workflow="w", plan=Plan(id="w", tasks=(Task("a"), Task("b", description=HUGE)))),
            "$.plan.tasks[1].description",
            STATE_BYTES + 2,
        ),
        (TaskVerified(task="a", run="r", agent="t", passed=True, receipts=(RECEIPT,)), "$.receipts[0].output", STATE_BYTES + 2),
    ],
)  # fmt: skip
def test_an_event_that_is_too_large_says_which_field_is(event: Any, path: str, size: int) -> None:
    with pytest.raises(NotRecordable) as refused:
        encode(event)
    assert f"{tag_of(event)} has " in str(refused.value)
    assert f": {path} has {size} of them" in str(refused.value)


def test_an_event_with_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(NotRecordable, match=r"task\.started holds text that is no Unicode: .*surrogates"):
        encode(started(agent="\ud800"))


def test_an_event_of_the_largest_size_is_recorded() -> None:
    spare = STATE_BYTES - len(encode(started(agent="")))
    assert len(encode(started(agent="x" * spare))) == STATE_BYTES
    with pytest.raises(NotRecordable):
        encode(started(agent="x" * (spare + 1)))
