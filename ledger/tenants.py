"""The tenants of a server: each is a Postgres schema, the JetStream streams of its name, and positions of its own.

Any number of them share one Postgres and one NATS, and one workflow's name may be used in each. In Postgres a tenant's
roles keep the others out (`ledger.roles`). In NATS all that a tenant has carries its name, and a stream that took
another tenant's subjects is refused; but whoever holds the server's credentials can read all of them.
"""

from typing import NamedTuple

from psycopg import sql

from ledger.errors import BrokenChain
from ledger.migrate import migrate
from ledger.names import PREFIX, schema_of, tenants_of, views_of
from ledger.postgres import Connection, connect, refuse_unsafe
from ledger.rows import Head, head_of, one
from ledger.sql import SQL


class Tenant(NamedTuple):
    """`position` of its last event, `epoch` of its stream, `events` that Postgres holds, `size_bytes` on disk there."""

    name: str
    position: int
    epoch: int
    events: int
    size_bytes: int


async def create(dsn: str, name: str) -> list[str]:
    """Makes the tenant, or brings it up to date; answers with the migrations applied, none if it was so already.

    ValueError for a name that is none. UnsafeServer, MigrationError, psycopg.OperationalError. The stream is made by
    the first ledger that is opened with a bus.
    """
    async with await connect(dsn, name) as connection:
        await refuse_unsafe(connection)
        return await migrate(connection, name)


async def tenants(dsn: str) -> list[Tenant]:
    """All tenants that the connecting user may read, by name; at epoch 0 one whose head is lost.

    psycopg.OperationalError if there is no connection.
    """
    async with await Connection.connect(dsn, autocommit=True) as connection:
        found = await (await connection.execute(SQL["schemas"], {"prefix": PREFIX})).fetchall()
        return [await _tenant(connection, name) for name in tenants_of(schema for (schema,) in found)]


async def _tenant(connection: Connection, name: str) -> Tenant:
    schema = schema_of(name)
    await connection.execute(sql.SQL("SET search_path TO {}, pg_temp").format(sql.Identifier(schema)))
    try:
        head, _ = await head_of(connection)
        (events,) = await one(await connection.execute(SQL["kept"]))
    except BrokenChain:  # one ledger that was tampered with hides no other
        head, events = Head(0, 0, b""), 0
    (size_bytes,) = await one(await connection.execute(SQL["size"], {"schemas": [schema, views_of(name)]}))
    return Tenant(name, head.position, head.epoch, events, size_bytes)
