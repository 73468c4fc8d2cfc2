"""Rows of the ledger's tables as what they mean, and the few reads that more than one module needs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import AsyncCursor

from ledger.errors import BrokenChain
from ledger.postgres import Connection
from ledger.recorded import Recorded
from ledger.sql import SQL

CHUNK_EVENTS = 1_000


class Head(NamedTuple):
    """Where a ledger stands: the epoch of its JetStream stream, the last position, and the digest up to there."""

    epoch: int
    position: int
    digest: bytes


def recorded_row(_: object) -> Callable[[Sequence[Any]], Recorded]:
    """A row factory: the columns of `events` are the fields of Recorded, in its order."""
    return _recorded


def _recorded(values: Sequence[Any]) -> Recorded:
    return Recorded(*values)


async def select(connection: Connection, name: str, **parameters: object) -> list[Recorded]:
    """The events that a statement of `queries.sql` finds."""
    cursor = connection.cursor(binary=True, row_factory=recorded_row)
    await cursor.execute(SQL[name], parameters, prepare=True)
    return await cursor.fetchall()


async def one(cursor: AsyncCursor[Any]) -> Any:
    """The only row of a table that always has one."""
    row = await cursor.fetchone()
    if row is None:
        raise BrokenChain(0, "ledger_head has lost its row")
    return row


async def head_of(connection: Connection) -> tuple[Head, UUID]:
    """The head and the ledger's origin."""
    epoch, position, digest, origin = await one(await connection.execute(SQL["head"], prepare=True, binary=True))
    return Head(epoch, position, digest), origin


async def answer_from(connection: Connection, first: Recorded) -> list[Recorded]:
    """The whole answer that begins with `first`: what follows it in its stream with the same cause."""
    answer = [first]
    while first.causation_id is not None:
        after = answer[-1].version
        chunk = await select(
            connection, "answer", stream=first.stream, after=after, limit=CHUNK_EVENTS, cause=first.causation_id
        )
        answer += [recorded for version, recorded in enumerate(chunk, after + 1) if recorded.version == version]
        if answer[-1].version < after + CHUNK_EVENTS:
            break
    return answer
