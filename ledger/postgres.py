"""Connections to one tenant's schema, and what is required of the server behind them."""

import re
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg import Connection as SyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from ledger import arrays
from ledger.errors import UnsafeServer

Connection = AsyncConnection[TupleRow]
Pool = AsyncConnectionPool[Connection]
Blocking = SyncConnection[TupleRow]
BlockingPool = ConnectionPool[Blocking]

TENANT = re.compile(r"[a-z][a-z0-9_]{0,40}")
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
_SESSION = """
SELECT set_config('search_path', %s, false), set_config('timezone', 'UTC', false),
       set_config('lock_timeout', '2s', false), set_config('statement_timeout', '30s', false),
       set_config('idle_in_transaction_session_timeout', '5s', false)
"""
_PLANS: LiteralString = """
SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
SET plan_cache_mode = force_generic_plan
"""
"""Every statement here finds its rows by an index; a plan made while the table was empty would scan it for ever."""


def schema_of(tenant: str) -> str:
    """The Postgres schema that holds a tenant. ValueError for a name that is none."""
    if not TENANT.fullmatch(tenant):
        raise ValueError(f"tenant {tenant!r}: a letter, then at most 40 of a-z, 0-9 and _")
    return f"cairn_{tenant}"


async def connect(dsn: str, tenant: str) -> Connection:
    """A connection of one's own, in autocommit, with time limits set. psycopg.OperationalError if there is none."""
    connection = await AsyncConnection.connect(dsn, autocommit=True, **_KEEPALIVE)
    try:
        await prepare(connection, tenant)
    except BaseException:
        await connection.close()
        raise
    return connection


def pool(dsn: str, tenant: str, *, size: int) -> Pool:
    """A pool of such connections, not yet open; each is tried before it is lent."""

    async def configure(connection: Connection) -> None:
        await prepare(connection, tenant)

    return AsyncConnectionPool(
        dsn, kwargs={"autocommit": True, **_KEEPALIVE}, connection_class=Connection, configure=configure,
        check=AsyncConnectionPool.check_connection, min_size=1, max_size=size, timeout=POOL_SECONDS,
        max_lifetime=1800, reconnect_timeout=RECONNECT_SECONDS, open=False, name=f"cairn_{tenant}",
    )  # fmt: skip


def blocking_pool(dsn: str, tenant: str, *, size: int) -> BlockingPool:
    """The same for programs that wait in threads."""

    schema = schema_of(tenant)

    def configure(connection: Blocking) -> None:
        connection.execute(_SESSION, (schema,))
        connection.execute(_PLANS)
        arrays.register(connection)

    return ConnectionPool(
        dsn, kwargs={"autocommit": True, **_KEEPALIVE}, connection_class=Blocking, configure=configure,
        check=ConnectionPool.check_connection, min_size=1, max_size=size, timeout=POOL_SECONDS,
        max_lifetime=1800, reconnect_timeout=RECONNECT_SECONDS, open=False, name=f"cairn_{tenant}",
    )  # fmt: skip


async def prepare(connection: Connection, tenant: str) -> None:
    """Points a fresh connection at the tenant's schema and sets its limits."""
    await connection.execute(_SESSION, (schema_of(tenant),))
    await connection.execute(_PLANS)
    arrays.register(connection)


async def refuse_unsafe(connection: Connection) -> None:
    """UnsafeServer unless what this server acknowledges survives a crash."""
    for setting in ("fsync", "synchronous_commit"):
        row = await (await connection.execute("SELECT current_setting(%s)", (setting,))).fetchone()
        if row == ("off",):
            raise UnsafeServer(f"Postgres runs with {setting} = off and may lose what it has committed. Set it to on.")
