"""Connections to one tenant's schema, in one of its roles (`ledger.roles`), and what is required of the server."""

from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg import Connection as SyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from ledger import arrays, timed
from ledger.errors import UnsafeServer
from ledger.names import schema_of, views_of
from ledger.sql import SQL

Connection = AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]
Blocking = SyncConnection[TupleRow]
BlockingPool = ConnectionPool[Blocking]

CONNECT_SECONDS = 5
POOL_SECONDS = 5.0
RECONNECT_SECONDS = 2.0
"""Short, because the pool doubles its pauses while it tries; whoever asks next makes it try afresh."""
_KEEPALIVE: dict[str, Any] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
_PLANS: LiteralString = """
SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET plan_cache_mode = force_generic_plan
"""
"""Every statement here finds its rows by an index; a plan made while the table was empty would scan it for ever."""


async def connect(dsn: str, tenant: str, *, views: bool = False) -> Connection:
    """A connection of one's own, in autocommit, with time limits set. psycopg.OperationalError if there is none.

    It may append and read; with `views`, keep views and read.
    """
    connection = await AsyncConnection.connect(dsn, autocommit=True, **timed.cursors(), **_KEEPALIVE)
    try:
        await prepare(connection, tenant, views=views)
    except BaseException:
        await connection.close()
        raise
    return connection


def pool(dsn: str, tenant: str, *, size: int, views: bool = False) -> Pool:
    """A pool of such connections, not yet open; each is tried before it is lent."""

    async def configure(connection: Connection) -> None:
        await prepare(connection, tenant, views=views)

    return AsyncConnectionPool(
        dsn, kwargs={"autocommit": True, **timed.cursors(), **_KEEPALIVE}, connection_class=Connection, configure=configure,
        check=AsyncConnectionPool.check_connection, min_size=1, max_size=size, timeout=POOL_SECONDS,
        max_lifetime=1800, reconnect_timeout=RECONNECT_SECONDS, open=False, name=f"cairn_{tenant}",
    )  # fmt: skip


def blocking_pool(dsn: str, tenant: str, *, size: int, views: bool = False) -> BlockingPool:
    """The same for programs that wait in threads."""

    session = _session(tenant, views=views)

    def configure(connection: Blocking) -> None:
        connection.execute(SQL["session"], session)
        connection.execute(_PLANS)
        arrays.register(connection)

    return ConnectionPool(
        dsn, kwargs={"autocommit": True, **timed.blocking_cursors(), **_KEEPALIVE}, connection_class=Blocking, configure=configure,
        check=ConnectionPool.check_connection, min_size=1, max_size=size, timeout=POOL_SECONDS,
        max_lifetime=1800, reconnect_timeout=RECONNECT_SECONDS, open=False, name=f"cairn_{tenant}",
    )  # fmt: skip


async def prepare(connection: Connection, tenant: str, *, views: bool = False) -> None:
    """Points a fresh connection at the tenant's schema and sets its limits, and its role if there is one."""
    await connection.execute(SQL["session"], _session(tenant, views=views))
    await connection.execute(_PLANS)
    arrays.register(connection)


def _session(tenant: str, *, views: bool) -> dict[str, str]:
    schema, views_schema = schema_of(tenant), views_of(tenant)
    # Temporary tables come last, or one could stand in for a table of the ledger.
    path = f"{views_schema}, {schema}, pg_temp" if views else f"{schema}, pg_temp"
    return {"path": path, "role": views_schema if views else schema}


async def refuse_unsafe(connection: Connection) -> None:
    """UnsafeServer unless what this server acknowledges survives a crash."""
    for setting in ("fsync", "synchronous_commit"):
        row = await (await connection.execute("SELECT current_setting(%s)", (setting,))).fetchone()
        if row == ("off",):
            raise UnsafeServer(f"Postgres runs with {setting} = off and may lose what it has committed. Set it to on.")
