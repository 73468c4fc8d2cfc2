"""Each event once, in order, wherever it was recorded and however the bus fares."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from uuid import uuid4

import pytest
from appends import SECONDS, append, fill, followed, until

from cairn.bus import Bus
from ledger import tail
from ledger.announce import announce
from ledger.codec import chain
from ledger.errors import BrokenChain
from ledger.ledger import Ledger
from ledger.recorded import Recorded
from ledger.stream import stream_name
from ops.embedded.nats import Nats


@pytest.fixture
async def two(postgres_url: str, nats_url: str, tenant: str, bus: Bus) -> AsyncIterator[tuple[Ledger, Ledger]]:
    """Two processes' ledgers of one tenant, each with its own bus."""
    async with (
        Bus.connect(nats_url) as other_bus,
        Ledger.open(postgres_url, tenant=tenant, bus=bus) as here,
        Ledger.open(postgres_url, tenant=tenant, bus=other_bus) as there,
    ):
        yield here, there


async def test_a_follower_sees_the_past_and_then_the_present(ledger: Ledger) -> None:
    await ledger.append(append("workflow-a", 0, 1_200))
    following = asyncio.create_task(followed(ledger, 1_210))
    await fill(ledger, "workflow-b", 10)
    assert await following == await ledger.read(0, 2_000)


async def test_what_another_process_records_arrives_without_a_bus_too(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    following = asyncio.create_task(followed(ledger, 40))
    async with Ledger.open(postgres_url, tenant=tenant) as other:
        await asyncio.gather(*(fill(which, f"workflow-{name}", 20) for name, which in (("a", ledger), ("b", other))))
    assert await following == await ledger.read(0)


async def test_what_another_process_records_arrives_by_the_bus(two: tuple[Ledger, Ledger]) -> None:
    here, there = two
    following = asyncio.create_task(followed(here, 200))
    await asyncio.gather(*(fill(there, f"workflow-{number}", 10) for number in range(10)))
    await asyncio.gather(*(fill(ledger, f"workflow-{name}", 50) for name, ledger in (("x", here), ("y", there))))
    assert await following == await there.read(0)


async def test_the_bus_brings_an_event_before_postgres_is_asked(
    two: tuple[Ledger, Ledger], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the polls put off, only JetStream can bring what the other process has recorded."""
    here, there = two
    monkeypatch.setattr("ledger.follow.POLL_SECONDS", (600.0, 600.0))
    following = asyncio.create_task(followed(here, 31))
    await there.append(append("workflow-a", 0))
    await fill(there, "workflow-b", 30)
    assert [event.position for event in await following] == list(range(1, 32))


async def test_a_process_that_wrote_alone_hears_of_others_again(two: tuple[Ledger, Ledger]) -> None:
    """What it wrote itself need not come by the bus; what another one writes after that has to arrive all the same."""
    here, there = two
    following = asyncio.create_task(followed(here, 3_020))
    await asyncio.gather(*(fill(here, f"workflow-{number}", 60) for number in range(50)))
    assert here.relay is not None
    await here.relay.published(3_000)
    await fill(there, "workflow-b", 20)
    assert await following == await there.read(0, 4_000)


async def test_a_follower_behind_the_window_in_memory_reads_postgres(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "KEPT_EVENTS", 20)
    slow = ledger.follow(0)
    await ledger.append(append("workflow-a", 0))
    async with aclosing(slow), asyncio.timeout(SECONDS):
        seen = list(await anext(slow))
        await until(lambda: ledger._tail.started)
        await fill(ledger, "workflow-b", 200)
        assert len(ledger._tail._events) <= 41
        while len(seen) < 201:
            seen += await anext(slow)
    assert seen == await ledger.read(0)


async def test_many_followers_with_their_own_positions(ledger: Ledger) -> None:
    followers = [asyncio.create_task(followed(ledger, 60, after)) for after in range(0, 60, 7)]
    await fill(ledger, "workflow-a", 60)
    events = await ledger.read(0)
    for after, follower in zip(range(0, 60, 7), followers, strict=True):
        assert await follower == events[after:]


async def test_a_forged_message_is_not_believed(two: tuple[Ledger, Ledger], bus: Bus) -> None:
    """It stands where the next event belongs; followers never see it, and the stream is replaced."""
    here, there = two
    following = asyncio.create_task(followed(here, 12))
    (event,) = await fill(there, "workflow-a", 1)
    assert there.relay is not None
    await there.relay.published(1)
    forged = append("workflow-a", 1).events[0]
    envelope = (2, "workflow-a", 2, "task.started", forged.id, event.recorded_at, None, None, "mallory", None)
    subject, body, headers = announce(Recorded(*envelope, event.state, bytes(32)), here.tenant, 1, bus.max_payload)
    await bus.store(subject, body, headers)
    await fill(there, "workflow-b", 11)
    seen = await following
    assert seen == await here.read(0)
    assert {seen_event.actor for seen_event in seen} == {"ann"}
    async with asyncio.timeout(SECONDS):
        while (await here.head()).epoch == 1:
            await asyncio.sleep(0.01)


async def test_a_forged_message_that_continues_the_chain_is_contradicted_by_postgres(
    postgres_url: str, tenant: str, bus: Bus
) -> None:
    """The true event of its position would never be seen, and nobody would know."""
    async with Ledger.open(postgres_url, tenant=tenant) as alone:
        (event,) = await fill(alone, "workflow-a", 1)
        with pytest.raises(ExceptionGroup) as fault:
            await misled(postgres_url, tenant, bus, alone, event)
    assert fault.group_contains(BrokenChain, match="position 3: what was followed up to there")


async def misled(postgres_url: str, tenant: str, bus: Bus, alone: Ledger, event: Recorded) -> None:
    """Follows until a forged second event is believed; then two true ones are recorded."""
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as here, asyncio.timeout(SECONDS):
        assert here.relay is not None
        assert await followed(here, 1) == [event]
        await here.relay.published(1)
        envelope = (2, "workflow-a", 2, *event.envelope[3:4], uuid4(), *event.envelope[5:])
        forged = Recorded(*envelope, event.state, chain(event.digest, envelope, event.state))
        await bus.store(*announce(forged, tenant, 1, bus.max_payload))
        assert await followed(here, 2) == [event, forged]
        await fill(alone, "workflow-b", 2)
        await asyncio.Event().wait()


async def test_followers_go_on_while_nats_is_away(postgres_url: str, tenant: str, own_nats: Nats) -> None:
    async with (
        Bus.connect(own_nats.url) as bus,
        Bus.connect(own_nats.url) as other_bus,
        Ledger.open(postgres_url, tenant=tenant, bus=bus) as here,
        Ledger.open(postgres_url, tenant=tenant, bus=other_bus) as there,
    ):
        following = asyncio.create_task(followed(here, 60))
        await fill(there, "workflow-before", 20)
        assert own_nats.child.pid is not None
        os.kill(own_nats.child.pid, signal.SIGKILL)
        await own_nats.child.exited()
        await fill(there, "workflow-meanwhile", 20)
        assert await followed(here, 40) == await here.read(0)
        await own_nats.start()
        await fill(there, "workflow-after", 20)
        assert await following == await here.read(0)


async def test_a_stream_that_vanishes_under_a_follower_is_no_gap(two: tuple[Ledger, Ledger], bus: Bus) -> None:
    here, there = two
    following = asyncio.create_task(followed(here, 90))
    for number in range(3):
        await fill(there, f"workflow-{number}{uuid4().hex[:4]}", 30)
        await bus.api(f"STREAM.DELETE.{stream_name(here.tenant, 1)}")
    assert await following == await here.read(0)
