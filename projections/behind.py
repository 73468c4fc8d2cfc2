"""A connection that writes behind its caller's back: while Postgres writes one batch of a view, the next is folded.

*Order.* What is executed is carried out in that order, each batch in a transaction of its own. *Answers.* Whoever asks for
one waits until all before it is done. *Faults.* The batch that failed is rolled back and nothing after it is written;
the next who comes hears why.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, LiteralString, Self

from ledger.cancel import end
from ledger.postgres import Connection

WAITING_BATCHES = 2
"""Folded, and not yet written: each is held in memory."""

Statement = tuple[LiteralString, Any, "asyncio.Future[list[Any]]"]


class Answer:
    """What a statement will have found."""

    def __init__(self, rows: "asyncio.Future[list[Any]]", writing: "asyncio.Task[None]") -> None:
        self._rows, self._writing = rows, writing

    async def fetchone(self) -> Any:
        rows = await self.fetchall()
        return rows[0] if rows else None

    async def fetchall(self) -> list[Any]:
        either: list[asyncio.Future[Any]] = [self._rows, self._writing]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not self._rows.done():
            self._writing.result()
        return self._rows.result()


class Batch:
    """The part of a connection that a view's `apply` needs. `position` is that of its last event."""

    def __init__(self, position: int, writing: "asyncio.Task[None]") -> None:
        self.position = position
        self.statements: asyncio.Queue[Statement | None] = asyncio.Queue()
        self._writing = writing

    async def execute(self, query: LiteralString, params: Any = None, **_: object) -> Answer:
        found: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.statements.put_nowait((query, params, found))
        return Answer(found, self._writing)


class Behind:
    """`async with Behind.writing(connection, written) as behind: async with behind.batch(position) as batch: ...`

    Leaving waits until all is written; `written` is told of each batch, by its position.
    """

    def __init__(self, connection: Connection, written: Callable[[int], None]) -> None:
        self._connection, self._written = connection, written
        self._batches: asyncio.Queue[Batch | None] = asyncio.Queue(WAITING_BATCHES)
        self._writing = asyncio.create_task(self._write())

    @classmethod
    @asynccontextmanager
    async def writing(cls, connection: Connection, written: Callable[[int], None]) -> AsyncIterator[Self]:
        behind = cls(connection, written)
        try:
            yield behind
            await behind._put(None)
            await behind._writing
        finally:
            await end([behind._writing])

    @asynccontextmanager
    async def batch(self, position: int) -> AsyncIterator[Batch]:
        one = Batch(position, self._writing)
        await self._put(one)
        yield one
        one.statements.put_nowait(None)

    async def _put(self, batch: Batch | None) -> None:
        putting = asyncio.create_task(self._batches.put(batch))
        try:
            await asyncio.wait([putting, self._writing], return_when=asyncio.FIRST_COMPLETED)
            if self._writing.done():
                self._writing.result()
        finally:
            putting.cancel()

    async def _write(self) -> None:
        while (batch := await self._batches.get()) is not None:
            async with self._connection.transaction():
                while (statement := await batch.statements.get()) is not None:
                    query, params, found = statement
                    cursor = await self._connection.execute(query, params, prepare=True)
                    found.set_result(await cursor.fetchall() if cursor.description else [])
            self._written(batch.position)
