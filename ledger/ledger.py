"""The ledger of one tenant: what has happened, in one order, for ever.

*Order.* Every event has a position: 1, 2, 3, ... without a gap. Positions follow the order of commits: no reader ever
sees p+1 before p. Within its stream an event also has a version: 1, 2, 3, ...

*Isolation.* An append names the version its stream has to be at. All of its events are recorded, or none; of two
appends at the same version one is recorded and the other raises WrongVersion. Appends that wait together are
committed together, and one that conflicts fails alone. An event's id comes from the command's, so that a command
that was recorded before raises AlreadyRecorded with its first answer, however long ago that was.

*Failure.* `append` returns after the commit is durable. Postgres away: it waits, at most a minute, then raises
LedgerUnavailable. A connection lost around a commit: the writer finds out what became of it before it answers. A caller
that is cancelled: what was not sent yet is never written, what was sent is written as if the caller were still there;
the same command again tells which. JetStream is a copy, refilled from here whenever it loses or contradicts anything.

*Tenants.* A ledger is one tenant's: it has positions, a Postgres schema, subjects and a JetStream stream of its own,
and neither finds nor publishes anything of another, whatever the names of their streams (`ledger.tenants`).

*Not promised.* Survival of anything that Postgres itself loses. The order of appends that wait at the same time.
Delivery exactly once: `follow` yields each event once per call, and whoever starts again has to keep the position with
what was done. Wall-clock order of `recorded_at`. That a superuser cannot change history: `verify` shows that one did.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from ledger.append import Append
from ledger.cancel import end, until_one_ends
from ledger.codec import event_id
from ledger.errors import BrokenChain, LedgerUnavailable
from ledger.follow import AWAY_SECONDS, fill, listen
from ledger.history import END, History
from ledger.ports import Bus
from ledger.postgres import Connection, Pool, connect, pool
from ledger.recorded import Recorded
from ledger.relay import Relay
from ledger.rows import CHUNK_EVENTS, Head, head_of
from ledger.scrub import scrub
from ledger.snapshots import Snapshots
from ledger.sql import SQL
from ledger.tail import Tail
from ledger.tenants import create
from ledger.verify import Verified, verify
from ledger.writer import LOST, Writer

T = TypeVar("T")

READERS = 4


class Ledger:
    """Open it with `async with Ledger.open(dsn) as ledger`. `relay` is None without a bus."""

    def __init__(
        self, dsn: str, tenant: str, readers: Pool, bus: Bus | None, replicas: int, archive: Path | None
    ) -> None:
        self.tenant = tenant
        self._pool, self._bus = readers, bus
        self._history = History(archive)
        self._tail = Tail()
        self._followed = asyncio.Event()
        self._writer = Writer(lambda: connect(dsn, tenant), self._committed, self._answer)
        self.snapshots = Snapshots(self._reading, self.read_stream)
        self.relay: Relay | None = None
        if bus is not None:
            self.relay = Relay(
                bus, tenant, read=self.read, head=self._head_and_origin, next_epoch=self._raise_epoch, replicas=replicas
            )

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        dsn: str,
        *,
        tenant: str = "main",
        bus: Bus | None = None,
        replicas: int = 1,
        archive: Path | None = None,
    ) -> AsyncIterator["Ledger"]:
        """Migrates the tenant's schema, then appends, reads and relays until the block ends; takes no more then, and
        ends what it has taken. Its connections act as the tenant's role, which can append and read (`ledger.roles`).
        `archive` is the folder with the segments of what is no longer in Postgres; without it reading that raises
        SegmentUnreadable.

        A fault of its own work cancels the block and raises an ExceptionGroup. UnsafeServer, MigrationError and
        psycopg.OperationalError come before the block is entered.
        """
        await create(dsn, tenant)
        failure: Exception | None = None
        async with pool(dsn, tenant, size=READERS) as readers, asyncio.TaskGroup() as group:
            ledger = cls(dsn, tenant, readers, bus, replicas, archive)
            jobs = [ledger._writer.run(), ledger._feed(), ledger.snapshots.run()]
            if bus is not None and ledger.relay is not None:
                jobs.append(ledger.relay.run())
                jobs.append(scrub(bus, tenant, ledger.read, ledger._head_and_origin, ledger.relay.give_up))
            tasks = [group.create_task(job) for job in jobs]
            try:
                yield ledger
            except Exception as error:  # noqa: BLE001 - carried around the group, which would wrap it; raised below
                failure = error
            finally:
                await ledger._writer.close()
                tasks[0].cancel()  # the writer, who waits for no Postgres now
                await end(tasks[1:])
        if failure is not None:
            raise failure

    async def append(self, append: Append) -> list[Recorded]:
        """Records all events of the append, or none; answers with them as recorded, once that is durable.

        WrongVersion, AlreadyRecorded: nothing was written. NotRecordable: it never can be. LedgerUnavailable: Postgres
        was away for a minute, and the outcome may be unknown. LedgerClosed: nothing was written.
        Waits while very many appends are under way.
        """
        return await self._writer.append(append)

    async def read(self, after: int, limit: int = CHUNK_EVENTS, *, to: int | None = None) -> list[Recorded]:
        """At most `limit` events after a position, up to and with `to`, in order.

        BrokenChain if one is missing, SegmentUnreadable if one is in the archive and cannot be read there.
        """
        events = await self._read(after, limit, END if to is None else to)
        for position, recorded in enumerate(events, max(after, 0) + 1):
            if recorded.position != position:
                raise BrokenChain(position, "it is missing")
        return events

    async def read_stream(self, stream: str, after_version: int = 0, limit: int = END) -> list[Recorded]:
        """At most `limit` events of a stream after a version, in order; none for a stream that does not exist."""
        events: list[Recorded] = []
        async with self._reading() as connection:
            while True:
                wanted = min(limit - len(events), CHUNK_EVENTS)
                chunk = await self._history.read_stream(connection, stream, after_version, wanted)
                events += chunk
                if len(chunk) < wanted or len(events) == limit:
                    return events
                after_version = chunk[-1].version

    async def pick(self, positions: Sequence[int]) -> list[Recorded]:
        """The events at these positions, which are recorded and ascend, in order."""
        async with self._reading() as connection:
            return await self._history.pick(connection, positions)

    async def find(self, ids: Sequence[UUID]) -> list[Recorded]:
        """The events of these ids that exist, in order."""
        async with self._reading() as connection:
            return await self._history.find(connection, ids)

    async def find_command(self, command_id: UUID) -> list[Recorded]:
        """The first answer to a command, whole and in order; none if it was never recorded."""
        return await self._answer(event_id(command_id, 0))

    async def head(self) -> Head:
        """Where the ledger stands."""
        return (await self._head_and_origin())[0]

    async def begin_epoch(self) -> Head:
        """Gives up the JetStream stream of the present epoch, whatever it holds; where the ledger stands then."""
        epoch = (await self.head()).epoch
        await self._raise_epoch(epoch, epoch + 1)
        return await self.head()

    async def follow(self, after: int) -> AsyncGenerator[list[Recorded], None]:
        """Every event after a position, each once and in order, in lists of at most 1,000, for ever.

        A follower that is slow costs no memory: it reads Postgres until it is near the end again.
        """
        self._followed.set()
        while True:
            events = self._tail.since(after, CHUNK_EVENTS)
            if events is None:
                events = await _patiently(partial(self.read, after, CHUNK_EVENTS))
            if not events:
                await self._tail.grown(after)
                continue
            yield events
            after = events[-1].position

    async def verify(self, first: int = 1, last: int | None = None) -> Verified:
        """Computes the digests of these positions again; BrokenChain names the first that is not as recorded."""
        return await verify(self._read, self.head, first, last)

    def _committed(self, events: list[Recorded]) -> None:
        if events:
            self._tail.wrote(events)
            if self.relay is not None:
                self.relay.offer(events)

    async def _feed(self) -> None:
        await self._followed.wait()
        head = await _patiently(self.head)
        self._tail.start(head.position, head.digest)
        jobs = [fill(self._tail, self.read)]
        if self._bus is not None and self.relay is not None:
            jobs.append(listen(self._tail, self._bus, self.relay.stream))
        await until_one_ends(*jobs)

    async def _read(self, after: int, limit: int, to: int = END) -> list[Recorded]:
        async with self._reading() as connection:
            return await self._history.read(connection, after, limit, to)

    async def _answer(self, first_id: UUID) -> list[Recorded]:
        async with self._reading() as connection:
            return await self._history.answer(connection, first_id)

    async def _head_and_origin(self) -> tuple[Head, UUID]:
        async with self._reading() as connection:
            return await head_of(connection)

    async def _raise_epoch(self, given_up: int, following: int) -> None:
        async with self._reading() as connection:
            await connection.execute(SQL["next_epoch"], {"given_up": given_up, "next": following})

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Connection]:
        try:
            async with self._pool.connection() as connection:
                yield connection
        except LOST as error:
            raise LedgerUnavailable(f"Postgres does not answer: {error}") from error


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    while True:
        try:
            return await ask()
        except LedgerUnavailable:
            await asyncio.sleep(AWAY_SECONDS)
