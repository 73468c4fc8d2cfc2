"""An agent's own user of NATS: it is served as before, and can neither speak for others nor read what is theirs.

Real nats-server, asked in its own protocol: what it forbids, it says.
"""

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing, suppress
from urllib.parse import urlsplit

import pytest

from cairn.bus import Bus
from handlers.identity import Speaker, consumers, inbox, permissions, user
from ops.embedded import nats as module
from ops.embedded.nats import Nats

CODER, OTHER, TESTER = Speaker("coder", "ann"), Speaker("coder", "bob"), Speaker("tester", "tess")
STREAM, SECONDS = "MAIN_EVENTS_1", 10.0


async def admitted(nats: Nats, who: Speaker, *capabilities: str, tenant: str = "main") -> str:
    return await nats.admit(user(tenant, who.agent), permissions(tenant, who, capabilities))


async def refusals(url: str, *commands: str) -> list[bool]:
    """Whether the server forbids each of these lines of its protocol."""
    found = []
    for command in commands:
        at = urlsplit(url)
        reader, writer = await asyncio.open_connection(at.hostname, at.port)
        login = json.dumps({"user": at.username, "pass": at.password, "verbose": False, "pedantic": False})
        payload = "\r\n" if command.startswith("PUB") else ""
        writer.write(f"CONNECT {login}\r\n{command}\r\n{payload}PING\r\n".encode())
        said = b""
        try:
            async with asyncio.timeout(SECONDS):
                while b"PONG" not in said:
                    line = await reader.readline()
                    assert line and b"Authorization" not in line, f"{command}: not let in"
                    said += line
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        found.append(b"Permissions Violation" in said)
    return found


async def stored(bus: Bus) -> None:
    """The streams and consumers of a tenant, an offer to each role in them."""
    await bus.ensure_stream({"name": STREAM, "subjects": ["cairn.main.evt.>"]})
    await bus.ensure_stream({"name": "MAIN_INBOX", "subjects": ["cairn.main.in.>"], "allow_atomic": True})
    offered = {
        **consumers("main", "coder", ["gpu"]), **consumers("main", "tester"), **consumers("other", "coder"),
    }  # fmt: skip
    for name, offer in offered.items():
        subject = f"cairn.main.evt.workflow.w.task.dispatched.{offer}"
        await bus.ensure_consumer(
            STREAM, {"durable_name": name, "filter_subject": subject.replace(".w.", ".*."), "ack_policy": "explicit"}
        )
        if not name.startswith("other"):
            await bus.store(subject, offer.encode())


async def test_an_agent_gets_what_is_offered_to_its_role_and_reports_under_its_name(own_nats: Nats) -> None:
    async with Bus.connect(own_nats.url) as system:
        await stored(system)
        heard: list[bytes] = []

        async def hear(message: object) -> None:
            heard.append(message.data)  # type: ignore[attr-defined]

        url = await admitted(own_nats, CODER)
        async with Bus.connect(url, name="ann", inbox=inbox("main", "ann")) as bus:
            await bus.subscribe("cairn.main.verdict.ann", hear)
            async with asyncio.timeout(SECONDS), aclosing(bus.pull(STREAM, "main-coder")) as pulled:
                async for messages in pulled:
                    assert [message.data for message in messages] == [b"coder"]
                    await bus.ack(messages[0])
                    break
            for count in (1, 30):  # one by one, and as an atomic batch
                reports = [("cairn.main.in.coder.ann", b"[]", None)] * count
                async with asyncio.timeout(SECONDS):
                    assert "error" not in await bus.store_batch(reports)
            while (await system.api(f"CONSUMER.INFO.{STREAM}.main-coder"))["num_ack_pending"]:
                await asyncio.sleep(0.02)
            await system.publish("cairn.main.verdict.ann", b"yes")
            async with asyncio.timeout(SECONDS):
                while heard != [b"yes"]:
                    await asyncio.sleep(0.01)


async def test_an_agent_can_not_speak_for_another_nor_for_another_role(own_nats: Nats) -> None:
    url = await admitted(own_nats, CODER)
    may = ("cairn.main.in.coder.ann", "cairn.main.beat.coder.ann", "cairn.main.join.coder.ann")
    may_not = (
        "cairn.main.in.coder.bob", "cairn.main.in.tester.tess", "cairn.main.in.tester.ann", "cairn.main.in.ann",
        "cairn.main.join.tester.ann", "cairn.main.beat.coder.bob", "cairn.main.leave.coder.bob",
        "cairn.main.verdict.bob", "cairn.main.tell.bob", "cairn.other.in.coder.ann",
        "cairn.main.evt.workflow.w.task.dispatched.coder", "cairn.main.evt.workflow.w.task.completed",
        "_INBOX.main.bob.x", "_INBOX.x",
    )  # fmt: skip
    assert not any(await refusals(url, *(f"PUB {subject} 0" for subject in may)))
    assert all(await refusals(url, *(f"PUB {subject} 0" for subject in may_not)))


