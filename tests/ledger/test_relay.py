"""The bus is a copy: whatever happens to it, it ends up holding the ledger's events at the ledger's positions.

It is long because each thing that can happen to a stream has its test beside the others.
"""

import asyncio
import gc
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest
from appends import SECONDS, append, assert_both_logs_equal, fill, followed, in_stream, started
from msgspec import structs
from structlog.testing import capture_logs

from cairn.bus import Bus
from domain.events import TaskDispatched
from ledger import relay
from ledger.announce import CARRIED_BYTES, ENVELOPE_BYTES, announce
from ledger.append import TEXT_BYTES, Append, NewEvent
from ledger.codec import encode
from ledger.errors import BrokenChain, ForeignStream
from ledger.ledger import Ledger
from ledger.recorded import Recorded
from ledger.relay import Relay
from ledger.stream import stream_config, stream_name
from ops.embedded.nats import Nats


@pytest.fixture
async def relayed(postgres_url: str, tenant: str, bus: Bus) -> AsyncIterator[Ledger]:
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        yield ledger


def relay_of(ledger: Ledger) -> Relay:
    assert ledger.relay is not None
    return ledger.relay


async def published(ledger: Ledger, position: int) -> None:
    async with asyncio.timeout(SECONDS):
        await relay_of(ledger).published(position)


async def append_all_along(ledger: Ledger, stop: asyncio.Event) -> int:
    """Appends one after another until stopped; answers with how many."""
    count = 0
    while not stop.is_set():
        await ledger.append(append("workflow-along", count))
        count += 1
    return count


async def test_sequence_n_is_position_n(relayed: Ledger, bus: Bus) -> None:
    await asyncio.gather(*(fill(relayed, f"workflow-w{number}", 20) for number in range(20)))
    await assert_both_logs_equal(relayed, bus)
    assert relay_of(relayed).lag == 0
    config = (await bus.api(f"STREAM.INFO.{stream_name(relayed.tenant, 1)}"))["config"]
    assert (config["deny_delete"], config["deny_purge"], config.get("allow_rollup_hdrs", False)) == (True, True, False)
    assert config["metadata"]["tenant"] == relayed.tenant


async def test_two_relays_race_without_harm(relayed: Ledger, postgres_url: str, nats_url: str, bus: Bus) -> None:
    async with (
        Bus.connect(nats_url) as second_bus,
        Ledger.open(postgres_url, tenant=relayed.tenant, bus=second_bus) as second,
    ):
        await asyncio.gather(
            *(fill(ledger, f"workflow-{name}{number}", 30)
              for name, ledger in (("a", relayed), ("b", second)) for number in range(5))
        )  # fmt: skip
        await assert_both_logs_equal(relayed, bus)
        await published(second, 300)


async def test_a_backlog_larger_than_a_batch_is_carried_over(postgres_url: str, tenant: str, bus: Bus) -> None:
    async with Ledger.open(postgres_url, tenant=tenant) as alone:
        await alone.append(append("workflow-a", 0, 2_345))
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await assert_both_logs_equal(ledger, bus)


async def test_an_event_larger_than_a_message_does_not_stop_the_relay(relayed: Ledger, bus: Bus) -> None:
    await relayed.append(append("workflow-a", 0))
    large = NewEvent(started(agent="x" * CARRIED_BYTES), uuid4(), "ann")
    await relayed.append(Append("workflow-a", 1, [large]))
    await relayed.append(append("workflow-a", 2))
    await published(relayed, 3)
    held = await in_stream(bus, stream_name(relayed.tenant, 1))
    recorded = await relayed.read(0)
    assert [event.digest for event in held] == [event.digest for event in recorded]
    assert [event.state for event in held] == [recorded[0].state, b"", recorded[2].state]
    assert await followed(relayed, 3) == recorded


