"""One process that follows the ledger through JetStream: `python -m ops.bench.follower DSN TENANT NATS_URL`.

It says `ready` and follows from the head until its standard input ends; then it prints one JSON line: how many events
it saw, and how long after they were recorded (both clocks are this machine's).
"""

import asyncio
import json
import sys
import time
from contextlib import aclosing

import uvloop

from cairn.bus import Bus
from ledger.ledger import Ledger
from ops import logs
from ops.bench.writers import spread


async def main(dsn: str, tenant: str, nats_url: str) -> None:
    lags: list[float] = []

    async def follow(ledger: Ledger, after: int) -> None:
        async with aclosing(ledger.follow(after)) as batches:
            async for events in batches:
                now = time.time()
                lags.extend(now - event.recorded_at.timestamp() for event in events)

    async with Bus.connect(nats_url, name="bench") as bus, Ledger.open(dsn, tenant=tenant, bus=bus) as ledger:
        following = asyncio.create_task(follow(ledger, (await ledger.head()).position))
        await ledger.read(0, 1)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        following.cancel()
        print(json.dumps({"events": len(lags), **spread(lags)}), flush=True)


if __name__ == "__main__":
    logs.configure("warning")
    uvloop.run(main(*sys.argv[1:]))
