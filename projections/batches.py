"""The ledger as a view takes it: as it happens, and in large batches while there is much to catch up on."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

from ledger.recorded import Recorded
from ledger.rows import CHUNK_EVENTS

BATCH_EVENTS = 5_000
BATCH_BYTES = 8 * 1024 * 1024


class Followed(Protocol):
    """The part of the ledger that a projection needs."""

    async def read(self, after: int, limit: int) -> list[Recorded]: ...

    def follow(self, after: int) -> AsyncIterator[list[Recorded]]: ...


async def batches(ledger: Followed, after: int) -> AsyncGenerator[tuple[list[Recorded], bool], None]:
    """Everything after a position, for ever, each batch with whether more of it waits already."""
    async with aclosing(history(ledger.read, after, BATCH_EVENTS)) as caught_up:
        async for batch in caught_up:
            after = batch[-1].position
            yield batch, True
    async with aclosing(ledger.follow(after)) as live:  # type: ignore[type-var]
        async for batch in live:
            yield batch, len(batch) == CHUNK_EVENTS


async def history(
    read: Callable[[int, int], Awaitable[list[Recorded]]], after: int, most: int
) -> AsyncGenerator[list[Recorded], None]:
    """What is there already, at most so many events at a time. The next batch is read while the caller is at work."""
    limit, reading = most, asyncio.ensure_future(read(after, most))
    try:
        while batch := await reading:
            whole = len(batch) == limit
            size = sum(len(recorded.state) for recorded in batch) // len(batch)
            limit = max(1, min(most, BATCH_BYTES // (size + 1)))
            if whole:
                reading = asyncio.ensure_future(read(batch[-1].position, limit))
            yield batch
            if not whole:
                return
    finally:
        reading.cancel()
