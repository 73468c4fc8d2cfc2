"""A ledger of its own for every test, and the views beside it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from itertools import cycle
from typing import Any
from uuid import uuid4

import psycopg
from histories import Decision
from psycopg import sql

from ledger.append import Append, NewEvent
from ledger.codec import event_id
from ledger.ledger import Ledger
from ledger.names import schema_of, views_of
from ledger.postgres import Pool, pool
from ledger.recorded import Recorded
from projections.project import Projection

TABLES = ("board_workflows", "board_tasks", "board_attempts", "board_asks", "waits", "waits_seen", "limits")
WAIT_SECONDS = 30.0


@contextlib.asynccontextmanager
async def opened(url: str) -> AsyncIterator[tuple[Ledger, Pool]]:
    """A ledger under a name nothing was stored under, gone afterwards; and connections to its tenant."""
    tenant = f"t{uuid4().hex[:12]}"
    try:
        async with Ledger.open(url, tenant=tenant) as ledger, pool(url, tenant, size=6, views=True) as connections:
            yield ledger, connections
    finally:
        async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            schemas = sql.Identifier(schema_of(tenant)), sql.Identifier(views_of(tenant))
            await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {}, {} CASCADE").format(*schemas))


async def record(ledger: Ledger, decisions: Sequence[Decision], versions: dict[str, int] | None = None) -> list[int]:
    """Appends each decision; the position after each of them. `versions` of the streams are kept for the next call."""
    versions = {} if versions is None else versions
    ends = []
    for workflow, events in decisions:
        stream, command = f"workflow-{workflow}", uuid4()
        new = [NewEvent(event, event_id(command, n), "tests") for n, event in enumerate(events)]
        recorded = await ledger.append(Append(stream, versions.get(stream, 0), new))
        versions[stream] = recorded[-1].version
        ends.append(recorded[-1].position)
    return ends


class Sliced:
    """The ledger in batches of the given sizes. `stands` is called when a batch is in the view."""

    def __init__(self, ledger: Ledger, sizes: Sequence[int], stands: Any = None) -> None:
        self._ledger, self._sizes, self._stands = ledger, sizes, stands

    async def read(self, after: int, limit: int) -> list[Recorded]:
        return []

    async def follow(self, after: int) -> AsyncIterator[list[Recorded]]:
        for size in cycle(self._sizes):
            batch = await self._ledger.read(after, size)
            if not batch:
                await asyncio.Event().wait()
            yield batch
            after = batch[-1].position
            if self._stands:
                await self._stands(after)


async def projected(projection: Projection, ledger: Any, head: int) -> None:
    """Until the view holds the head. Its fault is raised at once."""
    task = asyncio.create_task(projection.run(ledger))
    reached = asyncio.create_task(projection.reached(head, WAIT_SECONDS))
    done, _ = await asyncio.wait([task, reached], return_when=asyncio.FIRST_COMPLETED)
    for it in (task, reached):
        it.cancel()
    await asyncio.gather(task, reached, return_exceptions=True)
    for it in done:
        it.result()


async def tables(connections: Pool, names: Sequence[str] = TABLES) -> dict[str, list[str]]:
    """Every row of the tables as text, sorted."""
    found = {}
    async with connections.connection() as connection:
        for name in names:
            query = sql.SQL("SELECT t::text FROM {} AS t ORDER BY 1").format(sql.Identifier(name))
            found[name] = [row[0] for row in await (await connection.execute(query)).fetchall()]
    return found
