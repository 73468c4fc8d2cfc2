"""Whether history is still what was recorded: every digest computed again, from the bytes."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from msgspec import Struct

from ledger.cancel import end
from ledger.errors import BrokenChain
from ledger.recorded import Recorded
from ledger.rows import Head

GENESIS = bytes(32)
"""The digest of a ledger that holds nothing."""
READ_EVENTS = 2_000

Read = Callable[[int, int], Awaitable[list[Recorded]]]
"""Reads at most so many events after a position, in order."""


class Verified(Struct, frozen=True):
    """`events` were checked; the last is at `position`, and `digest` stands for it and everything before.
    `before` is the digest that the first of them continues."""

    events: int
    position: int
    digest: bytes
    before: bytes = GENESIS


async def verify(read: Read, head: Callable[[], Awaitable[Head]], first: int = 1, last: int | None = None) -> Verified:
    """Checks positions `first` to `last` (the head's if None): no gap, every digest right; up to the head also that
    its digest is that of the last event, and that no event stands behind it.

    What came before `first` is taken on trust. BrokenChain names the first position that is not as it was recorded.
    """
    until = await head()
    first, last = bounds(until, first, last)
    verified = await part(read, first, last)
    if last == until.position:
        await ends_in(read, head, until, verified.digest)
    return verified


def bounds(until: Head, first: int, last: int | None) -> tuple[int, int]:
    """The positions asked for that a ledger with this head can hold."""
    return min(max(first, 1), until.position + 1), until.position if last is None else min(last, until.position)


async def part(read: Read, first: int, last: int) -> Verified:
    """Checks these positions against each other and against the digest that is recorded before them."""
    position, before = first - 1, GENESIS
    if first > 1:
        found = await read(first - 2, 1)
        if not found or found[0].position != position:
            raise BrokenChain(position, "it is missing")
        before = found[0].digest
    elif (found := await read(-(2**63), 1)) and found[0].position < 1:
        raise BrokenChain(found[0].position, "positions begin at 1")
    digest = before
    async with aclosing(_ahead(read, position, last)) as chunks:
        async for chunk in chunks:
            for recorded in chunk:
                position += 1
                if recorded.position != position:
                    raise BrokenChain(position, "it is missing")
                if not recorded.continues(digest):
                    raise BrokenChain(position, f"its digest {recorded.digest.hex()} is not that of what it holds")
                digest = recorded.digest
    if position < last:
        raise BrokenChain(position + 1, "it is missing, and all after it")
    return Verified(max(0, last - first + 1), position, digest, before)


async def ends_in(read: Read, head: Callable[[], Awaitable[Head]], until: Head, digest: bytes) -> None:
    """BrokenChain unless the ledger ends where its head says, in the digest of its last event."""
    if digest != until.digest:
        raise BrokenChain(until.position, f"the head says {until.digest.hex()}, the last event {digest.hex()}")
    behind = await read(until.position, 1)
    if behind and (await head()).position == until.position:
        raise BrokenChain(behind[0].position, f"the head does not go that far, it says {until.position}")


async def _ahead(read: Read, after: int, last: int) -> AsyncGenerator[list[Recorded], None]:
    """The events after a position up to `last`, in chunks; one is read while the one before is looked at."""

    async def some(after: int) -> list[Recorded]:
        return await read(after, min(READ_EVENTS, last - after))

    def begin(after: int) -> asyncio.Task[list[Recorded]]:
        return asyncio.create_task(some(after))

    reading = begin(after) if after < last else None
    try:
        while reading is not None and (chunk := await reading):
            after = chunk[-1].position
            reading = begin(after) if after < last else None
            yield chunk
    finally:
        if reading is not None:
            await end([reading])
