"""What lies under the ledger, measured with the same rows on the same servers: what no ledger on them can exceed."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from psycopg import sql

from cairn.bus import Bus
from ledger import arrays
from ledger.codec import chain, encode, tag_of
from ledger.postgres import Connection, connect
from ledger.recorded import Recorded
from ops.bench.writers import EVENT

SECONDS = 2.0
TENANT = "limits"
COLUMNS = (
    "position, stream, version, type, id, recorded_at, correlation_id, causation_id, actor, traceparent, state, digest"
)
UNNEST = f"""
INSERT INTO raw ({COLUMNS}) SELECT * FROM unnest(%s::bigint[], %s::text[], %s::int[], %s::text[], %s::uuid[],
    %s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[], %s::bytea[])
"""
"""The ledger's rows in the fewest words, with nothing asked: no head, no version, no answer."""


def rows(first: int, count: int) -> list[Recorded]:
    """Events as the ledger would write them, digests included."""
    now, state, digest, made = datetime.now(UTC), encode(EVENT), bytes(32), []
    for position in range(first, first + count):
        stream = f"workflow-{position % 64}"
        command = uuid4()
        envelope = (position, stream, position, tag_of(EVENT), command, now, stream, str(command), "bench", None)
        digest = chain(digest, envelope, state)
        made.append(Recorded(*envelope, state, digest))
    return made


async def limits(dsn: str, bus: Bus) -> dict[str, float]:
    """Rows a second: one per commit, `unnest` of 64 and of 1,000, binary COPY of 1,000; messages a second in
    atomic batches of 100 and of 1,000."""
    figures = {
        "one_row_commits": await table_rate(dsn, 1),
        "unnest_64": await table_rate(dsn, 64),
        "unnest_1000": await table_rate(dsn, 1_000),
        "copy_1000": await table_rate(dsn, 1_000, _copy),
    }
    await bus.ensure_stream({"name": "RAW", "subjects": ["raw.>"], "storage": "file", "allow_atomic": True})
    message = ("raw.task.started", b"x" * 700, {"Nats-Msg-Id": "none"})

    async def publish(made: list[Recorded]) -> None:
        await bus.store_batch([(message[0], message[1], {"Nats-Msg-Id": str(row.id)}) for row in made])

    figures["jetstream_batches_100"] = await _rate(100, publish)
    figures["jetstream_batches_1000"] = await _rate(1_000, publish)
    await bus.api("STREAM.DELETE.RAW")
    return figures


@asynccontextmanager
async def _raw(dsn: str) -> AsyncIterator[Connection]:
    """An empty table with the columns and indices of `events` and none of its rules."""
    connection = await connect(dsn, TENANT)
    async with connection:
        await connection.execute("CREATE SCHEMA IF NOT EXISTS cairn_limits")
        await connection.execute(
            """CREATE TABLE raw (position bigint PRIMARY KEY, stream text NOT NULL, version integer NOT NULL,
               type text NOT NULL, id uuid NOT NULL UNIQUE, recorded_at timestamptz NOT NULL, correlation_id text,
               causation_id text, actor text NOT NULL, traceparent text, state bytea NOT NULL, digest bytea NOT NULL,
               UNIQUE (stream, version))"""
        )
        try:
            yield connection
        finally:
            await connection.execute("DROP TABLE raw")


async def _rate(group: int, write: Callable[[list[Recorded]], Awaitable[Any]]) -> float:
    """Only the writing is timed: making the rows is no limit of the servers."""
    position, spent = 1, 0.0
    while spent < SECONDS:
        made = rows(position, group)
        begun = time.perf_counter()
        await write(made)
        spent += time.perf_counter() - begun
        position += group
    return round((position - 1) / spent)


async def _unnest(connection: Connection, made: list[Recorded]) -> None:
    await connection.execute(
        sql.SQL(UNNEST),
        (
            [row.position for row in made],
            arrays.texts([row.stream for row in made]),
            arrays.integers([row.version for row in made]),
            arrays.texts([row.type for row in made]),
            arrays.uuids([row.id for row in made]),
            [row.recorded_at for row in made],
            arrays.texts([row.correlation_id for row in made]),
            arrays.texts([row.causation_id for row in made]),
            arrays.texts([row.actor for row in made]),
            arrays.texts([row.traceparent for row in made]),
            arrays.byteas([row.state for row in made]),
            arrays.byteas([row.digest for row in made]),
        ),
        prepare=True,
        binary=True,
    )


async def _copy(connection: Connection, made: list[Recorded]) -> None:
    kinds = ["int8", "text", "int4", "text", "uuid", "timestamptz", "text", "text", "text", "text", "bytea", "bytea"]
    async with connection.cursor().copy(sql.SQL(f"COPY raw ({COLUMNS}) FROM STDIN (FORMAT BINARY)")) as copy:
        copy.set_types(kinds)
        for row in made:
            await copy.write_row((*row.envelope, row.state, row.digest))


async def table_rate(
    dsn: str, group: int, write: Callable[[Connection, list[Recorded]], Awaitable[None]] = _unnest
) -> float:
    """Rows a second that one connection writes into an empty table, `group` to a commit."""
    async with _raw(dsn) as connection:
        return await _rate(group, lambda made: write(connection, made))
