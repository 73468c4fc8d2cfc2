"""A view and its cursor: `run` follows the ledger and keeps its tables equal to the fold of all up to a position.

*Order and atomicity.* One transaction a batch moves the cursor row and changes the view's rows; the cursor comes first,
so of two processes that project one view the second waits, finds the cursor moved, gives up its batch and reads the
cursor again. They do no harm to each other, and none of them leads. *Faults.* Without Postgres it waits and tries
again. An event that the view cannot fold stops it: a batch that failed is applied again event by event, the view
stands right before the one that fails, and `run` raises Halted with its position. *Rebuild.* A view whose version was
raised, or on demand, is dropped and replayed; until then its readers find less than there is.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import LiteralString, Protocol

import psycopg
import structlog

from ledger.cancel import until_one_ends
from ledger.errors import LedgerUnavailable
from ledger.postgres import Connection, Pool
from ledger.recorded import Recorded
from projections.sql import statements

RECONNECT_SECONDS = 0.5
POLL_SECONDS = 0.05
"""How soon a waiting reader notices a position that another process has projected."""
FULL_BATCH, BUSY_BATCH = 1_000, 100
PACE_SECONDS, BUSY_PACE_SECONDS = 0.02, 0.08
"""After a small batch more events are let come together: a transaction costs the same for one as for a hundred."""
REWIND_POLL_SECONDS = 1.0
"""How soon a view that another process rewound is replayed."""

BEHIND_EVENTS = 1_000
"""A view that is so far behind reads larger batches: what changes often is then written once."""
BATCH_EVENTS = 5_000
BATCH_BYTES = 8 * 1024 * 1024

SQL = statements("projections")

log = structlog.get_logger(__name__)


class View(Protocol):
    """Tables that are a fold of the ledger. `version` is raised when tables or meaning change: then it is replayed."""

    name: str
    version: int
    sql: dict[str, LiteralString]  # among others `drop` and `create`

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        """Changes the tables by these events, in the caller's transaction. Any error rolls it back."""
        ...

    def forget(self) -> None:
        """What the view remembers of its tables may be wrong by now."""
        ...


class Followed(Protocol):
    """The part of the ledger that a projection needs."""

    async def read(self, after: int, limit: int) -> list[Recorded]: ...

    def follow(self, after: int) -> AsyncIterator[list[Recorded]]: ...


class Halted(Exception):
    """View `view` cannot go beyond `position`, its first event that cannot be folded; its tables stand before it."""

    def __init__(self, view: str, position: int, reason: str) -> None:
        super().__init__(
            f"view {view} halted at position {position}: {reason}"
            "\n  fix: mend the view or upgrade the program; nothing is lost, it continues there at the next start"
        )
        self.view, self.position, self.reason = view, position, reason


