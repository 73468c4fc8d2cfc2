"""What waits for time: offers that nobody took, leases that are not renewed, runs that take too long, retries.

Times are seconds since the epoch. The rows are a fold of the ledger; that an agent was *heard of* is not, it stands in
the unlogged table `presence`, which a crash of Postgres empties.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from domain.events import (
    AttemptFailed,
    RetryScheduled,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskFailed,
    TaskReported,
    TaskSkipped,
    TaskStarted,
    TaskVerified,
)
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.rows import load, store
from projections.sql import statements

STREAM = "workflow-"
SQL = statements("due")
LIMIT = 1_000


class Due(msgspec.Struct, frozen=True):
    """Something to be decided on now. `token`, `run` and `role` are None for a retry, `attempt` its next one."""

    workflow: str
    task: str
    kind: Literal["offer", "lease", "timeout", "retry"]
    due: float
    attempt: int
    token: int | None = None
    run: str | None = None
    role: str | None = None
    agent: str | None = None


_DUE = msgspec.json.Decoder(list[Due])


class Lease(NamedTuple):
    """What an agent says it holds."""

    workflow: str
    run: str
    token: int


class _Row(msgspec.Struct, omit_defaults=True, gc=False):
    workflow: str
    task: str
    kind: Literal["offer", "lease", "retry"]
    due: float
    attempt: int = -1
    timeout_at: float | None = None
    lease_seconds: float | None = None
    token: int | None = None
    run: str | None = None
    role: str | None = None
    agent: str | None = None
    dispatched: int | None = None


class DueView:
    """The view."""

    name = "due"
    version = 1
    sql = SQL

    def forget(self) -> None:
        """It remembers nothing."""

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        put, taken, gone = _fold(batch)
        if gone:
            keys = {"workflows": [name for name, _ in gone], "tasks": [task for _, task in gone]}
            await connection.execute(SQL["remove"], keys, prepare=True)
        await store(connection, SQL["put"], put)
        await store(connection, SQL["lease"], taken)


def _fold(batch: Sequence[Recorded]) -> tuple[list[_Row], list[_Row], list[tuple[str, str]]]:
    """Rows to put, leases taken of rows that are in the table already, and keys to remove."""
    last: dict[tuple[str, str], _Row | None] = {}
    for recorded in batch:
        if not recorded.stream.startswith(STREAM):
            continue
        event, workflow = recorded.event, recorded.stream.removeprefix(STREAM)
        match event:
            case TaskDispatched(task=task):
                last[workflow, task] = _Row(
                    workflow, task, "offer", event.due, event.attempt, None, event.lease_seconds, event.token,
                    event.run, event.role, None, recorded.position,
                )  # fmt: skip
            case TaskStarted(task=task, run=run, agent=agent, timeout_at=timeout_at):
                row = last.get((workflow, task)) or _Row(workflow, task, "lease", 0.0, run=run)
                row.kind, row.due = "lease", min(event.lease_until, timeout_at)
                row.timeout_at, row.agent = timeout_at, agent
                last[workflow, task] = row
            case RetryScheduled(task=task, attempt=attempt, due=due):
                last[workflow, task] = _Row(workflow, task, "retry", due, attempt)
            case (
                TaskReported(task=task) | TaskVerified(task=task) | TaskCompleted(task=task) | AttemptFailed(task=task)
                | TaskFailed(task=task) | TaskCancelled(task=task) | TaskSkipped(task=task)
            ):  # fmt: skip
                last[workflow, task] = None
    rows = [row for row in last.values() if row]
    put = [row for row in rows if row.attempt >= 0]
    taken = [row for row in rows if row.attempt < 0]
    return put, taken, [key for key, row in last.items() if row is None]


async def due(connection: Connection, now: float, listening_since: float = 0.0, limit: int = LIMIT) -> list[Due]:
    """What has fallen due, the longest overdue first.

    An agent is lost when its lease has run out and it was not heard of for the length of a lease, in which somebody
    listened: `listening_since` is when this process began to take heartbeats (or Postgres came back, without them).
    """
    return await load(connection, _DUE, SQL["due"], now=now, listening_since=listening_since, limit=limit) or []


async def next_due(connection: Connection, listening_since: float = 0.0) -> float | None:
    """When `due` will next find something if nothing is heard until then; None if nothing waits."""
    found = await connection.execute(SQL["next_due"], {"listening_since": listening_since}, prepare=True)
    row = await found.fetchone()
    return row[0] if row else None


async def oldest_offer(connection: Connection, role: str) -> int | None:
    """The position of the oldest dispatch to `role` that nobody has started: a lost consumer begins again there."""
    found = await connection.execute(SQL["oldest_offer"], {"role": role}, prepare=True)
    row = await found.fetchone()
    return row[0] if row else None


async def beat(connection: Connection, leases: Iterable[Lease], now: float) -> None:
    """The agents that hold these were heard of at `now`."""
    if heard := set(leases):
        await connection.execute(SQL["beat"], _columns(heard) | {"now": now}, prepare=True)


async def held(connection: Connection, leases: Iterable[Lease]) -> set[Lease]:
    """Those that are offered or leased under this very token; the agents of the others can stop.

    True at the view's position: wait until it has `reached` the ledger's head as it was when the agents spoke, or a
    lease that was given out a moment ago seems void.
    """
    found = await connection.execute(SQL["held"], _columns(set(leases)), prepare=True)
    return {Lease(*row) for row in await found.fetchall()}


async def sweep(connection: Connection, before: float) -> int:
    """Forgets heartbeats before that time of whoever holds nothing; the number of rows that went."""
    return (await connection.execute(SQL["sweep"], {"before": before})).rowcount


def _columns(leases: set[Lease]) -> dict[str, Any]:
    return {
        "workflows": [lease.workflow for lease in leases],
        "runs": [lease.run for lease in leases],
        "tokens": [lease.token for lease in leases],
    }
