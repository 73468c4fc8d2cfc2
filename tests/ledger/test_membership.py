"""Who acts as a tenant's roles: those who make them, those who are members, those who may do neither."""

import asyncio

import pytest
from appends import append, fill
from psycopg.errors import CheckViolation, InsufficientPrivilege, RestrictViolation
from test_role import NOBODY_MAY, ROLES_MAY_NOT, filled
from users import login, user_of

from ledger.errors import MigrationError
from ledger.ledger import Ledger
from ledger.migrate import FOLDER, migrate
from ledger.postgres import Connection, connect, pool
from ledger.roles import lacking
from ledger.tenants import create
from projections.board import Board
from projections.project import Projection


async def test_a_login_that_is_only_a_member_does_all_and_gains_nothing_by_resetting_its_role(
    postgres_url: str, admin: Connection, tenant: str
) -> None:
    await create(postgres_url, tenant)
    await create(postgres_url, f"{tenant}_other")
    user = f"login_{tenant}"
    await admin.execute(f"CREATE ROLE {user} LOGIN IN ROLE cairn_{tenant}, cairnviews_{tenant}")
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
            with pytest.raises((InsufficientPrivilege, RestrictViolation, CheckViolation)):
                async with connection.transaction():
                    await connection.execute(statement.format(schema=f"cairn_{tenant}", other=f"cairn_{tenant}_other"))
    with pytest.raises(MigrationError, match=f"may not bring it there .* cairn tenant create {tenant}_new"):
        await create(url, f"{tenant}_new")


async def test_an_owner_who_may_make_roles_needs_no_superuser(owner: str, admin: Connection, tenant: str) -> None:
    await admin.execute(f"ALTER ROLE owner_{tenant} CREATEROLE")
    async with Ledger.open(owner, tenant=tenant) as ledger:
        await fill(ledger, "workflow-a", 1)
        async with ledger._pool.connection() as connection:
            assert await user_of(connection) == f"cairn_{tenant}"
            assert await lacking(connection, tenant) == ("", "")


async def test_who_may_not_make_roles_works_without_and_is_told_what_to_run(
    owner: str, admin: Connection, tenant: str
) -> None:
    async with Ledger.open(owner, tenant=tenant) as ledger, pool(owner, tenant, size=2, views=True) as views:
        await fill(ledger, "workflow-a", 1)
        await Projection(views, Board()).install()
        async with ledger._pool.connection() as connection:
            assert await user_of(connection) == f"owner_{tenant}"
            why, fix = await lacking(connection, tenant)
    assert f"may not make the roles cairn_{tenant}, cairnviews_{tenant}" in why
    await admin.execute(fix)
    async with Ledger.open(owner, tenant=tenant) as ledger, pool(owner, tenant, size=2, views=True) as views:
        async with ledger._pool.connection() as connection:
            assert await user_of(connection) == f"cairn_{tenant}"
            assert await lacking(connection, tenant) == ("", "")
        await fill(ledger, "workflow-b", 1)
        await Projection(views, Board()).rebuild()  # its tables were the owner's until now


async def test_a_stranger_to_the_roles_and_roles_that_can_do_too_much_are_told(
    owner: str, admin: Connection, tenant: str
) -> None:
    await admin.execute(f"CREATE ROLE cairn_{tenant}; CREATE ROLE cairnviews_{tenant}")
    await create(owner, tenant)
    async with await connect(owner, tenant) as connection:
        why, fix = await lacking(connection, tenant)
        assert "is no member of" in why
        await admin.execute(fix)
        await create(owner, tenant)
        assert await lacking(connection, tenant) == ("", "")
        await connection.execute(f"GRANT DELETE ON events TO cairn_{tenant}")
        why, fix = await lacking(connection, tenant)
        assert "may change events" in why
        await admin.execute(fix)
        assert await lacking(connection, tenant) == ("", "")
        await create(owner, tenant)


async def test_a_tenant_of_an_earlier_program_gets_its_roles_and_its_views_again(
    postgres_url: str, admin: Connection, tenant: str
) -> None:
    await admin.execute(f"CREATE SCHEMA cairn_{tenant}; SET search_path = cairn_{tenant}")
    await admin.execute("CREATE TABLE migrations (name text PRIMARY KEY, sha256 text, applied_at timestamptz)")
    for name in ("0001_ledger.sql", "0002_cursors.sql"):
        await admin.execute((FOLDER / name).read_bytes())
        digest = "encode(sha256(%b), 'hex')"
        await admin.execute(f"INSERT INTO migrations VALUES (%s, {digest})", (name, (FOLDER / name).read_bytes()))
    await admin.execute("CREATE TABLE projections (); CREATE TABLE board_tasks ()")
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
    postgres_url: str, admin: Connection, tenant: str
) -> None:
    """Roles belong to the server, the lock of `migrate` to one database."""
    databases = [f"{tenant}_{number}" for number in range(3)]
    urls = [postgres_url.replace("/postgres?", f"/{name}?") for name in databases]
    for name in databases:
        await admin.execute(f"CREATE DATABASE {name}")
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
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_roles_that_were_dropped_come_back_with_their_rights(
    postgres_url: str, admin: Connection, tenant: str
) -> None:
    await create(postgres_url, tenant)
    roles = f"cairn_{tenant}, cairnviews_{tenant}"
    await admin.execute(f"DROP OWNED BY {roles}; DROP ROLE {roles}")
    assert await create(postgres_url, tenant) == []
    async with await connect(postgres_url, tenant) as connection:
        assert await user_of(connection) == f"cairn_{tenant}"
        assert await migrate(connection, tenant) == []
