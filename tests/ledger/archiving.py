"""Archiving, for a process of its own that kills itself at a point."""

import asyncio
import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from psycopg import AsyncTransaction

from ledger import retire, segment
from ledger.postgres import connect

ALL = 1_000_000
ONE_AT_A_TIME = Lock()
POINTS: dict[str, tuple[Any, str]] = {
    "start of the file": (segment.Writing, "__init__"),
    "a block": (segment.Writing, "add"),
    "before the name": (Path, "replace"),
    "after the name": (os, "close"),
    "the sync": (os, "fsync"),
    "the check": (segment.Segment, "check"),
    "after the check": (retire, "digest_of"),
    "the rows": (retire, "_first_of_commands"),
    "before the transaction": (AsyncTransaction, "__aenter__"),
    "before the commit": (AsyncTransaction, "__aexit__"),
    "after the commit": (retire, "partitions"),
}


def fatal(original: Callable[..., Any], hits: int) -> Callable[..., Any]:
    def dying(*arguments: Any, **named: Any) -> Any:
        nonlocal hits
        if hits == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        hits -= 1
        return original(*arguments, **named)

    return dying


async def main(dsn: str, tenant: str, folder: Path, before: int) -> None:
    async with await connect(dsn, tenant) as connection:
        await retire.lock(connection, tenant)
        for partition in await retire.closed(connection, before):
            await retire.retire(connection, tenant, folder, partition)
        # By itself the server lets go only some time after we have closed the connection.
        await connection.execute("SELECT pg_advisory_unlock_all()")


def archive_of(env: dict[str, str], before: int = ALL) -> list[Path]:
    """Archives the closed partitions of an `eventsourcing` application's ledger; answers with the files there are."""
    folder = Path(env["CAIRN_DATA_DIR"], "archive")
    with ONE_AT_A_TIME, ThreadPoolExecutor(1) as apart:  # the caller's thread may have an event loop of its own
        apart.submit(asyncio.run, main(env["DATABASE_URL"], env["CAIRN_TENANT"], folder, before)).result()
    return sorted(folder.glob("*.segment"))


def archive(dsn: str, tenant: str, folder: Path, before: int, point: str | None, hits: int) -> None:
    """`point` is a name above, `hits` how many times it is passed first. It was not reached if this returns."""
    if point is not None:
        owner, name = POINTS[point]
        setattr(owner, name, fatal(getattr(owner, name), hits))
    asyncio.run(main(dsn, tenant, folder, before))
