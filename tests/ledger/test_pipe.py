"""Statements sent one behind the other: answered in order, each committed alone, and failed for certain when the line is lost."""

import asyncio

import psycopg
import pytest
import uvloop
from appends import SECONDS

from ledger import arrays
from ledger.arrays import Column
from ledger.pipe import Pipe
from ledger.postgres import connect

INSERT = "INSERT INTO kept SELECT * FROM unnest(%(ids)s::int[])"
SLEEP = "SELECT pg_sleep(60) FROM unnest(%(ids)s::int[])"


def ids(*numbers: int) -> dict[str, Column]:
    return {"ids": arrays.integers(numbers)}


async def fails(pipe: Pipe) -> None:
    """Returns when it has noticed that nobody is there any more."""
    try:
        while True:
            await pipe.send("SELECT FROM unnest(%(ids)s::int[])", ids(1))
    except psycopg.OperationalError:
        return


@pytest.fixture
async def pipe(postgres_url: str, tenant: str):  # type: ignore[no-untyped-def]
    async with await connect(postgres_url, tenant) as owner:
        await owner.execute(f"CREATE SCHEMA cairn_{tenant}")
        await owner.execute("CREATE TABLE kept (id integer PRIMARY KEY)")
        one = Pipe(await connect(postgres_url, tenant))
        yield one, owner
        await one.close()


async def test_answers_come_in_order_and_a_failure_is_its_own_statement_s_alone(pipe) -> None:  # type: ignore[no-untyped-def]
    one, owner = pipe
    answers = [one.send(INSERT, ids(*numbers)) for numbers in ((1, 2), (2, 3), (4,))]
    assert await answers[0] == 2
    with pytest.raises(psycopg.errors.UniqueViolation, match="kept_pkey"):
        await answers[1]
    assert await answers[2] == 1
    assert await (await owner.execute("SELECT array_agg(id ORDER BY id) FROM kept")).fetchone() == ([1, 2, 4],)


async def test_a_statement_as_large_as_they_come_is_sent_while_others_are_answered(pipe) -> None:  # type: ignore[no-untyped-def]
    one, _ = pipe
    answers = [one.send(INSERT, ids(*range(start, start + 500_000))) for start in (0, 500_000)]
    async with asyncio.timeout(SECONDS):
        assert await asyncio.gather(*answers) == [500_000, 500_000]


@pytest.mark.parametrize("waiting", [0, 1, 3])
async def test_a_lost_line_fails_what_waits_and_what_comes_and_disturbs_nobody_else(  # type: ignore[no-untyped-def]
    pipe, waiting: int, postgres_url: str, tenant: str
) -> None:
    """libpq closes its socket at once, and whoever connects next gets the same number."""
    one, owner = pipe
    assert await one.send(INSERT, ids(1)) == 1
    answers = [one.send(SLEEP, ids(1)) for _ in range(waiting)]
    await owner.execute("SELECT pg_terminate_backend(%s)", (one.backend_pid,))
    async with asyncio.timeout(SECONDS):
        for answer in answers:
            with pytest.raises(psycopg.OperationalError):
                await answer
        others = [Pipe(await connect(postgres_url, tenant)) for _ in range(3)]
        await fails(one)
        await one.close()
        for number, other in enumerate(others, 10):
            assert await other.send(INSERT, ids(number)) == 1
            await other.close()


def test_under_uvloop_too_a_line_that_breaks_with_something_unread_fails_what_waits(postgres_url: str) -> None:
    """Postgres has not read the second statement when it is ended: that is an error of the line, and not its end alone."""

    async def story() -> None:
        ours, theirs = [await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) for _ in range(2)]
        pipe = Pipe(ours)
        asleep = pipe.send(SLEEP, ids(1))
        sleeping = "SELECT FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"
        while (await theirs.execute(sleeping, (pipe.backend_pid,))).rowcount == 0:
            await asyncio.sleep(0)
        unread = pipe.send(SLEEP, ids(2))
        await theirs.execute("SELECT pg_terminate_backend(%s)", (pipe.backend_pid,))
        for answer in (asleep, unread):
            with pytest.raises(psycopg.OperationalError):
                async with asyncio.timeout(SECONDS):
                    await answer
        await pipe.close()
        await theirs.close()

    uvloop.run(story())
