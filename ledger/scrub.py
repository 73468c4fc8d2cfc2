"""Looks for contradictions where nobody stumbles over them: in the middle of a stream.

The relay compares the last message whenever it is in doubt. Bit rot, a store rolled back and filled by another, or an
administrator may have changed any other: so the newest messages are compared with the ledger at the start, and then,
a few every few seconds, all of the window in turn, from a place chosen at random, so that several servers do not all
look at the same.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from random import randint
from uuid import UUID

import structlog

from ledger.compare import differences
from ledger.errors import LedgerUnavailable, SegmentUnreadable
from ledger.ports import Bus
from ledger.rows import Head
from ledger.stream import Refusal, look, stream_config
from ledger.verify import Read

SCRUB_EVENTS = 1_000
SCRUB_SECONDS = 5.0
"""A window of 500,000 events is seen within 42 minutes, for less than a hundredth of one core."""

log = structlog.get_logger(__name__)


async def scrub(
    bus: Bus,
    tenant: str,
    read: Read,
    head: Callable[[], Awaitable[tuple[Head, UUID]]],
    contradicted: Callable[[int, int, str], Awaitable[None]],
) -> None:
    """Compares for ever; tells `contradicted` the epoch, the position and why."""
    place: int | None = None
    while True:
        try:
            place = await _some(bus, tenant, read, head, contradicted, place)
        except (TimeoutError, ConnectionError, LookupError, ValueError, LedgerUnavailable, Refusal) as error:
            log.debug("ledger.scrub.again", tenant=tenant, error=str(error))
        await asyncio.sleep(SCRUB_SECONDS)


async def _some(
    bus: Bus,
    tenant: str,
    read: Read,
    head: Callable[[], Awaitable[tuple[Head, UUID]]],
    contradicted: Callable[[int, int, str], Awaitable[None]],
    place: int | None,
) -> int | None:
    """Compares what begins at `place`, or the newest; where to go on."""
    until, origin = await head()
    config = stream_config(tenant, until.epoch, origin, 1)
    state = await look(bus, config)
    if state is None or not state.messages:
        return place
    if place is None:
        first = max(state.first, state.last - SCRUB_EVENTS + 1)
    else:
        first = place if state.first <= place <= state.last else state.first
    last = min(first + SCRUB_EVENTS - 1, state.last)
    try:
        async with aclosing(differences(bus, config, tenant, read, first, last)) as found:
            difference = await anext(found, None)
    except SegmentUnreadable as error:
        # Nothing is known against the stream; and what is not in that file is recorded and published as ever.
        log.warning("ledger.scrub.unreadable", tenant=tenant, first=first, last=last, error=str(error))
        return last + 1
    if difference is not None and (await head())[0].epoch == until.epoch:
        await contradicted(until.epoch, difference.position, difference.why)
    return randint(state.first, state.last) if place is None else last + 1
