"""What a schema holds, as Postgres tells it: the tables of a view, their keys and columns; and their moving elsewhere."""

import re

from psycopg import sql

from ledger.postgres import Connection
from projections.sql import statements

SQL = statements("tables")
_MADE = re.compile(r"CREATE (?:UNLOGGED )?TABLE (?:IF NOT EXISTS )?(\w+)")


def made_by(create: str) -> list[str]:
    """The names of the tables that a view's `create` makes."""
    return _MADE.findall(create)


async def keys(connection: Connection, schema: str) -> dict[str, list[str]]:
    """The tables that are a fold, which are all but the unlogged ones, with the columns of their primary keys."""
    return dict(await (await connection.execute(SQL["keys"], {"schema": schema})).fetchall())


async def columns(connection: Connection, schema: str, table: str) -> list[str]:
    """In the order they were made."""
    found = await connection.execute(SQL["columns"], {"schema": schema, "name": table})
    return [row[0] for row in await found.fetchall()]


async def moved(connection: Connection, here: str, there: str) -> None:
    """Moves what a view has made in one schema to another; unlogged tables only where there is none of that name."""
    found = await connection.execute(SQL["objects"], {"here": here, "there": there})
    for kind, name, follows_path in await found.fetchall():
        named = sql.SQL(kind), sql.SQL(name)
        await connection.execute(sql.SQL("ALTER {} {}.{} SET SCHEMA {}").format(
            named[0], sql.Identifier(here), named[1], sql.Identifier(there)))  # fmt: skip
        if follows_path:
            again = sql.SQL("ALTER {} {}.{} SET search_path FROM CURRENT")
            await connection.execute(again.format(named[0], sql.Identifier(there), named[1]))


async def size(connection: Connection, schema: str, tables: list[str]) -> tuple[int, int]:
    """How many rows they have, and how many bytes with their indexes; 0 for those that are not there."""
    rows = size = 0
    found = await connection.execute(SQL["sizes"], {"schema": schema, "names": tables})
    for name, of_it in await found.fetchall():
        counted = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, name))
        row = await (await connection.execute(counted)).fetchone()
        rows, size = rows + (row[0] if row else 0), size + of_it
    return rows, size
