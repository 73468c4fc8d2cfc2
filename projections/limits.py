"""When the time of a workflow is over, and of a task that has a limit for all its attempts together.

A table beside `waits`, of the same view: a limit is nothing that a task waits on. All rows are in memory too, one for
each workflow that runs: nobody else changes them, or the view would have been told to forget.
"""

from collections.abc import Sequence

import msgspec

from domain.clock import Clock, tick
from domain.events import (
    AskOpened,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskEdited,
    TaskExcused,
    TaskFailed,
    TaskHeld,
    TaskQueued,
    TaskSkipped,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowStarted,
    WorkflowTimedOut,
)
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.rows import load, store
from projections.sql import statements

SQL = statements("limits")


class _Limit(msgspec.Struct, omit_defaults=True, gc=False):
    workflow: str
    task: str
    due: float | None = None
    seconds: float | None = None
    spent: float = 0.0
    since: float | None = None
    halts: int = 0


_LIMITS = msgspec.json.Decoder(list[_Limit])


class Limits:
    def __init__(self) -> None:
        self._clocks: dict[str, Clock] | None = None
        self._tasks: dict[tuple[str, str], float] = {}

    def forget(self) -> None:
        self._clocks = None
        self._tasks.clear()

    async def apply(self, connection: Connection, mine: Sequence[tuple[str, Recorded]]) -> None:
        """`mine` are events with the workflows that they are of."""
        if self._clocks is None:
            self._clocks = {}
            for row in await load(connection, _LIMITS, SQL["load"]) or ():
                if row.task:
                    self._tasks[row.workflow, row.task] = row.due or 0.0
                else:
                    self._clocks[row.workflow] = Clock(row.seconds, row.spent, row.since, row.halts)
        changed: dict[tuple[str, str], None] = {}
        for workflow, recorded in mine:
            changed |= dict.fromkeys(self._fold(self._clocks, workflow, recorded))
        gone = [key for key in changed if (key not in self._tasks if key[1] else key[0] not in self._clocks)]
        if gone:
            keys = {"workflows": [workflow for workflow, _ in gone], "tasks": [task for _, task in gone]}
            await connection.execute(SQL["remove"], keys, prepare=True)
        await store(connection, SQL["put"], [self._row(self._clocks, *key) for key in changed if key not in gone])

    def _row(self, clocks: dict[str, Clock], workflow: str, task: str) -> _Limit:
        if task:
            return _Limit(workflow, task, self._tasks[workflow, task])
        clock = clocks[workflow]
        return _Limit(workflow, "", clock.due, clock.seconds, clock.spent, clock.since, clock.halts)

    def _fold(self, clocks: dict[str, Clock], workflow: str, recorded: Recorded) -> list[tuple[str, str]]:
        """The limits that an event changed."""
        event, changed = recorded.event, list[tuple[str, str]]()
        if isinstance(event, TaskDispatched | TaskEdited) and event.expires is not None:
            key = workflow, event.task.partition(".")[0]
            self._tasks[key] = event.expires
            changed.append(key)
        elif self._tasks and isinstance(event, STANDING_STILL):
            mended, branch, _ = event.task.partition(".")
            counts = branch and not isinstance(event, WAITING)
            if not counts and self._tasks.pop((workflow, mended), None) is not None:
                changed.append((workflow, mended))
        elif isinstance(event, WorkflowStarted) and event.plan.timeout_seconds is not None:
            clocks[workflow] = Clock(event.plan.timeout_seconds)
            changed.append((workflow, ""))
        elif isinstance(event, OVER):
            return [(workflow, "")] if clocks.pop(workflow, None) else []
        if (clock := clocks.get(workflow)) and tick(clock, event):
            changed.append((workflow, ""))
        return changed


OVER = (WorkflowCompleted, WorkflowFailed, WorkflowCancelled, WorkflowTimedOut)
STANDING_STILL = (
    AskOpened, TaskHeld, TaskQueued, TaskEdited, TaskDispatched, TaskCompleted, TaskFailed, TaskSkipped, TaskCancelled, TaskExcused,
)  # fmt: skip
"""Events of a task whose time does not count until it is dispatched again, if ever."""
WAITING = (AskOpened, TaskHeld, TaskQueued)
"""Those after which the time of the task that a branch mends does not count either, until the branch is dispatched."""
