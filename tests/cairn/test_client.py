"""The public clients against a real gateway, ledger and bus: both flavours, any thread, and lines that are cut.

The file is long because it goes through all that a client can do."""

import asyncio
import json
import random
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from datetime import datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from served import ASKING, PLAN, Line, Served, listening, served, served_in_thread

from cairn import CairnError, Client, Conflict, Invalid, NotFound, SyncClient, Unauthorized, Unreachable, calls
from cairn.config import Connection


@pytest.fixture
async def system(postgres_url: str, nats_url: str, tenant: str) -> AsyncIterator[Served]:
    async with served(postgres_url, nats_url, tenant) as system:
        yield system


@pytest.fixture
async def client(system: Served) -> AsyncIterator[Client]:
    async with Client(system.where, actor="Pät") as client:
        yield client


@pytest.fixture
def threaded(postgres_url: str, nats_url: str, tenant: str) -> Iterator[tuple[Served, Any]]:
    with served_in_thread(postgres_url, nats_url, tenant) as found:
        yield found


def test_importing_the_package_imports_nothing_else() -> None:
    code = """
import sys
before = set(sys.modules)
import cairn
new = {name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names
assert new == {'cairn'}, new
cairn.SyncClient
heavy = {'aiohttp', 'asyncio', 'nats', 'domain', 'ledger', 'handlers', 'gateway', 'ops'} & set(sys.modules)
assert not heavy, heavy
for name in cairn.__all__:
    assert getattr(cairn, name).__name__ == name
assert set(cairn.__all__) <= set(dir(cairn))
try:
    cairn.Nothing
except AttributeError:
    sys.exit(42)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 42


async def test_a_plan_from_submission_to_its_end(system: Served, client: Client, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(PLAN))
    for plan, name in ((PLAN, "demo"), (file, "demo-2"), (file.read_bytes(), "demo-3")):
        assert (await client.submit(plan)).workflow == name
    run = await client.submit(PLAN, id="mine", key="nightly")
    assert await client.submit(PLAN, id="mine", key="nightly") == run
    assert [row["workflow"] for row in await client.workflows(2, at_least=run.position)] == ["mine", "demo-3"]
    waiting = asyncio.create_task(client.wait("mine", timeout=20))
    await system.finish("mine")
    ended = await waiting
    assert ended["workflow"]["status"] == "completed"
    assert [task["status"] for task in ended["tasks"]] == ["completed", "completed"]
    assert await client.wait("mine") == ended
    assert (await client.cancel("demo", "enough"))["workflow"] == "demo"
    assert (await client.wait("demo"))["workflow"]["reason"] == "by Pät: enough"
    assert [row["workflow"] for row in await client.workflows(status="cancelled")] == ["demo"]
    with pytest.raises(TimeoutError):
        await client.wait("demo-2", timeout=0.2)
    assert (await client.version())["name"] == "cairn"
    assert (await client.ready())["ready"]


async def test_what_happened_is_found_by_what_is_wanted_and_tasks_come_page_by_page(
    system: Served, client: Client
) -> None:
    run = await client.submit(PLAN)
    await system.finish("demo")
    events = [event async for event in client.events()]
    completed = [event async for event in client.events(type="task.completed", task="b", workflow="demo", q="DONE")]
    assert completed == [event for event in events if event["type"] == "cairn.task.completed.v1"][1:]
    assert [event async for event in client.events(newest_first=True)] == events[::-1]
    assert [event async for event in client.events(3, newest_first=True)] == events[1::-1]
    at = datetime.fromisoformat(events[2]["time"])
    since = [event async for event in client.events(since=at)]
    assert events[2] in since and since + [event async for event in client.events(to=at)] != []
    with pytest.raises(ValueError, match="has no time zone"):
        await anext(client.events(since=at.replace(tzinfo=None)))
    with pytest.raises(Invalid, match="q"):
        await anext(client.events(q="..."))
    told = await client.event(int(completed[0]["sequence"]))
    assert told["event"] == completed[0] and told["causes"][-1] == events[0]
    with pytest.raises(NotFound):
        await client.event(1_000)
    whole = await client.workflow("demo", int(events[-1]["sequence"]))
    first = await client.tasks("demo", limit=1, at_least=run.position)
    second = await client.tasks("demo", after=first["next"], limit=1)
    assert (first["tasks"] + second["tasks"], second["next"]) == (whole["tasks"], None)
    assert first["attempts"] + second["attempts"] == whole["attempts"] and first["workflow"] == whole["workflow"]
    with pytest.raises(NotFound):
        await client.tasks("demo", after="c")
    with pytest.raises(NotFound):
        await client.tasks("nobody")


async def test_a_person_answers(client: Client) -> None:
    run = await client.submit(ASKING)
    (ask,) = (await client.workflow(run.workflow, run.position))["asks"]
    with pytest.raises(Conflict, match="look again"):
        await client.answer(run.workflow, ask["ask"], choice="approve", shown="0" * 64)
    done = await client.answer(run.workflow, ask["ask"], choice="approve", shown=ask["shown"], because="fine")
    (ask,) = (await client.workflow(run.workflow, done["position"]))["asks"]
    assert (ask["choice"], ask["answered_by"], ask["because"]) == ("approve", "Pät", "fine")
    assert await client.asks(workflow=run.workflow) == []
    assert await client.asks(state="answered", limit=1) == [ask]


async def test_errors_say_what_is_wrong(system: Served, client: Client) -> None:
    with pytest.raises(Invalid, match="problem") as invalid:
        await client.submit({"id": "x", "tasks": [{"id": "a", "dependencies": ["b"]}]})
    assert (invalid.value.code, invalid.value.status) == ("invalid_plan", 422)
    assert [one["pointer"] for one in invalid.value.problems] == ["/plan/tasks/0/dependencies/0"]
    for raw in (b"", b"{", b'{"id": 1} ', b'{}, "id": "x"', b"\xff", b"[" * 10_000):
        with pytest.raises(Invalid):
            await client.submit(raw)
        assert await client.validate(raw)
    assert await client.validate(PLAN) == []
    assert await system.head() == 0
    for missing in (client.workflow("nobody"), client.workflow("../../version"), client.cancel("a/b"),
                    client.wait("nobody", 5)):  # fmt: skip
        with pytest.raises(NotFound):
            await missing
    await client.submit(PLAN, id="x")
    with pytest.raises(Conflict):
        await client.submit(PLAN, id="x")
    async with Client(msgspec.structs.replace(system.where, token="wrong")) as stranger:
        with pytest.raises(Unauthorized, match="token"):
            await stranger.workflows()
        with pytest.raises(Unauthorized):
            await anext(stranger.events(follow=True))
    with pytest.raises(ValueError, match="actor"):
        SyncClient(system.where, actor="a\nb")


async def test_a_plan_of_some_megabytes_is_taken(client: Client) -> None:
    large = {"id": "large", "tasks": [{"id": f"t{n}", "description": "ä" * 1000} for n in range(1500)]}
    assert (await client.submit(large)).workflow == "large"
    with pytest.raises(Invalid) as refused:
        await client.submit(large | {"objective": "x" * 2**24})
    assert refused.value.code == "content_too_large"


@pytest.mark.parametrize("flavour", ["async", "sync"])
async def test_nobody_there_is_said_with_the_way_out(system: Served, flavour: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nowhere = msgspec.structs.replace(system.where, url=f"http://127.0.0.1:{port}")
    if flavour == "sync":
        with pytest.raises(Unreachable, match="cairn up"):
            await asyncio.to_thread(SyncClient(nowhere).version)
        with pytest.raises(Unreachable, match="cairn up"):
            await asyncio.to_thread(lambda: next(SyncClient(nowhere).events(follow=True)))
        return
    async with Client(nowhere) as client:
        with pytest.raises(Unreachable, match="cairn up"):
            await client.submit(PLAN)
        with pytest.raises(Unreachable, match="cairn up"):
            await anext(client.events(follow=True))


def test_without_a_running_system_the_client_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CAIRN_URL", "NATS_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CAIRN_DATA_DIR", str(tmp_path))
    for kind in (Client, SyncClient):
        with pytest.raises(Unreachable, match="cairn up"):
            kind()


def test_one_synchronous_client_serves_twenty_threads(threaded: tuple[Served, Any]) -> None:
    system, call = threaded
    client = SyncClient(system.where, actor="threads")
    begin = threading.Barrier(20)

    def work(number: int) -> str:
        begin.wait(20)
        run = client.submit(PLAN)
        assert client.workflow(run.workflow, run.position)["workflow"]["last"] == run.position
        assert client.cancel(run.workflow, str(number))["workflow"] == run.workflow
        assert client.wait(run.workflow, timeout=20)["workflow"]["reason"] == f"by threads: {number}"
        types = [event["type"] for event in client.events(workflow=run.workflow)]
        assert types[0] == "cairn.workflow.started.v1"
        assert types[-1] == "cairn.workflow.cancelled.v1"
        return run.workflow

    with ThreadPoolExecutor(20) as threads:
        names = list(threads.map(work, range(20)))
    assert sorted(names) == sorted(["demo", *(f"demo-{n}" for n in range(2, 21))])
    events = list(client.events())
    assert [int(event["sequence"]) for event in events] == [*range(1, call(system.head()) + 1)]


async def test_the_synchronous_client_works_inside_a_running_loop(threaded: tuple[Served, Any]) -> None:
    system, call = threaded
    with SyncClient(system.where) as client:
        run = client.submit(PLAN)
        with pytest.raises(TimeoutError):
            client.wait(run.workflow, timeout=0.2)
        call(system.finish(run.workflow))
        assert client.wait(run.workflow, timeout=20)["workflow"]["status"] == "completed"
        with closing(client.events(follow=True, type="workflow.*")) as events:
            assert [next(events)["type"] for _ in range(2)] == [
                "cairn.workflow.started.v1",
                "cairn.workflow.completed.v1",
            ]
        assert client.ready()["checks"]["postgres"]["ok"]
        assert client.validate({"id": "x"}) != []
        with pytest.raises(NotFound):
            client.workflow("nobody")


async def appending(system: Served, runs: int) -> None:
    async with Client(system.where) as client:
        for _ in range(runs):
            run = await client.submit(PLAN)
            await system.finish(run.workflow)


def cuts() -> Iterator[int]:
    """After so many bytes each connection breaks: in headers, in the middle of a line, after some hundred events."""
    chance = random.Random(20261121)
    return chain(iter([0, 90, 1000]), (chance.randrange(500, 20_000) for _ in repeat(None)))


@pytest.mark.parametrize("flavour", ["async", "sync"])
async def test_followers_go_on_where_a_line_was_cut(
    system: Served, monkeypatch: pytest.MonkeyPatch, flavour: str
) -> None:
    monkeypatch.setattr(calls, "FOLLOW_AGAIN_SECONDS", 0.01)
    at = urlsplit(system.url)
    line = Line(lambda: asyncio.open_connection(at.hostname, at.port), cuts())
    async with line.listening() as port:
        where = msgspec.structs.replace(system.where, url=f"http://127.0.0.1:{port}")
        writing = asyncio.create_task(appending(system, 25))
        total, seen = 25 * 8, []
        async with asyncio.timeout(40):
            if flavour == "sync":
                seen = await asyncio.to_thread(take, SyncClient(where), total)
            else:
                async with Client(where) as client, aclosing(client.events(follow=True)) as events:
                    async for event in events:
                        seen.append(int(event["sequence"]))
                        if len(seen) == total:
                            break
        await writing
    assert seen == [*range(1, total + 1)]
    assert line.cuts > 5


def take(client: SyncClient, count: int) -> list[int]:
    with closing(client.events(follow=True)) as events:
        return [int(next(events)["sequence"]) for _ in range(count)]


async def test_followers_outlive_a_restart_of_the_server(system: Served) -> None:
    async with listening(system) as url:
        port = urlsplit(url).port or 0
        client = Client(msgspec.structs.replace(system.where, url=url))
        events = client.events(follow=True)
        await appending(system, 1)
        seen = [int((await anext(events))["sequence"]) for _ in range(3)]
    await appending(system, 1)
    async with listening(system, port), asyncio.timeout(20):
        seen += [int((await anext(events))["sequence"]) for _ in range(13)]
    await events.aclose()
    await client.close()
    assert seen == [*range(1, 17)]


async def test_a_command_whose_answer_was_lost_is_carried_out_once(system: Served) -> None:
    at = urlsplit(system.url)
    for flavour in ("async", "sync"):
        before = await system.head()
        line = Line(lambda: asyncio.open_connection(at.hostname, at.port), iter([0, 20, 2**62, 2**62]))
        async with line.listening() as port:
            where = msgspec.structs.replace(system.where, url=f"http://127.0.0.1:{port}")
            if flavour == "sync":
                run = await asyncio.to_thread(SyncClient(where).submit, PLAN)
            else:
                async with Client(where) as client:
                    run = await client.submit(PLAN)
        assert run.position == await system.head()
        assert [one.stream for one in await system.ledger.read(before)] == [f"workflow-{run.workflow}"] * 2
        assert line.cuts >= 2


async def test_answers_that_are_not_ours_are_errors_too() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(next(answers))
        await writer.drain()
        writer.close()

    bodies = [(b"200 OK", b"<html>hello</html>"), (b"500 Oops", b"\xff"), (b"502 Bad Gateway", b"[]"),
              (b"404 Not Found", b'{"code": 1}')]  # fmt: skip
    wanted = [CairnError, CairnError, Unreachable, NotFound]
    whole = [b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body) for status, body in bodies]
    answers = iter([*whole, *whole])
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        where = Connection("", url, "", "main", Path("/nonexistent"))
        async with Client(where) as client:
            for error in wanted:
                with pytest.raises(error):
                    await client.workflows()
        for error in wanted:
            with pytest.raises(error):
                await asyncio.to_thread(SyncClient(where).workflows)
