"""What comes over a connection and is no request: it is refused like all else, without a word in the log."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
from served import Served, listening, served

from gateway import connection

HEAD = b"POST /api/v1/workflows HTTP/1.1\r\nHost: localhost\r\n"
REFUSED = {
    "no HTTP": (b"garbage\r\n\r\n", 400, "malformed_request"),
    "a TLS client": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "malformed_request"),
    "an unknown version": (b"GET / HTTP/9.9\r\n\r\n", 400, "malformed_request"),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400, "malformed_request"),
    "a header too long": (HEAD + b"A: " + b"x" * 9000 + b"\r\n\r\n", 400, "malformed_request"),
    "too many headers": (HEAD + b"A: b\r\n" * 200 + b"\r\n", 400, "malformed_request"),
    "a negative length": (HEAD + b"Content-Length: -1\r\n\r\n", 400, "malformed_request"),
    "no such encoding here": (
        HEAD + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\nab", 400, "malformed_request"),
    "a body that is not gzip": (HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nab", 401, "unauthorized"),
    "a body that is no chunk": (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "malformed_request"),
    "an unknown expectation": (HEAD + b"Expect: miracles\r\nContent-Length: 0\r\n\r\n", 417, "expectation_failed"),
}  # fmt: skip


@pytest.fixture
async def system(postgres_url: str, nats_url: str, tenant: str) -> AsyncIterator[Served]:
    async with served(postgres_url, nats_url, tenant) as system:
        yield system


async def told(url: str, sent: bytes) -> tuple[bytes, bytes]:
    """Head and body of the answer to these bytes."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    try:
        writer.write(sent)
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"Content-Length: (\d+)", head)
            assert length
            return head, await reader.readexactly(int(length[1]))
    finally:
        writer.close()


async def test_what_is_no_request_is_answered_with_a_problem_and_leaves_no_word_in_the_log(
    system: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "aiohttp.server")
    for name, (sent, status, code) in REFUSED.items():
        head, body = await told(system.url, sent)
        assert b"Content-Type: application/problem+json" in head, (name, head, body)
        problem = json.loads(body)
        assert (problem["status"], problem["code"]) == (status, code), (name, problem)
        assert head.split()[1] == b"%d" % status and problem["detail"]
    assert not caplog.text


async def test_a_connection_over_which_no_request_comes_is_closed(
    system: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "REQUEST_SECONDS", 0.5)
    async with listening(system) as url:
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)

        async def drip() -> None:
            for byte in HEAD:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.1)

        dripping = asyncio.create_task(drip())
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        assert not dripping.done(), "it was patient to the end"
        dripping.cancel()
        writer.close()
