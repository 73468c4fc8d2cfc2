"""Command to fact: load, decide, append; on a conflict load again and decide again. The only caller of append.

Commands for one workflow are decided one after another on the state in memory, and all that wait are recorded in one
append; different workflows do not wait for each other. An answer is given only after its append is committed, so a
refusal that rested on an event which then failed to commit is never spoken. The state in memory may be behind what
another process has recorded: an append finds out by itself, and before "no" or "nothing" is said without one, the
ledger is asked whether there is more.

The same command again, by its id, gets the first answer: its events are found by their ids when the append collides, or
looked up before a repeat is refused or found to change nothing.
"""

import asyncio
import re
from collections import OrderedDict, deque
from contextlib import suppress
from typing import NamedTuple
from uuid import UUID

from domain.commands import StartWorkflow, WorkflowCommand
from domain.errors import Refused
from domain.events import LedgerEvent, WorkflowEvent
from domain.state import Workflow, evolve, replay
from domain.workflow import decide
from ledger.append import Append, NewEvent
from ledger.codec import event_id
from ledger.errors import AlreadyRecorded, NotRecordable, WrongVersion
from ledger.ledger import Ledger
from ledger.recorded import Recorded

ROUND = 256
"""Commands of one workflow that are decided and recorded together at most."""
CACHED_TASKS = 30_000
"""Of the workflows last worked on; some 2 KB each. One that is not kept is read again for each of its commands."""
SNAPSHOT_EVENTS = 1_000
"""After so many events of a workflow its state is kept, or after a quarter as many as it has tasks if those are more: a
state is as large as its tasks, so the cost of keeping it stays the same for each event, some 20 us."""
CONFLICTS = 20
"""Lost races after which a command is given up; others made progress each time."""

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Order(NamedTuple):
    """A command with what its events carry: who asked (`actor`), and the id under which a repeat is recognised.

    Without a `traceparent` of its own it goes on with the trace of what happened last in the workflow.
    """

    id: UUID
    command: WorkflowCommand
    actor: str
    traceparent: str | None = None


