"""All that was recorded, wherever it is: in the table, or in the archive as one file for each partition moved there.

What every append asks of archived events is kept in Postgres: `archived_commands`, `archived_streams`. The table is
asked first and the archive afterwards (`ledger/archive.py` says why).
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from ledger import arrays
from ledger.append import VERSIONS
from ledger.archive import Archive, Partition, joined
from ledger.errors import BrokenChain, SegmentUnreadable
from ledger.postgres import Connection
from ledger.recorded import Recorded
from ledger.rows import answer_from, select
from ledger.segment import Segment
from ledger.sql import SQL

T = TypeVar("T")

END = 2**63 - 1
ANSWER_EVENTS = 100


class History:
    """`archive` is the folder with the files; without it SegmentUnreadable is raised by whoever needs one of them.

    Every read asks over a connection in autocommit that nobody else uses meanwhile.
    """

    def __init__(self, archive: Path | None) -> None:
        self._archive = Archive(archive)

    async def read(self, connection: Connection, after: int, limit: int, to: int = END) -> list[Recorded]:
        """At most `limit` events after a position, up to and with `to`, in order."""
        events = await select(connection, "read", after=after, to=to, limit=limit)
        # The newest event is always in the table: nothing found without a `to` is the end.
        if events[0].position == after + 1 if events else to == END:
            return events
        older = await self._archived(connection, max(after, 0), limit, to)
        return joined(older, events, limit)

    async def read_stream(self, connection: Connection, stream: str, after: int, limit: int) -> list[Recorded]:
        """At most `limit` events of a stream after a version, in order."""
        events = await select(connection, "read_stream", stream=stream, after=after, to=VERSIONS, limit=limit)
        if events and events[0].version == after + 1:
            return events
        cursor = await connection.execute(SQL["archived_stream"], {"stream": stream}, prepare=True, binary=True)
        known = await cursor.fetchone()
        if known is None or known[0] <= after:
            return events
        there = await partitions(connection)
        older = await asyncio.to_thread(self._archive.stream, there, stream, known, after, limit)
        return joined(older, events, limit)

    async def find(self, connection: Connection, ids: Sequence[UUID]) -> list[Recorded]:
        """The events of these ids that exist, in order. For those not in the table every file is asked."""
        found = await select(connection, "find", ids=arrays.uuids(ids))
        if missing := set(ids) - {event.id for event in found}:
            for partition in await partitions(connection):
                if partition.segment:
                    found += await self._ask(partition, partial(Segment.find, ids=missing))
        return sorted(found, key=lambda event: event.position)

    async def pick(self, connection: Connection, positions: Sequence[int]) -> list[Recorded]:
        """The events at these positions, which are recorded and ascend, in order. BrokenChain if one is missing."""
        found = await select(connection, "pick", positions=arrays.numbers(positions))
        if len(found) < len(positions):
            there = {event.position for event in found}
            missing = [position for position in positions if position not in there]
            for partition in await partitions(connection):
                here = [position for position in missing if partition.first <= position <= partition.last]
                if partition.segment and here:
                    found += await self._ask(partition, partial(Segment.pick, positions=here))
            found.sort(key=lambda event: event.position)
        if [event.position for event in found] != list(positions):
            raise BrokenChain(min({*positions} - {event.position for event in found}), "it is missing")
        return found

    async def answer(self, connection: Connection, first_id: UUID) -> list[Recorded]:
        """What a command led to whose first event has this id, whole and in order; none if that was never recorded."""
        # One transaction: what was found in the table does not leave it before the rest of the answer is read.
        async with connection.transaction():
            if found := await select(connection, "find", ids=arrays.uuids([first_id])):
                return await answer_from(connection, found[0])
        ids = {"ids": arrays.uuids([first_id])}
        row = await (await connection.execute(SQL["archived_commands"], ids, prepare=True, binary=True)).fetchone()
        if row is None:
            return []
        (first,) = await self._archived(connection, row[1] - 1, 1, row[1])
        answer = [first]
        while first.causation_id is not None:
            chunk = await self.read_stream(connection, first.stream, answer[-1].version, ANSWER_EVENTS)
            same = list(takewhile(lambda event: event.causation_id == first.causation_id, chunk))
            answer += same
            if len(same) < ANSWER_EVENTS:
                break
        return answer

    async def _archived(self, connection: Connection, after: int, limit: int, to: int) -> list[Recorded]:
        """None if the next is not in the archive."""
        events: list[Recorded] = []
        while len(events) < limit and after < to:
            partition = await self._holding(connection, after + 1)
            if partition is None:
                break
            wanted = min(limit - len(events), partition.last - after, to - after)
            chunk = await self._ask(partition, partial(Segment.events, after=after, limit=wanted))
            if len(chunk) != wanted or chunk[0].position != after + 1:
                raise SegmentUnreadable(f"{partition.segment} does not hold position {after + len(chunk) + 1}")
            events += chunk
            after = chunk[-1].position
        return events

    async def _holding(self, connection: Connection, position: int) -> Partition | None:
        cursor = await connection.execute(SQL["archived"], {"position": position}, prepare=True, binary=True)
        row = await cursor.fetchone()
        return Partition(*row) if row else None

    async def _ask(self, partition: Partition, question: Callable[[Segment], T]) -> T:
        return await asyncio.to_thread(self._archive.ask, partition, question)


async def partitions(connection: Connection) -> list[Partition]:
    """All of them, in order."""
    rows = await (await connection.execute(SQL["partitions"], prepare=True, binary=True)).fetchall()
    return [Partition(*row) for row in rows]
