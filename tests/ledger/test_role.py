"""Each thing that nobody may do to what has happened, tried: as the role that appends, as the views', as the owner."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
from appends import append, fill
from psycopg.errors import InsufficientPrivilege, RestrictViolation

from ledger.errors import MigrationError
from ledger.ledger import Ledger
from ledger.migrate import FOLDER, migrate
from ledger.postgres import Connection, connect, pool
from ledger.roles import lacking
from ledger.tenants import create
from projections.board import Board
from projections.project import Projection

STRAY = (
    "INSERT INTO events SELECT {}, 'workflow-b', 1, type, gen_random_uuid(), now(), NULL, NULL, 'eve', NULL, state, digest"
    " FROM events WHERE position = 1"
)
MOVED = "UPDATE ledger_head SET position = {}, digest = (SELECT digest FROM events WHERE position = 1); "
NOBODY_MAY = {
    "UPDATE events SET actor = 'eve'": RestrictViolation,
    "DELETE FROM events": RestrictViolation,
    "TRUNCATE events CASCADE": RestrictViolation,
    "DELETE FROM ledger_head": RestrictViolation,
    "TRUNCATE ledger_head": RestrictViolation,
    "UPDATE ledger_head SET origin = gen_random_uuid()": RestrictViolation,
    "MERGE INTO events USING (SELECT 1) AS one ON position = 1 WHEN MATCHED THEN DELETE": RestrictViolation,
    "INSERT INTO events SELECT * FROM events ON CONFLICT (position) DO UPDATE SET actor = 'eve'": RestrictViolation,
    "UPDATE ledger_head SET position = 1, digest = (SELECT digest FROM events WHERE position = 1)": RestrictViolation,
    "UPDATE ledger_head SET digest = sha256('')": RestrictViolation,
    "UPDATE ledger_head SET epoch = 1": RestrictViolation,
    "SET session_replication_role = replica": InsufficientPrivilege,
    "COPY events FROM PROGRAM 'echo'": InsufficientPrivilege,
    "COPY events TO '/tmp/cairn-stolen'": InsufficientPrivilege,
    "ALTER TABLE events DISABLE TRIGGER ALL": InsufficientPrivilege,  # ALL: those of foreign keys too
    MOVED.format(3): RestrictViolation,
    STRAY.format(3): RestrictViolation,
    STRAY.format(4): RestrictViolation,
    STRAY.format(0): RestrictViolation,
    MOVED.format(4) + STRAY.format(4): RestrictViolation,
    "CREATE TEMP TABLE ledger_head AS SELECT 9 AS position; SET LOCAL search_path = pg_temp, {schema};"
    + STRAY.format(9): RestrictViolation,
}
"""Not even the owner. The ledger holds two events then, at epoch 2."""
ROLES_MAY_NOT = [
    "ALTER TABLE events DISABLE TRIGGER USER",
    "ALTER TABLE events DISABLE TRIGGER events_are_never_changed",
    "DROP TRIGGER events_are_never_changed ON events",
    "CREATE TRIGGER more BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse_change()",
    "CREATE OR REPLACE FUNCTION {schema}.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "ALTER TABLE events ADD COLUMN more text",
    "ALTER TABLE events OWNER TO CURRENT_USER",
    "DROP TABLE events CASCADE",
    "DROP SCHEMA {schema} CASCADE",
    "CREATE TABLE {schema}.more ()",
    "CREATE INDEX ON events (actor)",
    "LOCK TABLE events IN EXCLUSIVE MODE",
    "SELECT FROM events FOR UPDATE",
    "INSERT INTO ledger_head DEFAULT VALUES",
    "INSERT INTO migrations VALUES ('9999', '')",
    "DELETE FROM cursors",
    "SELECT guard('events')",
    "SELECT make_role('eve')",
    "CREATE ROLE eve",
    "GRANT {other} TO CURRENT_USER",
    "SELECT FROM {other}.events",
    "SELECT FROM {other}.ledger_head FOR UPDATE",
    "INSERT INTO {other}.cursors VALUES ('eve', 1)",
    "CREATE TABLE {other}.more ()",
]


def login(url: str, user: str) -> str:
    return url.replace("//postgres@", f"//{user}@")


@pytest.fixture
async def superuser(postgres_url: str) -> AsyncIterator[Connection]:
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def owner(postgres_url: str, superuser: Connection, tenant: str) -> str:
    """A URL whose user may create schemas and no roles."""
    await superuser.execute(f"CREATE ROLE owner_{tenant} LOGIN; GRANT CREATE ON DATABASE postgres TO owner_{tenant}")
    return login(postgres_url, f"owner_{tenant}")


async def filled(ledger: Ledger) -> None:
    await fill(ledger, "workflow-a", 2)
    await ledger._raise_epoch(1, 2)


async def refused(url: str, tenant: str, statement: str, error: type[Exception], views: bool = False) -> None:
    names = {"schema": f"cairn_{tenant}", "other": f"cairn_{tenant}_other"}
    async with await connect(url, tenant, views=views) as connection:
        with pytest.raises(error):
            async with connection.transaction():
                await connection.execute(statement.format(**names))


async def user_of(connection: Connection) -> str:
    row = await (await connection.execute("SELECT current_user")).fetchone()
    assert row is not None
    return str(row[0])


async def test_every_connection_of_a_ledger_acts_as_its_role(ledger: Ledger, tenant: str) -> None:
    await fill(ledger, "workflow-a", 1)
    assert ledger._writer._connection is not None
    assert await user_of(ledger._writer._connection) == f"cairn_{tenant}"
    async with ledger._pool.connection() as one, ledger._pool.connection() as other:
        assert {await user_of(one), await user_of(other)} == {f"cairn_{tenant}"}


async def test_the_role_and_the_views_role_are_refused_whatever_is_no_append(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    await filled(ledger)
    await create(postgres_url, f"{tenant}_other")
    for statement in [*NOBODY_MAY, *ROLES_MAY_NOT]:
        for views in (False, True):
            await refused(postgres_url, tenant, statement, (InsufficientPrivilege, RestrictViolation), views)
    assert (await ledger.verify()).events == 2


@pytest.mark.parametrize(
    "statement", ["UPDATE events SET actor = ''", "DELETE FROM events", "TRUNCATE events", *ROLES_MAY_NOT]
)
async def test_the_roles_lack_the_right_itself(postgres_url: str, tenant: str, statement: str) -> None:
    """Not only a trigger stands in the way."""
    await create(postgres_url, f"{tenant}_other")
    await create(postgres_url, tenant)
    for views in (False, True):
        await refused(postgres_url, tenant, statement, InsufficientPrivilege, views)


async def test_nor_may_the_owner(owner: str, tenant: str) -> None:
    async with Ledger.open(owner, tenant=tenant) as ledger:
        await filled(ledger)
        for statement, error in NOBODY_MAY.items():
            if "DISABLE" not in statement:
                await refused(owner, tenant, statement, error)
        assert (await ledger.verify()).events == 2


async def test_rows_that_are_copied_in_have_to_be_appended(ledger: Ledger, postgres_url: str, tenant: str) -> None:
    await filled(ledger)
    for user in (f"cairn_{tenant}", "postgres"):
        async with await connect(postgres_url, tenant) as connection:
            await connection.execute(f"SET ROLE {user}")
            with pytest.raises(RestrictViolation, match="not the next one"):
                async with connection.cursor().copy("COPY events FROM STDIN") as copy:
                    row = ("7", "workflow-b", "1", "task.started", "0" * 32, "now", None, None, "eve", None, b"{}", b"")
                    await copy.write_row(row)


async def test_a_superusers_replica_mode_leaves_the_guards_on(
    ledger: Ledger, superuser: Connection, tenant: str
) -> None:
    await filled(ledger)
    await superuser.execute(f"SET session_replication_role = replica; SET search_path = cairn_{tenant}")
    for statement, error in NOBODY_MAY.items():
        if error is RestrictViolation:
            with pytest.raises(error):
                async with superuser.transaction():
                    await superuser.execute(statement.format(schema=f"cairn_{tenant}"))


async def test_a_login_that_is_only_a_member_does_all_and_gains_nothing_by_resetting_its_role(
    postgres_url: str, superuser: Connection, tenant: str
) -> None:
    await create(postgres_url, tenant)
    await create(postgres_url, f"{tenant}_other")
    user = f"login_{tenant}"
    await superuser.execute(f"CREATE ROLE {user} LOGIN IN ROLE cairn_{tenant}, cairnviews_{tenant}")
    url = login(postgres_url, user)
    async with Ledger.open(url, tenant=tenant) as ledger, pool(url, tenant, size=2, views=True) as views:
        await filled(ledger)
        board = Projection(views, Board())
        await board.install()
        await board.rebuild()
        async with views.connection() as connection:
            assert await user_of(connection) == f"cairnviews_{tenant}"
    async with await connect(url, tenant) as connection:
        await connection.execute("RESET ROLE")
        for statement in [*NOBODY_MAY, *ROLES_MAY_NOT, f"SET ROLE cairn_{tenant}_other", "SET ROLE postgres"]:
            with pytest.raises((InsufficientPrivilege, RestrictViolation)):
                async with connection.transaction():
                    await connection.execute(statement.format(schema=f"cairn_{tenant}", other=f"cairn_{tenant}_other"))
    with pytest.raises(MigrationError, match=f"may not bring it there .* cairn tenant create {tenant}_new"):
        await create(url, f"{tenant}_new")


async def test_an_owner_who_may_make_roles_needs_no_superuser(owner: str, superuser: Connection, tenant: str) -> None:
    await superuser.execute(f"ALTER ROLE owner_{tenant} CREATEROLE")
    async with Ledger.open(owner, tenant=tenant) as ledger:
        await fill(ledger, "workflow-a", 1)
        async with ledger._pool.connection() as connection:
            assert await user_of(connection) == f"cairn_{tenant}"
            assert await lacking(connection, tenant) == ("", "")


async def test_who_may_not_make_roles_works_without_and_is_told_what_to_run(
    owner: str, superuser: Connection, tenant: str
) -> None:
    async with Ledger.open(owner, tenant=tenant) as ledger, pool(owner, tenant, size=2, views=True) as views:
        await fill(ledger, "workflow-a", 1)
        await Projection(views, Board()).install()
        async with ledger._pool.connection() as connection:
            assert await user_of(connection) == f"owner_{tenant}"
            why, fix = await lacking(connection, tenant)
    assert f"may not make the roles cairn_{tenant}, cairnviews_{tenant}" in why
    await superuser.execute(fix)
    async with Ledger.open(owner, tenant=tenant) as ledger, pool(owner, tenant, size=2, views=True) as views:
        async with ledger._pool.connection() as connection:
            assert await user_of(connection) == f"cairn_{tenant}"
            assert await lacking(connection, tenant) == ("", "")
        await fill(ledger, "workflow-b", 1)
        await Projection(views, Board()).rebuild()  # its tables were the owner's until now


async def test_a_stranger_to_the_roles_and_roles_that_can_do_too_much_are_told(
    owner: str, superuser: Connection, tenant: str
) -> None:
    await superuser.execute(f"CREATE ROLE cairn_{tenant}; CREATE ROLE cairnviews_{tenant}")
    await create(owner, tenant)
    async with await connect(owner, tenant) as connection:
        why, fix = await lacking(connection, tenant)
        assert "is no member of" in why
        await superuser.execute(fix)
        await create(owner, tenant)
        assert await lacking(connection, tenant) == ("", "")
        await connection.execute(f"GRANT DELETE ON events TO cairn_{tenant}")
        why, fix = await lacking(connection, tenant)
        assert "may change events" in why
        await superuser.execute(fix)
        assert await lacking(connection, tenant) == ("", "")
        await create(owner, tenant)


async def test_a_tenant_of_an_earlier_program_gets_its_roles_and_its_views_again(
    postgres_url: str, superuser: Connection, tenant: str
) -> None:
    await superuser.execute(f"CREATE SCHEMA cairn_{tenant}; SET search_path = cairn_{tenant}")
    await superuser.execute("CREATE TABLE migrations (name text PRIMARY KEY, sha256 text, applied_at timestamptz)")
    for name in ("0001_ledger.sql", "0002_cursors.sql"):
        await superuser.execute((FOLDER / name).read_bytes())
        digest = "encode(sha256(%b), 'hex')"
        await superuser.execute(f"INSERT INTO migrations VALUES (%s, {digest})", (name, (FOLDER / name).read_bytes()))
    await superuser.execute("CREATE TABLE projections (); CREATE TABLE board_tasks ()")
    async with (
        Ledger.open(postgres_url, tenant=tenant) as ledger,
        pool(postgres_url, tenant, size=2, views=True) as views,
    ):
        await fill(ledger, "workflow-a", 1)
        await Projection(views, Board()).install()
        async with views.connection() as connection:
            found = await connection.execute(
                "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'board_tasks'::regclass"
            )
            assert await found.fetchone() == (f"cairnviews_{tenant}",)


async def test_the_same_roles_are_made_once_by_all_who_start_in_all_databases(
    postgres_url: str, superuser: Connection, tenant: str
) -> None:
    """Roles belong to the server, the lock of `migrate` to one database."""
    databases = [f"{tenant}_{number}" for number in range(3)]
    urls = [postgres_url.replace("/postgres?", f"/{name}?") for name in databases]
    for name in databases:
        await superuser.execute(f"CREATE DATABASE {name}")
    try:
        for number in range(4):
            name = f"{tenant}_{number}"
            await asyncio.gather(*(create(url, each) for url in urls * 3 for each in (name, f"{name}_other")))
            for url in urls:
                async with Ledger.open(url, tenant=name) as ledger:
                    assert (await ledger.append(append("workflow-a", 0)))[0].position == 1
                    async with ledger._pool.connection() as connection:
                        assert await user_of(connection) == f"cairn_{name}"
    finally:
        for name in databases:
            await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_roles_that_were_dropped_come_back_with_their_rights(
    postgres_url: str, superuser: Connection, tenant: str
) -> None:
    await create(postgres_url, tenant)
    roles = f"cairn_{tenant}, cairnviews_{tenant}"
    await superuser.execute(f"DROP OWNED BY {roles}; DROP ROLE {roles}")
    assert await create(postgres_url, tenant) == []
    async with await connect(postgres_url, tenant) as connection:
        assert await user_of(connection) == f"cairn_{tenant}"
        assert await migrate(connection, tenant) == []
