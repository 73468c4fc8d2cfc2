"""The ports of `handlers`, fulfilled by views and repositories: deadlines and leases, branches and their cursor."""

import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg

from cairn.bus import Bus
from cairn.git import GitError
from cairn.repository import Repository
from handlers.branches import BranchStuck
from handlers.registry import Silent, Standing
from handlers.roster import Held
from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger
from ledger.postgres import Connection, Pool
from projections import agents, recovery
from projections.project import Projection
from projections.standing import Halted

HEARD = "SELECT beat_at FROM presence WHERE (workflow, run, token) = ('', '', 0)"
LISTEN = "INSERT INTO presence VALUES ('', '', 0, %(now)s) ON CONFLICT DO NOTHING"
"""A row that names no run: a crash of Postgres empties the table, and whoever finds it missing knows."""
CURSOR = """
INSERT INTO cursors (name, position) VALUES (%(name)s, %(position)s)
ON CONFLICT (name) DO UPDATE SET position = greatest(cursors.position, excluded.position)
"""
SWEEP_SECONDS = 3600.0
SUSPENDED_SECONDS = 5.0
"""Deadlines are asked for at least every second; after a longer pause this process, or Postgres, stood still."""
FORGET_SECONDS = 86_400.0
"""Heartbeats of runs that are over are kept so long."""


@asynccontextmanager
async def _lent(pool: Pool) -> AsyncIterator[Connection]:
    """A connection; LedgerUnavailable when Postgres does not answer."""
    try:
        async with pool.connection() as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise LedgerUnavailable(f"Postgres does not answer: {error}") from error


class Timers:
    """`handlers.deadlines.Timers`, `handlers.roster.Leases` and `handlers.registry.Presence` over the views.

    Nobody is given up for a silence that was ours: heartbeats are missed while we are down or the bus is away, and
    forgotten when Postgres crashes.
    """

    def __init__(self, pool: Pool, view: Projection, ledger: Ledger, bus: Bus) -> None:
        self._pool, self._view, self._ledger, self._bus = pool, view, ledger, bus
        self._listening_since = self._swept = time.time()
        self._asked = time.monotonic()
        self._generation = bus.generation

    async def due(self, now: float, unanswered: Collection[str] = ()) -> list[recovery.Due]:
        async with _lent(self._pool) as connection:
            await self._sweep(connection)
            return await recovery.due(connection, now, await self._since(connection), unanswered=unanswered)

    async def next_due(self, unanswered: Collection[str] = ()) -> float | None:
        async with _lent(self._pool) as connection:
            return await recovery.next_due(connection, await self._since(connection), unanswered)

    async def _since(self, connection: Connection) -> float:
        """From when on heartbeats were taken without a break, as seconds since the epoch."""
        before, self._asked = self._asked, time.monotonic()
        suspended = self._asked - before > SUSPENDED_SECONDS
        if suspended or not self._bus.connected or self._bus.generation != self._generation:
            self._listening_since, self._generation = time.time(), self._bus.generation
        row = await (await connection.execute(HEARD, prepare=True)).fetchone()
        if row is None:
            await connection.execute(LISTEN, {"now": time.time()})
            return time.time()
        kept_since: float = row[0]
        return max(self._listening_since, kept_since)

    async def _sweep(self, connection: Connection) -> None:
        if time.time() - self._swept > SWEEP_SECONDS:
            self._swept = time.time()
            await recovery.sweep(connection, self._swept - FORGET_SECONDS)

    async def beat(self, agent: str, held: list[Held]) -> list[Held]:
        """None is void while the view cannot tell. Nobody keeps another's lease alive."""
        leases = [recovery.Lease(one.workflow, one.run, one.token) for one in held]
        if not leases:
            return []
        try:
            head = await self._ledger.head()
            async with _lent(self._pool) as connection:
                others = await agents.others(connection, agent, [(one.workflow, one.run) for one in held])
                own = [one for one in leases if (one.workflow, one.run) not in others]
                await recovery.beat(connection, own, time.time())
            async with self._view.reading(head.position, timeout_seconds=2.0) as connection:
                current = await recovery.held(connection, leases)
        except (TimeoutError, LedgerUnavailable, Halted, psycopg.OperationalError):
            return []
        return [Held(*lease) for lease in leases if lease not in current]

    async def heard(self, agent: str) -> Standing:
        async with _lent(self._pool) as connection:
            return Standing(*await agents.heard(connection, agent, time.time()))

    async def silent(self, now: float, lease_seconds: float) -> list[Silent]:
        async with _lent(self._pool) as connection:
            since = await self._since(connection)
            return [Silent(*one) for one in await agents.silent(connection, now - lease_seconds, since)]

    async def first_offer(self, role: str) -> int:
        async with _lent(self._pool) as connection:
            return await recovery.first_offer(connection, role)


class Refs:
    """`handlers.branches.Artifacts`: branches in the repository of each workflow."""

    async def set_branch(self, repository: str, workflow: str, task: str, commit: str) -> str:
        try:
            return await (await Repository.open(Path(repository))).set_branch(workflow, task, commit)
        except (GitError, OSError, ValueError) as error:  # ValueError: a name or a commit that no program can be given
            raise BranchStuck(str(error)) from error


class Cursor:
    """`handlers.branches.Cursor`: how far a reaction has come, by its name."""

    def __init__(self, pool: Pool, name: str) -> None:
        self._pool, self._name = pool, name

    async def load(self) -> int:
        async with _lent(self._pool) as connection:
            found = await connection.execute("SELECT position FROM cursors WHERE name = %s", (self._name,))
            row = await found.fetchone()
            return row[0] if row else 0

    async def save(self, position: int) -> None:
        async with _lent(self._pool) as connection:
            await connection.execute(CURSOR, {"name": self._name, "position": position})
