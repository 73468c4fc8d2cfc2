"""A ledger of very many events, and what a page of them costs by each filter, over HTTP."""

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import aiohttp
from aiohttp import web

from domain.events import (
    AttemptFailed,
    Event,
    TaskCompleted,
    TaskDispatched,
    TaskStarted,
    WorkflowCompleted,
    WorkflowStarted,
)
from domain.outcome import Failure, Result
from domain.plan import Plan, Task
from gateway.connection import Runner
from gateway.events import Events
from gateway.routes import API, serve
from ledger.append import Append, NewEvent
from ledger.cancel import end
from ledger.codec import event_id
from ledger.ledger import Ledger
from ledger.postgres import pool
from ops.bench.ledger import servers
from ops.bench.writers import spread
from projections.event_index import EventIndex
from projections.project import Projection

AT_ONCE = 200
"""Workflows that are recorded at the same time."""
TASKS = 10
READERS = 4
ASKED = 40
"""Pages of each filter: first ones, following ones, and ones from anywhere."""


async def measure(events: int, asked: int = ASKED) -> list[dict[str, Any]]:
    """Fills a ledger with so many events, then asks for pages of each kind; one row of figures a kind."""
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(servers())
        ledger = await stack.enter_async_context(Ledger.open(own.database_url, tenant="queries"))
        readers = await stack.enter_async_context(pool(own.database_url, "queries", size=READERS, views=True))
        begun = time.perf_counter()
        await _fill(ledger, events)
        filled = time.perf_counter() - begun
        head = (await ledger.head()).position
        view = Projection(readers, EventIndex())
        await view.install()
        projecting = asyncio.create_task(view.run(ledger))
        begun = time.perf_counter()
        await view.reached(head, 3600)
        indexed = time.perf_counter() - begun
        app = web.Application()
        serve(app, Events(ledger, readers))
        runner = Runner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        session = await stack.enter_async_context(aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}"))
        figures = [
            {"bench": "event index", "events": head, "appended_per_s": round(head / filled),
             "indexed_per_s": round(head / indexed)},
            *[await _pages(session, name, query, head, asked) for name, query in (await _queries(ledger, head)).items()],
        ]  # fmt: skip
        await end([projecting])
        await runner.cleanup()
    return figures


async def _queries(ledger: Ledger, head: int) -> dict[str, str]:
    """Filters that leave much and little, alone and together."""
    (one,) = await ledger.read(head // 2, 1)
    middle = one.recorded_at.isoformat().replace("+00:00", "Z")
    start = (await ledger.read(0, 1))[0].recorded_at.isoformat().replace("+00:00", "Z")
    workflow = one.stream.removeprefix("workflow-")
    return {
        "nothing": "", "a type": "type=task.started", "types": "type=workflow.*,task.attempt_failed",
        "a workflow": f"workflow={workflow}", "a task": "task=t7", "an agent": "agent=coder-3",
        "an actor": "actor=agent/coder-3", "a correlation": f"correlation={workflow}",
        "a causation": f"causation={one.causation_id}", "from a time": f"from={middle}", "to a time": f"to={middle}",
        "words": "q=numbers%20add", "a rare word": "q=zeppelin", "a word nobody said": "q=nowhere",
        "a task of a workflow": f"workflow={workflow}&task=t7", "what an agent failed": "agent=coder-3&type=task.attempt_failed",
        "a type of an agent from a time": f"agent=coder-3&type=task.started&from={middle}",
        "words by an actor": "actor=agent/coder-3&q=numbers", "what never is together": "agent=coder-3&type=workflow.*",
        "all at once": f"workflow={workflow}&type=task.*&task=t7&from={start}&q=numbers",
    }  # fmt: skip


async def _pages(session: aiohttp.ClientSession, name: str, query: str, head: int, asked: int) -> dict[str, Any]:
    rng, seconds, found = random.Random(name), [], 0
    following = 0
    for turn in range(asked):
        order = "desc" if turn % 4 == 3 else "asc"
        after = (following, rng.randrange(head), 0, rng.randrange(1, head))[turn % 4]
        begun = time.perf_counter()
        async with session.get(f"{API}/events?{query}&limit=100&order={order}&after={after}") as response:
            page = await response.json()
        seconds.append(time.perf_counter() - begun)
        assert response.status == 200, page
        found += len(page["events"])
        if turn % 4 == 0:
            following = page["next"] or 0
    return {"bench": "page of events by", "filter": name, "pages": asked, "events": found, **spread(seconds)}


async def _fill(ledger: Ledger, events: int) -> None:
    workflows = events // (2 + 3 * TASKS) + 1
    for first in range(0, workflows, AT_ONCE):
        await asyncio.gather(*(_workflow(ledger, number) for number in range(first, min(first + AT_ONCE, workflows))))


async def _workflow(ledger: Ledger, number: int) -> None:
    rng, version, stream = random.Random(number), 0, f"workflow-w{number}"
    for actor, command in _history(number, rng):
        id_ = UUID(int=rng.getrandbits(128), version=4)
        new = [NewEvent(event, event_id(id_, n), actor, f"w{number}", str(id_)) for n, event in enumerate(command)]
        await ledger.append(Append(stream, version, new))
        version += len(new)


def _history(number: int, rng: random.Random) -> Iterator[tuple[str, list[Event]]]:
    """Who did what: each task is dispatched, started, and completed; a few fail first."""
    tasks = tuple(Task(id=f"t{n}", title=f"Part {n}", description="add the numbers") for n in range(TASKS))
    first = WorkflowStarted(workflow=f"w{number}", plan=Plan(id=f"w{number}", tasks=tasks))
    yield "http", [first, *(_dispatched(number, f"t{n}") for n in range(TASKS))]
    for n in range(TASKS):
        agent, task = f"coder-{rng.randrange(20)}", f"t{n}"
        run = {"task": task, "run": f"{task}/1", "agent": agent}
        yield f"agent/{agent}", [TaskStarted(**run, lease_until=1.0, timeout_at=2.0)]
        if rng.random() < 0.02:
            failure = Failure("implementation_bug", "the zeppelin burst" if rng.random() < 0.01 else "a test failed")
            yield f"agent/{agent}", [AttemptFailed(**run, attempt=1, failure=failure)]  # type: ignore[arg-type]
        result = Result(f"the numbers of {task} add up to {rng.randrange(10_000)}")
        yield f"agent/{agent}", [TaskCompleted(**run, result=result)]  # type: ignore[arg-type]
    yield "clock/end", [WorkflowCompleted(workflow=f"w{number}")]


def _dispatched(number: int, task: str) -> TaskDispatched:
    return TaskDispatched(
        workflow=f"w{number}", task=task, run=f"{task}/1", attempt=1, role="coder", token=1, due=1.0, lease_seconds=30.0,
        timeout_seconds=1800.0, title="Part", description="add the numbers",
    )  # fmt: skip
