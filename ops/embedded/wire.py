"""The few words of the NATS protocol that are spoken without a client: before there is a bus, and by `doctor`."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit


async def ask(url: str, subject: str, data: bytes = b"", *, timeout_seconds: float = 5.0) -> dict[str, Any]:
    """One request over a connection of its own: the JSON that answers it, whole (an "error" key is for the caller).

    Raises `OSError` (nobody there, or no answer in time) or `ValueError` (not a NATS server, refused, no responders).
    """
    inbox = f"_INBOX.{secrets.token_hex(8)}"
    request = f"SUB {inbox} 1\r\nPUB {subject} {inbox} {len(data)}\r\n".encode() + data + b"\r\n"
    async with asyncio.timeout(timeout_seconds), _said(url, request) as reader:
        words = await _next(reader, b"MSG", b"HMSG")
        if words[0] == b"HMSG":
            raise ValueError(f"nobody answers {subject}: is JetStream on?")
        answer: dict[str, Any] = json.loads(await reader.readexactly(int(words[-1])))
        return answer


async def greet(url: str, *, timeout_seconds: float = 5.0) -> None:
    """Returns when the server knows this user. Raises as `ask` does."""
    async with asyncio.timeout(timeout_seconds), _said(url, b"PING\r\n") as reader:
        await _next(reader, b"PONG")


@contextlib.asynccontextmanager
async def _said(url: str, request: bytes) -> AsyncIterator[asyncio.StreamReader]:
    address = urlsplit(url)
    connect = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "python"}
    connect |= {"version": "0", "user": address.username, "pass": address.password}
    reader, writer = await asyncio.open_connection(address.hostname, address.port or 4222)
    try:
        if not (await reader.readline()).startswith(b"INFO "):
            raise ValueError(f"{address.hostname}:{address.port} does not speak NATS")
        writer.write(f"CONNECT {json.dumps(connect)}\r\n".encode() + request)
        yield reader
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _next(reader: asyncio.StreamReader, *verbs: bytes) -> list[bytes]:
    """The next line that begins with one of these, as words. Over before the server would ping."""
    while line := await reader.readline():
        words = line.split()
        if words[0] in verbs:
            return words
        if words[0] == b"-ERR":
            raise ValueError(f"NATS refused: {line.decode().strip()}")
    raise ConnectionResetError("NATS closed the connection")
