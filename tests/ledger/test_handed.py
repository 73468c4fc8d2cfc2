"""What a process hands to its relay: newest events without a gap, bounded."""

import pytest
from test_tail import history

from ledger import handed
from ledger.handed import Handed


def test_it_answers_with_what_follows_a_position_and_forgets_what_lies_before() -> None:
    events, held = history(10), Handed()
    assert (held.first, held.after(0, 5)) == (0, [])
    held.add(events[2:8])
    assert held.after(1, 5) == []
    assert (held.after(3, 2), held.first) == (events[3:5], 4)
    held.forget(6)
    assert held.after(6, 5) == events[6:8]
    held.forget(9)
    assert (held.first, held.after(9, 5)) == (0, [])


def test_after_a_gap_it_begins_anew() -> None:
    events, held = history(10), Handed()
    held.add(events[:3])
    held.add(events[5:])
    assert (held.after(2, 9), held.after(5, 9)) == ([], events[5:])


def test_what_nobody_fetches_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    events, held = history(10), Handed()
    monkeypatch.setattr(handed, "HANDED_EVENTS", 4)
    held.add(events[:4])
    held.add(events[4:5])
    assert (held.first, held._bytes) == (0, 0)
    monkeypatch.setattr(handed, "HANDED_BYTES", 4)
    held.add(events[5:7])
    assert held.after(5, 9) == events[5:7]
    held.add(events[7:8])
    assert (held.first, held._bytes) == (0, 0)
    held.add(events[8:])
    assert held.after(8, 9) == events[8:]
