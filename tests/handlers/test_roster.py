"""A role gets its consumer where its open offers begin; whoever beats is told what it has lost."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from clockwork import Clockwork, clockwork

from cairn import Agent
from cairn import Task as Given
from cairn.bus import Bus
from cairn.config import Connection
from domain.plan import Task
from handlers.inbox import Inbox
from handlers.roster import Roster
from handlers.valve import Valve

SECONDS = 20.0
QUEUE = 40


@pytest.fixture
async def works(postgres_url: str, tenant: str, bus: Bus) -> AsyncIterator[Clockwork]:
    async with clockwork(postgres_url, tenant, bus, relay=True) as works:
        valve = Valve(bus, works.ledger, works.executor)
        await Roster(bus, works.ledger, works.timers, valve, tenant).open()
        yield works


async def join(bus: Bus, tenant: str, role: str = "coder") -> dict[str, str]:
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                asked = json.dumps({"role": role, "agent": "ann"}).encode()
                return dict(json.loads((await bus.request(f"cairn.{tenant}.join", asked, timeout=0.5)).data))
            except TimeoutError:  # the stream is not there yet: an agent asks again
                continue


async def offers(bus: Bus, seat: dict[str, str], count: int) -> list[str]:
    """The runs of the next dispatches, which are not acknowledged; none more than these come."""
    runs: list[str] = []
    async with asyncio.timeout(SECONDS), aclosing(bus.pull(seat["stream"], seat["consumer"], wait_seconds=0.3)) as pull:
        async for messages in pull:
            runs += [json.loads(message.data)["data"]["run"] for message in messages]
            if len(runs) >= count and not messages:
                return runs
    raise AssertionError


@pytest.mark.parametrize("joins", ["before", "after"])
async def test_dispatches_come_to_whoever_joins_before_or_after(
    works: Clockwork, bus: Bus, tenant: str, joins: str
) -> None:
    seat = await join(bus, tenant) if joins == "before" else {}
    await works.start(Task("a"), Task("b"), Task("c", agent_role="writer"))
    await works.seen()
    seat = seat or await join(bus, tenant)
    assert await offers(bus, seat, 2) == ["a/1", "b/1"]
    assert await offers(bus, await join(bus, tenant, "writer"), 1) == ["c/1"]
    assert await join(bus, tenant) == seat, "joining again moves nothing"


async def test_a_consumer_that_was_lost_begins_again_at_the_oldest_open_offer(
    works: Clockwork, bus: Bus, tenant: str
) -> None:
    seat = await join(bus, tenant)
    await works.start(Task("a"), Task("b"), Task("c"))
    await works.begin("a", "a/1", 1)
    await works.seen()
    await bus.api(f"CONSUMER.DELETE.{seat['stream']}.{seat['consumer']}")
    seat = await join(bus, tenant)
    assert await offers(bus, seat, 2) == ["b/1", "c/1"]
    await works.complete("b", "b/1", 2)
    await works.begin("c", "c/1", 3)
    await works.seen()
    await bus.api(f"CONSUMER.DELETE.{seat['stream']}.{seat['consumer']}")
    assert await offers(bus, await join(bus, tenant), 0) == []


async def test_a_queue_that_was_offered_again_while_it_waited_is_worked_through(
    works: Clockwork, bus: Bus, tenant: str, nats_url: str, tmp_path: Path
) -> None:
    """What lies in front of the new offers are the old ones, and while an agent works on those the new grow old too."""
    await join(bus, tenant)
    await works.start(*(Task(f"t{number}") for number in range(QUEUE)))
    await works.fire(601)
    agent = Agent("coder", name="ann")

    @agent.task
    async def work(task: Given) -> str:
        if task.token <= QUEUE:
            await asyncio.Event().wait()  # as long as it takes: what it leads to is refused
        return "done"

    async with asyncio.TaskGroup() as group:
        serving = group.create_task(agent.serve(Connection(nats_url, "", "", tenant, tmp_path)))
        reading = group.create_task(Inbox(bus, works.executor, tenant).run())
        async with asyncio.timeout(SECONDS):
            while "WorkflowCompleted" not in await works.names():
                await asyncio.sleep(0.02)
        serving.cancel()
        reading.cancel()


async def test_a_heartbeat_is_answered_with_what_is_lost(works: Clockwork, bus: Bus, tenant: str) -> None:
    await works.start(Task("a"), Task("b"))
    await works.begin("a", "a/1", 1)
    await works.complete("b", "b/1", 2)
    mine: list[Any] = [["w", "a/1", 1], ["w", "b/1", 2], ["w", "a/1", 7], ["nowhere", "a/1", 1]]
    asked = json.dumps({"agent": "ann", "runs": mine}).encode()
    answer = json.loads((await bus.request(f"cairn.{tenant}.beat", asked)).data)
    assert answer == {"void": mine[1:]}
    offered = json.dumps({"agent": "ann", "runs": []}).encode()
    assert json.loads((await bus.request(f"cairn.{tenant}.beat", offered)).data) == {"void": []}


async def test_a_lease_that_was_given_out_a_moment_ago_is_not_called_void(
    works: Clockwork, bus: Bus, tenant: str
) -> None:
    for number in range(10):
        await works.start(Task("a"), workflow=f"w{number}")
        asked = json.dumps({"agent": "ann", "runs": [[f"w{number}", "a/1", 1]]}).encode()
        assert json.loads((await bus.request(f"cairn.{tenant}.beat", asked)).data) == {"void": []}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"garbage", b"[]", b"{}", b"[" * 100_000, b"\xff\xfe",
        b'{"role": "Coder", "agent": "ann"}', b'{"role": "a.>", "agent": "ann"}', b'{"role": "*", "agent": "ann"}',
        b'{"agent": "ann", "runs": [["w", "a/1", 99999999999999999999999]]}',
        b'{"agent": "ann", "runs": [["w", "a/1", 3000000000]]}',
        b'{"agent": "ann", "runs": [["w\\u0000", "a/1", 1]]}',
    ],
    ids=lambda body: repr(body[:30]),
)  # fmt: skip
async def test_garbage_is_not_answered_and_harms_nobody(works: Clockwork, bus: Bus, tenant: str, body: bytes) -> None:
    for subject in ("join", "beat"):
        if subject == "join" or b"role" not in body:
            with pytest.raises(TimeoutError):
                await bus.request(f"cairn.{tenant}.{subject}", body, timeout=0.1)
        await bus.publish(f"cairn.{tenant}.{subject}", body)
    assert await join(bus, tenant)
    asked = json.dumps({"agent": "ann", "runs": [["w", "a/1", 1]]}).encode()
    assert json.loads((await bus.request(f"cairn.{tenant}.beat", asked)).data)["void"]
