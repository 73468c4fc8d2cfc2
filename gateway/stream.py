"""The events over HTTP: a page of them, or all as they happen; CloudEvents, byte for byte as on the bus.

*Order.* By position, each event once; whoever asks again `after` the last position it has seen misses nothing and sees
nothing twice. *Pages.* `Link: rel="next"` leads on as long as there may be more; a page that a filter leaves short,
even empty, can have one. *Following.* NDJSON, with an empty line as a sign of life every 15 s; or server-sent events, whose
ids are positions, with `: ping`. *Bounds.* Nothing is queued for a client: one that is slow is simply behind, and
costs one batch of memory; one that takes nothing for a minute is cut off. An event too large for the bus, announced
there by reference, is given whole here.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from fnmatch import translate
from typing import NamedTuple

from aiohttp import web

from gateway.problems import Unacceptable
from gateway.routes import SSE
from ledger.announce import announce
from ledger.ledger import Ledger
from ledger.recorded import Recorded
from ledger.rows import CHUNK_EVENTS

PING_SECONDS = 15.0
STUCK_SECONDS = 60.0
SCANNED_EVENTS = 50_000
"""Events that a filter may leave out before a page ends where it is."""
PAGE_BYTES = 8 * 1024 * 1024
WRITE_BYTES = 65_536


class Wanted(NamedTuple):
    """Which events: after a position, of one workflow, of the types a pattern as `task.*` names."""

    after: int
    workflow: str | None
    type: str | None

    def matcher(self) -> Callable[[Recorded], bool]:
        """Whether an event is among them; its position is not looked at."""
        stream = None if self.workflow is None else f"workflow-{self.workflow}"
        types = None if self.type is None else re.compile(translate(self.type)).match
        return lambda one: (stream is None or one.stream == stream) and (types is None or types(one.type) is not None)


class Stream:
    """Call `close` to end the streams."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._closing = asyncio.Event()

    def close(self) -> None:
        self._closing.set()

    def encode(self, recorded: Recorded) -> bytes:
        return announce(recorded, self._ledger.tenant, 0, None)[1]

    async def page(self, wanted: Wanted, limit: int) -> tuple[list[Recorded], int | None]:
        """At most `limit` events, and the position to go on after, None at the end of the ledger."""
        matches = wanted.matcher()
        found: list[Recorded] = []
        size = scanned = 0
        async for chunk in self._recorded(wanted):
            for recorded in chunk:
                if not matches(recorded):
                    continue
                if len(found) == limit or size > PAGE_BYTES:
                    return found, found[-1].position
                found.append(recorded)
                size += len(recorded.state)
            scanned += len(chunk)
            if scanned >= SCANNED_EVENTS:
                return found, chunk[-1].position
        return found, None

    async def follow(self, request: web.Request, wanted: Wanted, content_type: str) -> web.StreamResponse:
        """Writes events until the client goes, or the server. A position that the ledger has not reached is refused."""
        head = (await self._ledger.head()).position
        if wanted.after > head:
            raise Unacceptable(409, "position_unknown", f"the ledger ends at position {head}, before {wanted.after}")
        response = web.StreamResponse(headers={"Content-Type": content_type, "X-Accel-Buffering": "no"})
        await response.prepare(request)
        client = _Client(request, response, content_type == SSE, self.encode)
        steps = [asyncio.create_task(step) for step in (self._feed(client, wanted), client.ping(), self._closed())]
        try:
            done, _ = await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for step in steps:
                step.cancel()
            await asyncio.gather(*steps, return_exceptions=True)
        for step in done:
            if isinstance(error := step.exception(), _Gone):
                return response
            if error is not None:
                client.cut()
                raise error
        return response

    async def _closed(self) -> None:
        await self._closing.wait()

    async def _feed(self, client: "_Client", wanted: Wanted) -> None:
        matches, after = wanted.matcher(), wanted.after
        await client.live()
        if wanted.workflow is not None:
            # Its own events are found by its stream; what came between them need not be read.
            head = (await self._ledger.head()).position
            async for chunk in self._recorded(wanted):
                await client.send(one for one in chunk if matches(one))
                after = chunk[-1].position
            after = max(after, head)
        async with aclosing(self._ledger.follow(after)) as batches:
            async for batch in batches:
                await client.send(one for one in batch if matches(one))

    async def _recorded(self, wanted: Wanted) -> AsyncIterator[list[Recorded]]:
        """What is recorded by now after the position, at least what matches."""
        after, chunk = wanted.after, await self._read(wanted, wanted.after)
        while chunk:
            yield chunk
            if len(chunk) < CHUNK_EVENTS:
                return
            after = chunk[-1].position
            chunk = await self._read(wanted, after)

    async def _read(self, wanted: Wanted, after: int) -> list[Recorded]:
        if wanted.workflow is None:
            return await self._ledger.read(after, CHUNK_EVENTS)
        stream = f"workflow-{wanted.workflow}"
        version = await _version_at(self._ledger, stream, after)
        return await self._ledger.read_stream(stream, version, CHUNK_EVENTS)


class _Gone(Exception):
    """The client does not read any more."""


class _Client:
    def __init__(
        self, request: web.Request, response: web.StreamResponse, sse: bool, encode: Callable[[Recorded], bytes]
    ) -> None:
        self._request, self._response, self._sse, self._encode = request, response, sse, encode

    async def send(self, events: Iterable[Recorded]) -> None:
        lines: list[bytes] = []
        size = 0
        for recorded in events:
            line = self._encode(recorded)
            lines.append(b"id: %d\ndata: %b\n\n" % (recorded.position, line) if self._sse else line + b"\n")
            size += len(line)
            if size > WRITE_BYTES:
                await self._write(b"".join(lines))
                lines, size = [], 0
        if lines:
            await self._write(b"".join(lines))

    async def ping(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            await self.live()

    async def live(self) -> None:
        """A sign of life."""
        await self._write(b": ping\n\n" if self._sse else b"\n")

    def cut(self) -> None:
        """Ends the connection without the end mark of a whole answer: what is missing must not go unnoticed."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _write(self, body: bytes) -> None:
        try:
            async with asyncio.timeout(STUCK_SECONDS):
                await self._response.write(body)
        except (ConnectionError, TimeoutError) as error:
            self.cut()
            raise _Gone from error


async def _version_at(ledger: Ledger, stream: str, position: int) -> int:
    """The version of a stream's last event at or before a position, by bisection: versions grow with positions."""
    low, high = 0, min(position, 2**31 - 2)
    while low < high:
        middle = (low + high + 1) // 2
        found = await ledger.read_stream(stream, middle - 1, 1)
        if found and found[0].position <= position:
            low = middle
        else:
            high = middle - 1
    return low