async def test_an_agent_can_not_read_what_is_given_to_others(own_nats: Nats) -> None:
    async with Bus.connect(own_nats.url) as system:
        await stored(system)
    url = await admitted(own_nats, CODER)
    heard = (
        ">", "cairn.>", "cairn.main.>", "cairn.main.evt.>", "cairn.main.evt.workflow.w.task.dispatched.coder",
        "cairn.main.in.>", "cairn.main.verdict.*", "cairn.main.verdict.bob", "cairn.main.tell.bob", "cairn.main.beat.>",
        "_INBOX.>", "_INBOX.main.*.>", "_INBOX.main.bob.>", "$JS.>", "$SYS.>",
    )  # fmt: skip
    asked = (
        f"CONSUMER.MSG.NEXT.{STREAM}.main-tester", f"CONSUMER.MSG.NEXT.{STREAM}.main-coder+gpu",
        f"CONSUMER.MSG.NEXT.{STREAM}.other-coder", "CONSUMER.MSG.NEXT.MAIN_INBOX.inbox",
        f"CONSUMER.INFO.{STREAM}.main-tester", f"STREAM.MSG.GET.{STREAM}", f"DIRECT.GET.{STREAM}",
        f"DIRECT.GET.{STREAM}.cairn.main.evt.x", f"CONSUMER.CREATE.{STREAM}", f"CONSUMER.CREATE.{STREAM}.mine",
        f"CONSUMER.DURABLE.CREATE.{STREAM}.mine", f"CONSUMER.DELETE.{STREAM}.main-coder", f"STREAM.PURGE.{STREAM}",
        f"STREAM.DELETE.{STREAM}", f"STREAM.UPDATE.{STREAM}", f"STREAM.INFO.{STREAM}", "STREAM.NAMES", "INFO",
    )  # fmt: skip
    answered = (
        f"$JS.ACK.{STREAM}.main-tester.1.1.1.1.0", f"$JS.ACK.{STREAM}.main-coder+gpu.1.1.1.1.0",
        f"$JS.ACK._.acc.{STREAM}.main-tester.1.1.1.1.0",
    )  # fmt: skip
    assert all(await refusals(url, *(f"SUB {subject} 1" for subject in heard)))
    assert all(await refusals(url, *(f"PUB $JS.API.{verb} _INBOX.main.ann.x 0" for verb in asked)))
    assert all(await refusals(url, *(f"PUB {subject} 0" for subject in answered)))
    gifted = await admitted(own_nats, OTHER, "gpu")
    assert await refusals(gifted, *(f"PUB $JS.API.{verb} _INBOX.main.bob.x 0" for verb in asked[:3])) == [
        True, False, True,
    ]  # fmt: skip


async def test_a_user_stays_as_it_is_over_restarts_until_it_is_given_something_else(own_nats: Nats) -> None:
    first = await admitted(own_nats, CODER)
    async with Bus.connect(own_nats.url) as system, Bus.connect(first, name="ann", inbox=inbox("main", "ann")) as bus:
        others = await asyncio.gather(*(admitted(own_nats, Speaker("coder", f"c{number}")) for number in range(50)))
        assert len(set(others)) == 50
        assert (system.generation, bus.generation) == (1, 1), "whoever is connected stays so"
        assert await admitted(own_nats, CODER) == first
    await own_nats.stop()
    await own_nats.start()
    assert await refusals(first, "PUB cairn.main.in.coder.ann 0") == [False]
    second = await admitted(own_nats, Speaker("tester", "ann"))
    assert second != first
    assert await refusals(second, "PUB cairn.main.in.coder.ann 0", "PUB cairn.main.in.tester.ann 0") == [True, False]
    with pytest.raises(AssertionError, match="not let in"):
        await refusals(first, "PUB cairn.main.in.coder.ann 0")


async def test_users_are_not_kept_for_ever(own_nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "USERS", 3)
    urls = [await admitted(own_nats, Speaker("coder", f"c{number}")) for number in range(5)]
    assert await asyncio.gather(*(let_in(url) for url in urls)) == [False, False, True, True, True]


async def let_in(url: str) -> bool:
    try:
        return await refusals(url, "PING") == [False]
    except AssertionError:
        return False


def test_a_consumer_serves_all_who_can_do_the_same() -> None:
    assert consumers("main", "coder", ["python", "gpu"]) == {
        "main-coder": "coder", "main-coder+gpu": "coder.gpu", "main-coder+python": "coder.python",
        "main-coder+gpu+python": "coder.gpu+python",
    }  # fmt: skip
    assert len(consumers("main", "coder", "abcd")) == 16
    mine: Sequence[str] = permissions("main", CODER, "abcd")["publish"]
    assert sorted(mine) == sorted(set(mine))
