"""What has happened is never changed; who changes it all the same is found out."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from appends import append, fill, followed

from ledger.codec import chain
from ledger.errors import BrokenChain, MigrationError
from ledger.ledger import Ledger
from ledger.migrate import FOLDER, migrate
from ledger.postgres import connect
from ledger.verify import Verified

Superuser = psycopg.AsyncConnection[tuple[object, ...]]


@pytest.fixture
async def superuser(ledger: Ledger, postgres_url: str, tenant: str) -> AsyncIterator[Superuser]:
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"SET search_path = cairn_{tenant}")
        yield connection


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET actor = 'nobody'",
        "UPDATE events SET actor = 'nobody' WHERE false",
        "DELETE FROM events",
        "TRUNCATE events",
        "DELETE FROM ledger_head",
        "TRUNCATE ledger_head",
        "SET session_replication_role = replica; DELETE FROM events",
    ],
)
async def test_update_delete_and_truncate_are_refused(ledger: Ledger, superuser: Superuser, change: str) -> None:
    await fill(ledger, "workflow-a", 2)
    with pytest.raises(psycopg.errors.RestrictViolation, match="what has happened is never changed"):
        await superuser.execute(change)
    assert len(await ledger.read(0)) == 2


@pytest.mark.parametrize(
    ("tampering", "position"),
    [
        ("UPDATE events SET state = replace(state::text, '5c', '5d')::bytea || 'x' WHERE position = 4", 4),
        ("UPDATE events SET actor = 'nobody' WHERE position = 1", 1),
        ("UPDATE events SET recorded_at = recorded_at + interval '1 microsecond' WHERE position = 6", 6),
        ("DELETE FROM events WHERE position = 5", 5),
        ("DELETE FROM events WHERE position > 4", 5),
        ("UPDATE events SET digest = sha256(digest) WHERE position = 6", 6),
        ("UPDATE ledger_head SET digest = sha256(digest)", 6),
        (
            "INSERT INTO events SELECT 0, stream, 7, type, gen_random_uuid(), recorded_at, correlation_id, causation_id,"
            " actor, traceparent, state, digest FROM events WHERE position = 6",
            0,
        ),
    ],
)
async def test_verify_names_the_first_position_that_was_changed(
    ledger: Ledger, superuser: Superuser, tampering: str, position: int
) -> None:
    await fill(ledger, "workflow-a", 6)
    assert (await ledger.verify()).position == 6
    await superuser.execute("ALTER TABLE events DISABLE TRIGGER ALL")
    await superuser.execute(tampering)
    with pytest.raises(BrokenChain, match=f"position {position}:") as broken:
        await ledger.verify()
    assert broken.value.position == position


async def test_an_event_that_was_put_behind_the_head_is_found(ledger: Ledger, superuser: Superuser) -> None:
    """It follows on the chain, as anyone can compute; every reader would take it for history."""
    (event,) = await fill(ledger, "workflow-a", 1)
    envelope = (2, "workflow-a", 2, *event.envelope[3:4], uuid4(), *event.envelope[5:])
    row = (*envelope, event.state, chain(event.digest, envelope, event.state))
    await superuser.execute("INSERT INTO events VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", row)
    with pytest.raises(BrokenChain, match="position 2: the head does not go that far"):
        await ledger.verify()


async def test_readers_stop_where_an_event_is_missing(ledger: Ledger, superuser: Superuser) -> None:
    await fill(ledger, "workflow-a", 6)
    await superuser.execute("ALTER TABLE events DISABLE TRIGGER ALL; DELETE FROM events WHERE position = 4")
    assert [event.position for event in await ledger.read(1, 2)] == [2, 3]
    with pytest.raises(BrokenChain, match="position 4: it is missing"):
        await followed(ledger, 6)
    with pytest.raises(BrokenChain, match="position 4: it is missing"):
        await ledger.verify(5)


async def test_a_part_behind_the_head_holds_nothing(ledger: Ledger) -> None:
    head = (await fill(ledger, "workflow-a", 2))[-1]
    assert await ledger.verify(100) == Verified(0, 2, head.digest)


async def test_a_part_can_be_verified_alone(ledger: Ledger, superuser: Superuser) -> None:
    await ledger.append(append("workflow-a", 0, 2_100))
    await superuser.execute("ALTER TABLE events DISABLE TRIGGER ALL")
    await superuser.execute("UPDATE events SET actor = 'nobody' WHERE position = 1500")
    assert (await ledger.verify(1, 1_499)).events == 1_499
    assert (await ledger.verify(1_501)).events == 600
    with pytest.raises(BrokenChain, match="position 1500:"):
        await ledger.verify(1_400, 1_600)


async def test_two_processes_that_start_at_once_migrate_once(postgres_url: str, tenant: str) -> None:
    async with await connect(postgres_url, tenant) as one, await connect(postgres_url, tenant) as other:
        applied = await asyncio.gather(migrate(one, tenant), migrate(other, tenant))
    assert sorted(applied, key=len) == [[], [file.name for file in sorted(FOLDER.glob("*.sql"))]]


async def test_migrations_are_applied_once_and_a_changed_or_newer_one_is_an_error(
    postgres_url: str, tenant: str, tmp_path: Path
) -> None:
    async with await connect(postgres_url, tenant) as connection:
        names = [file.name for file in sorted(FOLDER.glob("*.sql"))]
        assert await migrate(connection, tenant) == names
        assert await migrate(connection, tenant) == []
        for file in FOLDER.glob("*.sql"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "0999_more.sql").write_text("CREATE TABLE more ();")
        assert await migrate(connection, tenant, tmp_path) == ["0999_more.sql"]
        with pytest.raises(MigrationError, match=r"0999_more\.sql, which this program lacks"):
            await migrate(connection, tenant)
        (tmp_path / "0999_more.sql").write_text("CREATE TABLE more (and_more text);")
        with pytest.raises(MigrationError, match=r"0999_more\.sql was changed"):
            await migrate(connection, tenant, tmp_path)


async def test_a_migration_that_fails_leaves_nothing_behind(postgres_url: str, tenant: str, tmp_path: Path) -> None:
    (tmp_path / "0001_bad.sql").write_text("CREATE TABLE half (); SELECT 1 / 0;")
    async with await connect(postgres_url, tenant) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            await migrate(connection, tenant, tmp_path)
        cursor = await connection.execute("SELECT to_regclass('half'), to_regclass('migrations')")
        assert await cursor.fetchone() == (None, None)


@pytest.mark.parametrize("name", ["", "Main", "a-b", "1a", "a; DROP SCHEMA x", "a" * 42])
async def test_a_tenant_is_a_plain_name(postgres_url: str, name: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        async with Ledger.open(postgres_url, tenant=name):
            pass
