"""What was spent, and for what: tokens, money and working time by workflow, role, model and day (UTC). Unknown is
counted apart, and never 0. `spend.sql` has the tables, `spend_fold` says what they hold.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import date
from typing import Any, Literal

import msgspec

from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.rows import load, store
from projections.spend_fold import COUNTS, Key, SpentTask, Sums, root
from projections.sql import statements

STREAM = "workflow-"
SQL = statements("spend")
KEPT_TASKS = 10_000
LIMIT = 1_000
By = Literal["workflow", "role", "model", "day"]
WORKFLOWS: tuple[By, ...] = ("workflow",)


class Spend(msgspec.Struct):
    """A row of sums; what it is not grouped `by` is None, and so is a model that nobody has named.

    `seconds` is working time of attempts, `test_seconds` that of the runs of their tests, which are no attempts. Of
    `tokens_unknown` and `cost_unknown` attempts nobody has said it: it is in no sum, but what these have used in calls
    that were settled stands in `calls_tokens` and `calls_usd`. `accepted` are tasks that were completed by somebody's
    work, by their role and the day of their completion, and the sums after it those of all attempts at them and their
    branches, whoever made them and when: None where sums are asked for by model, for a task may be the work of several.
    `cost_per_accepted_usd` is None where a part of it is unknown.
    """

    workflow: str | None
    role: str | None
    model: str | None
    day: date | None
    attempts: int
    seconds: float
    test_seconds: float
    input_total: int
    cache_read: int
    cache_write: int
    output: int
    tokens_unknown: int
    cost_reported_usd: float
    cost_computed_usd: float
    cost_unknown: int
    calls_tokens: int
    calls_usd: float
    accepted: int | None
    accepted_attempts: int | None
    accepted_seconds: float | None
    accepted_cost_usd: float | None
    accepted_cost_unknown: int | None
    cost_per_accepted_usd: float | None = None


class _Row(Sums, kw_only=True):
    """As it is written: what is to be added to the row of this key."""

    workflow: str
    role: str
    model: str
    day: str


_TASKS = msgspec.json.Decoder(list[SpentTask])
_SPEND = msgspec.json.Decoder(list[Spend])


async def spend(
    connection: Connection,
    by: Collection[By] = WORKFLOWS,
    *,
    since: date | None = None,
    until: date | None = None,
    workflow: str | None = None,
    role: str | None = None,
    model: str | None = None,
    limit: int = LIMIT,
    after: Sequence[str] = (),
) -> list[Spend]:
    """Sums of the days from `since` to `until`, both counted, in the order of day, workflow, role and model. The next
    page is `after` the `place` of the last row of this one."""
    asked: dict[str, Any] = {
        "by": list(by), "since": since, "until": until, "workflow": workflow, "role": role, "model": model,
        "whole": "model" not in by and model is None, "limit": limit, "after": list(after),
    }  # fmt: skip
    found = await load(connection, _SPEND, SQL["spend"], **asked) or []
    for row in found:
        if row.accepted and row.accepted_cost_usd is not None and not row.accepted_cost_unknown:
            row.cost_per_accepted_usd = round(row.accepted_cost_usd / row.accepted, 9)
    return found


def place(row: Spend) -> list[str]:
    return [row.day.isoformat() if row.day else "", row.workflow or "", row.role or "", row.model or ""]


class Spending:
    """The view. One instance belongs to one projection; tasks are kept for the next batch."""

    name = "spend"
    version = 1
    sql = SQL
    pace_seconds = 1.0

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str], SpentTask] = {}

    def forget(self) -> None:
        self._tasks.clear()

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        mine = list(_counted(batch))
        await self._load(connection, {name for name, _, _ in mine})
        before: dict[tuple[str, str], dict[Key, Sums]] = {}
        for name, event, day in mine:
            task = self._tasks.get(name) or self._tasks.setdefault(name, SpentTask(*name))
            if name not in before:
                before[name] = task.shares()
            task.fold(event, day)
        more: dict[Key, Sums] = defaultdict(Sums)
        for name, was in before.items():
            for key, sums in self._tasks[name].shares().items():
                more[key].add(sums)
            for key, sums in was.items():
                more[key].add(sums, -1)
        await store(connection, SQL["store_tasks"], [self._tasks[name] for name in before])
        rows = [_Row(**key._asdict(), **msgspec.structs.asdict(sums)) for key, sums in more.items() if sums]
        await store(connection, SQL["add"], rows)
        await store(connection, SQL["prune"], [row for row in rows if row.runs < 0])
        if len(self._tasks) > KEPT_TASKS:
            self.forget()

    async def _load(self, connection: Connection, named: set[tuple[str, str]]) -> None:
        if wanted := named - self._tasks.keys():
            keys = {"workflows": [name for name, _ in wanted], "tasks": [task for _, task in wanted]}
            found = await load(connection, _TASKS, SQL["load_tasks"], **keys)
            self._tasks |= {(task.workflow, task.task): task for task in found or ()}


def _counted(batch: Sequence[Recorded]) -> Iterator[tuple[tuple[str, str], COUNTS, str]]:
    """The events that count, each with the task of the plan that it is about, and its day."""
    for recorded in batch:
        if recorded.stream.startswith(STREAM) and isinstance(event := recorded.event, COUNTS):
            yield (
                (recorded.stream.removeprefix(STREAM), root(event.task)),
                event,
                recorded.recorded_at.date().isoformat(),
            )
