"""One process that appends to the ledger: `python -m ops.bench.writers DSN TENANT NATS_URL|- WRITERS GROUP SECONDS RATE`.

It says `ready`, begins at a line on its standard input, and prints one JSON line: how many events and appends were
recorded, and how long an append took. RATE is in events a second, 0: as many as there can be.
"""

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import uvloop

from cairn.bus import Bus
from domain.events import TaskStarted
from ledger.append import Append, NewEvent
from ledger.codec import event_id
from ledger.ledger import Ledger
from ops import logs
from ops.garbage import collect_seldom

EVENT = TaskStarted(task="indicators", run="indicators/1", agent="coder-1", lease_until=30.0, timeout_at=1800.0)


def appended(stream: str, expected: int, count: int) -> Append:
    """An append as a command would make it."""
    command = uuid4()
    cause = str(command)
    return Append(
        stream, expected, [NewEvent(EVENT, event_id(command, n), "bench", stream, cause) for n in range(count)]
    )


async def write(ledger: Ledger, writers: int, group: int, seconds: float, rate: float = 0.0) -> dict[str, Any]:
    """Each writer appends `group` events at a time to a stream of its own until the time is over.

    With a bus it is told too how long after its commit an append was in JetStream.
    """
    begun = time.perf_counter()
    pause = writers * group / rate if rate else 0.0
    taken: list[float] = []
    relayed: list[float] = []

    async def relaying(position: int, committed: float) -> None:
        assert ledger.relay is not None
        await ledger.relay.published(position)
        relayed.append(time.perf_counter() - committed)

    async def writer(number: int) -> None:
        stream, version = f"workflow-{uuid4().hex}", 0
        due = begun + pause * number / writers
        while (now := time.perf_counter()) - begun < seconds:
            if due > now:
                await asyncio.sleep(due - now)
            due += pause
            asked = time.perf_counter()
            recorded = await ledger.append(appended(stream, version, group))
            committed = time.perf_counter()
            taken.append(committed - asked)
            version += group
            if ledger.relay is not None:
                waiting.create_task(relaying(recorded[-1].position, committed))

    async with asyncio.TaskGroup() as waiting:
        await asyncio.gather(*(writer(number) for number in range(writers)))
        elapsed = time.perf_counter() - begun
    figures = {"events": len(taken) * group, "events_per_s": round(len(taken) * group / elapsed), **spread(taken)}
    return figures | ({"relay": spread(relayed)} if relayed else {})


def spread(seconds: list[float]) -> dict[str, float]:
    """The middle and the slow end of some times, in milliseconds."""
    ordered = sorted(seconds)
    return {f"p{share}_ms": round(ordered[len(ordered) * share // 100] * 1000, 2) for share in (50, 99)}


async def main(dsn: str, tenant: str, nats_url: str, writers: int, group: int, seconds: float, rate: float) -> None:
    async with AsyncExitStack() as stack:
        bus = None if nats_url == "-" else await stack.enter_async_context(Bus.connect(nats_url, name="bench"))
        ledger = await stack.enter_async_context(Ledger.open(dsn, tenant=tenant, bus=bus))
        await write(ledger, writers, group, 0.2)  # statements prepared, pages warm
        collect_seldom()
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        print(json.dumps(await write(ledger, writers, group, seconds, rate)), flush=True)


if __name__ == "__main__":
    logs.configure("warning")
    at, of, over, many, size, lasting, pace = sys.argv[1:]
    uvloop.run(main(at, of, over, int(many), int(size), float(lasting), float(pace)))
