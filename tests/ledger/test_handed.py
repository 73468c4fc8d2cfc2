"""What a process hands to its relay: newest events without a gap, bounded."""

import pytest
from test_tail import history

from ledger import handed
from ledger.handed import Handed


def test_it_answers_with_what_follows_a_position_and_forgets_what_lies_before() -> None:
    events, held = history(10), Handed()
    assert (held.first, held.after(0, 5, 2**20)) == (0, [])
    held.add(events[2:8])
    assert held.after(1, 5, 2**20) == []
    assert (held.after(3, 2, 2**20), held.first) == (events[3:5], 4)
    held.forget(6)
    assert held.after(6, 5, 2**20) == events[6:8]
    held.forget(9)
    assert (held.first, held.after(9, 5, 2**20)) == (0, [])


def test_after_a_gap_it_begins_anew() -> None:
    events, held = history(10), Handed()
    held.add(events[:3])
    held.add(events[5:])
    assert (held.after(2, 9, 2**20), held.after(5, 9, 2**20)) == ([], events[5:])


def test_what_nobody_fetches_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    events, held = history(10), Handed()
    monkeypatch.setattr(handed, "HANDED_EVENTS", 4)
    held.add(events[:4])
    held.add(events[4:5])
    assert (held.first, held._bytes) == (0, 0)
    monkeypatch.setattr(handed, "HANDED_BYTES", 4)
    held.add(events[5:7])
    assert held.after(5, 9, 2**20) == events[5:7]
    held.add(events[7:8])
    assert (held.first, held._bytes) == (0, 0)
    held.add(events[8:])
    assert held.after(8, 9, 2**20) == events[8:]


def test_a_fetch_is_bounded_by_bytes_and_has_at_least_one() -> None:
    events, held = history(10), Handed()
    held.add(events)
    two = len(events[0].state) + len(events[1].state)
    assert held.after(0, 9, two) == events[:2]
    assert held.after(0, 9, two - 1) == held.after(0, 9, 1) == events[:1]
