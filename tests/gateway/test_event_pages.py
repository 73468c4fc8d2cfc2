"""Whatever is asked for: pages hold it all, once and in order, however much of it the index has, wherever it lies."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from domain.events import AttemptFailed, TaskDispatched, TaskNoted, TaskStarted, WorkflowCompleted
from domain.outcome import Failure
from gateway.event_pages import END, EventPages
from ledger.append import Append, NewEvent
from ledger.codec import event_id
from ledger.filters import Filter
from ledger.ledger import Ledger
from ledger.names import schema_of, views_of
from ledger.postgres import Pool, connect, pool
from ledger.recorded import Recorded
from ledger.retire import closed, lock, retire
from projections import event_index
from projections.event_index import EventIndex
from projections.project import Projection

TEXTS = ["a plain text", 'Über-Maß "quoted"\nline', "timeout TIMEOUT", "x_y.z", ""]
COUNT = 700
NAMES = ["ann", "bob", "ann bob"]


def event(rng: random.Random) -> Any:
    task, agent, text = rng.choice(["t1", "t2", "t1.fix"]), rng.choice(NAMES), rng.choice(TEXTS)
    match rng.randrange(5):
        case 0:
            return TaskStarted(task=task, run=f"{task}/1", agent=agent, lease_until=1.5, timeout_at=2.5)
        case 1:
            return TaskNoted(task=task, run=f"{task}/1", key=text, value={"deep": [text, {"er": rng.choice(NAMES)}]})
        case 2:
            return AttemptFailed(
                task=task,
                run=f"{task}/1",
                attempt=1,
                failure=Failure("implementation_bug", text),
                agent=rng.choice([None, agent]),
            )
        case 3:
            return TaskDispatched(
                workflow="w", task=task, run=f"{task}/2", attempt=2, role="coder", token=1, due=1.0, lease_seconds=1.0,
                timeout_seconds=1.0, description=text,
            )  # fmt: skip
    return WorkflowCompleted(workflow="w")


async def fill(ledger: Ledger, count: int, seed: int) -> list[Recorded]:
    rng, versions = random.Random(seed), {}
    while sum(versions.values()) < count:
        stream, command = f"workflow-w{rng.randrange(4)}", uuid4()
        many = rng.randint(1, 5)
        new = [
            NewEvent(event(rng), event_id(command, n), rng.choice(NAMES), rng.choice([None, "c1", "c2"]), str(command))
            for n in range(many)
        ]
        await ledger.append(Append(stream, versions.get(stream, 0), new))
        versions[stream] = versions.get(stream, 0) + many
    return await ledger.read(0, count + 10)


class Desk:
    """A ledger whose first events are in the archive, and of which the index has a part."""

    def __init__(self, ledger: Ledger, connections: Pool, events: Sequence[Recorded]) -> None:
        self.pages, self.events = EventPages(ledger, connections), events
        self._connections = connections
        self._index = EventIndex()

    async def index(self, to: int) -> None:
        projection = Projection(self._connections, self._index)
        await projection.install()
        await projection.rebuild()
        at, self.read = 0, 0
        async with self._connections.connection() as connection:
            while at < to:
                batch = self.events[at : min(to, at + 7)]
                async with connection.transaction():
                    await self._index.apply(connection, batch)
                    await connection.execute("UPDATE projections SET position = %s", (batch[-1].position,))
                at += len(batch)

    async def all(self, wanted: Filter, limit: int, after: int = 0) -> list[int]:
        found: list[int] = []
        at: int | None = after
        while at is not None:
            events, at, seen = await self.pages.forward(wanted, at, limit)
            assert len(events) <= limit and seen == len(self.events)
            found += [one.position for one in events]
        return found

    async def all_back(self, wanted: Filter, limit: int, before: int = END) -> list[int]:
        found: list[int] = []
        at: int | None = before
        while at is not None:
            events, at, _ = await self.pages.backward(wanted, at, limit)
            found += [one.position for one in events]
        return found


@pytest.fixture
async def desk(postgres_url: str, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(event_index, "BLOCK_EVENTS", 64)
    monkeypatch.setattr(event_index, "SPAN_EVENTS", 8)
    monkeypatch.setattr(event_index, "_SPANS", 8)
    monkeypatch.setattr(event_index, "_ALL", 2**64 - 1)
    monkeypatch.setattr(event_index, "_SPAN_BITS", 2**8 - 1)
    monkeypatch.setattr(event_index, "FIRST_BLOCKS", 1)
    url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-c%20cairn.partition_events%3D150"
    async with (
        Ledger.open(url, tenant=tenant, archive=tmp_path) as ledger,
        pool(url, tenant, size=4, views=True) as own,
    ):
        events = await fill(ledger, COUNT, 5)
        async with await connect(url, tenant) as connection:
            await lock(connection, tenant)
            archived = [await retire(connection, tenant, tmp_path, one) for one in await closed(connection, 320)]
        assert len(archived) == 2
        yield Desk(ledger, own, events)
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as admin:
        schemas = sql.Identifier(schema_of(tenant)), sql.Identifier(views_of(tenant))
        await admin.execute(sql.SQL("DROP SCHEMA IF EXISTS {}, {} CASCADE").format(*schemas))


FILTERS = st.builds(
    Filter,
    type=st.sampled_from([None, None, "task.*", "*", "task.started,workflow.completed", "cairn.task.noted.v1", "no.*"]),
    workflow=st.sampled_from([None, None, "w1", "w3", "nobody"]),
    task=st.sampled_from([None, None, "t1", "t1.fix", "t9"]),
    agent=st.sampled_from([None, None, "ann", "ann bob"]),
    actor=st.sampled_from([None, None, "bob", "carol"]),
    correlation=st.sampled_from([None, None, "c1"]),
    q=st.sampled_from([None, None, "timeout", "über mass", "ÜBER", "quoted line", "y Z", "plain bob", "deep"]),
)


async def test_every_page_of_any_filter_holds_what_matches_however_much_is_indexed(desk: Desk) -> None:
    by_time = sorted(one.recorded_at for one in desk.events)
    for indexed in (0, 1, 300, 333, COUNT, len(desk.events)):
        await desk.index(indexed)
        await check(desk, by_time)


async def check(desk: Desk, by_time: list[datetime]) -> None:
    loop = asyncio.get_running_loop()

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(wanted=FILTERS, times=st.tuples(st.integers(-1, COUNT), st.integers(-1, COUNT)), limit=st.integers(1, 400),
           from_=st.integers(0, COUNT + 20))  # fmt: skip
    def one(wanted: Filter, times: tuple[int, int], limit: int, from_: int) -> None:
        since, to = (None if at < 0 else by_time[min(at, len(by_time) - 1)] for at in times)
        if since and to and since >= to:
            since = None
        whole = msgspec.structs.replace(wanted, since=since, to=to)
        asyncio.run_coroutine_threadsafe(compare(desk, whole, limit, from_), loop).result(60)

    await asyncio.to_thread(one)


async def compare(desk: Desk, wanted: Filter, limit: int, from_: int) -> None:
    matches = wanted.matcher()
    expected = [one.position for one in desk.events if matches(one)]
    assert await desk.all(wanted, limit) == expected
    assert await desk.all_back(wanted, limit) == expected[::-1]
    assert await desk.all(wanted, limit, from_) == [at for at in expected if at > from_]
    assert await desk.all_back(wanted, limit, from_) == [at for at in expected[::-1] if at < from_]
