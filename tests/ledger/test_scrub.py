"""A stream that contradicts the ledger is noticed wherever it does, kept for inspection, and replaced."""

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from os import kill
from pathlib import Path

import pytest
import structlog
from appends import SECONDS, append, assert_both_logs_equal, fill, followed, until
from by_hand import forged, quarantined, stream_by_hand

from cairn.bus import Bus
from ledger import quarantine, relay, scrub
from ledger.announce import announce
from ledger.ledger import Ledger
from ledger.relay import Relay
from ledger.stream import look, stream_config, stream_name, streams_of
from ops.embedded.nats import Nats


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub, "SCRUB_SECONDS", 0.01)


@asynccontextmanager
async def relayed(postgres_url: str, ledger: Ledger, bus: Bus) -> AsyncIterator[Ledger]:
    """The same ledger, opened again with a bus."""
    async with Ledger.open(postgres_url, tenant=ledger.tenant, bus=bus) as again:
        yield again


async def replaced(ledger: Ledger, bus: Bus, epoch: int = 2) -> None:
    """Returns when the stream of this epoch is the only one, and equals the ledger."""
    assert ledger.relay is not None
    async with asyncio.timeout(SECONDS):
        while [*await streams_of(bus, ledger.tenant)] != [stream_name(ledger.tenant, epoch)]:
            await asyncio.sleep(0.01)
        while await ledger.relay.measure():
            await asyncio.sleep(0.01)
    await assert_both_logs_equal(ledger, bus)
    assert (await ledger.head()).epoch == epoch


@pytest.mark.parametrize("place", [1, 13, 29])
async def test_another_event_before_the_last_is_found_kept_and_replaced(
    ledger: Ledger, bus: Bus, postgres_url: str, place: int
) -> None:
    events = await fill(ledger, "workflow-a", 30)
    other = forged(events[place - 1])
    with structlog.testing.capture_logs() as logs:
        name = await stream_by_hand(ledger, bus, [*events[: place - 1], other, *events[place:]])
        async with relayed(postgres_url, ledger, bus) as again:
            await replaced(again, bus)
    ((headers, body),) = await quarantined(bus, ledger.tenant)
    assert body == announce(other, ledger.tenant, 1, bus.max_payload)[1]
    assert (headers["Cairn-Stream"], headers["Cairn-Sequence"]) == (name, str(place))
    assert headers["Cairn-Subject"].endswith(".task.started") and "the same event, altered" in headers["Cairn-Why"]
    found = [log for log in logs if log["event"] == "ledger.relay.contradiction"]
    assert found and found[0]["position"] == place and found[0]["log_level"] == "error"
    assert any(log["event"] == "ledger.relay.quarantined" and log["messages"] == 1 for log in logs)


