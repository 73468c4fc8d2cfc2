"""One history, one order, no holes: several processes, and a writer that takes its time."""

import asyncio
import sys
from pathlib import Path

import psycopg
from appends import SECONDS, append, assert_both_logs_equal, fill, followed, until

from cairn.bus import Bus
from ledger.ledger import Ledger

PROGRAM = Path(__file__).parent / "another_process.py"
PROCESSES, WRITERS, APPENDS = 4, 16, 6


async def test_four_processes_and_a_tailing_reader_see_one_history(
    postgres_url: str, nats_url: str, tenant: str, bus: Bus
) -> None:
    total = PROCESSES * (WRITERS + 1) * APPENDS
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        following = asyncio.create_task(followed(ledger, total))
        tailing = asyncio.create_task(tailed(ledger, total))
        arguments = (postgres_url, tenant, nats_url)
        processes = [
            await asyncio.create_subprocess_exec(
                sys.executable, PROGRAM, *arguments, f"p{number}-", str(WRITERS), str(APPENDS)
            )
            for number in range(PROCESSES)
        ]
        assert [await process.wait() for process in processes] == [0] * PROCESSES
        recorded = await ledger.read(0)
        assert [event.position for event in recorded] == list(range(1, total + 1))
        assert await following == recorded
        assert await tailing == list(range(1, total + 1))
        assert len(await ledger.read_stream("workflow-shared")) == PROCESSES * APPENDS
        await assert_both_logs_equal(ledger, bus)


async def tailed(ledger: Ledger, total: int) -> list[int]:
    """Positions as a reader meets them who asks again and again, and never looks back."""
    positions: list[int] = []
    async with asyncio.timeout(SECONDS):
        while len(positions) < total:
            positions += [event.position for event in await ledger.read(positions[-1] if positions else 0)]
    return positions


async def test_nobody_sees_what_comes_after_an_open_transaction(ledger: Ledger, postgres_url: str, tenant: str) -> None:
    """A slow writer holds position 2; whoever comes later must not be seen, nor numbered, before it."""
    (first,) = await fill(ledger, "workflow-a", 1)
    async with await psycopg.AsyncConnection.connect(postgres_url) as slow:
        await slow.execute(f"SET search_path = cairn_{tenant}")
        await slow.execute("UPDATE ledger_head SET position = 2, digest = sha256('slow')")
        await slow.execute(
            "INSERT INTO events SELECT 2, 'workflow-slow', 1, type, gen_random_uuid(), now(), NULL, NULL, 'slow', NULL,"
            " state, sha256('slow') FROM events"
        )
        later = asyncio.create_task(ledger.append(append("workflow-b", 0)))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid <> pg_backend_pid()"
        async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as other:
            async with asyncio.timeout(SECONDS):
                while (await (await other.execute(waiting)).fetchone()) == (0,):
                    await asyncio.sleep(0.01)
        assert await ledger.read(0) == [first]
        assert not later.done()
        await slow.commit()
    (event,) = await later
    assert event.position == 3
    assert [event.actor for event in await ledger.read(0)] == ["ann", "slow", "ann"]


async def test_a_writer_that_waits_longer_than_the_lock_timeout_asks_again(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    await fill(ledger, "workflow-a", 1)
    async with await psycopg.AsyncConnection.connect(postgres_url) as slow:
        await slow.execute(f"SELECT 1 FROM cairn_{tenant}.ledger_head FOR UPDATE")
        later = asyncio.create_task(ledger.append(append("workflow-b", 0)))
        pipe = ledger._writer._pipe
        await until(lambda: ledger._writer._pipe is not pipe)
        assert not later.done()
        await slow.rollback()
    assert (await later)[0].position == 2


async def test_a_bigserial_shows_later_positions_first_and_a_tailing_reader_misses_what_was_open(
    postgres_url: str, tenant: str
) -> None:
    """The same reader and the same slow writer on the table that one would write first: this is what the head is for."""
    async with (
        await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as reader,
        await psycopg.AsyncConnection.connect(postgres_url) as slow,
    ):
        table = f"plain_{tenant}"
        await reader.execute(f"CREATE TABLE {table} (position bigserial PRIMARY KEY, actor text)")
        seen: list[tuple[int, str]] = []

        async def look() -> None:
            after = seen[-1][0] if seen else 0
            found = await reader.execute(f"SELECT * FROM {table} WHERE position > %s ORDER BY position", (after,))
            seen.extend(await found.fetchall())

        await slow.execute(f"INSERT INTO {table} (actor) VALUES ('slow')")
        await reader.execute(f"INSERT INTO {table} (actor) VALUES ('quick')")
        await look()
        await slow.commit()
        await look()
        assert seen == [(2, "quick")], "position 1 is committed, and will never be seen"
        await reader.execute(f"DROP TABLE {table}")
