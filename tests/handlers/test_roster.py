"""A role gets its consumer where its open offers begin; whoever beats is told what it has lost."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from clockwork import Clockwork, clockwork

from cairn import Agent
from cairn import Task as Given
from cairn.bus import Bus
from cairn.config import Connection
from domain.plan import Task
from handlers.inbox import Inbox
from handlers.registry import Registry
from handlers.roster import Roster
from handlers.valve import Valve

SECONDS = 20.0
QUEUE = 40


@pytest.fixture
async def works(postgres_url: str, tenant: str, bus: Bus) -> AsyncIterator[Clockwork]:
    async with clockwork(postgres_url, tenant, bus, relay=True) as works:
        valve, registry = Valve(bus, works.ledger, works.executor), Registry(works.executor, works.timers)
        await Roster(bus, works.ledger, works.timers, registry, valve, tenant).open()
        yield works


async def join(bus: Bus, tenant: str, role: str = "coder") -> dict[str, Any]:
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                asked = await bus.request(f"cairn.{tenant}.join.{role}.ann-{role}", b"{}", timeout=0.5)
                return {**json.loads(asked.data), "consumer": f"{tenant}-{role}"}
            except TimeoutError:  # the stream is not there yet: an agent asks again
                continue


async def offers(bus: Bus, seat: dict[str, Any], count: int) -> list[str]:
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
    asked = json.dumps({"runs": mine}).encode()
    answer = json.loads((await bus.request(f"cairn.{tenant}.beat.coder.ann", asked)).data)
    assert answer == {"void": mine[1:], "drained": False}
    offered = json.dumps({"runs": []}).encode()
    assert json.loads((await bus.request(f"cairn.{tenant}.beat.coder.ann", offered)).data)["void"] == []


async def test_nobody_keeps_the_lease_of_another_alive(works: Clockwork, bus: Bus, tenant: str) -> None:
    await works.start(Task("a"), lease_seconds=3.0)
    await works.begin("a", "a/1", 1)
    await works.seen()
    asked = json.dumps({"runs": [["w", "a/1", 1]]}).encode()
    for name, beats in (("eve", 0), ("ann", 1)):
        await bus.request(f"cairn.{tenant}.beat.coder.{name}", asked)
        async with works.pool.connection() as connection:
            found = await connection.execute("SELECT count(*) FROM presence WHERE run = 'a/1'")
            assert await found.fetchone() == (beats,), name


async def test_a_lease_that_was_given_out_a_moment_ago_is_not_called_void(
    works: Clockwork, bus: Bus, tenant: str
) -> None:
    for number in range(10):
        await works.start(Task("a"), workflow=f"w{number}")
        asked = json.dumps({"runs": [[f"w{number}", "a/1", 1]]}).encode()
        assert json.loads((await bus.request(f"cairn.{tenant}.beat.coder.ann", asked)).data)["void"] == []


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        *(("join.coder.ann", it) for it in (b"", b"garbage", b"[]", b"[" * 100_000, b"\xff\xfe", b'{"capacity": 0}')),
        *(("join.coder.ann", b'{"capabilities": %s}' % it) for it in (b'["a.>"]', b'["A"]', b'["1","2","3","4","5"]')),
        *((f"join.{it}", b"{}") for it in ("Coder.ann", "coder", "coder.ann.x", "coder.Ann", "a+b.ann")),
        *(("beat.coder.ann", it) for it in (b"", b"garbage", b"[]", b"[" * 100_000, b"\xff\xfe")),
        ("beat.coder", b"{}"),
        ("beat.coder.ann", b'{"runs": [["w", "a/1", 99999999999999999999999]]}'),
        ("beat.coder.ann", b'{"runs": [["w", "a/1", 3000000000]]}'),
        ("beat.coder.ann", b'{"runs": [["w\\u0000", "a/1", 1]]}'),
    ],
    ids=lambda value: repr(value[:30]),
)
async def test_garbage_is_not_answered_and_harms_nobody(
    works: Clockwork, bus: Bus, tenant: str, subject: str, body: bytes
) -> None:
    with pytest.raises(TimeoutError):
        await bus.request(f"cairn.{tenant}.{subject}", body, timeout=0.1)
    await bus.publish(f"cairn.{tenant}.{subject}", body)
    assert await join(bus, tenant)
    asked = json.dumps({"runs": [["w", "a/1", 1]]}).encode()
    assert json.loads((await bus.request(f"cairn.{tenant}.beat.coder.ann", asked)).data)["void"]


async def test_an_answer_goes_nowhere_but_to_where_answers_go(works: Clockwork, bus: Bus, tenant: str) -> None:
    """Whoever asks says where the answer goes: it could be a subject that only others may speak on."""
    heard = []

    async def hear(message: Any) -> None:
        heard.append(message.data)

    await bus.subscribe(f"cairn.{tenant}.in.>", hear)
    await bus.publish(f"cairn.{tenant}.beat.coder.ann", b"{}", reply=f"cairn.{tenant}.in.tester.tess")
    assert json.loads((await bus.request(f"cairn.{tenant}.beat.coder.ann", b"{}")).data) == {
        "void": [],
        "drained": False,
    }
    assert heard == []


async def test_who_is_silent_for_a_lease_is_lost_until_it_is_heard_of(works: Clockwork, bus: Bus, tenant: str) -> None:
    async def told() -> list[str]:
        await works.seen()
        return [one.type for one in await works.ledger.read_stream("agent-ann-coder")]

    await join(bus, tenant)
    registry = Registry(works.executor, works.timers, 5.0, works.clock)
    await works.seen()
    await registry.look()
    assert await told() == ["agent.joined"]
    works.clock.ahead = 5.5
    await registry.look()
    assert await told() == ["agent.joined", "agent.lost"]
    await registry.look()
    assert await told() == ["agent.joined", "agent.lost"], "it is said once"
    await bus.request(f"cairn.{tenant}.beat.coder.ann-coder", b"{}")
    assert await told() == ["agent.joined", "agent.lost", "agent.returned"]
    await bus.request(f"cairn.{tenant}.leave.coder.ann-coder", b"")
    works.clock.ahead = 99.0
    await registry.look()
    assert await told() == ["agent.joined", "agent.lost", "agent.returned", "agent.left"]


async def test_a_drained_agent_is_given_no_place_and_told_so(works: Clockwork, bus: Bus, tenant: str) -> None:
    seat = await join(bus, tenant)
    assert (seat["consumers"], seat["drained"]) == ([f"{tenant}-coder"], False)
    await Registry(works.executor, works.timers).drain("ann-coder", uuid4(), "pat", "")
    await works.seen()
    again = await join(bus, tenant)
    assert (again["consumers"], again["drained"]) == ([], True)
    assert json.loads((await bus.request(f"cairn.{tenant}.beat.coder.ann-coder", b"{}")).data)["drained"]


async def test_a_name_that_is_another_roles_is_refused(works: Clockwork, bus: Bus, tenant: str) -> None:
    await join(bus, tenant)
    asked = await bus.request(f"cairn.{tenant}.join.tester.ann-coder", b"{}")
    assert "is the name of a coder" in json.loads(asked.data)["refused"]