async def test_the_whole_window_is_looked_at_in_turn(
    ledger: Ledger, bus: Bus, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what is far from the end, though little is compared at a time."""
    monkeypatch.setattr(scrub, "SCRUB_EVENTS", 7)
    events = await fill(ledger, "workflow-a", 60)
    await stream_by_hand(ledger, bus, [*events[:2], forged(events[2]), *events[3:]])
    async with relayed(postgres_url, ledger, bus) as again:
        await replaced(again, bus)


async def test_a_hole_is_found_and_replaced(ledger: Ledger, bus: Bus, postgres_url: str) -> None:
    await stream_by_hand(ledger, bus, await fill(ledger, "workflow-a", 20), without=8)
    async with relayed(postgres_url, ledger, bus) as again:
        await replaced(again, bus)
    assert await quarantined(bus, ledger.tenant) == []


async def test_a_stream_cut_and_filled_by_another_is_kept_from_where_it_parts(
    ledger: Ledger, bus: Bus, postgres_url: str
) -> None:
    events = await fill(ledger, "workflow-a", 30)
    await stream_by_hand(ledger, bus, [*events[:10], *map(forged, events[10:25])])
    async with relayed(postgres_url, ledger, bus) as again:
        await replaced(again, bus)
    kept = await quarantined(bus, ledger.tenant)
    assert [int(headers["Cairn-Sequence"]) for headers, _ in kept] == [*range(11, 26)]
    assert all(b"mallory" in body for _, body in kept)


async def test_extra_messages_are_kept(ledger: Ledger, bus: Bus, postgres_url: str) -> None:
    """Also what a ledger that was restored to the past finds: events that only the stream still has."""
    events = await fill(ledger, "workflow-a", 5)
    name = await stream_by_hand(ledger, bus, events)
    for number in range(15):
        await bus.store(f"cairn.{ledger.tenant}.evt.workflow.a.noise", b"noise %d" % number)
    async with relayed(postgres_url, ledger, bus) as again:
        await replaced(again, bus)
        await again.append(append("workflow-a", 5))
        await assert_both_logs_equal(again, bus)
    kept = await quarantined(bus, ledger.tenant)
    assert [body for _, body in kept] == [b"noise %d" % number for number in range(15)]
    assert {headers["Cairn-Stream"] for headers, _ in kept} == {name}
    assert {headers["Cairn-Why"] for headers, _ in kept} == {"the ledger has no such position"}


async def test_a_stream_made_by_hand_at_other_sequences_is_replaced(
    ledger: Ledger, bus: Bus, postgres_url: str
) -> None:
    events = await fill(ledger, "workflow-a", 5)
    await stream_by_hand(ledger, bus, events, first=3)
    async with relayed(postgres_url, ledger, bus) as again:
        await replaced(again, bus)
    assert len(await quarantined(bus, ledger.tenant)) == 5


async def test_a_stream_of_a_later_epoch_is_kept_before_it_goes(ledger: Ledger, bus: Bus, postgres_url: str) -> None:
    """Postgres was restored to before the epoch was raised, and has gone on since."""
    events = await fill(ledger, "workflow-a", 5)
    _, origin = await ledger._head_and_origin()
    await bus.ensure_stream(stream_config(ledger.tenant, 3, origin, 1))
    for event in (*events[:4], forged(events[4])):
        await bus.store(*announce(event, ledger.tenant, 3, bus.max_payload))
    async with relayed(postgres_url, ledger, bus) as again:
        await replaced(again, bus, epoch=4)
    ((headers, _),) = await quarantined(bus, ledger.tenant)
    assert headers["Cairn-Sequence"] == "5"


async def test_two_relays_that_find_the_same_keep_it_once(ledger: Ledger, bus: Bus, postgres_url: str) -> None:
    events = await fill(ledger, "workflow-a", 30)
    await stream_by_hand(ledger, bus, [*events[:20], *map(forged, events[20:])])
    _, origin = await ledger._head_and_origin()
    config = stream_config(ledger.tenant, 1, origin, 1)
    state = await look(bus, config)
    assert state is not None
    for _ in range(2):
        kept, first = await quarantine.keep(bus, ledger.tenant, config, state, ledger.read, 30)
        assert kept == 10 and first is not None and first.position == 21
    async with relayed(postgres_url, ledger, bus) as one, relayed(postgres_url, ledger, bus):
        await replaced(one, bus)
    assert len(await quarantined(bus, ledger.tenant)) == 10


async def test_a_quarantine_that_cannot_be_had_is_said_and_stops_nothing(
    ledger: Ledger, bus: Bus, postgres_url: str
) -> None:
    """Somebody else has a stream of that name."""
    name = quarantine.quarantine_config(ledger.tenant)["name"]
    await bus.ensure_stream({"name": name, "subjects": [f"other.{ledger.tenant}"], "storage": "file"})
    events = await fill(ledger, "workflow-a", 5)
    with structlog.testing.capture_logs() as logs:
        await stream_by_hand(ledger, bus, [*events[:4], forged(events[4])])
        async with relayed(postgres_url, ledger, bus) as again:
            await replaced(again, bus)
    assert any(log["event"] == "ledger.relay.not_quarantined" and name in log["error"] for log in logs)


async def test_nothing_is_contradicted_while_streams_are_lost_and_filled(
    ledger: Ledger, bus: Bus, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is merely not there any more, or not there yet, is no contradiction."""
    monkeypatch.setattr(scrub, "SCRUB_SECONDS", 0.0)
    async with relayed(postgres_url, ledger, bus) as again, relayed(postgres_url, ledger, bus) as other:
        for number in range(6):
            await asyncio.gather(
                *(fill(one, f"workflow-{name}{number}", 30) for name, one in (("a", again), ("b", other)))
            )
            await bus.api(f"STREAM.DELETE.{stream_name(ledger.tenant, 1)}")
        await assert_both_logs_equal(again, bus)
        assert (await again.head()).epoch == 1


async def test_a_store_rolled_back_by_a_power_loss_is_filled_again(
    postgres_url: str, tenant: str, data_dir: Path, own_nats: Nats
) -> None:
    """JetStream acknowledges before its fsync: what comes back is an earlier copy of its files."""
    async with Bus.connect(own_nats.url) as bus, Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        assert ledger.relay is not None
        following = asyncio.create_task(followed(ledger, 300))
        await fill(ledger, "workflow-a", 100)
        await ledger.relay.published(100)
        await end(own_nats)
        shutil.copytree(own_nats.folder / "jetstream", data_dir / "earlier")
        await own_nats.start()
        await fill(ledger, "workflow-b", 100)
        await ledger.relay.published(200)
        await end(own_nats)
        shutil.rmtree(own_nats.folder / "jetstream")
        (data_dir / "earlier").rename(own_nats.folder / "jetstream")
        appending = asyncio.create_task(fill(ledger, "workflow-c", 100))
        await own_nats.start()
        await appending
        async with asyncio.timeout(SECONDS):
            await ledger.relay.published(300)
        await assert_both_logs_equal(ledger, bus)
        assert await following == await ledger.read(0)
        assert (await ledger.head()).epoch == 1


async def end(server: Nats) -> None:
    assert server.child.pid is not None
    kill(server.child.pid, signal.SIGKILL)
    await server.child.exited()


async def test_a_rebuilt_stream_is_of_the_next_epoch_and_followers_move_over(
    ledger: Ledger, bus: Bus, postgres_url: str, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes append, relay and follow meanwhile; each follower sees every event once."""
    async with (
        Bus.connect(nats_url) as other_bus,
        relayed(postgres_url, ledger, bus) as one,
        relayed(postgres_url, ledger, other_bus) as other,
    ):
        assert one.relay is not None
        monkeypatch.setattr(scrub, "SCRUB_SECONDS", 0.5)
        following = [asyncio.create_task(followed(each, 240)) for each in (one, other)]
        appending = [
            asyncio.create_task(fill(each, f"workflow-{name}", 120)) for name, each in (("a", one), ("b", other))
        ]
        for epoch in (2, 3, 4):
            async with asyncio.timeout(SECONDS):
                assert await one.relay.rebuild() == stream_name(ledger.tenant, epoch)
        await asyncio.gather(*appending)
        events = await one.read(0)
        assert await asyncio.gather(*following) == [events, events]
        await replaced(one, bus, epoch=4)
        name = quarantine.quarantine_config(ledger.tenant)["name"]
        assert "error" in await bus.api(f"STREAM.INFO.{name}"), "nothing contradicted anything"


async def test_a_busy_relay_notices_that_another_process_has_raised_the_epoch(
    ledger: Ledger, bus: Bus, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never comes to rest: there is always something to publish to the stream that was given up."""
    monkeypatch.setattr(relay, "LOOK_SECONDS", 0.2)
    async with relayed(postgres_url, ledger, bus) as again:
        stop = asyncio.Event()

        async def never_resting() -> None:
            count = 0
            while not stop.is_set():
                await again.append(append("workflow-busy", count))
                count += 1

        appending = [asyncio.create_task(never_resting())]
        assert again.relay is not None
        await until(lambda: again.relay is not None and again.relay.last > 50)
        await again._raise_epoch(1, 2)
        async with asyncio.timeout(SECONDS):
            while stream_name(ledger.tenant, 2) not in await streams_of(bus, ledger.tenant):
                await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*appending)
        await replaced(again, bus)


async def test_lag_is_measured_whoever_relays(ledger: Ledger, bus: Bus, postgres_url: str) -> None:
    idle = Relay(bus, ledger.tenant, read=ledger.read, head=ledger._head_and_origin, next_epoch=ledger._raise_epoch)
    await fill(ledger, "workflow-a", 7)
    assert await idle.measure() == 7
    async with relayed(postgres_url, ledger, bus) as again:
        await assert_both_logs_equal(again, bus)
        assert (await idle.measure(), idle.last) == (0, 0)
    await fill(ledger, "workflow-b", 3)
    assert await idle.measure() == 3
