"""Command to fact: load, decide, append; on a conflict load again and decide again. The only caller of append.

Commands for one stream are decided one after another on the state in memory, and all that wait are recorded in one
append; different streams do not wait for each other. Whose rules decide is said by the kind of the stream. An answer is
given only after its append is committed, so a refusal that rested on an event which then failed to commit is never
spoken. The state in memory may be behind what another process has recorded: an append finds out by itself, and before
"no" or "nothing" is said without one, the ledger is asked whether there is more.

The same command again, by its id, gets the first answer: its events are found by their ids when the append collides, or
looked up before a repeat is refused or found to change nothing.
"""

import asyncio
import re
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from typing import Any, NamedTuple, TypeVar
from uuid import UUID

from opentelemetry.trace import SpanContext
from structlog.contextvars import bind_contextvars

from domain.commands import Command, StartWorkflow
from domain.errors import Full, Refused
from domain.events import Event, LedgerEvent
from handlers.cases import Case, Cases
from handlers.decision import Round, watched
from handlers.kinds import WORKFLOW, Kind
from ledger import trace as traces
from ledger.append import Append, NewEvent
from ledger.codec import event_id
from ledger.errors import AlreadyRecorded, NotRecordable, WrongVersion
from ledger.ledger import Ledger
from ledger.recorded import Recorded

S = TypeVar("S")

