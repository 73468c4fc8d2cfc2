"""Partitions: made ahead of need and only once, as closed to change as the ledger itself, unique across their borders."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from appends import append, fill, partitioned, started, until

from ledger.append import Append, NewEvent
from ledger.codec import event_id
from ledger.errors import AlreadyRecorded, NotRecordable, WrongVersion
from ledger.ledger import Ledger
from ledger.migrate import FOLDER, migrate
from ledger.migrate import _apply as apply
from ledger.postgres import connect
from ledger.sql import SQL

PARTITION_EVENTS = 100
Rows = list[tuple[Any, ...]]


@pytest.fixture
def postgres_url(postgres_url: str) -> str:
    return partitioned(postgres_url, PARTITION_EVENTS)


@pytest.fixture
async def owner(ledger: Ledger, postgres_url: str, tenant: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    async with await connect(postgres_url, tenant) as connection:
        await connection.execute("SET ROLE NONE")
        yield connection


async def rows(connection: psycopg.AsyncConnection[Any], query: str) -> Rows:
    return await (await connection.execute(query)).fetchall()  # type: ignore[arg-type]


async def partitions(connection: psycopg.AsyncConnection[Any]) -> Rows:
    return await rows(connection, "SELECT first, last FROM partitions ORDER BY first")


async def test_the_next_partition_is_made_when_the_newest_is_half_full(
    ledger: Ledger, owner: psycopg.AsyncConnection[Any]
) -> None:
    await ledger.append(append("workflow-a", 0, 50))
    assert await partitions(owner) == [(1, 100)]
    await ledger.append(append("workflow-a", 50, 1))
    await until(lambda: ledger._writer._tip is not None)
    assert await partitions(owner) == [(1, 100), (101, 200)]
    await ledger.append(append("workflow-a", 51, 60))
    assert await partitions(owner) == [(1, 100), (101, 200)]
    assert await rows(owner, "SELECT count(*), min(position) FROM events_from_101") == [(11, 101)]


async def test_an_append_that_is_larger_than_partitions_goes_into_several(
    ledger: Ledger, owner: psycopg.AsyncConnection[Any]
) -> None:
    answer = await ledger.append(append("workflow-a", 0, 340))
    assert await ledger.read_stream("workflow-a") == answer
    assert await partitions(owner) == [(1, 100), (101, 200), (201, 300), (301, 400)]
    assert (await ledger.verify()).events == 340


async def test_many_who_need_a_partition_at_once_make_one(
    ledger: Ledger, owner: psycopg.AsyncConnection[Any], postgres_url: str, tenant: str
) -> None:
    async def ask() -> Any:
        async with await connect(postgres_url, tenant) as connection:
            return await (await connection.execute(SQL["partition_for"], {"position": 250})).fetchone()

    assert await asyncio.gather(*(ask() for _ in range(12))) == [(201, 300)] * 12
    assert await partitions(owner) == [(1, 100), (101, 200), (201, 300)]


@pytest.mark.parametrize("position", [0, -1, 10_000_000])
async def test_no_partition_is_made_for_a_position_that_is_far_away(
    ledger: Ledger, owner: psycopg.AsyncConnection[Any], position: int
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="the head is at 0"):
        await owner.execute(SQL["partition_for"], {"position": position})


async def test_the_role_that_may_only_append_gets_its_next_partition(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    """Tables of its own in front of ours do not mislead the function."""
    async with await connect(postgres_url, tenant) as role:
        await role.execute("CREATE TEMP TABLE partitions (first bigint, last bigint)")
        await role.execute("SELECT set_config('search_path', 'pg_temp, ' || current_setting('search_path'), false)")
        assert await rows(role, "SELECT first, last FROM partition_for(250)") == [(201, 300)]


@pytest.mark.parametrize("table", ["events", "events_from_1", "events_from_101", "partitions", "archived_commands"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "TRUNCATE {}", "UPDATE {} SET {} = {}"])
@pytest.mark.parametrize("role", ["origin", "replica"])
async def test_a_partition_is_never_changed_either(
    ledger: Ledger, owner: psycopg.AsyncConnection[Any], table: str, change: str, role: str
) -> None:
    if table == "partitions" and change.startswith("UPDATE"):
        pytest.skip("by design: archiving writes down where a partition has gone")
    await ledger.append(append("workflow-a", 0, 150))
    column = "id" if table == "archived_commands" else "position"
    await owner.execute(f"SET session_replication_role = {role}")  # type: ignore[arg-type]
    with pytest.raises(psycopg.errors.RestrictViolation, match="what has happened is never changed"):
        await owner.execute(change.format(table, column, column))  # type: ignore[arg-type]
    assert len(await ledger.read(0)) == 150


async def test_a_stream_goes_on_from_a_partition_that_is_long_full(ledger: Ledger) -> None:
    await ledger.append(append("workflow-old", 0, 3))
    await ledger.append(append("workflow-filler", 0, 350))
    for wrong in (0, 2, 4):
        with pytest.raises(WrongVersion, match=rf"{wrong} \(stream workflow-old is at version 3\)"):
            await ledger.append(append("workflow-old", wrong))
    (event,) = await ledger.append(append("workflow-old", 3))
    assert (event.version, event.position) == (4, 354)
    with pytest.raises(WrongVersion, match=r"3 \(stream workflow-old is at version 4\)"):
        await ledger.append(append("workflow-old", 3))
    assert [event.version for event in await ledger.read_stream("workflow-old")] == [1, 2, 3, 4]


async def test_a_command_inside_an_append_is_not_recorded_again_across_the_border(ledger: Ledger) -> None:
    """The first append of a group ends in a partition, the second begins the next one, whose indices know nothing of it."""
    await ledger.append(append("workflow-a", 0, 98))
    one, other = append("workflow-b", 0), append("workflow-b", 1)
    outcomes = await asyncio.gather(
        ledger.append(Append("workflow-b", 0, [*one.events, *other.events])),
        ledger.append(Append("workflow-b", 2, other.events)),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], AlreadyRecorded)
    assert (await ledger.head()).position == 100


async def test_the_writer_alone_on_its_fast_path_refuses_what_an_older_partition_holds(ledger: Ledger) -> None:
    """Every claim is judged by the statement itself: nothing of a group is inserted if one of them does not hold."""
    command = uuid4()
    first = await ledger.append(append("workflow-old", 0, 2, command=command))
    await ledger.append(append("workflow-filler", 0, 250))
    for stream, expected, number in (("workflow-old", 0, 2), ("workflow-new", 0, 1), ("workflow-old", 2, 1)):
        await ledger.append(append(f"workflow-w{number}{expected}{stream[9:]}", 0))
        assert ledger._writer._tip is not None
        with pytest.raises((WrongVersion, AlreadyRecorded)) as refusal:
            await ledger.append(append(stream, expected, number, command=command))
        assert isinstance(refusal.value, AlreadyRecorded)
        assert refusal.value.recorded == first
    assert len(await ledger.read_stream("workflow-old")) == 2
    assert await ledger.read_stream("workflow-new") == []


async def test_a_command_that_is_repeated_in_the_middle_of_an_append_is_seen_across_partitions(ledger: Ledger) -> None:
    old, new = uuid4(), uuid4()
    await ledger.append(append("workflow-a", 0, 2, command=old))
    await ledger.append(append("workflow-filler", 0, 250))
    both = [event for command in (new, old) for event in events_of(command)]
    with pytest.raises(NotRecordable, match="is recorded already"):
        await ledger.append(Append("workflow-a", 2, both))
    assert len(await ledger.read_stream("workflow-a")) == 2
    assert [event.version for event in await ledger.append(Append("workflow-a", 2, both[:2]))] == [3, 4]


def events_of(command: UUID) -> list[NewEvent]:
    return [NewEvent(started(), event_id(command, index), "ann", "corr", str(command)) for index in range(2)]


async def test_a_stream_is_looked_for_by_its_index_and_in_the_newest_partition_first(
    ledger: Ledger, owner: psycopg.AsyncConnection[Any]
) -> None:
    await ledger.append(append("workflow-a", 0, 250))
    plan = await rows(
        owner,
        "EXPLAIN (GENERIC_PLAN) SELECT true FROM events WHERE stream = $1 AND version = $2 AND position >= $3::bigint",
    )
    text = "\n".join(line for (line,) in plan)
    assert text.count("_stream_version") == text.count("Index Cond: ((stream = $1) AND (version = $2))") == 3
    await owner.execute("PREPARE held AS SELECT true FROM events WHERE stream = $1 AND version = $2 AND position >= $3")
    pruned = "\n".join(line for (line,) in await rows(owner, "EXPLAIN EXECUTE held ('workflow-a', 7, 201)"))
    assert "Subplans Removed: 2" in pruned
    assert "events_from_1_" not in pruned
    assert "events_from_101_" not in pruned


async def test_what_was_recorded_before_there_were_partitions_is_the_first_of_them(
    postgres_url: str, tenant: str
) -> None:
    """The migration, over a ledger that holds more than a partition."""
    earlier = {file.name: file.read_bytes() for file in sorted(FOLDER.glob("*.sql")) if file.name < "0004"}
    async with await connect(postgres_url, tenant) as connection:
        async with connection.transaction():
            await apply(connection, tenant, earlier)
        async with connection.transaction():
            await connection.execute("UPDATE ledger_head SET position = 250, digest = sha256('250')")
            await connection.execute(
                "INSERT INTO events SELECT n, 'workflow-a', n, 'task.started', gen_random_uuid(), now(), NULL, NULL,"
                " 'ann', NULL, '{}', sha256(n::text::bytea) FROM generate_series(1, 250) n"
            )
        file_before = await rows(connection, "SELECT pg_relation_filenode('events')")
        await migrate(connection, tenant)
        await connection.execute("SET ROLE NONE")
        assert await partitions(connection) == [(1, 300)]
        assert await rows(connection, "SELECT pg_relation_filenode('events_from_1')") == file_before
    async with Ledger.open(postgres_url, tenant=tenant) as ledger:
        with pytest.raises(WrongVersion):
            await ledger.append(append("workflow-a", 249))
        await ledger.append(append("workflow-a", 250, 60))
        await fill(ledger, "workflow-b", 3)
        assert [event.position for event in await ledger.read(0)] == list(range(1, 314))
        assert (await ledger.verify(251)).events == 63
