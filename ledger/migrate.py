"""The numbered migrations in `migrations/`: applied once each, forward only, under a lock, by whoever starts first.

They are applied with the rights of the user that logged in. A user without those rights starts as well, if somebody
with them was here before: then there is nothing to apply.
"""

from hashlib import sha256
from pathlib import Path

import psycopg
from psycopg import sql

from ledger.errors import MigrationError
from ledger.names import schema_of, views_of
from ledger.postgres import Connection
from ledger.roles import complete, establish
from ledger.sql import SQL

FOLDER = Path(__file__).parent / "migrations"


async def migrate(connection: Connection, tenant: str, folder: Path = FOLDER) -> list[str]:
    """Brings the tenant's schemas and roles up to date; answers with the names of what was applied.

    MigrationError if an applied one differs from its file, the database has one that this program does not, or the
    user may not apply what is missing.
    """
    schema = schema_of(tenant)
    files = {file.name: file.read_bytes() for file in sorted(folder.glob("*.sql"))}
    if not _missing(schema, await _applied(connection, schema), files) and await complete(connection, tenant):
        return []
    missing = list(files)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL role TO none; SET LOCAL lock_timeout = '60s'")
            await connection.execute("SET LOCAL statement_timeout = 0")
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"migrate {schema}",))
            applied = await _applied(connection, schema)
            missing = _missing(schema, applied, files)
            if missing:
                await _apply(connection, tenant, {name: files[name] for name in missing})
            await establish(connection, tenant)
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrationError(
            f"Schema {schema} is not up to date: {', '.join(missing) or 'rights of its roles'}, and"
            f" {connection.info.user} may not bring it there ({error.diag.message_primary})."
            f" As a user who may create schemas and owns this one: cairn tenant create {tenant}"
        ) from error
    return missing


async def _apply(connection: Connection, tenant: str, files: dict[str, bytes]) -> None:
    for name in (schema_of(tenant), views_of(tenant)):
        # IF NOT EXISTS alone would ask for the right to create one that is there.
        if not (await connection.execute("SELECT FROM pg_namespace WHERE nspname = %s", (name,))).rowcount:
            await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS migrations"
        " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    for name, text in files.items():
        await connection.execute(text)
        digest = sha256(text).hexdigest()
        await connection.execute("INSERT INTO migrations (name, sha256) VALUES (%s, %s)", (name, digest))


async def _applied(connection: Connection, schema: str) -> dict[str, str]:
    """The migrations that this connection can see, with their digests."""
    if not (await connection.execute(SQL["migrations"], {"schema": schema})).rowcount:
        return {}
    rows: list[tuple[str, str]] = await (await connection.execute("SELECT name, sha256 FROM migrations")).fetchall()
    return dict(rows)


def _missing(schema: str, applied: dict[str, str], files: dict[str, bytes]) -> list[str]:
    for name, digest in sorted(applied.items()):
        if name not in files:
            raise MigrationError(
                f"Schema {schema} has migration {name}, which this program lacks: run the newer program."
            )
        if digest != (now := sha256(files[name]).hexdigest()):
            raise MigrationError(
                f"Migration {name} was changed after schema {schema} had it (sha256 {digest}, now {now}):"
                " restore the file and put the change into a new one."
            )
    return [name for name in files if name not in applied]
