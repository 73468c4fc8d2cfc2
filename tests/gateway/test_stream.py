"""Many who follow at once: each is told the same, nobody holds up the others, and all of it is bounded."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web
from served import TOKEN, Served, asking, served

from domain.commands import StartWorkflow
from domain.plan import Plan, Task
from gateway import broadcast, stream
from gateway.connection import Runner
from handlers.execute import Order
from ledger.filters import Filter
from ledger.recorded import Recorded

STREAM = "/api/v1/events/stream"
SECONDS = 20.0


@pytest.fixture
async def system(postgres_url: str, nats_url: str, tenant: str) -> AsyncIterator[Served]:
    async with served(postgres_url, nats_url, tenant) as system:
        yield system


async def start(system: Served, workflow: str, *, text: str = "", tasks: int = 2) -> None:
    plan = Plan(id="demo", tasks=tuple(Task(id=f"t{n}", description=text) for n in range(tasks)))
    command = StartWorkflow(now=time.time(), workflow=workflow, plan=plan)
    await system.executor.execute(workflow, Order(uuid4(), command, "tests"))


async def frames(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, str]]:
    """Server-sent events as their fields, signs of life aside."""
    rest = b""
    async for chunk in response.content.iter_any():
        *ended, rest = (rest + chunk).split(b"\n\n")
        for frame in ended:
            if not frame.startswith(b":"):
                yield dict(line.split(": ", 1) for line in frame.decode().split("\n"))


async def positions(session: aiohttp.ClientSession, query: str, last: int) -> list[int]:
    """Of what somebody sees who follows, up to and with a position."""
    found: list[int] = []
    async with asyncio.timeout(SECONDS), session.get(f"{STREAM}?{query}") as response:
        assert response.status == 200, await response.text()
        async for frame in frames(response):
            assert int(json.loads(frame["data"])["sequence"]) == int(frame["id"])
            found.append(int(frame["id"]))
            if found[-1] >= last:
                break
    return found


async def test_an_event_is_encoded_once_for_all(system: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    announce = stream.announce

    def counting(recorded: Recorded, *rest: Any) -> Any:
        encoded.append(recorded.position)
        return announce(recorded, *rest)

    monkeypatch.setattr(stream, "announce", counting)
    await start(system, "before")
    head = await system.head()
    async with asking(system.url) as session, asyncio.TaskGroup() as group:
        following = [group.create_task(positions(session, "type=*" if n % 2 else "", head + 6)) for n in range(40)]
        await start(system, "one")
        await start(system, "two")
    assert all(task.result() == [*range(1, head + 7)] for task in following)
    assert sorted(encoded) == [*range(1, head + 7)]


async def test_followers_see_what_they_filter_for_from_the_past_into_the_present(
    system: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "STARTED_EVENTS", 5)  # the rest is read in pages
    monkeypatch.setattr(stream, "CATCH_UP_EVENTS", 4)
    for n in range(4):
        await start(system, f"w{n}", tasks=3)
    queries = {"": Filter(), "workflow=w5": Filter(workflow="w5"), "type=task.*,workflow.completed&after=7": Filter(
        type="task.*,workflow.completed"), "workflow=w1&q=DEMO": Filter(workflow="w1", q="demo"),
        "task=t1&agent=ann": Filter(task="t1", agent="ann")}  # fmt: skip
    seen: dict[str, list[int]] = {query: [] for query in queries}

    async def follow(query: str) -> None:
        async with asking(system.url) as session, session.get(f"{STREAM}?{query}") as response:
            async for frame in frames(response):
                seen[query].append(int(frame["id"]))

    following = [asyncio.create_task(follow(query)) for query in queries]
    for n in range(4, 7):
        await start(system, f"w{n}", tasks=3)
        await system.finish(f"w{n}")
    expected = {
        query: [one.position for one in await system.ledger.read(0)
                if wanted.matcher()(one) and one.position > (7 if "after" in query else 0)]
        for query, wanted in queries.items()
    }  # fmt: skip
    async with asyncio.timeout(SECONDS):
        while any(len(seen[query]) < len(expected[query]) for query in queries):
            await asyncio.sleep(0.01)
    for task in following:
        task.cancel()
    await asyncio.gather(*following, return_exceptions=True)
    assert seen == expected
    assert expected["workflow=w5"] and expected["workflow=w1&q=DEMO"]


@asynccontextmanager
async def idle(system: Served, accept: str) -> AsyncIterator[asyncio.StreamReader]:
    """Somebody who follows everything and reads nothing before the test does."""
    at = urlsplit(system.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port, limit=1024)
    head = f"GET {STREAM} HTTP/1.1\r\nHost: {at.netloc}\r\nAuthorization: Bearer {TOKEN}\r\nAccept: {accept}\r\n\r\n"
    writer.write(head.encode())
    try:
        async with asyncio.timeout(SECONDS):
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        yield reader
    finally:
        writer.transport.abort()


async def everything(reader: asyncio.StreamReader) -> bytes:
    received = b""
    async with asyncio.timeout(SECONDS):
        with suppress(ConnectionError):
            while some := await reader.read(2**20):
                received += some
    return received


async def behind(system: Served, monkeypatch: pytest.MonkeyPatch, accept: str) -> bytes:
    """What somebody gets who begins to read only after all that is kept for followers is newer than what he has."""
    monkeypatch.setattr(broadcast, "KEPT_BYTES", 300_000)
    async with asking(system.url) as session, idle(system, accept) as reader:
        async with asyncio.TaskGroup() as group:
            awake = group.create_task(positions(session, "", 3 * 24))
            for n in range(24):
                await start(system, f"w{n}", text="x" * 200_000)
        assert len(awake.result()) == 72  # nobody else was held up
        return await everything(reader)


async def test_a_slow_client_is_told_where_to_resume_and_let_go(
    system: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    received = await behind(system, monkeypatch, "text/event-stream")
    *_, last = (int(found) for found in re.findall(rb'\nid: (\d+)\ndata: {"spec', received))
    [told] = re.findall(rb"event: reset\nid: (\d+)\ndata: (.*)\n\n", received)
    assert int(told[0]) == json.loads(told[1])["after"] == last
    assert received.endswith(b"0\r\n\r\n")
    async with asking(system.url) as session:
        assert await positions(session, f"after={last}", 72) == [*range(last + 1, 73)]


async def test_a_slow_reader_of_lines_is_cut_off(system: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    received = await behind(system, monkeypatch, "application/x-ndjson")
    assert received.count(b'"specversion"') < 72
    assert not received.endswith(b"0\r\n\r\n")  # what is missing does not go unnoticed


async def test_so_many_may_follow_and_the_next_comes_when_one_has_gone(system: Served) -> None:
    app = system.application(max_streams=3)
    runner = Runner(app, shutdown_timeout=5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with asking(f"http://127.0.0.1:{runner.addresses[0][1]}") as session, AsyncExitStack() as stack:
        first = await session.get(STREAM)
        for _ in range(2):
            await stack.enter_async_context(session.get(STREAM))
        async with session.get(STREAM) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "5")
            assert (await response.json(content_type=None))["code"] == "too_many_streams"
        first.close()
        async with asyncio.timeout(SECONDS):
            n = 0
            while True:  # it is noticed when something is sent to it
                await start(system, f"w{n}")
                n += 1
                async with session.get(STREAM) as response:
                    if response.status == 200:
                        break
    await runner.cleanup()
