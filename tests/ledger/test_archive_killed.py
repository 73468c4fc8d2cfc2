"""No kill -9 loses an event on its way into the archive."""

# ruff: noqa: F811 - fixtures that were imported
import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from appends import all_of
from test_archive import ALL, history, ledger, postgres_url  # noqa: F401

from ledger.errors import ArchiveBusy
from ledger.history import partitions
from ledger.ledger import Ledger
from ledger.postgres import connect
from ledger.recorded import Recorded
from ledger.retire import lock
from tests.forks import FORKS
from tests.ledger.archiving import POINTS, archive


def begun(url: str, tenant: str, folder: Path, point: str | None = None, hit: int = 0) -> ForkServerProcess:
    process = FORKS.Process(target=archive, args=(url, tenant, folder, ALL, point, hit))
    process.start()
    return process


def archiving(url: str, tenant: str, folder: Path, point: str | None = None, hit: int = 0) -> int | None:
    process = begun(url, tenant, folder, point, hit)
    process.join()
    return process.exitcode


@pytest.mark.parametrize("point", sorted(POINTS))
async def test_a_kill_at_any_point_leaves_the_partition_or_the_segment(
    ledger: Ledger, postgres_url: str, tenant: str, tmp_path: Path, point: str
) -> None:
    events = await history(ledger)
    killed = 0
    for hit in (0, 1, 3):
        killed += archiving(postgres_url, tenant, tmp_path, point, hit) == -9
        await assert_whole(postgres_url, tenant, tmp_path, events)
    assert killed, "no kill fell on this point"
    assert archiving(postgres_url, tenant, tmp_path) == 0
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".segment"] * 4
    await assert_whole(postgres_url, tenant, tmp_path, events)
    assert await all_of(ledger) == events


async def test_kills_at_random_times_lose_nothing(
    ledger: Ledger, postgres_url: str, tenant: str, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    events = await history(ledger)
    for _ in range(6):
        process = begun(postgres_url, tenant, tmp_path)
        process.join(chance.uniform(0.0, 0.3))
        process.kill()
        process.join()
        await assert_whole(postgres_url, tenant, tmp_path, events)
    assert archiving(postgres_url, tenant, tmp_path) == 0
    await assert_whole(postgres_url, tenant, tmp_path, events)


async def assert_whole(url: str, tenant: str, folder: Path, events: list[Recorded]) -> None:
    """Every partition is in the table or in its segment, never in neither; all is read, by whoever comes new."""
    async with settled(url, tenant) as connection, Ledger.open(url, tenant=tenant, archive=folder) as later:
        for one in await partitions(connection):
            cursor = await connection.execute("SELECT to_regclass(%s) IS NULL", (f"events_from_{one.first}",))
            assert await cursor.fetchone() == (one.segment is not None,)
            assert one.segment is None or (folder / one.segment).exists()
        assert await all_of(later) == events
        assert (await later.verify()).events == len(events)
        assert await later.find_command(uuid4()) == []


@asynccontextmanager
async def settled(url: str, tenant: str) -> AsyncIterator[psycopg.AsyncConnection[tuple[object, ...]]]:
    """A connection, once the backend of whoever was killed has noticed: until then it holds the archive's lock."""
    async with await connect(url, tenant) as connection:
        async with asyncio.timeout(20):
            while True:
                try:
                    await lock(connection, tenant)
                    break
                except ArchiveBusy:
                    await asyncio.sleep(0.01)
        yield connection
