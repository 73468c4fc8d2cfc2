"""What Prometheus is told of the past: counters and histograms as a fold of the ledger, so that no restart changes one.

A batch is counted in memory, and added to the rows with one statement for each table. What is kept of workflows under
way is in memory too: nobody else changes it, or the projection's cursor would have moved and the view been told to
forget.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from domain.budget import Books
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.metrics_fold import STREAM, Changes, Flow, Work
from projections.rows import load, store
from projections.sql import statements

SQL = statements("metrics")
KEPT_TASKS = 50_000
"""Of workflows that no event of the batch is about."""


class _Count(msgspec.Struct):
    """A row of `metrics`; `value` is a whole number of any size."""

    name: str
    labels: tuple[str, ...]
    value: str


class _Name(msgspec.Struct):
    label: str
    value: str


class _Ended(msgspec.Struct):
    outcome: str
    seconds: int
    workflows: int


class _Flow(msgspec.Struct):
    workflow: str
    started: int
    used: float | None
    books: str | None


class _Whole(msgspec.Struct):
    flow: _Flow
    tasks: list[Work]


class Counted(msgspec.Struct):
    """All that was counted up to a position. `ended`: outcome, index of the bound, how many workflows;
    `roles` have series of their own."""

    position: int | None
    rows: list[_Count]
    ended: list[tuple[str, int, int]]
    roles: list[str]


class AgentsNow(msgspec.Struct):
    """`silent` is in seconds, of the one that is silent for longest."""

    role: str
    status: str
    number: int
    silent: float


class ViewNow(msgspec.Struct):
    name: str
    position: int
    halted: bool


class Now(msgspec.Struct):
    """What is so just now: numbers by kind, status or role. `at`: seconds since the epoch; `oldest` in microseconds;
    `budget`: the highest share, and how many workflows have used 80 and 100 percent."""

    at: float
    position: int
    views: list[ViewNow]
    workflows: dict[str, int]
    waits: dict[str, int]
    queue: dict[str, int]
    oldest: dict[str, int | None]
    asks: dict[str, int]
    agents: list[AgentsNow]
    budget: tuple[float, int, int]


_WHOLES = msgspec.json.Decoder(list[_Whole])
_NAMES = msgspec.json.Decoder(dict[str, set[str]])
_BOOKS = msgspec.json.Decoder(Books)
_COUNTED = msgspec.json.Decoder(Counted)
_NOW = msgspec.json.Decoder(Now)


class Metrics:
    """The view. One instance belongs to one projection."""

    name = "metrics"
    version = 1
    sql = SQL
    pace_seconds = 1.0

    def __init__(self) -> None:
        self._flows: dict[str, Flow] = {}
        self._names: dict[str, set[str]] | None = None

    def forget(self) -> None:
        self._flows.clear()
        self._names = None

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        if self._names is None:
            self._names = await load(connection, _NAMES, SQL["names"]) or {}
        await self._load(connection, batch)
        changes = Changes(self._flows, self._names)
        for recorded in batch:
            changes.fold(recorded)
        await self._store(connection, changes)
        self._let_go(changes)

    async def _load(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        mine = [recorded for recorded in batch if recorded.stream.startswith(STREAM)]
        started = {recorded.stream for recorded in mine if recorded.version == 1}
        names = {recorded.stream.removeprefix(STREAM) for recorded in mine if recorded.stream not in started}
        if wanted := names - self._flows.keys():
            for whole in await load(connection, _WHOLES, SQL["load"], workflows=list(wanted)) or ():
                row, tasks = whole.flow, {task.task: task for task in whole.tasks}
                books = _BOOKS.decode(row.books) if row.books is not None else None
                self._flows[row.workflow] = Flow(row.workflow, row.started, books, tasks)

    async def _store(self, connection: Connection, changes: Changes) -> None:
        await store(connection, SQL["add"], _counts(changes.added))
        await store(connection, SQL["put"], _counts(changes.put))
        await store(connection, SQL["add_ended"], [_Ended(*key, number) for key, number in changes.ended.items()])
        await store(connection, SQL["add_names"], [_Name(*named) for named in changes.named])
        if over := [name for name, flow in changes.flows.items() if flow is None]:
            await connection.execute(SQL["remove_flows"], {"workflows": over}, prepare=True)
        open_tasks = [(key, task) for key, task in changes.tasks.items() if key[0] in self._flows]
        if gone := [key for key, task in open_tasks if task is None]:
            keys = {"workflows": [name for name, _ in gone], "tasks": [task for _, task in gone]}
            await connection.execute(SQL["remove_tasks"], keys, prepare=True)
        await store(connection, SQL["put_flows"], [_row(flow) for flow in changes.flows.values() if flow])
        await store(connection, SQL["put_tasks"], [task for _, task in open_tasks if task])

    def _let_go(self, changes: Changes) -> None:
        """Of what is under way, that which was not touched for longest."""
        for name in dict.fromkeys(name for name, _ in changes.tasks):
            if flow := self._flows.pop(name, None):
                self._flows[name] = flow
        kept = sum(len(flow.tasks) for flow in self._flows.values())
        for name in list(self._flows):
            if kept <= KEPT_TASKS:
                break
            kept -= len(self._flows.pop(name).tasks)


async def counted(connection: Connection, bounds: Sequence[int]) -> Counted:
    """As of one position; `bounds`, in whole seconds and rising, are those that workflows are counted by."""
    found = await load(connection, _COUNTED, SQL["counted"], bounds=list(bounds))
    assert found is not None
    return found


async def asked(connection: Connection) -> Now:
    """As of one moment. UndefinedTable while a view is being made."""
    found = await load(connection, _NOW, SQL["asked"])
    assert found is not None
    return found


def _counts(values: Any) -> Iterable[msgspec.Struct]:
    return [_Count(name, labels, str(value)) for (name, labels), value in values.items()]


def _row(flow: Flow) -> _Flow:
    books = None if flow.books is None else msgspec.json.encode(flow.books).decode()
    return _Flow(flow.workflow, flow.started, flow.used, books)