async def test_the_longest_envelope_fits_around_the_largest_state(relayed: Ledger, bus: Bus) -> None:
    """A message that NATS does not take would stop the relay for ever."""
    text = '"' * TEXT_BYTES
    offer = TaskDispatched("w", "t" * 64, "t/1", 1, "r" * 64, 1, due=1.0, lease_seconds=30.0, timeout_seconds=60.0)
    fits = bus.max_payload - ENVELOPE_BYTES - len(encode(structs.replace(offer, description="x"))) + 1
    for version, size in enumerate((fits, fits + 1)):
        event = NewEvent(structs.replace(offer, description="x" * size), uuid4(), text, text, text, text)
        await relayed.append(Append(f"{'w' * 32}-{'a' * 128}", version, [event]))
    await published(relayed, 2)
    held = await in_stream(bus, stream_name(relayed.tenant, 1))
    assert [len(event.state) for event in held] == [bus.max_payload - ENVELOPE_BYTES, 0]
    assert held[0] == (await relayed.read(0))[0]


async def test_a_deleted_stream_is_made_again_while_appending(relayed: Ledger, bus: Bus) -> None:
    stop = asyncio.Event()
    appending = asyncio.create_task(append_all_along(relayed, stop))
    for position in (50, 120, 190):
        await published(relayed, position)
        await bus.api(f"STREAM.DELETE.{stream_name(relayed.tenant, 1)}")
    await published(relayed, 250)
    stop.set()
    await appending
    await assert_both_logs_equal(relayed, bus)
    assert (await relayed.head()).epoch == 1


async def test_a_stream_that_vanishes_while_nothing_happens_is_missed(
    relayed: Ledger, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "LOOK_SECONDS", 0.1)
    await fill(relayed, "workflow-a", 5)
    await published(relayed, 5)
    name = stream_name(relayed.tenant, 1)
    await bus.api(f"STREAM.DELETE.{name}")
    async with asyncio.timeout(SECONDS):
        while (await bus.api(f"STREAM.INFO.{name}")).get("state", {}).get("last_seq") != 5:
            await asyncio.sleep(0.01)
    assert await in_stream(bus, name) == await relayed.read(0)


async def test_a_stream_made_again_begins_a_bounded_window_before_the_head(
    relayed: Ledger, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "WINDOW_EVENTS", 10)
    await fill(relayed, "workflow-a", 30)
    await published(relayed, 30)
    await bus.api(f"STREAM.DELETE.{stream_name(relayed.tenant, 1)}")
    await fill(relayed, "workflow-b", 5)
    await assert_both_logs_equal(relayed, bus)
    held = await in_stream(bus, stream_name(relayed.tenant, 1))
    assert held[0].position > 20


async def test_nats_killed_and_wiped_while_appending_ends_with_equal_logs(
    postgres_url: str, tenant: str, own_nats: Nats
) -> None:
    async with Bus.connect(own_nats.url) as bus, Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        stop = asyncio.Event()
        appending = asyncio.create_task(append_all_along(ledger, stop))
        for wipe in (False, True, False):
            position = (await ledger.head()).position
            await published(ledger, position + 40)
            assert own_nats.child.pid is not None
            os.kill(own_nats.child.pid, signal.SIGKILL)
            await own_nats.child.exited()
            if wipe:
                shutil.rmtree(own_nats.folder / "jetstream")
            await own_nats.start()
        await published(ledger, (await ledger.head()).position + 40)
        stop.set()
        await appending
        await assert_both_logs_equal(ledger, bus)
        assert (await ledger.head()).epoch == 1


async def test_what_waits_for_a_bus_that_is_away_waits_in_postgres(
    postgres_url: str, tenant: str, own_nats: Nats
) -> None:
    """However large it is, this process does not grow with it."""
    async with Bus.connect(own_nats.url) as bus, Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await fill(ledger, "workflow-a", 1)
        await published(ledger, 1)
        assert own_nats.child.pid is not None
        os.kill(own_nats.child.pid, signal.SIGKILL)
        await own_nats.child.exited()
        for version in range(24):
            large = NewEvent(started(agent="x" * 2**21), uuid4(), "ann")
            await ledger.append(Append("workflow-b", version, [large]))
        gc.collect()
        kept = sum(len(one.state) for one in gc.get_objects() if isinstance(one, Recorded))
        assert kept <= 33 * 2**20
        await own_nats.start()
        await published(ledger, 25)
        held = await in_stream(bus, stream_name(tenant, 1))
        assert [event.digest for event in held] == [event.digest for event in await ledger.read(0)]


