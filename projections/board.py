"""The board: workflows, their tasks, the attempts at them and what people were asked. `board.sql` has the tables.

Rows that events touch are loaded, changed in memory and stored, each once a batch. Those of open tasks, and of tasks
that have parts, are kept for the next batch: nobody else changes them, or the projection's cursor would have moved and
the board been told to forget.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, LiteralString, get_args

import msgspec

from domain.events import Purpose, TaskAdded
from domain.state import TRANSITIONS, WORKFLOW_TRANSITIONS, AskState, TaskStatus
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections import agents, claims
from projections.board_fold import Changes
from projections.board_rows import (
    AskRow,
    BoardAsk,
    BoardAttempt,
    BoardDetail,
    BoardTask,
    BoardWorkflow,
    Entry,
    Outcome,
    TaskKin,
    WorkflowRow,
    WorkflowStatus,
)
from projections.project import View
from projections.rows import load, store
from projections.sql import statements
from projections.waiting import waiting_on

__all__ = [
    "AskRow",
    "Board",
    "BoardAsk",
    "BoardAttempt",
    "BoardDetail",
    "BoardTask",
    "BoardWorkflow",
    "WorkflowRow",
    "asks",
    "workflow",
    "workflows",
]

KEPT_TASKS = 10_000
STREAM = "workflow-"
WORKFLOW_STEPS = WORKFLOW_TRANSITIONS | {"queued": WORKFLOW_TRANSITIONS["queued"] | WORKFLOW_TRANSITIONS["running"]}
"""From a workflow's stored status to those that may follow: one batch may hold its admission and its end."""


def _rules() -> dict[LiteralString, LiteralString]:
    """What the tables are told of the domain: the values of columns, and which status may follow which."""

    def listed(values: Iterable[LiteralString]) -> LiteralString:
        return ", ".join(f"'{value}'" for value in values)

    def branches(transitions: Mapping[Any, Collection[Any]]) -> LiteralString:
        return " ".join(
            f"WHEN '{was}' THEN becomes IN ({listed(sorted(becomes))})"
            for was, becomes in transitions.items()
            if becomes
        )

    return {
        "{task_statuses}": listed(get_args(TaskStatus)),
        "{task_transitions}": branches(TRANSITIONS),
        "{workflow_statuses}": listed(get_args(WorkflowStatus)),
        "{workflow_transitions}": branches(WORKFLOW_STEPS),
        "{purposes}": listed(get_args(Purpose)),
        "{outcomes}": listed(get_args(Outcome)),
        "{ask_states}": listed(get_args(AskState)),
    }


def _filled(sql: LiteralString) -> LiteralString:
    for place, rule in _rules().items():
        sql = sql.replace(place, rule)
    return sql


SQL = statements("board")
SQL["create"] = f"{_filled(SQL['create'])};\n{claims.SQL['create']}"
SQL["drop"] = f"{SQL['drop']};\n{claims.SQL['drop']}"

_WORKFLOWS = msgspec.json.Decoder(list[BoardWorkflow])
_ENTRIES = msgspec.json.Decoder(list[Entry])
_PAGE = msgspec.json.Decoder(list[WorkflowRow])
_ASKS = msgspec.json.Decoder(list[AskRow])
_DETAIL = msgspec.json.Decoder(BoardDetail)


async def workflows(connection: Connection, limit: int = 50, before: int | None = None) -> list[WorkflowRow]:
    """The newest first; the next page is `before` the `first` of the last one."""
    before = 2**63 - 1 if before is None else before
    found = await load(connection, _PAGE, SQL["workflows"], limit=limit, before=before) or []
    if running := {row.workflow: row for row in found if row.ended_at is None}:
        for lack in await agents.lacking(connection, list(running)):
            row = running[lack.workflow]
            row.lacking = tuple(dict.fromkeys((*row.lacking, str(lack))))
    return found


async def asks(
    connection: Connection, *, state: str = "open", workflow: str | None = None, limit: int = 50, after: int = 0
) -> list[AskRow]:
    """In the order they were opened; the next page is `after` the `opened` of the last one. `state` may be any."""
    given = {"state": state, "workflow": workflow, "limit": limit, "after": after}
    return await load(connection, _ASKS, SQL["asks"], **given) or []


async def workflow(connection: Connection, name: str) -> BoardDetail | None:
    """All of one workflow as of one moment, None if the board does not have it."""
    detail = await load(connection, _DETAIL, SQL["workflow"], workflow=name)
    if detail:
        await tell_waits(connection, detail.workflow, detail.tasks, detail.attempts, detail.tasks)
    return detail


