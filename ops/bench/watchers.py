"""One process with many who follow the events: `python -m ops.bench.watchers URL TOKEN CLIENTS QUERY`.

It says `ready` once all are connected, and follows until its standard input ends; then it prints one JSON line: how many
are still connected, how many bytes came, and of the first one how many events, and how long after they were recorded
(both clocks are this machine's).
"""

import asyncio
import json
import sys
import time
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import uvloop

from ops.bench.writers import spread

STREAM = "/api/v1/events/stream"
AT_ONCE = 50


class _When(msgspec.Struct):
    time: datetime


class _Watcher(asyncio.Protocol):
    """Takes all that comes, and looks at none of it."""

    def __init__(self, head: bytes, answered: "asyncio.Future[bool]") -> None:
        self._head, self._answered = head, answered
        self.bytes, self.connected = 0, True

    def connection_made(self, transport: Any) -> None:
        transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        self.bytes += len(data)
        if not self._answered.done():
            self._answered.set_result(data.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, _: Exception | None) -> None:
        self.connected = False
        if not self._answered.done():
            self._answered.set_result(False)


async def main(url: str, token: str, clients: int, query: str) -> None:
    path = f"{STREAM}?{query}" if query else STREAM
    watchers: list[_Watcher] = []
    lags: list[float] = []
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session:
        first = await session.get(url + path, timeout=aiohttp.ClientTimeout(total=None))
        first.raise_for_status()
        measuring = asyncio.create_task(_measure(first, lags))
        while len(watchers) < clients - 1:
            many = min(AT_ONCE, clients - 1 - len(watchers))
            watchers += await asyncio.gather(*(_connect(url, path, token) for _ in range(many)))
        lags.clear()  # what was there before
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        measuring.cancel()
    print(
        json.dumps({
            "connected": sum(watcher.connected for watcher in watchers) + 1,
            "bytes": sum(watcher.bytes for watcher in watchers),
            "events": len(lags),
            **(spread(lags) if lags else {}),
        }),
        flush=True,
    )  # fmt: skip


async def _connect(url: str, path: str, token: str) -> _Watcher:
    at, loop = urlsplit(url), asyncio.get_running_loop()
    answered: asyncio.Future[bool] = loop.create_future()
    head = f"GET {path} HTTP/1.1\r\nHost: {at.netloc}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    _, watcher = await loop.create_connection(lambda: _Watcher(head, answered), at.hostname or "", at.port or 80)
    if not await answered:
        raise RuntimeError("a client was not let in")
    return watcher


async def _measure(response: aiohttp.ClientResponse, lags: list[float]) -> None:
    rest, decode = b"", msgspec.json.Decoder(_When).decode
    async for chunk in response.content.iter_any():
        *frames, rest = (rest + chunk).split(b"\n\n")
        now = time.time()
        for frame in frames:
            _, _, data = frame.partition(b"\ndata: ")
            if data:
                lags.append(now - decode(data).time.timestamp())


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
