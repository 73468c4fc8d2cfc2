"""The ports of `handlers`, fulfilled by views and repositories: deadlines and leases, branches and their cursor."""

import time
from pathlib import Path

from cairn.git import GitError
from cairn.repository import Repository
from handlers.branches import BranchStuck
from handlers.roster import Held
from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger
from ledger.postgres import Pool
from projections import due
from projections.project import Projection

CURSOR = """
INSERT INTO cursors (name, position) VALUES (%(name)s, %(position)s)
ON CONFLICT (name) DO UPDATE SET position = greatest(cursors.position, excluded.position)
"""


class Timers:
    """`handlers.deadlines.Timers` and `handlers.roster.Leases` over the view `due`."""

    def __init__(self, pool: Pool, view: Projection, ledger: Ledger) -> None:
        self._pool, self._view, self._ledger = pool, view, ledger
        self._listening_since = time.time()

    async def due(self, now: float) -> list[due.Due]:
        async with self._pool.connection() as connection:
            return await due.due(connection, now, self._listening_since)

    async def next_due(self) -> float | None:
        async with self._pool.connection() as connection:
            return await due.next_due(connection, self._listening_since)

    async def beat(self, held: list[Held]) -> list[Held]:
        """None is void while the view cannot tell."""
        leases = [due.Lease(one.workflow, one.run, one.token) for one in held]
        if not leases:
            return []
        try:
            head = await self._ledger.head()
            async with self._pool.connection() as connection:
                await due.beat(connection, leases, time.time())
            await self._view.reached(head.position, timeout_seconds=2.0)
            async with self._pool.connection() as connection:
                current = await due.held(connection, leases)
        except (TimeoutError, LedgerUnavailable):
            return []
        return [Held(*lease) for lease in leases if lease not in current]

    async def first_offer(self, role: str) -> int:
        """What the view has not seen yet may hold dispatches too, so it never answers beyond the view's own cursor."""
        seen = self._view.position
        async with self._pool.connection() as connection:
            oldest = await due.oldest_offer(connection, role)
        return min(oldest or seen + 1, seen + 1)


class Refs:
    """`handlers.branches.Artifacts`: branches in the repository of each workflow."""

    async def set_branch(self, repository: str, workflow: str, task: str, commit: str) -> str:
        try:
            return await (await Repository.open(Path(repository))).set_branch(workflow, task, commit)
        except GitError as error:
            raise BranchStuck(str(error)) from error


class Cursor:
    """`handlers.branches.Cursor`: how far a reaction has come, by its name."""

    def __init__(self, pool: Pool, name: str) -> None:
        self._pool, self._name = pool, name

    async def load(self) -> int:
        async with self._pool.connection() as connection:
            found = await connection.execute("SELECT position FROM cursors WHERE name = %s", (self._name,))
            row = await found.fetchone()
            return row[0] if row else 0

    async def save(self, position: int) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(CURSOR, {"name": self._name, "position": position})
