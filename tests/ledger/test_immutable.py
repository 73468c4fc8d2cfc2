"""What has happened is never changed; and the schema that refuses it is migrated once. See test_verify for who does it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest
from appends import fill, followed

from ledger.errors import BrokenChain, MigrationError
from ledger.ledger import Ledger
from ledger.migrate import FOLDER, migrate
from ledger.postgres import connect

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


async def test_readers_stop_where_an_event_is_missing(ledger: Ledger, superuser: Superuser) -> None:
    await fill(ledger, "workflow-a", 6)
    await superuser.execute("ALTER TABLE events DISABLE TRIGGER ALL; DELETE FROM events WHERE position = 4")
    assert [event.position for event in await ledger.read(1, 2)] == [2, 3]
    with pytest.raises(BrokenChain, match="position 4: it is missing"):
        await followed(ledger, 6)
    with pytest.raises(BrokenChain, match="position 4: it is missing"):
        await ledger.verify(5)


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