class Projection:
    """One view of one tenant: `pool` is one of `ledger.postgres.pool` with `views`."""

    def __init__(self, pool: Pool, view: View) -> None:
        self.view = view
        self.position = 0
        """The last position that this process knows to be in the view."""
        self._pool = pool
        self._moved = asyncio.Condition()
        self._rewound = asyncio.Event()

    async def install(self) -> None:
        """Makes the tables, or drops and makes them when the view's version was raised. Needs the tenant's schemas.

        Halted if a newer program has made them: two programs would drop each other's tables in turns.
        """
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '60s'")
            await connection.execute(SQL["lock"])
            await connection.execute(SQL["create"])
            if await self._read(connection) is None:
                await self._make(connection)

    async def run(self, ledger: Followed) -> None:
        """Projects until cancelled. Raises Halted."""
        await self._patiently(self.install)
        while True:
            await self._patiently(lambda: self._project(ledger))

    async def rebuild(self) -> None:
        """Drops the view's tables; whoever runs the view, here or in another process, replays it from the start."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '60s'")
            await self._make(connection)
        self._rewound.set()
        await self._move(0)

    async def reached(self, position: int, timeout_seconds: float = 5.0) -> None:
        """Returns when the view holds `position`, whichever process projects it; TimeoutError if that takes longer."""
        async with asyncio.timeout(timeout_seconds):
            while self.position < position:
                try:
                    async with asyncio.timeout(POLL_SECONDS), self._moved:
                        await self._moved.wait_for(lambda: self.position >= position)
                except TimeoutError:
                    await self._move(await self._cursor())

    @asynccontextmanager
    async def reading(self, position: int, timeout_seconds: float = 5.0) -> AsyncIterator[Connection]:
        """A connection that sees the view at `position` or beyond; TimeoutError if that takes longer.

        What this process knows is not enough: a crash of Postgres takes the last steps back, and they come again.
        """
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    await self.reached(position, timeout_seconds)
                    connection = await stack.enter_async_context(self._pool.connection())
                    if (found := await self._read(connection) or 0) >= position:
                        break
                    await stack.aclose()
                    await self._move(found)
            yield connection

    async def moved(self) -> None:
        """Returns at the next step of the view that this process makes."""
        async with self._moved:
            await self._moved.wait()

    async def _patiently(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except (psycopg.OperationalError, LedgerUnavailable) as error:
            log.warning("projection.retried", view=self.view.name, position=self.position, error=str(error).strip())
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _project(self, ledger: Followed) -> None:
        """Until the cursor turns out not to be where this process left it."""
        self._rewound.clear()
        self.view.forget()
        await self._move(await self._cursor())
        await until_one_ends(self._follow(ledger), self._until_rewound())

    async def _follow(self, ledger: Followed) -> None:
        position = self.position
        async with self._pool.connection() as connection, aclosing(_batches(ledger, position)) as batches:
            async for batch in batches:
                if batch[0].position != position + 1:
                    raise Halted(self.view.name, position + 1, f"the ledger went on at {batch[0].position}")
                if not await self._advance(connection, batch):
                    return
                position = batch[-1].position
                if len(batch) < FULL_BATCH:
                    await asyncio.sleep(PACE_SECONDS if len(batch) < BUSY_BATCH else BUSY_PACE_SECONDS)

    async def _advance(self, connection: Connection, batch: Sequence[Recorded]) -> bool:
        """Whether the batch is in the view now; it is not if the cursor was moved by somebody else."""
        try:
            if not await self._commit(connection, batch):
                return False
        except psycopg.OperationalError:
            raise
        except Exception as error:
            if len(batch) == 1:
                reason = f"{type(error).__name__}: {error} (a {batch[0].type} of {batch[0].stream})"
                raise Halted(self.view.name, batch[0].position, reason) from error
            self.view.forget()
            for recorded in batch:
                if not await self._advance(connection, [recorded]):
                    return False
            return True
        await self._move(batch[-1].position)
        return True

    async def _commit(self, connection: Connection, batch: Sequence[Recorded]) -> bool:
        async with connection.transaction():
            cursor = {"before": batch[0].position - 1, "after": batch[-1].position}
            named = {"name": self.view.name, "version": self.view.version}
            moved = await connection.execute(SQL["advance"], cursor | named, prepare=True)
            if moved.rowcount:
                await self.view.apply(connection, batch)
        return moved.rowcount == 1

    async def _until_rewound(self) -> None:
        """Returns when the cursor stands before what this process has projected."""
        while not self._rewound.is_set():
            position = self.position
            if await self._cursor() < position:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REWIND_POLL_SECONDS):
                    await self._rewound.wait()

    async def _make(self, connection: Connection) -> None:
        await connection.execute(SQL["rewind"], {"name": self.view.name, "version": self.view.version})
        await connection.execute(self.view.sql["drop"])
        await connection.execute(self.view.sql["create"])

    async def _move(self, position: int) -> None:
        async with self._moved:
            self.position = position
            self._moved.notify_all()

    async def _cursor(self) -> int:
        """Where the view stands: at 0 before anybody installed it."""
        try:
            async with self._pool.connection() as connection:
                return await self._read(connection) or 0
        except psycopg.errors.UndefinedTable:
            return 0

    async def _read(self, connection: Connection) -> int | None:
        """The cursor; None if the tables are missing or of an older version of the view."""
        found = await (await connection.execute(SQL["read"], {"name": self.view.name})).fetchone()
        if found is None or found[0] < self.view.version:
            return None
        if found[0] > self.view.version:
            why = f"its tables are of version {found[0]}, this program has version {self.view.version}"
            raise Halted(self.view.name, found[1] + 1, why)
        position: int = found[1]
        return position


async def _batches(ledger: Followed, after: int) -> AsyncGenerator[list[Recorded], None]:
    """Everything after a position, for ever: as it happens, and in large batches while there is much to catch up on."""
    while True:
        async with aclosing(_history(ledger, after)) as history:
            async for batch in history:
                after = batch[-1].position
                yield batch
        async with aclosing(ledger.follow(after)) as live:  # type: ignore[type-var]
            async for batch in live:
                after = batch[-1].position
                yield batch
                if len(batch) >= BEHIND_EVENTS:
                    break


async def _history(ledger: Followed, after: int) -> AsyncGenerator[list[Recorded], None]:
    """What is there already. The next batch is read while the caller is at work on this one."""
    limit, reading = BATCH_EVENTS, asyncio.ensure_future(ledger.read(after, BATCH_EVENTS))
    try:
        while batch := await reading:
            whole = len(batch) == limit
            size = sum(len(recorded.state) for recorded in batch) // len(batch)
            limit = max(1, min(BATCH_EVENTS, BATCH_BYTES // (size + 1)))
            if whole:
                reading = asyncio.ensure_future(ledger.read(batch[-1].position, limit))
            yield batch
            if not whole:
                return
    finally:
        reading.cancel()
