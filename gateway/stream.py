"""The events over HTTP as they happen, for whoever stays connected; CloudEvents, byte for byte as on the bus.

*Order.* By position, each event once; whoever asks again `after` the last position it has seen misses nothing and sees
nothing twice. *Form.* Server-sent events, whose ids are positions, with `: ping` every 15 s; or NDJSON, with an empty
line as often. *Bounds.* A client first reads what lies behind it in pages, at its own pace. Then it is told what all
are told (`gateway/broadcast.py`). Nothing is queued for it: one that falls so far behind that what comes next is not at
hand any more gets `event: reset` with the position to resume after, and is let go; one that takes nothing for a minute
is cut off; more clients than there may be are told to come back. An event too large for the bus, announced there by
reference, is given whole here.
"""

import asyncio
from contextlib import suppress

from aiohttp import web

from gateway.broadcast import Behind, Broadcast, framed
from gateway.event_pages import EventPages
from gateway.problems import Unacceptable
from gateway.routes import SSE
from ledger.announce import announce
from ledger.filters import Filter
from ledger.ledger import Ledger
from ledger.recorded import Recorded

STUCK_SECONDS = 60.0
WRITE_BYTES = 32_768
CLIENTS = 2_000
FULL_SECONDS = 5
CATCH_UP_EVENTS = 500
CATCH_UP_CLIENTS = 2
"""So many clients read what lies behind them at once: hundreds that come back together must not take all connections."""


class Stream:
    """At most `most` clients at once. Call `close` to end them all."""

    def __init__(self, ledger: Ledger, pages: EventPages, most: int = CLIENTS) -> None:
        self._ledger, self._pages, self._most = ledger, pages, most
        self._broadcast = Broadcast(ledger, self.encode)
        self._turns = asyncio.Semaphore(CATCH_UP_CLIENTS)

    @property
    def clients(self) -> int:
        """How many follow now."""
        return self._broadcast.followers

    def close(self) -> None:
        self._broadcast.close()

    def encode(self, recorded: Recorded) -> bytes:
        return announce(recorded, self._ledger.tenant, 0, None)[1]

    async def follow(self, request: web.Request, wanted: Filter, after: int, content_type: str) -> web.StreamResponse:
        """Writes events until the client goes, or the server. A position that the ledger has not reached is refused."""
        if self.clients >= self._most:
            again = {"Retry-After": str(FULL_SECONDS)}
            raise Unacceptable(503, "too_many_streams", f"{self._most} clients follow already", headers=again)
        async with self._broadcast.following():
            head = (await self._ledger.head()).position
            if after > head:
                raise Unacceptable(409, "position_unknown", f"the ledger ends at position {head}, before {after}")
            response = web.StreamResponse(headers={"Content-Type": content_type, "X-Accel-Buffering": "no"})
            response.force_close()  # nothing but a stream comes over this connection
            client = _Client(request, response, content_type == SSE)
            try:
                with suppress(_Gone, ConnectionError):
                    await response.prepare(request)
                    await self._feed(client, wanted, after)
            except Exception:
                client.cut()
                raise
            return response

    async def _feed(self, client: "_Client", wanted: Filter, position: int) -> None:
        await client.live()
        position = await self._catch_up(client, wanted, position)
        pings = self._broadcast.pings
        while not self._broadcast.closed:
            try:
                batch = self._broadcast.after(position)
            except Behind:
                await client.reset(position)
                return
            if batch is not None:
                await client.write(batch.part(wanted, client.sse, position))
                position = batch.last
            elif pings != self._broadcast.pings:
                pings = self._broadcast.pings
                await client.live()
            else:
                await self._broadcast.news()

    async def _catch_up(self, client: "_Client", wanted: Filter, position: int) -> int:
        """What lies further back than all are told now; the position up to which the client has everything."""
        while not self._broadcast.closed:
            try:
                self._broadcast.after(position)
            except Behind:
                async with self._turns:
                    page = await self._pages.forward(wanted, position, CATCH_UP_EVENTS)
                for one in page.events:
                    await client.write(framed(one.position, self.encode(one), client.sse))
                position = page.seen if page.next is None else page.next
            else:
                break
        return position


class _Gone(Exception):
    """The client does not read any more."""


class _Client:
    def __init__(self, request: web.Request, response: web.StreamResponse, sse: bool) -> None:
        self._request, self._response, self.sse = request, response, sse

    async def live(self) -> None:
        """A sign of life."""
        await self.write(b": ping\n\n" if self.sse else b"\n")

    async def reset(self, position: int) -> None:
        """It is too slow: it is to come back, and go on after the position. Lines have no word for that."""
        if self.sse:
            await self.write(b'event: reset\nid: %d\ndata: {"after":%d}\n\n' % (position, position))
        else:
            self.cut()

    def cut(self) -> None:
        """Ends the connection without the end mark of a whole answer: what is missing must not go unnoticed."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def write(self, body: bytes) -> None:
        """In pieces: what it does not take stays here with the others, and is not copied for it."""
        try:
            for start in range(0, len(body), WRITE_BYTES):
                async with asyncio.timeout(STUCK_SECONDS):
                    await self._response.write(memoryview(body)[start : start + WRITE_BYTES])
        except (ConnectionError, TimeoutError) as error:
            self.cut()
            raise _Gone from error