class _Case:
    """A workflow in memory: its state, the version and the trace of its last event, the version of its snapshot."""

    __slots__ = ("kept", "state", "trace", "version")

    def __init__(self, state: Workflow, last: Recorded | None = None, kept: int = 0) -> None:
        self.state, self.kept = state, kept
        self.version, self.trace = (last.version, last.traceparent) if last else (0, None)

    @property
    def worth_keeping(self) -> bool:
        return self.version - self.kept >= max(SNAPSHOT_EVENTS, len(self.state.tasks) // 4)


class _Cases:
    """The workflows last worked on: as many as have CACHED_TASKS tasks together, and the last one in any case."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[_Case, int]] = OrderedDict()
        self.tasks = 0

    def get(self, workflow: str) -> _Case | None:
        kept = self._kept.get(workflow)
        return kept[0] if kept else None

    def keep(self, workflow: str, case: _Case) -> None:
        self.drop(workflow)
        self._kept[workflow] = case, len(case.state.tasks)
        self.tasks += len(case.state.tasks)
        while self.tasks > CACHED_TASKS and len(self._kept) > 1:
            self.drop(next(iter(self._kept)))

    def drop(self, workflow: str) -> None:
        if kept := self._kept.pop(workflow, None):
            self.tasks -= kept[1]


class _Pending(NamedTuple):
    order: Order
    answer: asyncio.Future[list[Recorded]]


class Executor:
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._queues: dict[str, deque[_Pending]] = {}
        self._draining: set[asyncio.Task[None]] = set()
        self._cases = _Cases()

    def submit(self, workflow: str, order: Order) -> asyncio.Future[list[Recorded]]:
        """Ends in the events the command led to, as recorded (none: it changed nothing), or raises Refused.

        Anything else that it raises is a fault: nobody knows what happened, ask again with the same id.
        """
        pending = _Pending(order, asyncio.get_running_loop().create_future())
        queue = self._queues.get(workflow)
        if queue is not None:
            queue.append(pending)
        else:
            self._queues[workflow] = deque([pending])
            task = asyncio.get_running_loop().create_task(self._drain(workflow))
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        return pending.answer

    async def execute(self, workflow: str, order: Order) -> list[Recorded]:
        return await self.submit(workflow, order)

    async def note(self, stream: str, id: UUID, event: LedgerEvent, actor: str) -> None:
        """Records a fact that no rule has a say in, at the end of its stream; the same id again changes nothing."""
        while not await self._ledger.find_command(id):
            version = len(await self._ledger.read_stream(stream))
            with suppress(WrongVersion, AlreadyRecorded):
                new = NewEvent(event, event_id(id, 0), actor, causation_id=str(id))
                await self._ledger.append(Append(stream, version, [new]))

    async def state(self, workflow: str) -> Workflow:
        """The workflow as it stands; not to be changed. Status `unknown` when there is none."""
        return (self._cases.get(workflow) or await self._load(workflow)).state

    async def _drain(self, workflow: str) -> None:
        queue = self._queues[workflow]
        while queue:
            taken = _take(queue)
            try:
                await self._round(workflow, taken)
            except BaseException as fault:
                self._cases.drop(workflow)
                for pending in taken:
                    if not pending.answer.done():
                        pending.answer.set_exception(fault)
                if not isinstance(fault, Exception):
                    raise
        del self._queues[workflow]

    async def _round(self, workflow: str, taken: list[_Pending]) -> None:
        try:
            await self._record(workflow, taken, hopeful=True)
        except (WrongVersion, AlreadyRecorded, NotRecordable):  # the last: of a repeat that was not the first of them
            self._cases.drop(workflow)
            for pending in taken:
                await self._alone(workflow, pending)

    async def _alone(self, workflow: str, pending: _Pending) -> None:
        """One command after a collision: somebody recorded in between, or this very command was recorded before.

        The latter is looked up: to find it out by colliding again would cost the state in memory for every repeat, and
        after a restart there may be hundreds, of a workflow that takes long to load.
        """
        if first := await self._ledger.find_command(pending.order.id):
            return _settle(pending, first)
        for _ in range(CONFLICTS):
            try:
                return await self._record(workflow, [pending])
            except AlreadyRecorded as before:
                self._cases.drop(workflow)
                _settle(pending, before.recorded)
                return None
            except NotRecordable as never:
                self._cases.drop(workflow)
                if not pending.answer.done():
                    pending.answer.set_exception(never)
                return None
            except WrongVersion as lost:
                self._cases.drop(workflow)
                race = lost
        raise race

    async def _record(self, workflow: str, taken: list[_Pending], *, hopeful: bool = False) -> None:
        case = self._cases.get(workflow)
        if case is None and hopeful and isinstance(taken[0].order.command, StartWorkflow):
            case = _Case(Workflow())  # most likely it is new; if it is not, the append collides and it is read
        elif case is None:
            case = await self._load(workflow)
        new: list[NewEvent] = []
        decided: list[tuple[_Pending, int | Refused]] = []
        trace = case.trace
        for pending in taken:
            try:
                events = decide(case.state, pending.order.command)
            except Refused as refusal:
                decided.append((pending, refusal))
                continue
            decided.append((pending, len(events)))
            trace = (pending.order.traceparent if events else None) or trace
            new += _envelopes(workflow, pending.order, events, trace)
            for event in events:
                evolve(case.state, event)
        recorded: list[Recorded] = []
        stream = f"workflow-{workflow}"
        if new:
            recorded = await self._ledger.append(Append(stream, case.version, new))
            case.version, case.trace = recorded[-1].version, recorded[-1].traceparent
            if case.worth_keeping:
                self._ledger.snapshots.offer(recorded[-1], case.state)
                case.kept = case.version
        elif missed := await self._ledger.read_stream(stream, case.version):
            raise WrongVersion(stream, case.version, missed[-1].version)
        at = 0
        for pending, outcome in decided:
            if isinstance(outcome, int) and outcome:
                _settle(pending, recorded[at : at + outcome])
                at += outcome
            else:
                await self._repeat(pending, outcome if isinstance(outcome, Refused) else None)
        if case.state.status == "running" or case.state.open:
            self._cases.keep(workflow, case)
        else:
            self._cases.drop(workflow)

    async def _repeat(self, pending: _Pending, refusal: Refused | None) -> None:
        first = await self._ledger.find_command(pending.order.id)
        if refusal is None or first:
            _settle(pending, first)
        elif not pending.answer.done():
            pending.answer.set_exception(refusal)

    async def _load(self, workflow: str) -> _Case:
        state, recorded = await self._ledger.snapshots.load(f"workflow-{workflow}")
        if not recorded:
            return _Case(Workflow())
        new = recorded if state is None else recorded[1:]
        events: list[WorkflowEvent] = [one.event for one in new]  # type: ignore[misc]  # of this stream's kind
        return _Case(replay(events, state), recorded[-1], kept=0 if state is None else recorded[0].version)


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


def _envelopes(workflow: str, order: Order, events: list[WorkflowEvent], trace: str | None) -> list[NewEvent]:
    cause = str(order.id)
    return [
        NewEvent(event, event_id(order.id, index), order.actor, workflow, cause, trace)
        for index, event in enumerate(events)
    ]