async def test_a_stream_that_goes_further_than_the_ledger_is_replaced_by_the_next_epoch(
    postgres_url: str, tenant: str, bus: Bus
) -> None:
    """Somebody published what was never recorded: also what a ledger restored to the past looks like."""
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        (event,) = await fill(ledger, "workflow-a", 1)
        await published(ledger, 1)
        subject, body, _ = announce(event, tenant, 1, bus.max_payload)
        await bus.store(subject, body)
        await fill(ledger, "workflow-b", 5)
        async with asyncio.timeout(SECONDS):
            while (await ledger.head()).epoch == 1 or relay_of(ledger).lag:
                await asyncio.sleep(0.01)
        await assert_both_logs_equal(ledger, bus)
        assert (await ledger.head()).epoch == 2
        assert stream_name(tenant, 1) not in (await bus.api("STREAM.NAMES"))["streams"]


async def test_a_stream_ahead_of_the_ledger_is_found_at_the_start(postgres_url: str, tenant: str, bus: Bus) -> None:
    """What Postgres restored to the past looks like: the bus holds more than the truth."""
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        (event,) = await fill(ledger, "workflow-a", 1)
        await published(ledger, 1)
    subject, body, _ = announce(event, tenant, 1, bus.max_payload)
    await bus.store(subject, body)
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await published(ledger, 1)
        assert (await ledger.head()).epoch == 2
        await assert_both_logs_equal(ledger, bus)


@pytest.mark.parametrize("odd", [b'{"x":' + b"[" * 10_000, b'"sequence":"seven"', b'"digest":"zz"'])
async def test_a_message_that_makes_no_sense_is_replaced_like_any_other(
    postgres_url: str, tenant: str, bus: Bus, odd: bytes
) -> None:
    """One of them at the stream's end ended the relay, and so the process, at every start."""
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        (event,) = await fill(ledger, "workflow-a", 1)
        await published(ledger, 1)
    subject, body, _ = announce(event, tenant, 1, bus.max_payload)
    key = odd.partition(b":")[0]
    await bus.store(subject, re.sub(key + b':"[^"]*"', odd, body) if key in body else odd)
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await fill(ledger, "workflow-b", 2)
        await published(ledger, 3)
        assert (await ledger.head()).epoch == 2
        await assert_both_logs_equal(ledger, bus)


