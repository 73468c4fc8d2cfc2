"""What other processes have recorded, brought into this process's tail.

`fill` reads Postgres: at once when the tail has seen that it lacks something, else at intervals, so that nothing is
ever missed however silent the bus is. `listen` pulls from JetStream, so that what others record is here within
milliseconds; nothing from there is believed unless its digest continues the chain. That stops what is broken or stale,
not who computes a digest: if Postgres then goes on otherwise than the bus did, the ledger stops and says where. It rests
while this process writes alone: then all that it could bring is here already.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from uuid import uuid4

import msgspec
import structlog

from ledger.announce import understand
from ledger.errors import BrokenChain, LedgerUnavailable
from ledger.ports import Bus, Message
from ledger.recorded import Recorded
from ledger.rows import CHUNK_EVENTS
from ledger.tail import Tail

POLL_SECONDS = (0.025, 0.25)
AWAY_SECONDS = 0.5
PULL_SECONDS = 2.0
INACTIVE_SECONDS = 30
ALONE_EVENTS = 512
"""So many pulled events in a row that the tail had already: whoever records is in this process."""

log = structlog.get_logger(__name__)

Read = Callable[[int, int], Awaitable[list[Recorded]]]
"""Reads at most so many events after a position."""


async def fill(tail: Tail, read: Read) -> None:
    """Keeps the tail up to date from Postgres, for ever."""
    shortest, longest = POLL_SECONDS
    interval = shortest
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(interval):
                await tail.behind.wait()
        tail.behind.clear()
        try:
            events = await read(tail.last, CHUNK_EVENTS)
        except LedgerUnavailable as error:
            log.warning("ledger.follow.waits", error=str(error))
            await asyncio.sleep(AWAY_SECONDS)
            continue
        tail.offer(events, trusted=True)
        if events and events[-1].position > tail.last:
            why = "what was followed up to there, from the bus or before a restore, is not what the ledger holds"
            raise BrokenChain(tail.last + 1, why)
        if not events:
            tail.wanted = tail.last  # Postgres is the truth: whoever announced more was wrong
        if len(events) == CHUNK_EVENTS or tail.wanted > tail.last:
            tail.behind.set()
        interval = shortest if events else min(2 * interval, longest)


async def listen(tail: Tail, bus: Bus, stream: Callable[[], Awaitable[str]]) -> None:
    """Brings events from JetStream as they are published there, for ever. `stream` tells the present stream's name."""
    while True:
        try:
            await _pull(tail, bus, await stream())
            foreign = tail.foreign
            while tail.foreign == foreign:
                await asyncio.sleep(AWAY_SECONDS)
        except (TimeoutError, ConnectionError, LookupError, ValueError, LedgerUnavailable) as error:
            # Away, gone, or refused: Postgres is being read meanwhile, and the relay mends the stream.
            log.debug("ledger.listen.again", error=str(error))
            await asyncio.sleep(AWAY_SECONDS)


async def _pull(tail: Tail, bus: Bus, stream: str) -> None:
    """Returns when this process turned out to write alone; LookupError when the stream does not continue the tail."""
    name = f"follow-{uuid4().hex}"
    await bus.ensure_consumer(
        stream,
        {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": tail.last + 1,
            "ack_policy": "none",
            "mem_storage": True,
            "inactive_threshold": INACTIVE_SECONDS * 1_000_000_000,
        },
    )
    known = 0
    async with aclosing(bus.pull(stream, name, batch=256, wait_seconds=PULL_SECONDS)) as batches:
        async for messages in batches:
            new = [message for message in messages if message.sequence > tail.last]
            known = 0 if new else known + len(messages)
            if new and not tail.offer(_understood(new), trusted=False):
                raise LookupError(f"{stream} does not continue position {tail.last} at sequence {new[0].sequence}")
            if known > ALONE_EVENTS:
                return


def _understood(messages: Sequence[Message]) -> list[Recorded]:
    events = []
    for message in messages:
        try:
            recorded = understand(message.data)
        except msgspec.DecodeError:
            break
        if recorded.position != message.sequence:
            break
        events.append(recorded)
    return events
