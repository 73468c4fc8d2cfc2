"""The numbered migrations in `migrations/`: applied once each, forward only, under a lock, by whoever starts first."""

from hashlib import sha256
from pathlib import Path

from psycopg import sql

from ledger.errors import MigrationError
from ledger.postgres import Connection, schema_of

FOLDER = Path(__file__).parent / "migrations"


async def migrate(connection: Connection, tenant: str, folder: Path = FOLDER) -> list[str]:
    """Brings the tenant's schema up to date; answers with the names of what was applied.

    MigrationError if an applied one differs from its file, or the database has one that this program does not.
    """
    schema = schema_of(tenant)
    files = {file.name: file.read_bytes() for file in sorted(folder.glob("*.sql"))}
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = 0")
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"migrate {schema}",))
        await connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS migrations"
            " (name text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        rows = await (await connection.execute("SELECT name, sha256 FROM migrations")).fetchall()
        applied: dict[str, str] = dict(rows)
        _compare(schema, applied, {name: sha256(text).hexdigest() for name, text in files.items()})
        missing = [name for name in files if name not in applied]
        for name in missing:
            await connection.execute(files[name])
            digest = sha256(files[name]).hexdigest()
            await connection.execute("INSERT INTO migrations (name, sha256) VALUES (%s, %s)", (name, digest))
    return missing


def _compare(schema: str, applied: dict[str, str], known: dict[str, str]) -> None:
    for name, digest in sorted(applied.items()):
        if name not in known:
            raise MigrationError(
                f"Schema {schema} has migration {name}, which this program lacks: run the newer program."
            )
        if digest != known[name]:
            raise MigrationError(
                f"Migration {name} was changed after schema {schema} had it (sha256 {digest}, now {known[name]}):"
                " restore the file and put the change into a new one."
            )
