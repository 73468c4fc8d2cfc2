"""A view and its cursor: `run` follows the ledger and keeps its tables equal to the fold of all up to a position.

*Order and atomicity.* One transaction a batch moves the cursor row and changes the view's rows; the cursor comes first,
so of two processes that project one view the second waits, finds the cursor moved, gives up its batch and reads the
cursor again. They do no harm to each other, and none of them leads. *Faults.* Without Postgres it waits and tries
again. An event that the view cannot fold halts it, and no other: a batch that failed is applied again event by event,
the view stands right before the one that fails, and the reason stands beside its cursor, for all processes to see.
Whoever asks for a position beyond gets Halted; the event is tried again by the next process that starts, and when the
view is rebuilt. *Rebuild.* A view whose version was raised, or on demand, is dropped and replayed; until then its
readers find less than there is.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import LiteralString, Protocol

import psycopg
import structlog
from structlog.contextvars import bind_contextvars

from ledger.cancel import until_one_ends
from ledger.errors import BrokenChain, LedgerUnavailable
from ledger.postgres import Connection, Pool
from ledger.recorded import Recorded
from ledger.writer import LOST
from projections.batches import Followed, batches
from projections.standing import SQL, Halted, Outdated, Standing, standing

RECONNECT_SECONDS = 0.5
POLL_SECONDS = 0.05
"""How soon a waiting reader notices a position that another process has projected."""
BUSY_BATCH = 100
PACE_SECONDS, BUSY_PACE_SECONDS = 0.02, 0.08
"""After a small batch more events are let come together: a transaction costs the same for one as for a hundred."""
RESTS = 10
"""So many times as long as it has worked a view rests that may let events gather: while much is to be done, what is done
comes before what is counted."""
REWIND_POLL_SECONDS = 1.0
"""How soon a view that another process rewound is replayed."""

log = structlog.get_logger(__name__)
_level = logging.getLogger(__name__)


class View(Protocol):
    """Tables that are a fold of the ledger. `version` is raised when tables or meaning change: then it is replayed."""

    name: str
    version: int
    sql: dict[str, LiteralString]  # among others `drop` and `create`
    pace_seconds: float = PACE_SECONDS
    """For how long events gather between two transactions. A reader who asks for a position does not wait for it."""

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        """Changes the tables by these events, in the caller's transaction. Any error rolls it back."""
        ...

    def forget(self) -> None:
        """What the view remembers of its tables may be wrong by now."""
        ...


