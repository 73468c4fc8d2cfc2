"""Small histories for the ledger's tests, and the comparison that every fault test ends with."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from cairn.bus import Bus, Message
from domain.events import TaskStarted
from ledger.announce import understand
from ledger.append import Append, NewEvent
from ledger.codec import event_id
from ledger.ledger import Ledger
from ledger.pipe import Pipe
from ledger.recorded import Recorded
from ledger.stream import stream_name

SECONDS = 20.0
"""Longer than anything here takes; a test that waits for it has failed."""


def partitioned(url: str, size: int) -> str:
    """The same Postgres; a ledger that is created through this URL has `size` positions to a partition."""
    return f"{url}{'&' if '?' in url else '?'}options=-c%20cairn.partition_events%3D{size}"


def started(task: str = "indicators", agent: str = "coder-1") -> TaskStarted:
    return TaskStarted(task=task, run=f"{task}/1", agent=agent, lease_until=30.0, timeout_at=1800.0)


def append(stream: str, expected: int, count: int = 1, *, command: UUID | None = None, actor: str = "ann") -> Append:
    """An append of `count` events as a command would make it."""
    command = command or uuid4()
    new = [NewEvent(started(), event_id(command, index), actor, "corr", str(command)) for index in range(count)]
    return Append(stream, expected, new)


async def fill(ledger: Ledger, stream: str, count: int) -> list[Recorded]:
    """`count` events, one append each."""
    return [(await ledger.append(append(stream, version)))[0] for version in range(count)]


async def followed(ledger: Ledger, until: int, after: int = 0) -> list[Recorded]:
    """What a follower sees up to a position."""
    seen: list[Recorded] = []
    async with asyncio.timeout(SECONDS), aclosing(ledger.follow(after)) as batches:
        while after + len(seen) < until:
            seen += await anext(batches)
    return seen


async def until(condition: Any, *, every_seconds: float = 0.01) -> None:
    """Waits for a condition that nothing announces."""
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(every_seconds)


def lose_answers(monkeypatch: pytest.MonkeyPatch, losses: int) -> Callable[[], int]:
    """So many statements are carried out, and the connection breaks before anyone hears of it; how many are left."""
    send = Pipe.send

    async def lose(answer: asyncio.Future[int]) -> int:
        nonlocal losses
        written = await answer
        if losses:
            losses -= 1
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        return written

    monkeypatch.setattr(Pipe, "send", lambda *statement: asyncio.ensure_future(lose(send(*statement))))
    return lambda: losses


async def in_stream(bus: Bus, name: str) -> list[Recorded]:
    """The events a JetStream stream holds, each at its own sequence."""
    held = []
    for message in await everything_in(bus, name):
        recorded = understand(message.data)
        assert recorded.position == message.sequence
        held.append(recorded)
    return held


async def everything_in(bus: Bus, name: str) -> list[Message]:
    """All messages of a JetStream stream, in order."""
    info = await bus.api(f"STREAM.INFO.{name}")
    last, count = info["state"]["last_seq"], info["state"]["messages"]
    consumer = f"look-{uuid4().hex}"
    await bus.ensure_consumer(name, {"name": consumer, "ack_policy": "none", "mem_storage": True})
    held: list[Message] = []
    async with asyncio.timeout(SECONDS), aclosing(bus.pull(name, consumer, wait_seconds=0.5)) as batches:
        while len(held) < count:
            held += await anext(batches)
    assert not held or held[-1].sequence == last
    return held


async def assert_both_logs_equal(ledger: Ledger, bus: Bus) -> None:
    """Positions are gapless, the chain of digests holds, and JetStream holds the same events at the same sequences."""
    assert ledger.relay is not None
    head = await ledger.head()
    async with asyncio.timeout(SECONDS):
        await ledger.relay.published(head.position)
        while await ledger.relay.measure():  # it was there, and may have been lost since
            await asyncio.sleep(0.01)
    recorded = await all_of(ledger)
    assert [event.position for event in recorded] == list(range(1, head.position + 1))
    await ledger.verify()
    held = await in_stream(bus, stream_name(ledger.tenant, head.epoch))
    assert held == recorded[len(recorded) - len(held) :]
    assert held


async def all_of(ledger: Ledger) -> list[Recorded]:
    return [event async for chunk in _chunks(ledger) for event in chunk]


async def _chunks(ledger: Ledger) -> AsyncIterator[list[Recorded]]:
    after = 0
    while chunk := await ledger.read(after):
        yield chunk
        after = chunk[-1].position