async def tell_waits(
    connection: Connection,
    flow: BoardWorkflow,
    tasks: Sequence[BoardTask],
    attempts: Iterable[BoardAttempt],
    kin: Sequence[BoardTask | TaskKin],
) -> None:
    """Says of each of these tasks of a workflow what it waits for; `kin` is what `waiting_on` has to know of others."""
    names = [task.task for task in tasks]
    runs = {(attempt.task, attempt.run): attempt for attempt in attempts}
    lacks = {lack.task: lack for lack in await agents.lacking(connection, [flow.workflow], names)}
    for task in tasks:
        if lack := lacks.get(task.task):
            task.waiting_on = f"a slot: no agent of role {lack} is there"
        else:
            task.waiting_on = waiting_on(task, kin, runs.get((task.task, task.run or "")), paused=flow.paused)
    if flow.status == "queued" or any(task.status == "queued" for task in tasks):
        slots = await claims.blocked(connection, flow.workflow, names)
        for task in tasks:
            if task.status == "queued":
                task.waiting_on = slots.get(task.task, task.waiting_on)
            elif task.status == "pending" and not task.dependencies:
                task.waiting_on = slots.get("", task.waiting_on)


class Board(View):
    """The view. One instance belongs to one projection."""

    name = "board"
    version = 2
    sql = SQL

    def __init__(self) -> None:
        self._workflows: dict[str, BoardWorkflow] = {}
        self._entries: dict[tuple[str, str], Entry] = {}
        self._wholes: set[tuple[str, str]] = set()

    def forget(self) -> None:
        self._workflows.clear()
        self._entries.clear()
        self._wholes.clear()

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        mine = [
            (recorded.stream.removeprefix(STREAM), recorded) for recorded in batch if recorded.stream.startswith(STREAM)
        ]
        await self._load(connection, mine)
        changes = Changes(self._workflows, self._entries)
        for name, recorded in mine:
            changes.fold(name, recorded)
        await store(connection, SQL["store_workflows"], changes.workflows.values())
        tasks = {key: entry.task for key, entry in changes.entries.items()}
        await store(connection, SQL["add_tasks"], [tasks.pop(key) for key in changes.created])
        await store(connection, SQL["store_tasks"], tasks.values())
        await store(connection, SQL["store_attempts"], changes.attempts.values())
        await store(connection, SQL["store_asks"], changes.asks.values())
        if queue := [recorded for recorded in batch if recorded.stream.startswith(claims.STREAM)]:
            await claims.apply(connection, queue)
        await agents.apply(connection, batch)
        self._let_go(changes)

    async def _load(self, connection: Connection, mine: list[tuple[str, Recorded]]) -> None:
        """Fetches the rows that these events will change, unless they are here or about to be made."""
        started = {name for name, recorded in mine if recorded.version == 1}
        names, touched = set[str](), set[tuple[str, str]]()
        for name, recorded in mine:
            event = recorded.event
            if isinstance(event, TaskAdded) and event.spec.parent_id:
                touched.add((name, event.spec.parent_id))
            if name not in started:
                names.add(name)
                if task := getattr(event, "task", None):
                    touched.add((name, task))
        names -= self._workflows.keys()
        wanted = list(touched - self._entries.keys())
        if names:
            found = await load(connection, _WORKFLOWS, SQL["load_workflows"], workflows=list(names))
            self._workflows |= {row.workflow: row for row in found or ()}
        if wanted:
            keys = {"workflows": [name for name, _ in wanted], "tasks": [task for _, task in wanted]}
            entries = await load(connection, _ENTRIES, SQL["load_tasks"], **keys)
            self._entries |= {(entry.task.workflow, entry.task.task): entry for entry in entries or ()}

    def _let_go(self, changes: Changes) -> None:
        for key, entry in changes.entries.items():
            if entry.task.ended_at and entry.task.parts:
                self._wholes.add(key)  # its parts may still be under way, and change it
            elif entry.task.ended_at:
                del self._entries[key]
        for name, row in changes.workflows.items():
            if row.ended_at:
                del self._workflows[name]
                for key in [key for key in self._wholes if key[0] == name]:
                    self._wholes.discard(key)
                    self._entries.pop(key, None)
        if len(self._entries) > KEPT_TASKS:
            self.forget()
