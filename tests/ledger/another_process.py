"""A process that appends for itself: `another_process.py DSN TENANT NATS_URL|- NAME WRITERS APPENDS`."""

import asyncio
import sys
from contextlib import AsyncExitStack

from appends import append, fill

from cairn.bus import Bus
from ledger.errors import WrongVersion
from ledger.ledger import Ledger


async def main(dsn: str, tenant: str, nats_url: str, name: str, writers: int, appends: int) -> None:
    async with AsyncExitStack() as stack:
        bus = None if nats_url == "-" else await stack.enter_async_context(Bus.connect(nats_url))
        ledger = await stack.enter_async_context(Ledger.open(dsn, tenant=tenant, bus=bus))
        async with asyncio.TaskGroup() as group:
            for number in range(writers):
                group.create_task(fill(ledger, f"workflow-{name}{number}", appends))
            group.create_task(share(ledger, appends))


async def share(ledger: Ledger, appends: int) -> None:
    """Appends to a stream that every process appends to."""
    for _ in range(appends):
        while True:
            version = len(await ledger.read_stream("workflow-shared"))
            try:
                await ledger.append(append("workflow-shared", version))
                break
            except WrongVersion:
                continue


if __name__ == "__main__":
    dsn, tenant, nats_url, name, writers, appends = sys.argv[1:]
    asyncio.run(main(dsn, tenant, nats_url, name, int(writers), int(appends)))
