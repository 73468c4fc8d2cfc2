"""The newest events for all who follow them here: each is encoded once, and what one filter wants is put together once.

Nothing is queued for anybody: a follower asks for what comes after the position it has reached. Together the batches
kept here have a bound; whoever is so slow that its next batch is gone is `Behind`. The more follow, the longer events
gather before all are told: telling a thousand takes the time in which a thousand events could be worked on.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

from ledger.cancel import end
from ledger.filters import Filter
from ledger.ledger import Ledger
from ledger.recorded import Recorded

KEPT_BATCHES = 2_000
KEPT_BYTES = 32 * 1024 * 1024
EVENT_BYTES, PART_BYTES = 1_000, 200
"""What an event, and what is put together of a batch, takes besides its bytes."""
STARTED_EVENTS = 1_000
"""The first that follows finds so many events here: after a restart hundreds come back at once."""
LEAST_GATHER_SECONDS, GATHER_SECONDS, MOST_GATHER_SECONDS = 0.005, 0.000_25, 0.25
"""Until all are told again: at least, for each that follows, and at most."""
PING_SECONDS = 15.0


class Behind(Exception):
    """What comes next is not kept any more."""


class Batch:
    """Events without a gap. `size` is what they and all that was made of them take, in bytes; `grown` is told of it."""

    def __init__(
        self, events: Sequence[Recorded], encode: Callable[[Recorded], bytes], grown: Callable[[int], None]
    ) -> None:
        self.events, self._encode, self._grown = events, encode, grown
        self.first, self.last = events[0].position, events[-1].position
        self.size = 0
        self._grow(sum(len(one.state) + EVENT_BYTES for one in events))
        self._encoded: dict[tuple[int, bool], bytes] = {}
        self._parts: dict[tuple[Filter, bool], bytes] = {}
        self._streams: dict[str, list[Recorded]] = {}
        for one in events:
            self._streams.setdefault(one.stream, []).append(one)

    def part(self, wanted: Filter, sse: bool, after: int = 0) -> bytes:
        """What of it somebody wants who has all up to a position, as it is sent."""
        if after >= self.first:
            return self._written(wanted, sse, after)
        found = self._parts.get((wanted, sse))
        if found is None:
            found = self._parts[wanted, sse] = self._written(wanted, sse, 0)
            self._grow(len(found) + PART_BYTES)
        return found

    def let_go(self) -> None:
        """It is not kept any more, though somebody may still be reading it."""
        self._grown = lambda _: None

    def _written(self, wanted: Filter, sse: bool, after: int) -> bytes:
        matches = wanted.matcher()
        events = self.events if wanted.stream is None else self._streams.get(wanted.stream, ())
        return b"".join(self._line(one, sse) for one in events if one.position > after and matches(one))

    def _line(self, one: Recorded, sse: bool) -> bytes:
        line = self._encoded.get((one.position, sse))
        if line is None:
            line = self._encoded[one.position, sse] = framed(one.position, self._encode(one), sse)
            self._grow(len(line))
        return line

    def _grow(self, size: int) -> None:
        self.size += size
        self._grown(size)


def framed(position: int, event: bytes, sse: bool) -> bytes:
    """An event as it is sent: with its position as the id, or as a line."""
    return b"id: %d\ndata: %b\n\n" % (position, event) if sse else event + b"\n"


class Broadcast:
    """Follows the ledger while somebody follows here. `followers` is how many do."""

    def __init__(self, ledger: Ledger, encode: Callable[[Recorded], bytes]) -> None:
        self._ledger, self._encode = ledger, encode
        self.followers = 0
        self.pings = 0
        """How often it was time for a sign of life."""
        self.closed = False
        self._batches: deque[Batch] = deque()
        self._size = self._last = 0
        self._running: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """One more follows."""
        self.followers += 1
        try:
            if self._running is None or self._running.done():
                start = max(0, (await self._ledger.head()).position - STARTED_EVENTS)
                if self._running is None or self._running.done():  # nobody else has begun meanwhile
                    self._batches.clear()
                    self._size, self._last = 0, start
                    self._running = asyncio.create_task(self._run(start))
            yield
        finally:
            self.followers -= 1
            if not self.followers and self._running is not None:
                running, self._running = self._running, None
                await end([running])

    def after(self, position: int) -> Batch | None:
        """The batch that holds what comes after a position, None if there is nothing yet. Behind; or what became of the
        following itself."""
        if self._running is not None and self._running.done():
            self._running.result()
        if position >= self._last:
            return None
        if not self._batches or position + 1 < self._batches[0].first:
            raise Behind
        return next(batch for batch in reversed(self._batches) if batch.first <= position + 1)

    async def news(self) -> None:
        """Returns when there may be more, it is time for a sign of life, or all is to end."""
        await self._news.wait()

    def close(self) -> None:
        self.closed = True
        self._tell()

    async def _run(self, after: int) -> None:
        pinging = asyncio.create_task(self._ping())
        try:
            async with aclosing(self._ledger.follow(after)) as batches:
                async for events in batches:
                    self._keep(Batch(events, self._encode, self._grow))
                    self._tell()
                    gather = max(LEAST_GATHER_SECONDS, self.followers * GATHER_SECONDS)
                    await asyncio.sleep(min(gather, MOST_GATHER_SECONDS))
        finally:
            await end([pinging])
            self._tell()

    def _keep(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._last = batch.last
        while len(self._batches) > 1 and (self._size > KEPT_BYTES or len(self._batches) > KEPT_BATCHES):
            dropped = self._batches.popleft()
            self._size -= dropped.size
            dropped.let_go()

    def _grow(self, size: int) -> None:
        self._size += size

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            self.pings += 1
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
