"""Each thing that nobody may do to what has happened, tried: as the role that appends, as the views', as the owner."""

import pytest
from appends import fill
from psycopg.errors import CheckViolation, InsufficientPrivilege, RestrictViolation
from users import user_of

from ledger.ledger import Ledger
from ledger.postgres import Connection, connect
from ledger.tenants import create

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
    STRAY.format(0): CheckViolation,
    MOVED.format(4) + STRAY.format(4): RestrictViolation,
    "CREATE TEMP TABLE ledger_head AS SELECT 9 AS position; SET LOCAL search_path = pg_temp, {schema};"
    + STRAY.format(9): RestrictViolation,
}
"""Not even the owner. The ledger holds two events then, at epoch 2."""
REFUSALS = (InsufficientPrivilege, RestrictViolation, CheckViolation)
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
    "SELECT FROM events_from_1",
    "INSERT INTO events_from_1 SELECT * FROM events",
    "DELETE FROM events_from_1",
    "ALTER TABLE events DETACH PARTITION events_from_1",
    "DELETE FROM partitions",
    "SELECT archive_partition(1, 'x', 'x', 'x', 'x')",
    "SELECT make_role('eve')",
    "CREATE ROLE eve",
    "GRANT {other} TO CURRENT_USER",
    "SELECT FROM {other}.events",
    "SELECT FROM {other}.ledger_head FOR UPDATE",
    "INSERT INTO {other}.cursors VALUES ('eve', 1)",
    "CREATE TABLE {other}.more ()",
]


async def filled(ledger: Ledger) -> None:
    await fill(ledger, "workflow-a", 2)
    await ledger._raise_epoch(1, 2)


async def refused(
    url: str, tenant: str, statement: str, error: type[Exception] | tuple[type[Exception], ...], views: bool = False
) -> None:
    names = {"schema": f"cairn_{tenant}", "other": f"cairn_{tenant}_other"}
    async with await connect(url, tenant, views=views) as connection:
        with pytest.raises(error):
            async with connection.transaction():
                await connection.execute(statement.format(**names))


async def copied(connection: Connection, *row: str | None) -> None:
    async with connection.cursor().copy("COPY events FROM STDIN") as copy:
        await copy.write_row((*row, b"{}", b""))


async def test_every_connection_of_a_ledger_acts_as_its_role(ledger: Ledger, tenant: str) -> None:
    await fill(ledger, "workflow-a", 1)
    async with await ledger._writer._connect() as writing:
        assert await user_of(writing) == f"cairn_{tenant}"
    async with ledger._pool.connection() as one, ledger._pool.connection() as other:
        assert {await user_of(one), await user_of(other)} == {f"cairn_{tenant}"}


async def test_the_role_and_the_views_role_are_refused_whatever_is_no_append(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    await filled(ledger)
    await create(postgres_url, f"{tenant}_other")
    for statement in [*NOBODY_MAY, *ROLES_MAY_NOT]:
        for views in (False, True):
            await refused(postgres_url, tenant, statement, REFUSALS, views)
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
                await copied(
                    connection, "7", "workflow-b", "1", "task.started", "0" * 32, "now", None, None, "eve", None
                )


async def test_a_superusers_replica_mode_leaves_the_guards_on(ledger: Ledger, admin: Connection, tenant: str) -> None:
    await filled(ledger)
    await admin.execute(f"SET session_replication_role = replica; SET search_path = cairn_{tenant}")
    for statement, error in NOBODY_MAY.items():
        if error is RestrictViolation:
            with pytest.raises(error):
                async with admin.transaction():
                    await admin.execute(statement.format(schema=f"cairn_{tenant}"))
