"""NATS fails in many ways and its client in more; a call ends in an answer, or says that there is none, and soon.

It is long because there is a test for every trap that the one module about NATS guards against.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from cairn import bus as module
from cairn.bus import Bus, Message
from ops.embedded.nats import Nats

SECONDS = 20.0


@pytest.fixture
async def bus(own_nats: Nats) -> AsyncIterator[Bus]:
    async with Bus.connect(own_nats.url, name="test") as bus:
        assert "error" not in await bus.ensure_stream(
            {"name": "S", "subjects": ["s.>"], "storage": "file", "allow_atomic": True}
        )
        yield bus


def pid(own_nats: Nats) -> int:
    assert own_nats.child.pid is not None
    return own_nats.child.pid


async def kill(own_nats: Nats) -> None:
    os.kill(pid(own_nats), signal.SIGKILL)
    await own_nats.child.exited()


async def until(condition: Any, seconds: float = SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def last(bus: Bus) -> int:
    return int((await bus.api("STREAM.INFO.S"))["state"]["last_seq"])


async def answered(bus: Bus) -> None:
    """Until JetStream answers again."""
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(ConnectionError, TimeoutError):
                if "error" not in await bus.api("STREAM.INFO.S"):
                    return
            await asyncio.sleep(0.02)


async def test_what_could_not_be_sent_is_never_sent_later(bus: Bus, own_nats: Nats) -> None:
    await kill(own_nats)
    await until(lambda: not bus.connected)
    for _ in range(3):
        with pytest.raises(ConnectionError):
            await bus.publish("s.ghost", b"boo")
        with pytest.raises(ConnectionError):
            await bus.store("s.ghost", b"boo")
        with pytest.raises(ConnectionError):
            await bus.store_batch([("s.ghost", b"boo", None)] * 20)
    await own_nats.start()
    await answered(bus)
    await bus.store("s.real", b"here")
    assert await last(bus) == 1


async def test_what_waits_to_be_sent_when_the_connection_breaks_is_not_sent_by_the_next_one(
    bus: Bus, own_nats: Nats
) -> None:
    """The caller is told that nobody knows, so he looks; it must not happen after he has looked."""
    calls = [asyncio.create_task(bus.store(f"s.{number}", b"x" * 1_000_000)) for number in range(20)]
    await asyncio.sleep(0)
    await kill(own_nats)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, (TimeoutError, ConnectionError, dict)) for one in answers)
    await own_nats.start()
    await answered(bus)
    seen = await last(bus)
    await bus.store("s.real", b"here")
    assert await last(bus) == seen + 1


async def test_a_request_under_way_ends_at_once_when_the_connection_breaks(bus: Bus, own_nats: Nats) -> None:
    await bus.subscribe("deaf", _nothing)
    call = asyncio.create_task(bus.request("deaf", timeout=60))
    await until(lambda: len(bus._waiting) == 1)
    began = time.monotonic()
    await kill(own_nats)
    with pytest.raises(TimeoutError, match="broke before the answer"):
        await call
    assert time.monotonic() - began < 2
    assert not bus._waiting


async def _nothing(_: Message) -> None:
    return


async def test_a_request_that_nobody_hears_and_one_that_nobody_answers(bus: Bus) -> None:
    with pytest.raises(ConnectionError, match="nobody answers on empty"):
        await bus.request("empty")
    await bus.subscribe("deaf", _nothing)
    with pytest.raises(TimeoutError):
        await bus.request("deaf", timeout=0.05)
    assert not bus._waiting


@pytest.mark.parametrize("answer", [b"", b"hello", b"[]", b"[" * 100_000, b'{"error":"no"}'])
async def test_an_answer_that_is_not_jetstreams_leaves_the_outcome_unknown(
    bus: Bus, own_nats: Nats, answer: bytes
) -> None:
    async with Bus.connect(own_nats.url) as meddler:

        async def meddle(message: Message) -> None:
            await meddler.publish(message.reply, answer)

        await meddler.subscribe("$JS.API.ODD", meddle)
        await meddler.api("INFO")
        with pytest.raises(TimeoutError, match="did not come first"):
            await bus.api("ODD")


async def test_a_request_ends_in_time_also_when_the_server_reads_nothing(bus: Bus, own_nats: Nats) -> None:
    os.kill(pid(own_nats), signal.SIGSTOP)
    began = time.monotonic()
    calls = [bus.request(f"s.{number}", b"x" * 1_000_000, timeout=0.5) for number in range(30)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(one, TimeoutError) for one in answers)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("wakes", [True, False])
async def test_senders_wait_for_a_server_that_reads_nothing_and_memory_stays_bounded(
    bus: Bus, own_nats: Nats, wakes: bool
) -> None:
    os.kill(pid(own_nats), signal.SIGSTOP)
    sent = 0

    async def send(until_number: int) -> None:
        nonlocal sent
        while sent < until_number:
            sent += 1
            await bus.publish("nobody", b"x" * 1_000_000)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await send(60)
    assert sent < 20
    sending = asyncio.create_task(send(60))
    if wakes:
        os.kill(pid(own_nats), signal.SIGCONT)
        await asyncio.wait_for(sending, SECONDS)
    else:
        await kill(own_nats)
        with pytest.raises(TimeoutError, match="broke while this was being sent"):
            await asyncio.wait_for(sending, SECONDS)


async def test_a_server_that_is_suspended_is_left_and_what_it_had_not_read_is_not_read_later(
    bus: Bus, own_nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PING_SECONDS", 0.2)
    async with Bus.connect(own_nats.url) as quick:
        os.kill(pid(own_nats), signal.SIGSTOP)
        calls = [asyncio.create_task(quick.store(f"s.{number}", b"x" * 1_000_000)) for number in range(30)]
        # The connection is closed with megabytes unread; nobody will ever read them.
        await until(lambda: not quick.connected)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(one, (TimeoutError, ConnectionError)) for one in answers)
        os.kill(pid(own_nats), signal.SIGCONT)
        began = time.monotonic()
        await answered(quick)
        assert time.monotonic() - began < 5
        seen = await last(quick)
        assert seen < 30
        await quick.store("s.real", b"here")
        assert await last(quick) == seen + 1


async def test_a_client_whose_read_loop_died_while_it_says_connected_is_replaced(
    bus: Bus, own_nats: Nats, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []

    async def hear(message: Message) -> None:
        heard.append(message.data)

    await bus.subscribe("news", hear)
    old = bus._nc
    os.kill(pid(own_nats), signal.SIGSTOP)
    with caplog.at_level(logging.CRITICAL, logger="nats"), pytest.raises(Exception, match="timeout"):
        await old.flush(timeout=0.05)  # its PONG comes late, and the client falls over it
    os.kill(pid(own_nats), signal.SIGCONT)
    await until(lambda: old._reading_task is not None and old._reading_task.done(), 20)
    await until(lambda: bus._nc is not old and bus.connected, 20)
    await answered(bus)
    await bus.publish("news", b"again")
    await until(lambda: heard)
    await bus.api("STREAM.INFO.S")
    assert heard == [b"again"], "once: one subscription, not two"


async def test_a_subscription_survives_a_reconnect_and_ends_when_it_is_told(bus: Bus, own_nats: Nats) -> None:
    heard: list[bytes] = []

    async def hear(message: Message) -> None:
        heard.append(message.data)

    end = await bus.subscribe("news", hear)
    await kill(own_nats)
    await until(lambda: not bus.connected)
    also: list[bytes] = []

    async def hear_too(message: Message) -> None:
        also.append(message.data)

    await bus.subscribe("news", hear_too)
    await own_nats.start()
    await answered(bus)
    await bus.publish("news", b"1")
    await until(lambda: heard and also)
    await end()
    await bus.publish("news", b"2")
    await until(lambda: len(also) == 2)
    assert heard == [b"1"] and also == [b"1", b"2"]


async def test_a_callback_that_fails_is_seen_and_does_not_end_the_subscription(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes] = []

    async def hear(message: Message) -> None:
        heard.append(message.data)
        if len(heard) == 1:
            raise KeyError("oops")

    await bus.subscribe("news", hear)
    with caplog.at_level(logging.ERROR):
        await bus.publish("news", b"1")
        await bus.publish("news", b"2")
        await until(lambda: len(heard) == 2)
    assert "a message on news could not be handled" in caplog.text and "oops" in caplog.text


async def consumer(bus: Bus) -> None:
    await bus.ensure_consumer("S", {"durable_name": "c", "ack_policy": "explicit", "ack_wait": 10**9})


async def test_a_pull_goes_on_over_a_restart_of_the_server(bus: Bus, own_nats: Nats) -> None:
    await consumer(bus)
    await bus.store("s.1", b"1")
    async with asyncio.timeout(SECONDS), aclosing(bus.pull("S", "c")) as lists:
        first = await anext(lists)
        assert [(one.data, one.sequence, one.delivered) for one in first] == [(b"1", 1, 1)]
        await bus.ack(first[0])
        await bus.api("CONSUMER.INFO.S.c")
        await kill(own_nats)
        await own_nats.start()
        await answered(bus)
        began = time.monotonic()
        await bus.store("s.2", b"2")
        while not (messages := [one for one in await anext(lists) if one.data == b"2"]):
            pass
        assert time.monotonic() - began < 2, "it waited for a request that had died with the connection"
        assert messages[0].sequence == 2


async def test_a_pull_says_that_nothing_came(bus: Bus) -> None:
    await consumer(bus)
    async with asyncio.timeout(5), aclosing(bus.pull("S", "c", wait_seconds=0.1)) as lists:
        assert [await anext(lists) for _ in range(3)] == [[], [], []]


@pytest.mark.parametrize("verb", ["CONSUMER.DELETE.S.c", "STREAM.DELETE.S"])
async def test_a_pull_whose_consumer_is_gone_says_so(bus: Bus, verb: str) -> None:
    await consumer(bus)
    async with asyncio.timeout(SECONDS), aclosing(bus.pull("S", "c")) as lists:
        asking = asyncio.ensure_future(anext(lists))
        while not (await bus.api("CONSUMER.INFO.S.c"))["num_waiting"]:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        await bus.api(verb)
        with pytest.raises(LookupError, match="is gone"):
            await asking
    assert time.monotonic() - began < 2


async def test_a_pull_asks_for_as_many_as_there_is_room_for(bus: Bus) -> None:
    await consumer(bus)
    await bus.store_batch([(f"s.{number}", b"x", None) for number in range(10)])
    room = iter([3, 1, 4])
    sizes: list[int] = []
    asked: list[int] = []

    def batch() -> int:
        asked.append(next(room))
        return asked[-1]

    async with asyncio.timeout(SECONDS), aclosing(bus.pull("S", "c", batch=batch, wait_seconds=5)) as lists:
        while sum(sizes) < 8:
            messages = await anext(lists)
            sizes.append(len(messages))
            assert sum(sizes) <= sum(asked)
    assert asked == [3, 1, 4]


async def test_a_message_that_is_asked_for_again_comes_again_and_one_that_is_given_up_does_not(bus: Bus) -> None:
    await consumer(bus)
    await bus.store("s.1", b"1")
    await bus.store("s.2", b"2")
    async with asyncio.timeout(SECONDS), aclosing(bus.pull("S", "c", wait_seconds=0.3)) as lists:
        got: list[Message] = []
        while len(got) < 2:
            got += await anext(lists)
        await bus.nak(got[0], 0.05)
        await bus.term(got[1])
        while not (again := await anext(lists)):
            pass
        assert [(one.data, one.delivered) for one in again] == [(b"1", 2)]
        await bus.ack(again[0])
        assert await anext(lists) == []


def test_places_are_read_from_both_forms_of_an_acknowledgement() -> None:
    short = Message("s", b"", None, "$JS.ACK.S.c.3.17.4.1700000000.0")
    long = Message("s", b"", None, "$JS.ACK.hub.ACCHASH.S.c.3.17.4.1700000000.0")
    longest = Message("s", b"", None, "$JS.ACK._.ACCHASH.S.c.3.17.4.1700000000.0.random")
    assert {(one.sequence, one.delivered) for one in (short, long, longest)} == {(17, 3)}
    assert Message("s", b"", None, "_INBOX.1.2.3.4.5").sequence == 0


@pytest.mark.parametrize("count", [5, 50])
async def test_a_batch_behind_the_wrong_message_is_refused(bus: Bus, count: int) -> None:
    await bus.store("s.first", b"")
    batch = [(f"s.{number}", b"%d" % number, {"Nats-Msg-Id": f"1-{number}"}) for number in range(count)]
    for wrong in (0, 2, 100):
        answer = await bus.store_batch(batch, expected_last=wrong)
        assert "wrong last sequence" in answer["error"]["description"]
        assert await last(bus) == 1
    assert (await bus.store_batch(batch, expected_last=1))["seq"] == 1 + count
    for number in range(count):
        held = await bus.api("STREAM.MSG.GET.S", {"seq": number + 2})
        assert held["message"]["subject"] == f"s.{number}"


@pytest.mark.parametrize("count", [5, 50])
async def test_a_batch_under_a_kill_is_stored_up_to_some_message_at_most(bus: Bus, own_nats: Nats, count: int) -> None:
    batch = [(f"s.{number}", b"x" * 100_000, None) for number in range(count)]
    storing = asyncio.create_task(bus.store_batch(batch, expected_last=0))
    await asyncio.sleep(0.005)
    await kill(own_nats)
    with suppress(TimeoutError, ConnectionError):
        await storing
    await own_nats.start()
    await answered(bus)
    found = await last(bus)
    for number in range(found):
        held = await bus.api("STREAM.MSG.GET.S", {"seq": number + 1})
        assert held["message"]["subject"] == f"s.{number}"
    assert count == 5 or found in (0, count), "an atomic batch is all or nothing"


async def test_what_can_never_be_sent_is_refused_before_it_ends_the_connection(bus: Bus) -> None:
    generation = bus.generation
    most = bus.max_payload
    for data, headers in ((b"x" * (most + 1), None), (b"x" * most, {"Why": "y"})):
        with pytest.raises(ValueError, match=f"this NATS takes {most}"):
            await bus.publish("s.big", data, headers)
    for subject in ("", " ", "s. x", "s.x\r\nPUB s.y 0", "s.\tx", "s.x ", "s." + "x" * 5000):
        with pytest.raises(ValueError, match="is no subject"):
            await bus.publish(subject, b"")
    for headers in ({"A": "b\r\nNats-Rollup: all"}, {"A\r\nB": "c"}, {"A": "b\n"}, {"A": "b\rc"}):
        with pytest.raises(ValueError, match="more than one line"):
            await bus.store("s.x", b"", headers)
    assert await last(bus) == 0
    assert (await bus.store("s.big", b"x" * (most - 100), {"Why": "ümlaut"}))["seq"] == 1
    assert bus.generation == generation


async def test_a_sender_that_speaks_no_utf8_ends_nobodys_connection(bus: Bus, own_nats: Nats) -> None:
    heard: list[Message] = []

    async def hear(message: Message) -> None:
        heard.append(message)

    await bus.subscribe("news.*", hear)
    await bus.api("STREAM.INFO.S")
    where = urlsplit(own_nats.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    login = b'{"user":"%s","pass":"%s","verbose":false}' % (
        (where.username or "").encode(),
        (where.password or "").encode(),
    )
    writer.write(b"CONNECT %s\r\nPUB news.\xff reply.\xfe 2\r\nhi\r\nPING\r\n" % login)
    while b"PONG" not in await reader.readline():
        pass
    writer.close()
    await writer.wait_closed()
    await until(lambda: heard)
    assert heard[0].data == b"hi"
    assert bus.generation == 1


async def test_closing_never_takes_long(own_nats: Nats) -> None:
    for state in ("answers", "stopped", "gone"):
        async with Bus.connect(own_nats.url) as bus:
            pulling = asyncio.create_task(anext(bus.pull("S", "c")))
            await asyncio.sleep(0)
            if state == "stopped":
                os.kill(pid(own_nats), signal.SIGSTOP)
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.1):
                        for _ in range(20):
                            await bus.publish("s.x", b"x" * 1_000_000)
            if state == "gone":
                await kill(own_nats)
            began = time.monotonic()
        assert time.monotonic() - began < 2, state
        pulling.cancel()
        await asyncio.gather(pulling, return_exceptions=True)
        if state == "stopped":
            os.kill(pid(own_nats), signal.SIGCONT)


async def test_closing_to_a_server_that_wakes_up_in_the_middle_ends_well(own_nats: Nats) -> None:
    """What was written is read after all, and the connection is gone when it is to be broken off."""
    async with Bus.connect(own_nats.url) as bus:
        os.kill(pid(own_nats), signal.SIGSTOP)
        for _ in range(8):
            await bus.publish("nobody", b"x" * 1_000_000)
        transport = bus._nc._transport._io_writer.transport
        await until(lambda: transport.get_write_buffer_size() > 0)
        waking = asyncio.create_task(until(transport.is_closing))
        waking.add_done_callback(lambda _: os.kill(pid(own_nats), signal.SIGCONT))
    await waking


async def test_no_server_is_said_without_the_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.3)
    with pytest.raises(ConnectionError) as error:
        async with Bus.connect("nats://user:secret@127.0.0.1:1"):
            pass
    assert "127.0.0.1:1" in str(error.value) and "secret" not in str(error.value)
