"""The timeline: what each task of a workflow waited on from when to when, its attempts, its asks, and the pauses.

A task's row is written once a batch, whatever happened to it. Open tasks are kept in memory with what they wait on:
nobody else changes them, or the projection's cursor would have moved and the view been told to forget.
"""

from collections.abc import Iterable, Sequence

import msgspec

from domain.events import UsageCorrected
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.rows import load, store
from projections.sql import statements
from projections.timeline_fold import Changes, Work
from projections.timeline_rows import Chart, Interval, Lane, TimelinePage

__all__ = ["Chart", "Interval", "Lane", "Timeline", "TimelinePage", "timeline"]

STREAM = "workflow-"
SQL = statements("timeline")
KEPT_TASKS = 20_000
"""Of workflows that no event of the batch is about."""

_LOADED = msgspec.json.Decoder(list[TimelinePage])
_PAGE = msgspec.json.Decoder(TimelinePage)


async def timeline(connection: Connection, workflow: str, *, limit: int = 1_000, after: int = 0) -> TimelinePage | None:
    """As of one moment; the next page is `after` the `number` of the last task. None if the view does not have it."""
    return await load(connection, _PAGE, SQL["page"], workflow=workflow, limit=limit, after=after)


class Timeline:
    """The view. One instance belongs to one projection."""

    name = "timeline"
    version = 1
    sql = SQL
    pace_seconds = 1.0

    def __init__(self) -> None:
        self._works: dict[str, Work] = {}

    def forget(self) -> None:
        self._works.clear()

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        mine = [
            (recorded.stream.removeprefix(STREAM), recorded) for recorded in batch if recorded.stream.startswith(STREAM)
        ]
        await self._load(connection, mine)
        changes = Changes(self._works)
        for name, recorded in mine:
            changes.fold(name, recorded)
        await store(connection, SQL["store_charts"], changes.charts.values())
        await store(connection, SQL["store_lanes"], changes.lanes.values())
        for (name, task), lane in changes.lanes.items():
            if lane.ended is not None:
                del self._works[name].lanes[task]
        self._let_go(changes.charts)

    async def _load(self, connection: Connection, mine: list[tuple[str, Recorded]]) -> None:
        """Fetches the rows that these events will change, unless they are here or about to be made."""
        started = {name for name, recorded in mine if recorded.version == 1}
        wanted = {name for name, _ in mine} - self._works.keys() - started
        late = {
            (name, one.event.task) for name, one in mine if isinstance(one.event, UsageCorrected)
        }  # of tasks that may be over
        wanted |= {name for name, task in late if name in self._works and task not in self._works[name].lanes}
        if wanted:
            named = {"workflows": list(wanted), "tasks": [task for name, task in late if name in wanted]}
            for found in await load(connection, _LOADED, SQL["load"], **named) or ():
                self._works[found.workflow.workflow] = Work(found.workflow, found.tasks)

    def _let_go(self, touched: Iterable[str]) -> None:
        """What is over, and of the rest what was not touched for longest."""
        for name in touched:
            work = self._works.pop(name)
            if work.chart.ended is None:
                self._works[name] = work
        idle = len(self._works.keys() - set(touched))
        kept = sum(len(work.lanes) for work in self._works.values())
        for name in list(self._works)[:idle]:
            if kept <= KEPT_TASKS:
                break
            kept -= len(self._works.pop(name).lanes)
