"""How good the work was, by workflow, role and day (UTC): what passed its tests, what was found, how much of it ran.

`quality.sql` has the tables, `quality_fold` says what is counted, and whose it is.
"""

from collections.abc import Collection, Sequence
from datetime import date
from typing import Any, Literal

import msgspec

from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.quality_fold import COUNTS, Counts, Quality, Worked
from projections.rows import load, store
from projections.sql import statements

STREAM = "workflow-"
SQL = statements("quality")
KEPT_TASKS = 10_000
LIMIT = 1_000
By = Literal["workflow", "role", "day"]
ROLES: tuple[By, ...] = ("role",)


class Standard(msgspec.Struct):
    """A row of sums; what it is not grouped `by` is None.

    `verified` are runs of tests, on work of the role. Tasks of the plan are `accepted`, `first` of them without an attempt
    that failed, or `failed`. Rates are parts of 1, of nothing None. `covered` receipts tell a coverage, in percent of
    lines: the last of them, and their mean. `findings` are numbers by kind and severity.
    """

    workflow: str | None
    role: str | None
    day: date | None
    verified: int
    passed: int
    accepted: int
    first: int
    failed: int
    retries: int
    branches: int
    covered: int
    coverage_last: float | None
    coverage_mean: float | None
    findings: dict[str, dict[str, int]]
    pass_rate: float | None = None
    first_pass_rate: float | None = None


class _Row(Counts, kw_only=True):
    """As it is written: what is to be added to the row of this key."""

    workflow: str
    role: str
    day: str


class _Found(msgspec.Struct):
    workflow: str
    role: str
    day: str
    kind: str
    severity: str
    number: int


_TASKS = msgspec.json.Decoder(list[Worked])
_ROWS = msgspec.json.Decoder(list[Standard])


async def quality(
    connection: Connection,
    by: Collection[By] = ROLES,
    *,
    since: date | None = None,
    until: date | None = None,
    workflow: str | None = None,
    role: str | None = None,
    limit: int = LIMIT,
    after: Sequence[str] = (),
) -> list[Standard]:
    """Sums of the days from `since` to `until`, both counted, in the order of day, workflow and role. The next page is
    `after` the `place` of the last row of this one."""
    asked: dict[str, Any] = {
        "by": list(by), "since": since, "until": until, "workflow": workflow, "role": role, "limit": limit,
        "after": list(after),
    }  # fmt: skip
    found = await load(connection, _ROWS, SQL["quality"], **asked) or []
    for row in found:
        row.pass_rate = _rate(row.passed, row.verified)
        row.first_pass_rate = _rate(row.first, row.accepted + row.failed)
    return found


def place(row: Standard) -> list[str]:
    return [row.day.isoformat() if row.day else "", row.workflow or "", row.role or ""]


class Standards:
    """The view. One instance belongs to one projection; tasks are kept for the next batch."""

    name = "quality"
    version = 1
    sql = SQL
    pace_seconds = 1.0

    def __init__(self) -> None:
        self._tasks: dict[tuple[str, str], Worked] = {}

    def forget(self) -> None:
        self._tasks.clear()

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        mine = [
            (recorded.stream.removeprefix(STREAM), recorded.event, recorded)
            for recorded in batch
            if recorded.stream.startswith(STREAM) and isinstance(recorded.event, COUNTS)
        ]
        await self._load(connection, {(name, it) for name, event, _ in mine for it in _named(event)})
        seen = Quality(self._tasks)
        for name, event, recorded in mine:
            seen.fold(name, event, recorded.recorded_at.date().isoformat(), recorded.position)
        await store(connection, SQL["store_tasks"], [self._tasks[name] for name in seen.touched])
        rows = [
            _Row(**key._asdict(), **msgspec.structs.asdict(it)) for key, it in seen.counts.items() if it != Counts()
        ]
        await store(connection, SQL["add"], rows)
        found = [_Found(*key, kind, severity, number) for (key, kind, severity), number in seen.findings.items()]
        await store(connection, SQL["add_findings"], found)
        if len(self._tasks) > KEPT_TASKS:
            self.forget()

    async def _load(self, connection: Connection, named: set[tuple[str, str]]) -> None:
        if wanted := named - self._tasks.keys():
            keys = {"workflows": [name for name, _ in wanted], "tasks": [task for _, task in wanted]}
            found = await load(connection, _TASKS, SQL["load_tasks"], **keys)
            self._tasks |= {(task.workflow, task.task): task for task in found or ()}


def _named(event: COUNTS) -> tuple[str, ...]:
    """The tasks that it is about: a report may be of a branch's work."""
    run = getattr(event, "run", event.task)
    return (event.task,) if "/" in run else (event.task, run)


def _rate(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None
