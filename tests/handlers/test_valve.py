"""What is paused is handed to nobody; after a resume with a rate, so much a minute."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

import pytest
from clockwork import Clockwork, clockwork
from test_roster import SECONDS, join, offers

from cairn.bus import Bus
from domain.claims import TENANT, PauseDispatch, ResumeDispatch
from domain.consequences import OFFER_SECONDS
from domain.plan import Task
from handlers.execute import Executor, Order
from handlers.kinds import QUEUE
from handlers.registry import Registry
from handlers.roster import Roster
from handlers.valve import DONE, MARK, Valve

pytestmark = pytest.mark.usefixtures("bus")


class Gate:
    """A system with a valve that is set by hand."""

    def __init__(self, works: Clockwork, bus: Bus, tenant: str) -> None:
        self.works, self.bus, self.tenant = works, bus, tenant
        self.now = time.time()
        self.valve = Valve(bus, works.ledger, works.executor, lambda: max(self.now, time.time()))

    async def pause(self, role: str = TENANT) -> None:
        await self._do(PauseDispatch(now=time.time(), by="pat", role=role))

    async def resume(self, role: str = TENANT, rate: float | None = None) -> None:
        await self._do(ResumeDispatch(now=time.time(), by="pat", role=role, rate=rate))

    async def _do(self, command: PauseDispatch | ResumeDispatch) -> None:
        (event, *_) = await self.works.executor.execute(self.tenant, Order(uuid4(), command, "pat"), QUEUE)
        self.valve.version = event.version
        await self.valve.set()

    async def delivered(self, seat: dict[str, Any]) -> int:
        info = await self.bus.api(f"CONSUMER.INFO.{seat['stream']}.{seat['consumer']}")
        return int(info["delivered"]["consumer_seq"])

    async def freed(self, *seats: dict[str, Any]) -> None:
        """Sets it until these consumers are under no rate any more."""
        async with asyncio.timeout(SECONDS):
            for seat in seats:
                while True:
                    await self.valve.set()
                    info = await self.bus.api(f"CONSUMER.INFO.{seat['stream']}.{seat['consumer']}")
                    if f" {DONE} " in info["config"]["metadata"][MARK] and not info.get("paused"):
                        break


@pytest.fixture
async def gate(postgres_url: str, tenant: str, bus: Bus) -> AsyncIterator[Gate]:
    async with clockwork(postgres_url, tenant, bus, relay=True) as works:
        gate = Gate(works, bus, tenant)
        registry = Registry(works.executor, works.timers)
        await Roster(bus, works.ledger, works.timers, registry, gate.valve, tenant).open()
        yield gate


async def seats(bus: Bus, tenant: str) -> list[dict[str, Any]]:
    """Of an agent with a graphics card: for what takes nothing special, and for what takes that."""
    await join(bus, tenant)
    said = b'{"capabilities": ["gpu"]}'
    seat = json.loads((await bus.request(f"cairn.{tenant}.join.coder.gus", said)).data)
    return [{**seat, "consumer": consumer} for consumer in seat["consumers"]]


async def none_comes(bus: Bus, seat: dict[str, Any]) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await offers(bus, seat, 1)


@pytest.mark.parametrize("role", ["coder", TENANT])
async def test_what_is_paused_gets_nothing_and_all_of_it_when_it_is_resumed(gate: Gate, bus: Bus, role: str) -> None:
    seat = await join(bus, gate.tenant)
    await gate.pause(role)
    await gate.works.start(Task("a"), Task("b"))
    await gate.works.seen()
    await none_comes(bus, seat)
    await gate.resume(role)
    assert sorted(await offers(bus, seat, 2)) == ["a/1", "b/1"]


async def test_all_consumers_of_a_role_are_paused_and_resumed(gate: Gate, bus: Bus) -> None:
    plain, special = await seats(bus, gate.tenant)
    await gate.pause("coder")
    await gate.works.start(Task("a"), Task("b", capabilities=("gpu",)))
    await gate.works.seen()
    await none_comes(bus, plain)
    await none_comes(bus, special)
    await gate.resume("coder")
    assert [await offers(bus, plain, 1), await offers(bus, special, 1)] == [["a/1"], ["b/1"]]


async def test_a_capability_that_joins_while_its_role_is_paused_gets_nothing_either(gate: Gate, bus: Bus) -> None:
    await join(bus, gate.tenant)
    await gate.pause("coder")
    await gate.works.start(Task("b", capabilities=("gpu",)))
    await gate.works.seen()
    _, special = await seats(bus, gate.tenant)
    await none_comes(bus, special)
    await gate.resume("coder")
    assert await offers(bus, special, 1) == ["b/1"]


async def test_a_rate_holds_over_all_consumers_of_a_role_together(gate: Gate, bus: Bus) -> None:
    both = await seats(bus, gate.tenant)
    await gate.pause("coder")
    tasks = [Task(f"t{n}", capabilities=("gpu",) if n % 2 else ()) for n in range(24)]
    await gate.works.start(*tasks)
    await gate.works.seen()
    rate, began = 240.0, time.time()  # four a second
    seen: list[tuple[float, int, int]] = []
    await gate.resume("coder", rate)

    async def take(seat: dict[str, Any]) -> None:
        async with aclosing(bus.pull(seat["stream"], seat["consumer"], batch=50, wait_seconds=0.3)) as pulled:
            async for messages in pulled:
                for message in messages:
                    await bus.ack(message)

    async with asyncio.TaskGroup() as group:
        jobs = [group.create_task(take(seat)) for seat in both] + [group.create_task(gate.valve.run())]
        async with asyncio.timeout(SECONDS):
            while not seen or sum(seen[-1][1:]) < 24:
                plain, special = [await gate.delivered(seat) for seat in both]
                seen.append((time.time() - began, plain, special))
                await asyncio.sleep(0.02)
        for job in jobs:
            job.cancel()
    print("handed out after seconds, plain and special:", seen)
    assert all(plain + special <= at * rate / 60 + 10 for at, plain, special in seen), "a few may be under way of each"
    assert seen[-1][0] >= 4.5, "each by itself would be through after three"
    await gate.freed(*both)
    await gate.works.start(*tasks, workflow="later")
    await gate.works.seen()
    assert [len(await offers(bus, seat, 12)) for seat in both] == [12, 12]


async def test_what_a_role_with_nothing_left_has_had_counts_for_the_others_of_the_tenant(gate: Gate, bus: Bus) -> None:
    coder, writer = await join(bus, gate.tenant), await join(bus, gate.tenant, "writer")
    await gate.pause()
    await gate.works.start(*(Task(f"t{n}", agent_role="writer" if n >= 4 else "coder") for n in range(9)))
    await gate.works.seen()
    await gate.resume(rate=60.0)
    later = Valve(bus, gate.works.ledger, Executor(gate.works.ledger), now=lambda: time.time() + 4.5)
    pulls = [asyncio.create_task(offers(bus, coder, 4))]
    async with asyncio.timeout(SECONDS):
        while await gate.delivered(coder) < 4:
            await later.set()
    for _ in range(3):
        await later.set()
    pulls.append(asyncio.create_task(offers(bus, writer, 5)))
    for _ in range(5):
        await later.set()
    assert await gate.delivered(writer) <= 3, "there was room for five or six in all"
    for pull in pulls:
        pull.cancel()
    await asyncio.gather(*pulls, return_exceptions=True)


async def test_another_role_goes_on(gate: Gate, bus: Bus) -> None:
    await gate.pause("coder")
    await gate.works.start(Task("a"), Task("b", agent_role="writer"))
    await gate.works.seen()
    assert await offers(bus, await join(bus, gate.tenant, "writer"), 1) == ["b/1"]


async def test_a_role_that_joins_while_all_is_paused_gets_nothing_either(gate: Gate, bus: Bus) -> None:
    await gate.pause()
    await gate.works.start(Task("a"))
    await gate.works.seen()
    seat = await join(bus, gate.tenant)
    await none_comes(bus, seat)
    await gate.resume()
    assert await offers(bus, seat, 1) == ["a/1"]


async def test_another_server_finds_it_paused_and_opens_it_after_a_resume_that_nobody_saw_through(
    gate: Gate, bus: Bus
) -> None:
    seat = await join(bus, gate.tenant)
    await gate.pause()
    await gate.works.start(Task("a"))
    resume = ResumeDispatch(now=time.time(), by="pat")
    await gate.works.executor.execute(gate.tenant, Order(uuid4(), resume, "pat"), QUEUE)
    await none_comes(bus, seat)
    await Valve(bus, gate.works.ledger, Executor(gate.works.ledger)).set()
    assert await offers(bus, seat, 1) == ["a/1"]


async def test_at_a_rate_no_more_is_handed_out_than_the_minutes_allow(gate: Gate, bus: Bus) -> None:
    seat = await join(bus, gate.tenant)
    await gate.pause()
    await gate.works.start(*(Task(f"t{number}") for number in range(12)))
    await gate.works.seen()
    rate, began = 240.0, time.time()  # four a second
    seen: list[tuple[float, int]] = []
    await gate.resume(rate=rate)
    running = asyncio.create_task(gate.valve.run())
    got = 0
    try:
        async with asyncio.timeout(SECONDS):
            async for messages in bus.pull(seat["stream"], seat["consumer"], batch=50, wait_seconds=0.3):
                got += len(messages)
                seen.append((time.time() - began, got))
                for message in messages:
                    await bus.ack(message)
                if got >= 12:
                    break
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    print("handed out after seconds:", [(round(at, 2), number) for at, number in seen])
    assert all(number <= at * rate / 60 + 3 for at, number in seen), "a few may be under way when it is shut"
    assert seen[-1][0] >= 2.0
    await gate.freed(seat)
    await gate.works.start(*(Task(f"t{number}") for number in range(20)), workflow="later")
    await gate.works.seen()
    assert len(await offers(bus, seat, 20)) == 20, "once nothing waited it is free again"


async def test_a_restart_in_the_middle_does_not_begin_the_count_anew(gate: Gate, bus: Bus) -> None:
    seat = await join(bus, gate.tenant)
    await gate.pause()
    await gate.works.start(*(Task(f"t{number}") for number in range(5)))
    await gate.works.seen()
    await gate.resume(rate=60.0)
    later = Valve(bus, gate.works.ledger, Executor(gate.works.ledger), now=lambda: time.time() + 2.5)
    pulled = asyncio.create_task(offers(bus, seat, 2))
    async with asyncio.timeout(SECONDS):
        while await gate.delivered(seat) < 2:
            await later.set()
    again = Valve(bus, gate.works.ledger, Executor(gate.works.ledger), now=lambda: time.time() + 2.5)
    count = await gate.delivered(seat)
    for _ in range(3):
        await again.set()
    assert await gate.delivered(seat) == count <= 3
    pulled.cancel()
    await asyncio.gather(pulled, return_exceptions=True)


async def test_offers_that_could_not_be_taken_are_not_made_again_for_a_while(gate: Gate) -> None:
    await join(gate.bus, gate.tenant)
    assert gate.valve.unanswered() == []
    await gate.pause("coder")
    assert gate.valve.unanswered() == ["coder"]
    await gate.resume("coder")
    assert gate.valve.unanswered() == ["coder"]
    gate.now += OFFER_SECONDS + 1
    assert gate.valve.unanswered() == []
