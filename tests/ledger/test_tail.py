"""The newest events in memory: they grow by what follows on them, and by nothing else."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from ledger import tail
from ledger.codec import chain
from ledger.recorded import Recorded
from ledger.tail import Tail

START = bytes(32)


def history(count: int, *, actor: str = "ann") -> list[Recorded]:
    events, digest = [], START
    for position in range(1, count + 1):
        at = datetime(2026, 11, 21, tzinfo=UTC)
        envelope = (position, "workflow-a", position, "task.started", UUID(int=position), at, None, None, actor, None)
        digest = chain(digest, envelope, b"{}")
        events.append(Recorded(*envelope, b"{}", digest))
    return events


def started_at(events: list[Recorded], position: int) -> Tail:
    newest = Tail()
    newest.start(position, events[position - 1].digest if position else START)
    return newest


def test_it_answers_exactly_for_what_it_holds() -> None:
    events = history(10)
    newest = started_at(events, 4)
    assert newest.offer(events, trusted=False) == 6
    for after in range(4):
        assert newest.since(after, 100) is None
    for after in range(4, 13):
        assert newest.since(after, 3) == events[after : after + 3]


def test_a_gap_is_refused_and_remembered_as_wanted() -> None:
    events = history(10)
    newest = started_at(events, 2)
    assert newest.offer(events[5:7], trusted=True) == 0
    assert (newest.last, newest.wanted, newest.behind.is_set()) == (2, 7, True)


def test_what_overlaps_is_taken_once() -> None:
    events = history(10)
    newest = started_at(events, 0)
    assert [newest.offer(events[:6], trusted=False), newest.offer(events[3:8], trusted=False)] == [6, 2]
    assert newest.since(0, 100) == events[:8]


def test_another_history_is_refused_from_where_it_differs() -> None:
    events, others = history(10), history(10, actor="mallory")
    newest = started_at(events, 0)
    assert newest.offer([*events[:3], *others[3:6]], trusted=False) == 3
    assert newest.since(0, 100) == events[:3]
    assert newest.wanted == 4


def test_also_what_is_trusted_has_to_continue_what_is_here() -> None:
    events, others = history(10), history(10, actor="mallory")
    newest = started_at(others, 4)
    assert newest.offer(events, trusted=True) == 0
    newest.wrote(events[4:])
    assert (newest.last, newest.wanted, newest.behind.is_set()) == (4, 5, True)


def test_memory_is_bounded_by_count_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    events = history(100)
    monkeypatch.setattr(tail, "KEPT_EVENTS", 10)
    newest = started_at(events, 0)
    for event in events:
        newest.wrote([event])
        assert len(newest._events) <= 20
    assert newest.since(95, 100) == events[95:]
    monkeypatch.setattr(tail, "KEPT_BYTES", 6)
    small = started_at(events, 0)
    for event in events:
        small.wrote([event])
        assert small._bytes <= 6
    assert small.since(99, 100) == events[99:]
    at_once = started_at(events, 0)
    at_once.wrote(events)
    assert at_once._bytes <= 6
    assert at_once.since(99, 100) == events[99:]


def test_nothing_is_kept_before_somebody_follows() -> None:
    newest = Tail()
    newest.wrote(history(3))
    assert newest.since(0, 100) is None
    assert not newest.behind.is_set()
