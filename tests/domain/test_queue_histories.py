"""The queue under random claims, endings, pauses and limits, watched by books of its own."""

from collections import Counter
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from line import Line, task, workflow

from domain.claims import (
    TENANT,
    Claim,
    ClaimFreed,
    ClaimGranted,
    ClaimQueued,
    FreeClaim,
    Limits,
    PauseDispatch,
    PlaceClaim,
    Regrant,
    ResumeDispatch,
)
from domain.events import Event
from domain.queue import HEAD_START, Queue

CLAIMS = st.builds(
    lambda kind, resources, role, priority: (kind, tuple(sorted(resources)), role, priority),
    st.sampled_from(["task", "task", "task", "workflow"]),
    st.sets(st.sampled_from("xyz"), max_size=3),
    st.sampled_from(["coder", "tester"]),
    st.integers(-1, 1),
)
MOVES = st.one_of(
    st.tuples(st.just("place"), CLAIMS),
    st.tuples(st.just("free"), st.integers(0, 20)),
    st.tuples(st.just("pause"), st.sampled_from([TENANT, "coder"])),
    st.tuples(st.just("resume"), st.sampled_from([TENANT, "coder"])),
    st.tuples(
        st.just("limit"),
        st.builds(
            Limits,
            st.one_of(st.none(), st.integers(1, 3)),
            st.dictionaries(st.sampled_from(["coder", "tester"]), st.integers(1, 3)),
        ),
    ),
)


class Books:
    """Keeps its own account of who holds what, from the events alone, and holds every promise against it."""

    def __init__(self) -> None:
        self.line = Line()
        self.waiting: dict[str, tuple[int, Claim]] = {}
        self.held: dict[str, Claim] = {}
        self.number = 0

    def move(self, kind: str, what: Any) -> None:
        before = msgspec.json.encode(self.line.state)
        match kind:
            case "place":
                self.number += 1
                of, resources, role, priority = what
                name = f"n{self.number}"
                claim = task(name, *resources, role=role, priority=priority) if of == "task" else workflow(name)
                self.see(self.line.do(PlaceClaim, claim=claim))
            case "free":
                known = [*self.line.state.claims]
                self.see(self.line.do(FreeClaim, claim=known[what % len(known)] if known else "ghost"))
            case "pause":
                self.see(self.line.do(PauseDispatch, role=what, by="pat"))
            case "resume":
                self.see(self.line.do(ResumeDispatch, role=what, by="pat"))
            case "limit":
                self.line.limits = what
                self.see(self.line.do(Regrant))
        again = msgspec.json.decode(before, type=Queue)
        assert msgspec.json.encode(again) == before, "it is read back from a snapshot as it was"

    def see(self, events: list[Event]) -> None:
        granted: list[Claim] = []
        for event in events:
            match event:
                case ClaimQueued(claim=claim):
                    self.waiting[claim.id] = self.number - HEAD_START * claim.priority, claim
                case ClaimGranted(claim=id):
                    granted.append(self.waiting[id][1])
                    self._overtakes_nobody(id)
                    self.held[id] = self.waiting.pop(id)[1]
                case ClaimFreed(claim=id):
                    assert (self.held.pop(id, None) is None) != (self.waiting.pop(id, None) is None)
        self._limits_hold(granted)
        self._nothing_is_left_lying()

    def _overtakes_nobody(self, id: str) -> None:
        """Of those that wait before it, none could have begun with what it takes: it takes what they leave."""
        mine, claim = self.waiting[id]
        for need in claim.needs:
            limit = self.line.limits.of(need)
            if limit is not None:
                taken = sum(need in it.needs for it in self.held.values())
                ahead = [it for turn, it in self.waiting.values() if turn < mine and not self._held_back(it)]
                before = sum(need in it.needs for it in ahead)
                assert taken + before < limit, f"{claim} is granted before others that wait for {need}"

    def _held_back(self, claim: Claim) -> bool:
        return self.line.state.holds_back(claim.role)

    def _limits_hold(self, granted: list[Claim]) -> None:
        for claim in granted:
            for need in claim.needs:
                limit = self.line.limits.of(need)
                assert limit is None or sum(need in it.needs for it in self.held.values()) <= limit
        resources = Counter(name for claim in self.held.values() for name in claim.resources)
        assert all(count == 1 for count in resources.values()), f"shared: {resources}"
        state = self.line.state
        assert state.taken == Counter(need for claim in self.held.values() for need in claim.needs)
        assert state.claims.keys() == self.held.keys() | self.waiting.keys()
        standing = {id for id, (_, claim) in self.waiting.items() if not claim.role or claim.role not in state.paused}
        assert {turn[2] for line in state.lines.values() for turn in line} == standing

    def _nothing_is_left_lying(self) -> None:
        """Whoever stands first of all those not held back waits for something that is held."""
        free = [it for it in self.waiting.values() if not self._held_back(it[1])]
        if not free:
            return
        first = min(free)[1]
        full = [
            need
            for need in first.needs
            if (limit := self.line.limits.of(need)) is not None
            and sum(need in claim.needs for claim in self.held.values()) >= limit
        ]
        assert full, f"{first} waits for nothing"


@settings(max_examples=300, deadline=None)
@given(st.lists(MOVES, max_size=60))
def test_exclusion_order_and_progress_hold_whatever_happens(moves: list[tuple[str, Any]]) -> None:
    books = Books()
    for kind, what in moves:
        books.move(kind, what)


@settings(max_examples=200, deadline=None)
@given(st.lists(MOVES, max_size=60), st.randoms(use_true_random=False))
def test_all_that_ever_claimed_begin_once_nothing_is_paused_and_holders_end(
    moves: list[tuple[str, Any]], chance: Any
) -> None:
    books = Books()
    for kind, what in moves:
        books.move(kind, what)
    for role in (TENANT, "coder"):
        books.move("resume", role)
    while books.line.state.claims:
        assert books.held, f"nobody holds anything, and these wait: {books.waiting}"
        ended = chance.choice(sorted(books.held))
        books.see(books.line.do(FreeClaim, claim=ended))
    assert books.line.state.lines == books.line.state.taken == {}
