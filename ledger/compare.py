"""Whether JetStream holds what the ledger holds: the same event, told by its id and its digest, at every sequence.

A stream holds a window: what lies before its first sequence has left it in order (age, bytes) or was never put there,
and is in Postgres alone. Within the window every position has to be there.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import msgspec
from msgspec import Struct

from ledger.announce import subject_for, understand
from ledger.ports import Bus, Message
from ledger.recorded import Recorded
from ledger.rows import Head
from ledger.stream import State, look, message, stream_config
from ledger.verify import Read, bounds

BATCH = 500
PULL_SECONDS = 2.0
INACTIVE_SECONDS = 30
PATIENCE_SECONDS = 10.0
"""For so long what was recorded when the comparison began may still be on its way into the stream."""
LOOK_SECONDS = 0.02
ATTEMPTS = 5


class Difference(Struct, frozen=True):
    """The first sequence at which the stream is not the ledger, why, and the message that stands there, if one does."""

    position: int
    why: str
    message: Message | None = None


class Compared(Struct, frozen=True):
    """Positions `first` to `last` are equal in both, up to `difference`; `before` of those asked for lie before the
    window of the stream. Nothing was compared if `last` is less than `first`."""

    stream: str
    first: int
    last: int
    before: int
    difference: Difference | None


async def compare(
    read: Read,
    head: Callable[[], Awaitable[tuple[Head, UUID]]],
    bus: Bus,
    tenant: str,
    first: int = 1,
    last: int | None = None,
) -> Compared:
    """Compares these positions (to the head if `last` is None), also while relays are at work.

    It begins anew when the epoch is raised meanwhile, or the stream is lost. ForeignStream for another ledger's
    stream; TimeoutError, ConnectionError when NATS does not answer or loses the stream again and again;
    LedgerUnavailable when Postgres does not answer.
    """
    for again in reversed(range(ATTEMPTS)):
        until, origin = await head()
        try:
            compared = await _compare(read, head, until, origin, bus, tenant, first, last)
        except LookupError as error:
            if not again:
                raise TimeoutError(f"{error} ({ATTEMPTS} attempts)") from error
            continue
        if (await head())[0].epoch == until.epoch:
            return compared
    raise TimeoutError(f"the stream of the tenant {tenant} was given up {ATTEMPTS} times while it was compared")


async def _compare(
    read: Read,
    head: Callable[[], Awaitable[tuple[Head, UUID]]],
    until: Head,
    origin: UUID,
    bus: Bus,
    tenant: str,
    asked: int,
    last: int | None,
) -> Compared:
    config = stream_config(tenant, until.epoch, origin, 1)
    asked, to = bounds(until, asked, last)
    state = await _holding(bus, config, to)
    if state is None:
        none = Difference(asked, "there is no stream") if asked <= to else None
        return Compared(config["name"], asked, asked - 1, 0, none)
    first, end = max(asked, state.first), min(to, state.last)
    async with aclosing(differences(bus, config, tenant, read, first, end)) as found:
        difference = await anext(found, None)
    if difference is None and end < to:
        difference = Difference(end + 1, "it is recorded, and not in the stream")
    if difference is None and last is None:
        difference = await _beyond(bus, config, head)
    equal = end if difference is None else min(end, difference.position - 1)
    return Compared(config["name"], first, equal, max(0, min(first, to + 1) - asked), difference)


async def differences(
    bus: Bus, config: dict[str, Any], tenant: str, read: Read, first: int, last: int
) -> AsyncGenerator[Difference, None]:
    """Every difference between the stream and the ledger at these sequences, in order; a run of messages that are
    missing is one. What leaves the stream at its beginning meanwhile is none."""
    expected = first
    truth: dict[int, Recorded] = {}
    ended = False
    async with aclosing(_messages(bus, config["name"], first, last)) as batches:
        async for batch in batches:
            for held in batch:
                position = held.sequence
                if position > expected and (missing := await _missing(bus, config, expected, position - 1)):
                    yield missing
                if position not in truth and not ended:  # where the ledger ends, it holds nothing behind either
                    truth = {recorded.position: recorded for recorded in await read(position - 1, BATCH)}
                    ended = not truth
                if why := differs(held, truth.get(position), tenant):
                    yield Difference(position, why, held)
                expected = position + 1
    if expected <= last and (missing := await _missing(bus, config, expected, last)):
        yield missing


def differs(message: Message, truth: Recorded | None, tenant: str) -> str:
    """Why a message does not announce the event at its sequence; empty if it does. One without its state, which was
    too large, is told by id and digest."""
    if truth is None:
        return "the ledger has no such position"
    try:
        held = understand(message.data)
    except msgspec.DecodeError as error:
        return f"it is no announcement: {error}"
    if held != truth and (held.state or (held.id, held.digest) != (truth.id, truth.digest)):
        same = "the same event, altered" if held.id == truth.id else f"event {held.id}"
        return f"it holds {same}; the ledger has event {truth.id} with the digest {truth.digest.hex()}"
    if message.subject != subject_for(truth, tenant):
        return f"it stands under {message.subject}, not under {subject_for(truth, tenant)}"
    return ""


async def _holding(bus: Bus, config: dict[str, Any], position: int) -> State | None:
    """The stream once it goes as far as the position, or as far as it goes within patience; None if there is none."""
    deadline = monotonic() + PATIENCE_SECONDS
    while True:
        state = await look(bus, config)
        if (state is not None and state.last >= position) or monotonic() > deadline:
            return state
        await asyncio.sleep(LOOK_SECONDS)


async def _beyond(
    bus: Bus, config: dict[str, Any], head: Callable[[], Awaitable[tuple[Head, UUID]]]
) -> Difference | None:
    state = await look(bus, config)
    position = (await head())[0].position  # read after the stream was: what is in it then was recorded before
    if state is None or state.last <= position:
        return None
    return Difference(position + 1, f"the ledger ends before it, the stream goes to {state.last}")


async def _missing(bus: Bus, config: dict[str, Any], first: int, last: int) -> Difference | None:
    """LookupError if nobody can tell: the stream was lost and is being filled, or we were not sent what it holds."""
    state = await look(bus, config)
    if state is None or state.last < last:
        raise LookupError(f"stream {config['name']} lost what it held while it was compared: the relay fills it again")
    first = max(first, state.first)
    if first > last:
        return None
    if await message(bus, config["name"], first) is not None:
        raise LookupError(f"stream {config['name']} holds sequence {first} and did not send it")
    return Difference(first, "it is missing in the stream" + (f", as are those up to {last}" if last > first else ""))


async def _messages(bus: Bus, stream: str, first: int, last: int) -> AsyncGenerator[list[Message], None]:
    """What the stream holds at these sequences, in order."""
    if first > last:
        return
    name = f"compare-{uuid4().hex}"
    await bus.ensure_consumer(
        stream,
        {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": first,
            "ack_policy": "none",
            "mem_storage": True,
            "inactive_threshold": INACTIVE_SECONDS * 1_000_000_000,
        },
    )
    try:
        async with aclosing(bus.pull(stream, name, batch=BATCH, wait_seconds=PULL_SECONDS)) as batches:
            async for messages in batches:
                within = [message for message in messages if message.sequence <= last]
                yield within
                if len(within) < len(messages) or (within and within[-1].sequence == last):
                    return
                if not messages:
                    told = await bus.api(f"CONSUMER.INFO.{stream}.{name}")
                    if "error" in told:
                        raise LookupError(f"consumer {name} of {stream} is gone: {told['error'].get('description')}")
                    if not told["num_pending"]:
                        return
    finally:
        with suppress(ConnectionError, TimeoutError):  # it ends by itself, later
            await bus.api(f"CONSUMER.DELETE.{stream}.{name}")