class Projection:
    """One view of one tenant: `pool` is one of `ledger.postgres.pool` with `views`."""

    def __init__(self, pool: Pool, view: View) -> None:
        self.view = view
        self.position = 0
        """The last position that this process knows to be in the view."""
        self.halted: Halted | None = None
        """Why it does not go on, as far as this process knows."""
        self._pool, self._built = pool, 0
        self._moved = asyncio.Condition()
        self._rewound = asyncio.Event()
        self._asked = asyncio.Event()

    @property
    def lazy(self) -> bool:
        """Whether the view lets events gather: it may fall behind while much happens."""
        return self.view.pace_seconds > PACE_SECONDS

    async def install(self) -> None:
        """Makes the tables, or drops and makes them when the view's version was raised. Needs the tenant's schemas.

        Outdated if a newer program has made them.
        """
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '60s'")
            await connection.execute(SQL["lock"])
            for statement in ("create", "widen"):
                await connection.execute(SQL[statement])
            if await self._read(connection) is None:
                await self._make(connection)

    async def run(self, ledger: Followed) -> None:
        """Projects until cancelled; stands still where the view is halted, until that was mended elsewhere.

        Raises Outdated, and BrokenChain when the ledger contradicts itself.
        """
        bind_contextvars(view=self.view.name)
        while True:
            try:
                await self._project(ledger)
            except (*LOST, LedgerUnavailable) as error:
                self._retried(error)
                await asyncio.sleep(RECONNECT_SECONDS)
            except Halted as halted:
                await self._stand_still(halted)

    async def rebuild(self) -> None:
        """Drops the view's tables; whoever runs the view, here or in another process, replays it from the start."""
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '60s'")
            await self._make(connection)
        self._rewound.set()
        await self._move(0)

    async def reached(self, position: int, timeout_seconds: float = 5.0) -> None:
        """Returns when the view holds `position`, whichever process projects it; TimeoutError if that takes longer.

        Halted if the view is, before that position.
        """
        async with asyncio.timeout(timeout_seconds):
            while self.position < position:
                if self.halted is not None:
                    await self._look()
                    if self.halted is not None and self.position < position:
                        raise self.halted
                self._asked.set()
                try:
                    async with asyncio.timeout(POLL_SECONDS), self._moved:
                        await self._moved.wait_for(lambda: self.position >= position or self.halted is not None)
                except TimeoutError:
                    await self._look()

    @asynccontextmanager
    async def reading(self, position: int, timeout_seconds: float = 5.0) -> AsyncIterator[Connection]:
        """A connection that sees the view at `position` or beyond; TimeoutError if that takes longer, or Halted.

        What this process knows is not enough: a crash of Postgres takes the last steps back, and they come again.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            await self.reached(position, deadline - time.monotonic())
            async with self._pool.connection() as connection:
                found = await self._read(connection) if position else None
                if not position or (found is not None and found.position >= position):
                    yield connection
                    return
            await self._look()

    async def moved(self) -> None:
        """Returns at the next step of the view that this process makes."""
        async with self._moved:
            await self._moved.wait()

    async def _project(self, ledger: Followed) -> None:
        """Until the cursor turns out not to be where this process left it, or its tables to be others."""
        self._rewound.clear()
        self.view.forget()
        if (found := await self._cursor()) is None:
            await self.install()
            found = await self._cursor()
        self._built = found.built if found else 0
        await self._look()
        await until_one_ends(self._follow(ledger), self._until_rewound())

    async def _stand_still(self, halted: Halted) -> None:
        """Until the view was rebuilt, or another program has folded what this one cannot."""
        self._rewound.clear()
        self.halted, told = halted, False
        while self.halted is not None and self.position < halted.position:
            async with self._moved:
                self._moved.notify_all()
            try:
                if not told:
                    await self._tell(halted)
                    told = True
                await self._look()
            except LOST as error:
                self._retried(error)
            if self.halted is not None:
                await self._nap()

    async def _tell(self, halted: Halted) -> None:
        log.error("projection.halted", view=halted.view, position=halted.position, reason=halted.reason)
        why = {"position": halted.position - 1, "reason": halted.reason}
        async with self._pool.connection() as connection:
            await connection.execute(SQL["halt"], self._named() | why)

    def _named(self) -> dict[str, str | int]:
        return {"name": self.view.name, "version": self.view.version, "built": self._built}

    def _retried(self, error: Exception) -> None:
        log.warning("projection.retried", view=self.view.name, position=self.position, error=str(error).strip())

    async def _nap(self) -> None:
        """Less long when the view is rebuilt from here."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REWIND_POLL_SECONDS):
                await self._rewound.wait()

    async def _follow(self, ledger: Followed) -> None:
        position = self.position
        async with self._pool.connection() as connection, aclosing(batches(ledger, position)) as found:
            async for batch, more in found:
                if batch[0].position != position + 1:
                    raise BrokenChain(position + 1, f"it is missing, what followed was {batch[0].position}")
                begun = time.monotonic()
                if not await self._advance(connection, batch):
                    return
                position = batch[-1].position
                if self.lazy:
                    await self._rest(RESTS * (time.monotonic() - begun), more)
                elif not more:
                    await asyncio.sleep(PACE_SECONDS if len(batch) < BUSY_BATCH else BUSY_PACE_SECONDS)

    async def _rest(self, seconds: float, more: bool) -> None:
        """Lets others work, and events come together; not while somebody asks for what is not in the view."""
        await asyncio.sleep(PACE_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds if more else max(seconds, self.view.pace_seconds)):
                await self._asked.wait()
        self._asked.clear()

    async def _advance(self, connection: Connection, batch: Sequence[Recorded]) -> bool:
        """Whether the batch is in the view now; it is not if the cursor was moved by somebody else."""
        try:
            if not await self._commit(connection, batch):
                return False
        except LOST:
            raise
        except Exception as error:
            if len(batch) == 1:
                raise Halted.at(self.view.name, batch[0], error) from error
            self.view.forget()
            for recorded in batch:
                if not await self._advance(connection, [recorded]):
                    return False
            return True
        await self._move(batch[-1].position)
        if _level.isEnabledFor(logging.DEBUG):
            log.debug("projection.advanced", position=batch[-1].position, first=batch[0].position, events=len(batch))
        return True

    async def _commit(self, connection: Connection, batch: Sequence[Recorded]) -> bool:
        async with connection.transaction():
            cursor = {"before": batch[0].position - 1, "after": batch[-1].position}
            moved = await connection.execute(SQL["advance"], self._named() | cursor, prepare=True)
            if moved.rowcount:
                await self.view.apply(connection, batch)
        return moved.rowcount == 1

    async def _until_rewound(self) -> None:
        """Returns when the cursor stands before what this process has projected."""
        while not self._rewound.is_set():
            position = self.position
            found = await self._cursor()
            if found is None or found.position < position or found.built != self._built:
                return
            await self._nap()

    async def _make(self, connection: Connection) -> None:
        await connection.execute(SQL["rewind"], {"name": self.view.name, "version": self.view.version})
        await connection.execute(self.view.sql["drop"])
        await connection.execute(self.view.sql["create"])

    async def _move(self, position: int, halted: Halted | None = None) -> None:
        async with self._moved:
            self.position, self.halted = position, halted
            self._moved.notify_all()

    async def _look(self) -> None:
        """Takes over where the view stands, as Postgres has it."""
        found = await self._cursor()
        if found is None:
            await self._move(0)
            return
        why = None if found.halted is None else Halted(found.name, found.position + 1, found.halted)
        await self._move(found.position, why)

    async def _cursor(self) -> Standing | None:
        """Where the view stands; None before anybody installed it, as it is in this version."""
        try:
            async with self._pool.connection() as connection:
                return await self._read(connection)
        except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
            return None

    async def _read(self, connection: Connection) -> Standing | None:
        found = await standing(connection, self.view.name)
        if found is None or found.version < self.view.version:
            return None
        if found.version > self.view.version:
            raise Outdated(self.view.name, found.version, self.view.version)
        return found
