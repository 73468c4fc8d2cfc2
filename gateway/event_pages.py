"""Pages of events that somebody wants, forward or backward from a position.

Where they may be is asked of the index (`projections/event_index.py`); what that does not hold yet is read, and every
event compared, so that an answer is right at the moment it is given, whatever the index has. A page ends early, and
tells where to go on, when very much was looked at and left out, or it has become large.
"""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from ledger.filters import Filter
from ledger.ledger import Ledger
from ledger.postgres import Pool
from ledger.recorded import Recorded
from ledger.rows import CHUNK_EVENTS
from projections.event_index import held, positions

SCANNED_EVENTS = 50_000
"""Events that a filter may leave out before a page ends where it is."""
PAGE_BYTES = 8 * 1024 * 1024
PICKED_EVENTS = 250
END = 2**63 - 1


class EventPage(NamedTuple):
    """`next` is the position that the next page begins after (or before, if it is the older ones that follow); None when
    there are no more. `seen` is the last position that was there to be looked at."""

    events: list[Recorded]
    next: int | None
    seen: int


class EventPages:
    """`pool` is one of `ledger.postgres.pool` with `views`."""

    def __init__(self, ledger: Ledger, pool: Pool) -> None:
        self._ledger, self._pool = ledger, pool

    async def forward(self, wanted: Filter, after: int, limit: int) -> EventPage:
        """The first `limit` after a position."""
        head = (await self._ledger.head()).position
        return await self._page(wanted, after, head, limit, head, descending=False)

    async def backward(self, wanted: Filter, before: int, limit: int) -> EventPage:
        """The last `limit` before a position, the last first."""
        head = (await self._ledger.head()).position
        return await self._page(wanted, 0, min(before - 1, head), limit, head, descending=True)

    async def _page(self, wanted: Filter, after: int, to: int, limit: int, head: int, *, descending: bool) -> EventPage:
        matches = wanted.matcher()
        found: list[Recorded] = []
        size = looked = 0
        async for chunk in self._chunks(wanted, after, to, min(PICKED_EVENTS, limit + 1), descending=descending):
            for recorded in chunk:
                if not matches(recorded):
                    continue
                if len(found) == limit or size > PAGE_BYTES:
                    return EventPage(found, found[-1].position, head)
                found.append(recorded)
                size += len(recorded.state)
            looked += len(chunk)
            if looked >= SCANNED_EVENTS:
                return EventPage(found, chunk[-1].position, head)
        return EventPage(found, None, head)

    async def _chunks(
        self, wanted: Filter, after: int, to: int, count: int, *, descending: bool
    ) -> AsyncIterator[Sequence[Recorded]]:
        """All that may be wanted after a position, up to and with `to`, in order or in the opposite."""
        while after < to:
            indexed, places = await self._places(wanted, after, to, count, descending=descending)
            if descending and to > indexed:
                chunk = await self._ledger.read(max(after, indexed, to - CHUNK_EVENTS), CHUNK_EVENTS, to=to)
                to = chunk[0].position - 1
                yield chunk[::-1]
            elif not descending and after >= indexed:
                chunk = await self._ledger.read(after, CHUNK_EVENTS, to=to)
                after = chunk[-1].position
                yield chunk
            else:
                if places:
                    chunk = await self._ledger.pick(sorted(places))
                    yield chunk[::-1] if descending else chunk
                more = len(places) == count
                if descending:
                    to = places[-1] - 1 if more else after
                else:
                    after = places[-1] if more else indexed

    async def _places(
        self, wanted: Filter, after: int, to: int, count: int, *, descending: bool
    ) -> tuple[int, list[int]]:
        """Up to where the index is to be believed, and the first `count` positions there are in it."""
        if not wanted.selects:
            return 0, []
        found: list[int] = []
        async with self._pool.connection() as connection, connection.transaction():
            indexed = await held(connection)
            if after < indexed and (to <= indexed or not descending):
                async for some in positions(connection, wanted, after, min(to, indexed), descending=descending):
                    found += some
                    if len(found) >= count:
                        break
        return indexed, found[:count]
