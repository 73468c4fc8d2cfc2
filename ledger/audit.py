"""A ledger looked at from outside, by whoever only wants to know whether it is whole: nothing is migrated or appended.

`reader` is the one place where the events come from; `audit` is `verify`, spread over processes. Ranges of positions
are verified apart, each from the digest that is recorded before it, and linked in their order: the digest that one ends
with has to be the one that the next began with. The first that does not hold names the first broken position.
"""

import asyncio
import gc
import multiprocessing
import os
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from uuid import UUID

import psycopg

from ledger.errors import BrokenChain, LedgerUnavailable, NoLedger
from ledger.history import History
from ledger.postgres import Connection, connect
from ledger.recorded import Recorded
from ledger.rows import Head, head_of
from ledger.verify import Verified, bounds, ends_in, part, verify

RANGE_EVENTS = 50_000

Part = Verified | tuple[int, str]
"""What came of a range; of one that does not hold, the first broken position and why."""


class Reader:
    """The events and the head of one tenant's ledger, on a connection of its own."""

    def __init__(self, connection: Connection, archive: Path | None) -> None:
        self._connection, self._history = connection, History(archive)

    async def read(self, after: int, limit: int) -> list[Recorded]:
        """At most `limit` events after a position, in order."""
        return await self._history.read(self._connection, after, limit)

    async def head(self) -> Head:
        return (await self.head_and_origin())[0]

    async def head_and_origin(self) -> tuple[Head, UUID]:
        return await head_of(self._connection)


@asynccontextmanager
async def reader(dsn: str, tenant: str, archive: Path | None = None) -> AsyncIterator[Reader]:
    """`archive` is the folder with what is no longer in Postgres.

    NoLedger if there is none of this tenant, LedgerUnavailable if Postgres does not answer."""
    try:
        async with await connect(dsn, tenant) as connection:
            found = await (await connection.execute("SELECT to_regclass('ledger_head')")).fetchone()
            if found == (None,):
                raise NoLedger(f"There is no ledger of a tenant {tenant!r} here.")
            yield Reader(connection, archive)
    except psycopg.OperationalError as error:
        raise LedgerUnavailable(f"Postgres does not answer: {error}") from error


async def audit(
    dsn: str,
    tenant: str,
    first: int = 1,
    last: int | None = None,
    *,
    archive: Path | None = None,
    processes: int = os.cpu_count() or 1,
    told: Callable[[int, int], None] | None = None,
) -> Verified:
    """What `Ledger.verify` does, by so many processes, or fewer where that is enough.

    `told` hears how many events of how many have been found right. BrokenChain, NoLedger, LedgerUnavailable.
    """
    async with reader(dsn, tenant, archive) as here:
        until = await here.head()
        first, last = bounds(until, first, last)
        ranges = [(start, min(start + RANGE_EVENTS - 1, last)) for start in range(first, last + 1, RANGE_EVENTS)]
        parts: list[Verified] = []
        async with aclosing(_parts(dsn, tenant, archive, ranges, processes, here)) as coming:
            async for verified in coming:
                if parts and parts[-1].digest != verified.before:
                    raise BrokenChain(parts[-1].position, "its digest was changed while it was looked at")
                parts.append(verified)
                if told is not None:
                    told(verified.position - first + 1, last - first + 1)
        if not parts:
            return await verify(here.read, here.head, first, last)
        if last == until.position:
            await ends_in(here.read, here.head, until, parts[-1].digest)
    return Verified(last - first + 1, last, parts[-1].digest, parts[0].before)


async def _parts(
    dsn: str,
    tenant: str,
    archive: Path | None,
    ranges: Sequence[tuple[int, int]],
    processes: int,
    here: Reader,
) -> AsyncGenerator[Verified, None]:
    """What came of each range, in order."""
    if processes == 1 or len(ranges) <= 1:
        for bounded in ranges:
            yield await part(here.read, *bounded)
        return
    loop, context = asyncio.get_running_loop(), multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(ranges)), context, _alone) as pool:
        answers = [loop.run_in_executor(pool, _part, dsn, tenant, archive, *bounded) for bounded in ranges]
        try:
            for answer in answers:
                verified = await answer
                if isinstance(verified, tuple):
                    raise BrokenChain(*verified)
                yield verified
        finally:
            for answer in answers:
                answer.cancel()


def _alone() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started this process hears it, and ends it
    gc.disable()  # events hold no cycles, and looking for them took a third of the time


def _part(dsn: str, tenant: str, archive: Path | None, first: int, last: int) -> Part:
    """One range in a process of the pool. An answer, for a BrokenChain would not come through as it is."""

    async def read() -> Part:
        async with reader(dsn, tenant, archive) as here:
            try:
                return await part(here.read, first, last)
            except BrokenChain as broken:
                return broken.position, broken.why

    return asyncio.run(read())
