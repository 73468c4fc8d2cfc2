"""Who may begin: places for workflows, slots of roles, resources that one task at a time may use; and what is paused.

All of a tenant stands in one stream, so that one version decides, however many servers ask. A claim takes all it needs
at once and holds nothing while it waits, so that no two can wait for each other. Each thing that can be needed has a
line of those who wait for it, all in one order, and a claim is granted when in each of its lines it stands among as
many as there are free places. So nobody takes what somebody before him waits for: neither many small claims keep out a
wide one, nor does it matter in which order claims are looked at.

The order is that of arrival; a step of priority counts as HEAD_START arrivals. So whoever waits is overtaken by so many
at most, however urgent they are. Limits arrive in the command: what was granted under others stays granted.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from copy import deepcopy
from typing import assert_never

import msgspec

from domain.claims import (
    TENANT,
    WORKFLOWS,
    Claim,
    ClaimFreed,
    ClaimGranted,
    ClaimQueued,
    FreeClaim,
    Limits,
    PauseDispatch,
    PlaceClaim,
    QueueCommand,
    QueueEvent,
    Regrant,
    ResumeDispatch,
    RolePaused,
    RoleResumed,
    TenantPaused,
    TenantResumed,
)

HEAD_START = 1_000
"""Arrivals that one step of priority is worth."""

Turn = tuple[int, int, str]
"""A place in a line: its order, the number of its arrival, the claim."""


class Standing(msgspec.Struct):
    claim: Claim
    turn: Turn
    granted: bool = False


class Pause(msgspec.Struct, frozen=True):
    by: str
    reason: str


class Ramp(msgspec.Struct, frozen=True):
    """Dispatches a minute since a time in seconds since the epoch."""

    rate: float
    since: float


class Queue(msgspec.Struct):
    arrivals: int = 0
    claims: dict[str, Standing] = msgspec.field(default_factory=dict)
    lines: dict[str, list[Turn]] = msgspec.field(default_factory=dict)
    """Who waits, by need, in their order; those of a role that is paused keep their turn and stand in none."""
    taken: dict[str, int] = msgspec.field(default_factory=dict)
    paused: dict[str, Pause] = msgspec.field(default_factory=dict)
    """By role, `TENANT` for all."""
    ramps: dict[str, Ramp] = msgspec.field(default_factory=dict)

    @property
    def waiting_workflows(self) -> int:
        return len(self.lines.get(WORKFLOWS, ()))

    def holds_back(self, role: str) -> bool:
        """Whether nothing is handed out to this role."""
        return TENANT in self.paused or role in self.paused


def decide(state: Queue, command: QueueCommand) -> list[QueueEvent]:
    """The events that follow; none when the command asks for what is so already."""
    match command:
        case PlaceClaim(claim=claim):
            if claim.id in state.claims:
                return []
            turn = _turn(state, claim)
            granted = _Grants(state, command.limits).may(claim, turn)
            return [ClaimQueued(claim=claim), *([_granted(claim)] if granted else [])]
        case FreeClaim(claim=id):
            if (gone := state.claims.get(id)) is None:
                return []
            grants = _Grants(state, command.limits, gone)
            return [ClaimFreed(claim=id), *grants.among(grants.limited(gone.claim.needs))]
        case Regrant():
            return _Grants(state, command.limits).among(state.lines)
        case PauseDispatch(role=role, by=by, reason=reason):
            if role in state.paused:
                return []
            paused = RolePaused(role=role, by=by, reason=reason) if role else TenantPaused(by=by, reason=reason)
            return [paused, *_after(state, paused, command.limits)]
        case ResumeDispatch(role=role, rate=rate):
            ramp = state.ramps.get(role)
            if role not in state.paused and rate == (ramp.rate if ramp else None):
                return []
            told = {"at": command.now, "by": command.by, "reason": command.reason, "rate": rate}
            resumed = RoleResumed(role=role, **told) if role else TenantResumed(**told)  # type: ignore[arg-type]
            return [resumed, *_after(state, resumed, command.limits)]
    assert_never(command)  # type: ignore[arg-type]


def _after(state: Queue, event: QueueEvent, limits: Limits) -> list[QueueEvent]:
    """Who may begin after this: those who waited behind a role that is paused, or of one that is paused no more."""
    after = evolve(deepcopy(state), event)
    return _Grants(after, limits).among(after.lines)


def _granted(claim: Claim) -> ClaimGranted:
    return ClaimGranted(claim=claim.id, workflow=claim.workflow, task=claim.task, run=claim.run)


def _turn(state: Queue, claim: Claim) -> Turn:
    return state.arrivals - HEAD_START * claim.priority, state.arrivals, claim.id


class _Grants:
    """Who may have what they wait for, once `gone` is gone."""

    def __init__(self, state: Queue, limits: Limits, gone: Standing | None = None) -> None:
        self._state, self._limits, self._gone = state, limits, gone
        self._given_back = gone.claim.needs if gone and gone.granted else ()
        self._left = gone.claim.needs if gone and not gone.granted and _stands(state, gone.claim) else ()

    def limited(self, needs: Iterable[str]) -> list[str]:
        return [need for need in needs if self._limits.of(need) is not None]

    def among(self, needs: Iterable[str]) -> list[QueueEvent]:
        """Those that may begin of those that stand first in these lines."""
        found: dict[Turn, Claim] = {}
        for need in needs:
            line, free = self._state.lines.get(need, []), self._free(need)
            for turn in line if free is None else line[: max(0, free) + (need in self._left)]:
                claim = self._state.claims[turn[2]].claim
                if (self._gone is None or turn != self._gone.turn) and self.may(claim, turn):
                    found[turn] = claim
        return [_granted(found[turn]) for turn in sorted(found)]

    def may(self, claim: Claim, turn: Turn) -> bool:
        if self._state.holds_back(claim.role):
            return False
        return all(
            free is None or self._before(need, turn) < free for need in claim.needs for free in [self._free(need)]
        )

    def _free(self, need: str) -> int | None:
        limit = self._limits.of(need)
        return None if limit is None else limit - self._state.taken.get(need, 0) + (need in self._given_back)

    def _before(self, need: str, turn: Turn) -> int:
        before = bisect_left(self._state.lines.get(need, []), turn)
        return before - (self._gone is not None and need in self._left and self._gone.turn < turn)


def evolve(state: Queue, event: QueueEvent) -> Queue:
    match event:
        case ClaimQueued(claim=claim):
            standing = state.claims[claim.id] = Standing(claim, _turn(state, claim))
            state.arrivals += 1
            if _stands(state, claim):
                _join(state, standing)
        case ClaimGranted(claim=id):
            standing = state.claims[id]
            _leave(state, standing)
            standing.granted = True
            for need in standing.claim.needs:
                state.taken[need] = state.taken.get(need, 0) + 1
        case ClaimFreed(claim=id):
            standing = state.claims.pop(id)
            if not standing.granted:
                _leave(state, standing)
                return state
            for need in standing.claim.needs:
                state.taken[need] -= 1
                if not state.taken[need]:
                    del state.taken[need]
        case TenantPaused(by=by, reason=reason):
            state.paused[TENANT] = Pause(by, reason)
            state.ramps.pop(TENANT, None)
        case RolePaused(role=role, by=by, reason=reason):
            for standing in _waiting(state, role):
                _leave(state, standing)
            state.paused[role] = Pause(by, reason)
            state.ramps.pop(role, None)
        case TenantResumed(at=at, rate=rate):
            state.paused.pop(TENANT, None)
            _ramp(state, TENANT, rate, at)
        case RoleResumed(role=role, at=at, rate=rate):
            if state.paused.pop(role, None):
                for standing in _waiting(state, role):
                    _join(state, standing)
            _ramp(state, role, rate, at)
    return state


def _ramp(state: Queue, role: str, rate: float | None, at: float) -> None:
    state.ramps.pop(role, None)
    if rate is not None:
        state.ramps[role] = Ramp(rate, at)


def _waiting(state: Queue, role: str) -> list[Standing]:
    return [it for it in state.claims.values() if it.claim.task and it.claim.role == role and not it.granted]


def _stands(state: Queue, claim: Claim) -> bool:
    """Whether a claim that waits does so in its lines."""
    return not claim.role or claim.role not in state.paused


def _join(state: Queue, standing: Standing) -> None:
    for need in standing.claim.needs:
        insort(state.lines.setdefault(need, []), standing.turn)


def _leave(state: Queue, standing: Standing) -> None:
    """Out of the lines it stands in: whoever's role is paused stands in none."""
    for need in standing.claim.needs:
        line = state.lines.get(need, [])
        at = bisect_left(line, standing.turn)
        if line[at : at + 1] == [standing.turn]:
            del line[at]
        if not line:
            state.lines.pop(need, None)
