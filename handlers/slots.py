"""Places, slots and resources, brought to those who wait for them: this follows the ledger and tells the queue of a
workflow or a task that needs some, the workflow of what was granted to it, the queue again of whatever ended.

Every command's id is made of the event that it follows from, so a repeat after a crash, or by another server, is
harmless; the cursor is kept after the effect. What follows from an event depends on the claims that were open then, so
these are what they were at the cursor whenever it is read on from there. A plan without limits and resources costs nothing here.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID, uuid5

import msgspec
import structlog

from domain.claims import (
    ENDS_RUN,
    ENDS_WORKFLOW,
    WORKFLOWS,
    Claim,
    ClaimGranted,
    FreeClaim,
    Limits,
    PauseDispatch,
    PlaceClaim,
    Regrant,
    ResumeDispatch,
    RolePaused,
    RoleResumed,
    TenantPaused,
    TenantResumed,
)
from domain.commands import Admit, Command, Grant
from domain.errors import Full, Refused
from domain.events import TaskQueued, WorkflowStarted
from domain.queue import Queue
from domain.state import CLOSED, Workflow, next_run
from handlers.branches import Cursor
from handlers.execute import Executor, Order
from handlers.kinds import QUEUE, WORKFLOW, Kind
from handlers.valve import Valve
from ledger.errors import LedgerUnavailable, WrongVersion
from ledger.ledger import Ledger
from ledger.recorded import Recorded

log = structlog.get_logger()

SLOTS = UUID("4c8f6a1e-6c2a-5d0b-8e55-2f4b7d1c9a33")
"""The namespace of the ids of commands that follow from events here."""
ACTOR = "queue"
PAUSES = (TenantPaused, TenantResumed, RolePaused, RoleResumed)
AWAY_SECONDS = 0.5
CURSOR_EVENTS = 10_000
"""So many events that are nothing to it are not read again at the next start."""


class _Told(NamedTuple):
    """A command and whom it is for."""

    key: str
    kind: Kind[Any]
    order: Order


class Slots:
    """`await slots.open()`, then run `slots.run()` beside the work. Any number of servers do this for one tenant."""

    def __init__(
        self,
        ledger: Ledger,
        executor: Executor,
        cursor: Cursor,
        limits: Limits,
        valve: Valve,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._ledger, self._executor, self._cursor, self._limits, self._now = ledger, executor, cursor, limits, now
        self._valve = valve
        self._open: dict[str, dict[str, Claim]] = {}
        """Claims that are not freed, by workflow and task."""

    async def open(self) -> None:
        """Of what was claimed before, grants it under today's limits, and frees what nobody holds any more."""
        queue = await self._executor.state(self._ledger.tenant, QUEUE)
        told = [self._tell(f"{time.time_ns()}/limits", Regrant(now=self._now(), limits=self._limits))]
        for claim in [standing.claim for standing in queue.claims.values()]:
            if not _is_wanted(claim, await self._executor.state(claim.workflow, WORKFLOW)):
                told.append(self._tell(f"{claim.id}/{time.time_ns()}/gone", self._free(claim)))
        if queue.claims:
            await self._send(told)

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
            except (LedgerUnavailable, WrongVersion, Full) as away:
                log.warning("slots.wait", why=str(away))
                await asyncio.sleep(AWAY_SECONDS)

    @property
    def limits(self) -> Limits:
        return self._limits

    async def queue(self) -> Queue:
        """Not to be changed."""
        return await self._executor.state(self._ledger.tenant, QUEUE, self._valve.version)

    async def workflows(self) -> int:
        """How many run or wait for their place."""
        queue = await self.queue()
        return queue.waiting_workflows + queue.taken.get(WORKFLOWS, 0)

    async def claim(self, recorded: Recorded) -> None:
        """Does at once what would be done a moment later."""
        await self._send(list(self._follows(recorded)))

    async def _follow(self) -> None:
        saved = await self._cursor.load()
        await self._take_up(saved)
        async for batch in self._ledger.follow(saved):
            told = [one for recorded in batch for one in self._follows(recorded)]
            self._tell_valve(batch)
            if told or batch[-1].position - saved >= CURSOR_EVENTS:
                await self._send(told)
                saved = batch[-1].position
                await self._cursor.save(saved)

    async def _take_up(self, position: int) -> None:
        """The claims that were open at this position, of the workflows that have any now."""
        queue = await self._executor.state(self._ledger.tenant, QUEUE, self._valve.version)
        self._open = {}
        for workflow in {standing.claim.workflow for standing in queue.claims.values()}:
            for recorded in await self._ledger.read_stream(WORKFLOW.prefix + workflow):
                if recorded.position <= position:
                    deque(self._follows(recorded), maxlen=0)  # what it led to was told then

    def _tell_valve(self, batch: Iterable[Recorded]) -> None:
        for recorded in batch:
            if isinstance(recorded.event, PAUSES):
                self._valve.version = max(self._valve.version, recorded.version)
                self._valve.bell.set()

    async def dispatch(self, id: UUID, actor: str, command: PauseDispatch | ResumeDispatch) -> list[Recorded]:
        """Pauses or resumes; when it returns the consumers are set, unless NATS is away: then they will be."""
        command = msgspec.structs.replace(command, limits=self._limits)
        recorded = await self._executor.submit(self._ledger.tenant, Order(id, command, actor), QUEUE)
        self._tell_valve(recorded)
        with suppress(ConnectionError, TimeoutError, LookupError, ValueError, LedgerUnavailable):
            await self._valve.set()
        return recorded

    def _follows(self, recorded: Recorded) -> Iterator[_Told]:
        """What is to be done because of an event."""
        match recorded.event:
            case WorkflowStarted(workflow=workflow, queued=True):
                yield from self._place(recorded, Claim(workflow, workflow))
            case TaskQueued(task=task, run=run, role=role, resources=resources, priority=priority):
                workflow = _workflow(recorded)
                yield from self._place(
                    recorded, Claim(f"{workflow}/{run}", workflow, task, run, role, resources, priority)
                )
            case ClaimGranted(workflow=workflow, task=task, run=run):
                command = Grant(now=self._now(), task=task, run=run) if task else Admit(now=self._now())
                yield _Told(workflow, WORKFLOW, Order(uuid5(SLOTS, str(recorded.id)), command, ACTOR))
            case event if self._open and isinstance(event, ENDS_RUN):
                workflow = _workflow(recorded)
                if claim := self._open.get(workflow, {}).pop(event.task, None):  # type: ignore[attr-defined]
                    yield self._tell(f"{recorded.id}/{claim.id}", self._free(claim))
            case event if self._open and isinstance(event, ENDS_WORKFLOW):
                for claim in self._open.pop(_workflow(recorded), {}).values():
                    yield self._tell(f"{recorded.id}/{claim.id}", self._free(claim))

    def _place(self, recorded: Recorded, claim: Claim) -> Iterator[_Told]:
        claims = self._open.setdefault(claim.workflow, {})
        before = claims.get(claim.task)
        if before is not None and before != claim:  # it was changed while it waited
            yield self._tell(f"{recorded.id}/{before.id}/before", self._free(before))
        claims[claim.task] = claim
        yield self._tell(str(recorded.id), PlaceClaim(now=self._now(), limits=self._limits, claim=claim))

    def _free(self, claim: Claim) -> FreeClaim:
        return FreeClaim(now=self._now(), limits=self._limits, claim=claim.id)

    def _tell(self, name: str, command: Command) -> _Told:
        return _Told(self._ledger.tenant, QUEUE, Order(uuid5(SLOTS, name), command, ACTOR))

    async def _send(self, told: Iterable[_Told]) -> None:
        answers = [self._executor.submit(one.key, one.order, one.kind) for one in told]
        for answer in await asyncio.gather(*answers, return_exceptions=True):
            if isinstance(answer, BaseException) and (not isinstance(answer, Refused) or isinstance(answer, Full)):
                raise answer


def _workflow(recorded: Recorded) -> str:
    return recorded.stream.removeprefix(WORKFLOW.prefix)


def _is_wanted(claim: Claim, state: Workflow) -> bool:
    """Whether its holder still waits for it, or works under it."""
    if not claim.task:
        return state.status == "queued" or state.open > 0
    task = state.tasks.get(claim.task)
    if task is None or task.status in CLOSED:
        return False
    return task.run.id == claim.run if task.run else task.status == "queued" and next_run(task) == claim.run
