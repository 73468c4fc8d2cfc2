"""A ledger with the view of what waits for time, and a clock that can be put forward."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple
from uuid import uuid4

from cairn.bus import Bus
from domain.commands import ReportCompleted, ReportFailed, ReportStarted, StartWorkflow
from domain.outcome import Failure, Result
from domain.plan import Plan, Task
from handlers.deadlines import Deadlines
from handlers.execute import Executor, Order
from ledger.ledger import Ledger
from ledger.postgres import Pool, pool
from ledger.recorded import Recorded
from ops.adapters import Timers
from projections.board import Board
from projections.project import Projection
from projections.recovery import Recovery


class Clock:
    """Real time, put forward by `ahead` seconds."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Clockwork(NamedTuple):
    ledger: Ledger
    executor: Executor
    view: Projection
    pool: Pool
    timers: Timers
    clock: Clock
    board: Projection

    def deadlines(self) -> Deadlines:
        return Deadlines(self.timers, self.executor, self.clock)

    async def fire(self, ahead: float, *deadlines: Deadlines) -> None:
        """Fires what is due at that time, once the view has caught up."""
        self.clock.ahead = ahead
        await self.seen()
        await asyncio.gather(*(one.fire() for one in deadlines or (self.deadlines(),)))

    async def seen(self) -> None:
        head = await self.ledger.head()
        for view in (self.view, self.board):
            await view.reached(head.position)

    async def do(self, command: Any, workflow: str = "w") -> list[Recorded]:
        return await self.executor.execute(workflow, Order(uuid4(), command, "test"))

    async def start(self, *tasks: Task, workflow: str = "w", **other: Any) -> None:
        plan = Plan(id=workflow, tasks=tasks)
        await self.do(StartWorkflow(now=self.clock(), workflow=workflow, plan=plan, **other), workflow)

    def report(self, task: str, run: str, token: int, agent: str = "ann") -> dict[str, Any]:
        return {"now": self.clock(), "task": task, "run": run, "token": token, "agent": agent}

    async def begin(self, task: str, run: str, token: int, workflow: str = "w") -> None:
        await self.do(ReportStarted(**self.report(task, run, token)), workflow)

    async def complete(self, task: str, run: str, token: int, commit: str | None = None, workflow: str = "w") -> None:
        await self.do(ReportCompleted(**self.report(task, run, token), result=Result("done", commit)), workflow)

    async def fail(self, task: str, run: str, token: int) -> None:
        await self.do(ReportFailed(**self.report(task, run, token), failure=Failure("agent_error", "no")))

    async def names(self, workflow: str = "w") -> list[str]:
        return [type(one.event).__name__ for one in await self.ledger.read_stream(f"workflow-{workflow}")]

    async def last(self, kind: str, workflow: str = "w") -> Any:
        events = await self.ledger.read_stream(f"workflow-{workflow}")
        return next(one.event for one in reversed(events) if type(one.event).__name__ == kind)


@asynccontextmanager
async def clockwork(url: str, tenant: str, bus: Bus, *, relay: bool = False) -> AsyncIterator[Clockwork]:
    async with (
        Ledger.open(url, tenant=tenant, bus=bus if relay else None) as ledger,
        pool(url, tenant, size=6, views=True) as readers,
    ):
        view, board = Projection(readers, Recovery()), Projection(readers, Board())
        for one in (view, board):
            await one.install()
        projecting = [asyncio.create_task(one.run(ledger)) for one in (view, board)]
        yield Clockwork(ledger, Executor(ledger), view, readers, Timers(readers, view, ledger, bus), Clock(), board)
        for job in projecting:
            job.cancel()
            with suppress(asyncio.CancelledError):
                await job