async def test_a_stream_that_refuses_whatever_comes_is_told_of_and_asked_now_and_then(
    relayed: Ledger, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused twice at one place is no race with another relay; it was asked as fast as it could answer, in silence."""
    await fill(relayed, "workflow-a", 1)
    await published(relayed, 1)
    config = (await bus.api(f"STREAM.INFO.{stream_name(relayed.tenant, 1)}"))["config"]
    assert "error" not in await bus.api(f"STREAM.UPDATE.{config['name']}", {**config, "max_msg_size": 10})
    asked, publish = 0, relay_of(relayed)._publish

    async def counted(events: list[Recorded]) -> bool:
        nonlocal asked
        asked += 1
        return await publish(events)

    monkeypatch.setattr(relay_of(relayed), "_publish", counted)
    with capture_logs() as logs:
        await fill(relayed, "workflow-b", 1)
        async with asyncio.timeout(SECONDS):
            while not any("maximum" in line.get("error", "") for line in logs):
                await asyncio.sleep(0.01)
    assert asked == 2
    assert "error" not in await bus.api(f"STREAM.UPDATE.{config['name']}", config)
    await published(relayed, 2)
    await assert_both_logs_equal(relayed, bus)


async def test_a_stream_that_lost_what_the_relay_saw_in_it_is_filled_at_the_same_sequences(
    relayed: Ledger, bus: Bus
) -> None:
    """The next batch says what it has to follow; without that it would be stored where others belong."""
    await fill(relayed, "workflow-a", 20)
    await published(relayed, 20)
    _, origin = await relayed._head_and_origin()
    await bus.api(f"STREAM.DELETE.{stream_name(relayed.tenant, 1)}")
    await bus.ensure_stream(stream_config(relayed.tenant, 1, origin, 1))
    await relayed.append(append("workflow-b", 0, 5))
    await published(relayed, 25)
    await assert_both_logs_equal(relayed, bus)
    assert (await relayed.head()).epoch == 1


async def test_another_event_at_the_same_sequence_is_found_at_the_start(
    postgres_url: str, tenant: str, bus: Bus
) -> None:
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await fill(ledger, "workflow-a", 5)
        await published(ledger, 5)
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"SET search_path = cairn_{tenant}; ALTER TABLE events DISABLE TRIGGER ALL")
        await connection.execute("ALTER TABLE ledger_head DISABLE TRIGGER ALL")
        await connection.execute("UPDATE events SET digest = sha256('other') WHERE position = 5")
        await connection.execute("UPDATE ledger_head SET digest = sha256('other')")
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await published(ledger, 5)
        assert (await ledger.head()).epoch == 2
        assert await in_stream(bus, stream_name(tenant, 2)) == await ledger.read(0)


@pytest.mark.parametrize(("missing", "first"), [("= 4", 4), ("> 4", 6)])
async def test_a_ledger_that_lacks_an_event_is_not_carried_over(
    postgres_url: str, tenant: str, bus: Bus, missing: str, first: int
) -> None:
    """What came after the gap stood at the gap's sequence, was found to be wrong there, and so for an epoch each time."""
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await fill(ledger, "workflow-a", 6)
        await published(ledger, 6)
    if missing == "= 4":
        await bus.api(f"STREAM.DELETE.{stream_name(tenant, 1)}")
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"SET search_path = cairn_{tenant}; ALTER TABLE events DISABLE TRIGGER ALL")
        await connection.execute(f"DELETE FROM events WHERE position {missing}".encode())
    with pytest.raises(ExceptionGroup) as fault:
        async with Ledger.open(postgres_url, tenant=tenant, bus=bus), asyncio.timeout(SECONDS):
            await asyncio.Event().wait()
    assert fault.group_contains(BrokenChain, match=f"position {first}: it is missing")
    async with Ledger.open(postgres_url, tenant=tenant) as ledger:
        assert (await ledger.head()).epoch == 1


async def test_an_older_epochs_ledger_gives_way_to_the_later_epochs_stream(
    postgres_url: str, tenant: str, bus: Bus
) -> None:
    """Postgres restored to before the epoch was raised: the next one has to be new to everybody."""
    async with Ledger.open(postgres_url, tenant=tenant) as ledger:
        await fill(ledger, "workflow-a", 3)
        _, origin = await ledger._head_and_origin()
    await bus.ensure_stream(stream_config(tenant, 4, origin, 1))
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await published(ledger, 3)
        assert (await ledger.head()).epoch == 5
        await assert_both_logs_equal(ledger, bus)


async def test_another_ledgers_stream_is_never_touched(postgres_url: str, tenant: str, bus: Bus) -> None:
    await bus.ensure_stream(stream_config(tenant, 1, uuid4(), 1))
    with pytest.raises(ExceptionGroup) as fault:
        async with Ledger.open(postgres_url, tenant=tenant, bus=bus), asyncio.timeout(SECONDS):
            await asyncio.Event().wait()
    assert fault.group_contains(ForeignStream, match="carries another ledger")
    assert (await bus.api(f"STREAM.INFO.{stream_name(tenant, 1)}"))["state"]["messages"] == 0


async def test_a_server_without_atomic_batches_gets_one_message_after_another(
    postgres_url: str, tenant: str, bus: Bus
) -> None:
    async with Ledger.open(postgres_url, tenant=tenant) as ledger:
        await fill(ledger, "workflow-a", 20)
        _, origin = await ledger._head_and_origin()
    await bus.ensure_stream({**stream_config(tenant, 1, origin, 1), "allow_atomic": False})
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await asyncio.gather(*(fill(ledger, f"workflow-w{number}", 4) for number in range(10)))
        await assert_both_logs_equal(ledger, bus)
        assert (await ledger.head()).position == 60
