"""The events over HTTP: complete, in order, the same bytes as on the bus, for clients of every kind, which makes it long."""

import asyncio
import base64
import csv
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest
from served import PLAN, TOKEN, Served, asking, listening, served

from domain.commands import StartWorkflow
from domain.plan import Plan, Task
from gateway import broadcast, event_pages, stream
from handlers.execute import Order

EVENTS, STREAM = "/api/v1/events", "/api/v1/events/stream"
NDJSON, SSE = {"Accept": "application/x-ndjson"}, {"Accept": "text/event-stream"}


@pytest.fixture
async def system(postgres_url: str, nats_url: str, tenant: str) -> AsyncIterator[Served]:
    async with served(postgres_url, nats_url, tenant) as system:
        yield system


@pytest.fixture
async def session(system: Served) -> AsyncIterator[aiohttp.ClientSession]:
    async with asking(system.url) as session:
        yield session


async def start(system: Served, workflow: str, *, text: str = "", tasks: int = 2) -> None:
    plan = Plan(id="demo", tasks=tuple(Task(id=f"t{n}", description=text) for n in range(tasks)))
    command = StartWorkflow(now=time.time(), workflow=workflow, plan=plan)
    await system.executor.execute(workflow, Order(uuid4(), command, "tests"))


async def pages(session: aiohttp.ClientSession, path: str) -> tuple[list[dict[str, Any]], int]:
    """All events, and on how many pages they came."""
    events: list[dict[str, Any]] = []
    count = 0
    while path:
        async with session.get(path, headers=NDJSON) as response:
            assert (response.status, response.content_type) == (200, "application/x-ndjson")
            events += [json.loads(line) for line in (await response.text()).splitlines()]
            path = str(response.links["next"]["url"].relative()) if "next" in response.links else ""
        count += 1
    return events, count


async def lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in response.content.iter_any():
        *ended, rest = (rest + chunk).split(b"\n")
        for line in ended:
            yield line


def positions(events: list[dict[str, Any]]) -> list[int]:
    return [int(event["sequence"]) for event in events]