ROUND = 256
"""Commands of one stream that are decided and recorded together at most."""
SNAPSHOT_EVENTS = 1_000
"""After so many events of a stream its state is kept, or after a quarter as many as it has tasks if those are more: a
state is as large as its tasks, so the cost of keeping it stays the same for each event, some 20 us."""
PENDING_COMMANDS = 20_000
"""More that wait at once in this process are refused: each may hold a plan or a result, and memory has an end."""
CONFLICTS = 20
"""Lost races after which a command is given up; others made progress each time."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Order(NamedTuple):
    """A command with what its events carry: who asked (`actor`), and the id under which a repeat is recognised.

    Without a `traceparent` of its own it goes on with the trace of what happened last in the stream (`handlers.decision`
    says what an SDK of OpenTelemetry changes about that).
    """

    id: UUID
    command: Command
    actor: str
    traceparent: str | None = None


class _Pending(NamedTuple):
    order: Order
    answer: asyncio.Future[list[Recorded]]
    caller: SpanContext | None


class Executor:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._queues: dict[str, deque[_Pending]] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._cases = Cases()
        self._pending = 0
        self._context = copy_context()

    def submit(self, key: str, order: Order, kind: Kind[Any] = WORKFLOW) -> asyncio.Future[list[Recorded]]:
        """Ends in the events the command led to, as recorded (none: it changed nothing), or raises Refused; Full when
        too many wait.

        `key` names the stream among those of its kind. Anything else that it raises is a fault: nobody knows what
        happened, ask again with the same id.
        """
        caller = traces.current() if traces.on() else None
        pending = _Pending(order, asyncio.get_running_loop().create_future(), caller)
        if self._pending >= PENDING_COMMANDS:
            pending.answer.set_exception(
                Full(f"{PENDING_COMMANDS} commands wait in this server: ask again in a moment")
            )
            return pending.answer
        self._pending += 1
        pending.answer.add_done_callback(self._answered)
        stream = kind.prefix + key
        queue = self._queues.get(stream)
        if queue is not None:
            queue.append(pending)
        else:
            self._queues[stream] = deque([pending])
            # Not in the caller's context: what is bound there is about one command, and here others are decided too.
            task = asyncio.get_running_loop().create_task(self._drain(stream, kind), context=self._context.copy())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        return pending.answer

    def _answered(self, _: asyncio.Future[list[Recorded]]) -> None:
        self._pending -= 1

    async def execute(self, key: str, order: Order, kind: Kind[Any] = WORKFLOW) -> list[Recorded]:
        return await self.submit(key, order, kind)

    async def note(self, stream: str, id: UUID, event: LedgerEvent, actor: str) -> None:
        """Records a fact that no rule has a say in, at the end of its stream; the same id again changes nothing."""
        while not await self._ledger.find_command(id):
            version = len(await self._ledger.read_stream(stream))
            with suppress(WrongVersion, AlreadyRecorded):
                new = NewEvent(event, event_id(id, 0), actor, causation_id=str(id))
                await self._ledger.append(Append(stream, version, [new]))

    async def state(self, key: str, kind: Kind[S], version: int = 0) -> S:
        """It as it stands, at this version or a later one, empty when it has no events; not to be changed."""
        stream = kind.prefix + key
        case = self._cases.get(stream)
        if case is None or case.version < version:
            case = await self._load(stream, kind)
        found: S = case.state
        return found

    async def _drain(self, stream: str, kind: Kind[Any]) -> None:
        queue, key = self._queues[stream], stream.removeprefix(kind.prefix)
        if watched():
            bind_contextvars(**({"workflow": key, "correlation_id": key} if kind is WORKFLOW else {"stream": stream}))
        while queue:
            taken = _take(queue)
            try:
                await self._round(stream, kind, taken)
            except BaseException as fault:
                self._cases.drop(stream)
                for pending in taken:
                    if not pending.answer.done():
                        pending.answer.set_exception(fault)
                if not isinstance(fault, Exception):
                    raise
        del self._queues[stream]

    async def _round(self, stream: str, kind: Kind[Any], taken: list[_Pending]) -> None:
        try:
            await self._record(stream, kind, taken, hopeful=True)
        except (WrongVersion, AlreadyRecorded, NotRecordable):  # the last: of a repeat that was not the first of them
            self._cases.drop(stream)
            for pending in taken:
                await self._alone(stream, kind, pending)

    async def _alone(self, stream: str, kind: Kind[Any], pending: _Pending) -> None:
        """One command after a collision: somebody recorded in between, or this very command was recorded before.

        The latter is looked up: to find it out by colliding again would cost the state in memory for every repeat, and
        after a restart there may be hundreds, of a workflow that takes long to load.
        """
        if first := await self._ledger.find_command(pending.order.id):
            return _settle(pending, first)
        for _ in range(CONFLICTS):
            try:
                return await self._record(stream, kind, [pending])
            except AlreadyRecorded as before:
                self._cases.drop(stream)
                _settle(pending, before.recorded)
                return None
            except NotRecordable as never:
                self._cases.drop(stream)
                if not pending.answer.done():
                    pending.answer.set_exception(never)
                return None
            except WrongVersion as lost:
                self._cases.drop(stream)
                race = lost
        raise race

    async def _record(self, stream: str, kind: Kind[Any], taken: list[_Pending], *, hopeful: bool = False) -> None:
        case = self._cases.get(stream)
        if case is None and hopeful and isinstance(taken[0].order.command, StartWorkflow):
            case = Case(kind.empty())  # most likely it is new; if it is not, the append collides and it is read
        elif case is None:
            case = await self._load(stream, kind)
        new: list[NewEvent] = []
        decided: list[tuple[_Pending, int | Refused]] = []
        trace, key = case.trace, stream.removeprefix(kind.prefix)
        told = Round(kind, key) if watched() else None
        recorded: list[Recorded] | None = None
        try:
            for pending in taken:
                order = pending.order
                carried = told.begin(order, pending.caller, trace) if told else order.traceparent
                try:
                    events = kind.decide(case.state, order.command)
                except Refused as refusal:
                    decided.append((pending, refusal))
                    continue
                decided.append((pending, len(events)))
                trace = (carried if events else None) or trace
                new += _envelopes(key, order, events, trace)
                for event in events:
                    kind.evolve(case.state, event)
            recorded = await self._append(stream, kind, case, new)
        finally:
            if told:
                told.end([(pending.order, outcome) for pending, outcome in decided], recorded)
        at = 0
        for pending, outcome in decided:
            if isinstance(outcome, int) and outcome:
                _settle(pending, recorded[at : at + outcome])
                at += outcome
            else:
                await self._repeat(pending, outcome if isinstance(outcome, Refused) else None)
        if size := kind.size(case.state):
            self._cases.keep(stream, case, size)
        else:
            self._cases.drop(stream)

    async def _append(self, stream: str, kind: Kind[Any], case: Case, new: list[NewEvent]) -> list[Recorded]:
        if not new:
            if missed := await self._ledger.read_stream(stream, case.version):
                raise WrongVersion(stream, case.version, missed[-1].version)
            return []
        recorded = await self._ledger.append(Append(stream, case.version, new))
        case.version, case.trace = recorded[-1].version, recorded[-1].traceparent
        if case.version - case.kept >= max(SNAPSHOT_EVENTS, kind.size(case.state) // 4):
            self._ledger.snapshots.offer(recorded[-1], case.state)
            case.kept = case.version
        return recorded

    async def _repeat(self, pending: _Pending, refusal: Refused | None) -> None:
        first = await self._ledger.find_command(pending.order.id)
        if refusal is None or first:
            _settle(pending, first)
        elif not pending.answer.done():
            pending.answer.set_exception(refusal)

    async def _load(self, stream: str, kind: Kind[Any]) -> Case:
        state, recorded = await self._ledger.snapshots.load(stream, kind.empty)
        if not recorded:
            return Case(kind.empty())
        kept = 0 if state is None else recorded[0].version
        state = kind.empty() if state is None else state
        for one in recorded[1:] if kept else recorded:
            kind.evolve(state, one.event)
        return Case(state, recorded[-1], kept)


def trace_of(given: str | None) -> str | None:
    """The trace that somebody names in `traceparent`; one that is malformed is none (W3C Trace Context)."""
    return given if given and _TRACEPARENT.fullmatch(given) else None


def _take(queue: deque[_Pending]) -> list[_Pending]:
    """The next to be decided together; a twin of one of them waits until that one is recorded and can be found."""
    taken: dict[UUID, _Pending] = {}
    while queue and len(taken) < ROUND and queue[0].order.id not in taken:
        pending = queue.popleft()
        taken[pending.order.id] = pending
    return list(taken.values())


def _settle(pending: _Pending, recorded: list[Recorded]) -> None:
    if not pending.answer.done():
        pending.answer.set_result(recorded)


def _envelopes(key: str, order: Order, events: list[Event], trace: str | None) -> list[NewEvent]:
    cause = str(order.id)
    return [
        NewEvent(event, event_id(order.id, index), order.actor, key, cause, trace) for index, event in enumerate(events)
    ]
