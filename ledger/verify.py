"""Whether history is still what was recorded: every digest computed again, from the bytes."""

from collections.abc import Awaitable, Callable

from msgspec import Struct

from ledger.errors import BrokenChain
from ledger.recorded import Recorded
from ledger.rows import CHUNK_EVENTS, Head

GENESIS = bytes(32)
"""The digest of a ledger that holds nothing."""


class Verified(Struct, frozen=True):
    """`events` were checked; the last is at `position`, and `digest` stands for it and everything before."""

    events: int
    position: int
    digest: bytes


async def verify(
    read: Callable[[int, int], Awaitable[list[Recorded]]], head: Head, first: int = 1, last: int | None = None
) -> Verified:
    """Checks positions `first` to `last` (the head's if None): no gap, every digest right, the head's too.

    `read` answers with at most so many events after a position. What came before `first` is taken on trust.
    BrokenChain names the first position that is not as it was recorded.
    """
    first, last = min(max(first, 1), head.position + 1), head.position if last is None else min(last, head.position)
    position, digest = first - 1, GENESIS
    if first > 1:
        before = await read(first - 2, 1)
        if not before or before[0].position != position:
            raise BrokenChain(position, "it is missing")
        digest = before[0].digest
    elif (before := await read(-(2**63), 1)) and before[0].position < 1:
        raise BrokenChain(before[0].position, "positions begin at 1")
    while position < last:
        chunk = (await read(position, CHUNK_EVENTS))[: last - position]
        if not chunk:
            raise BrokenChain(position + 1, "it is missing, and all after it")
        for recorded in chunk:
            position += 1
            if recorded.position != position:
                raise BrokenChain(position, "it is missing")
            if not recorded.continues(digest):
                raise BrokenChain(position, f"its digest {recorded.digest.hex()} is not that of what it holds")
            digest = recorded.digest
    if last == head.position and digest != head.digest:
        raise BrokenChain(position, f"the head says {head.digest.hex()}, the last event {digest.hex()}")
    return Verified(max(0, last - first + 1), position, digest)