async def test_pages_hold_every_event_once(system: Served, session: aiohttp.ClientSession) -> None:
    for n in range(5):
        await start(system, f"w{n}")
    head = await system.head()
    events, count = await pages(session, f"{EVENTS}?limit=4")
    assert positions(events) == [*range(1, head + 1)]
    assert count == -(-head // 4)
    events, count = await pages(session, f"{EVENTS}?limit=1000&after=3")
    assert (positions(events), count) == ([*range(4, head + 1)], 1)
    assert await pages(session, f"{EVENTS}?after={head}") == ([], 1)
    assert await pages(session, f"{EVENTS}?after={head + 100}") == ([], 1)


async def test_events_are_found_by_workflow_and_by_type(
    system: Served, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(6):
        await start(system, f"w{n}")
    await system.finish("w2")
    await system.finish("w4")
    everything = [(one.position, one.stream, one.type) for one in await system.ledger.read(0)]
    for scanned in (event_pages.SCANNED_EVENTS, 1):  # a page may end, even empty, before anything was found
        monkeypatch.setattr(event_pages, "SCANNED_EVENTS", scanned)
        for limit in (1, 2, 1000):
            for workflow in (None, "w2", "nobody"):
                for kind, prefix in ((None, ""), ("task.*", "task."), ("workflow.completed", "workflow.completed")):
                    for after in (0, 7, 14):
                        query = f"after={after}&limit={limit}" + (f"&workflow={workflow}" if workflow else "")
                        events, _ = await pages(session, f"{EVENTS}?{query}" + (f"&type={kind}" if kind else ""))
                        assert positions(events) == [
                            position
                            for position, of, name in everything
                            if position > after and workflow in (None, of[9:]) and name.startswith(prefix)
                        ]


async def test_the_place_in_a_long_stream_is_found(
    system: Served, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_pages, "CHUNK_EVENTS", 7)
    await start(system, "before")
    await start(system, "long", tasks=50)
    await start(system, "between")
    await system.finish("long")
    all_of_it = [one.position for one in await system.ledger.read_stream("workflow-long")]
    for after in range(0, await system.head() + 3, 5):
        events, _ = await pages(session, f"{EVENTS}?workflow=long&limit=10&after={after}")
        assert positions(events) == [position for position in all_of_it if position > after]


async def test_events_are_byte_for_byte_those_on_the_bus(system: Served, session: aiohttp.ClientSession) -> None:
    await start(system, "w")
    await start(system, "large", text="x" * 200_000, tasks=8)
    head = await system.head()
    assert system.ledger.relay is not None
    async with asyncio.timeout(20):
        await system.ledger.relay.published(head)
    name = await system.ledger.relay.stream()
    async with session.get(EVENTS, headers=NDJSON) as response:
        mine = (await response.read()).splitlines()
    for position, line in enumerate(mine, 1):
        found = await system.bus.api(f"STREAM.MSG.GET.{name}", {"seq": position})
        there = base64.b64decode(found["message"]["data"])
        if b'"dataref"' in there:  # too large for the bus: here it is whole
            assert len(json.loads(line)["data"]["plan"]["tasks"][0]["description"]) == 200_000
        else:
            assert line == there
    assert len(mine) == head


@pytest.mark.parametrize("filters", ["", "&workflow=w3&type=task.*"])
async def test_a_follower_misses_nothing_and_sees_nothing_twice(
    system: Served, session: aiohttp.ClientSession, filters: str
) -> None:
    for n in range(3):
        await start(system, f"w{n}")
    seen: list[int] = []

    async def follow(until: asyncio.Event) -> None:
        while not until.is_set():
            query = f"{STREAM}?after={seen[-1] if seen else 0}{filters}"
            async with session.get(query, headers=NDJSON) as response, aclosing(lines(response)) as found:
                some = 0
                async for line in found:
                    if line:
                        seen.append(int(json.loads(line)["sequence"]))
                        some += 1
                    if some > 11 or until.is_set():  # goes away in the middle, and comes back
                        break

    enough = asyncio.Event()
    following = asyncio.create_task(follow(enough))
    for n in range(3, 12):
        await start(system, f"w{n}", tasks=3)
        await system.finish(f"w{n}")
    wanted = [
        one.position
        for one in await system.ledger.read(0)
        if not filters or (one.stream == "workflow-w3" and one.type.startswith("task."))
    ]
    async with asyncio.timeout(20):
        while len(seen) < len(wanted):
            await asyncio.sleep(0.01)
    enough.set()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    assert seen == wanted


async def test_server_sent_events_go_on_after_the_last_id(system: Served, session: aiohttp.ClientSession) -> None:
    await start(system, "w")
    head = await system.head()
    for headers, query, first in [({}, "", 1), ({}, "?after=1", 2), ({"Last-Event-ID": "2"}, "?after=1", 3),
                                  ({"last-event-id": str(head)}, "", head + 1)]:  # fmt: skip
        async with session.get(STREAM + query, headers=SSE | headers) as response, aclosing(lines(response)) as found:
            assert (response.status, response.content_type) == (200, "text/event-stream")
            assert [await anext(found), await anext(found)] == [b": ping", b""]
            if first > head:
                await start(system, "more")
            assert await anext(found) == b"id: %d" % first
            data = await anext(found)
            assert data.startswith(b"data: {")
            assert int(json.loads(data[6:])["sequence"]) == first
            assert await anext(found) == b""


async def test_a_silent_stream_gives_signs_of_life(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broadcast, "PING_SECONDS", 0.05)
    for headers, ping in ((SSE, [b": ping", b""] * 3), (NDJSON, [b""] * 6)):
        async with session.get(STREAM, headers=headers) as response, aclosing(lines(response)) as found:
            assert [await anext(found) for _ in range(6)] == ping


async def test_whoever_takes_nothing_is_cut_off(system: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "STUCK_SECONDS", 0.3)
    cut = asyncio.Event()
    cut_off = stream._Client.cut

    def cut_and_tell(client: stream._Client) -> None:
        cut_off(client)
        cut.set()

    monkeypatch.setattr(stream._Client, "cut", cut_and_tell)
    for n in range(8):
        await start(system, f"w{n}", text="x" * 200_000, tasks=5)
    at = urlsplit(system.url)
    reader, writer = await asyncio.open_connection(at.hostname, at.port, limit=1024)
    writer.write(f"GET {STREAM} HTTP/1.1\r\nHost: {at.netloc}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
    async with asyncio.timeout(20):
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await cut.wait()
        received = b""
        with suppress(ConnectionError):
            while some := await reader.read(2**20):
                received += some
    writer.close()
    assert len(received) < 16_000_000
    assert not received.endswith(b"0\r\n\r\n")  # not the end of a whole answer


async def test_streams_end_with_the_server(system: Served) -> None:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {TOKEN}"}) as session, asyncio.timeout(20):
        async with listening(system) as url:
            responses = [await session.get(f"{url}{STREAM}", headers=headers) for headers in (SSE, NDJSON)]
            assert [response.status for response in responses] == [200, 200]
            following = [asyncio.create_task(response.read()) for response in responses]
            began = time.monotonic()
        assert time.monotonic() - began < 3  # it does not wait for what would never end by itself
        assert await asyncio.gather(*following) == [b": ping\n\n", b"\n"]


async def test_what_cannot_be_asked_of_events_is_refused(system: Served, session: aiohttp.ClientSession) -> None:
    await start(system, "w")
    for query in ("after=-1", "after=x", f"after={2**63}", "after=1&after=2", "aftr=1", "limit=0", "limit=1001", "order=up",
                  "workflow=A", "workflow=a.b", "type=a%20b", "type=a,", "type=", "follow=1", "task=", "q=%20",
                  "from=2026-11-22", "to=x", "from=2026-11-22T10:00:00Z&to=2026-11-22T10:00:00Z"):  # fmt: skip
        async with session.get(f"{EVENTS}?{query}") as response:
            assert response.status == 422, query
            assert (await response.json(content_type=None))["code"] == "invalid_parameter"
    async with session.get(STREAM, headers=SSE | {"Last-Event-ID": "x"}) as response:
        assert response.status == 422
    async with session.get(EVENTS, headers={"Accept": "text/html"}) as response:
        assert response.status == 406
    async with session.get(f"{STREAM}?after=1000") as response:
        assert (response.status, (await response.json(content_type=None))["code"]) == (409, "position_unknown")
    async with session.post("/api/v1/workflows", json={"plan": PLAN}) as response:
        assert response.status == 201


async def test_a_page_comes_as_json_as_lines_and_as_csv(system: Served, session: aiohttp.ClientSession) -> None:
    await start(system, "w", text='=1+1, "quoted"\nline')
    head = await system.head()
    forms = {}
    for accept in ("application/json", "application/x-ndjson", "text/csv", "text/*, */*;q=0.1", "*/*"):
        async with session.get(f"{EVENTS}?limit=2", headers={"Accept": accept}) as response:
            forms[accept] = await response.text()
            assert response.status == 200 and response.headers["Vary"] == "Accept"
            assert str(response.links["next"]["url"].relative()) == f"{EVENTS}?limit=2&after=2"
    whole = json.loads(forms["application/json"])
    assert whole["next"] == 2 and positions(whole["events"]) == [1, 2]
    assert [json.loads(line) for line in forms["application/x-ndjson"].splitlines()] == whole["events"]
    assert forms["*/*"] == forms["application/json"] and forms["text/*, */*;q=0.1"] == forms["text/csv"]
    rows = list(csv.DictReader(io.StringIO(forms["text/csv"])))
    assert [row["sequence"] for row in rows] == [one["sequence"] for one in whole["events"]]
    assert [json.loads(row["data"]) for row in rows] == [one["data"] for one in whole["events"]]
    async with session.get(f"{EVENTS}?order=desc&limit=2") as response:
        newest = await response.json()
    assert positions(newest["events"]) == [head, head - 1] and newest["next"] == head - 1
    async with session.get(f"{EVENTS}?order=desc&after={newest['next']}") as response:
        assert positions((await response.json())["events"]) == [*range(head - 2, 0, -1)]


async def test_an_event_is_told_with_what_led_to_it(system: Served, session: aiohttp.ClientSession) -> None:
    tasks = (Task(id="a"), Task(id="b", dependencies=("a",)), Task(id="aside"))
    command = StartWorkflow(now=time.time(), workflow="w", plan=Plan(id="demo", tasks=tasks))
    await system.executor.execute("w", Order(uuid4(), command, "tests"))
    await system.finish("w")
    events = await system.ledger.read(0)
    last = next(one for one in events if one.type == "task.completed" and getattr(one.event, "task", "") == "b")
    async with session.get(f"{EVENTS}/{last.position}") as response:
        found = await response.json()
    assert int(found["event"]["sequence"]) == last.position
    told = [(one["type"].split(".", 1)[1], one["data"].get("task")) for one in found["causes"]]
    assert told == [
        ("task.started.v1", "b"), ("task.dispatched.v1", "b"), ("task.completed.v1", "a"), ("task.started.v1", "a"),
        ("task.dispatched.v1", "a"), ("workflow.started.v1", None),
    ]  # fmt: skip
    async with session.get(f"{EVENTS}/1") as response:
        assert (await response.json())["causes"] == []
    for wrong in ("0", "999999", "x", "-1", "9" * 40, "1%00"):
        async with session.get(f"{EVENTS}/{wrong}") as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (404, "not_found"), wrong
