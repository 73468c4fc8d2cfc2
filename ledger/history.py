"""All that was recorded, wherever it is: in the table, or in the archive as one file for each partition moved there.

`partitions` in Postgres says which positions are in which file, and its sha256: a file is compared with that the first
time a process reads it. What every append asks of archived events is kept in Postgres: `archived_commands`,
`archived_streams`. The table is asked first and the archive afterwards: a partition leaves the table in the very
transaction that makes its segment known, so whatever was missed there is found here.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeVar
from uuid import UUID

from ledger import arrays
from ledger.errors import SegmentUnreadable
from ledger.postgres import Connection
from ledger.recorded import Recorded
from ledger.rows import answer_from, select
from ledger.segment import Segment, digest_of
from ledger.sql import SQL

T = TypeVar("T")

END = 2**63 - 1
ANSWER_EVENTS = 100


class Partition(NamedTuple):
    """A range of positions; with a `segment`, the file that holds them."""

    first: int
    last: int
    segment: str | None
    sha256: bytes | None
    previous: bytes | None
    digest: bytes | None
    archived_at: datetime | None


class History:
    """`archive` is the folder with the files; without it SegmentUnreadable is raised by whoever needs one of them.

    Every read asks over a connection in autocommit that nobody else uses meanwhile.
    """

    def __init__(self, archive: Path | None) -> None:
        self._folder = archive
        self._checked: set[tuple[object, ...]] = set()

    async def read(self, connection: Connection, after: int, limit: int, to: int = END) -> list[Recorded]:
        """At most `limit` events after a position, up to and with `to`, in order."""
        events = await select(connection, "read", after=after, to=to, limit=limit)
        # The newest event is always in the table: nothing found without a `to` is the end.
        if events[0].position == after + 1 if events else to == END:
            return events
        older = await self._archived(connection, max(after, 0), limit, to)
        return [*older, *(one for one in events if not older or one.position > older[-1].position)][:limit]

    async def read_stream(self, connection: Connection, stream: str, after: int, limit: int) -> list[Recorded]:
        """At most `limit` events of a stream after a version, in order."""
        events = await select(connection, "read_stream", stream=stream, after=after, limit=limit)
        if events and events[0].version == after + 1:
            return events
        older = await self._archived_stream(connection, stream, after, limit)
        return [*older, *(one for one in events if not older or one.version > older[-1].version)][:limit]

    async def find(self, connection: Connection, ids: Sequence[UUID]) -> list[Recorded]:
        """The events of these ids that exist, in order. For those not in the table every file is asked."""
        found = await select(connection, "find", ids=arrays.uuids(ids))
        if missing := set(ids) - {event.id for event in found}:
            for partition in await partitions(connection):
                if partition.segment:
                    found += await self._ask(partition, partial(Segment.find, ids=missing))
        return sorted(found, key=lambda event: event.position)

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

    async def _archived_stream(self, connection: Connection, stream: str, after: int, limit: int) -> list[Recorded]:
        """None if the next is not in the archive."""
        cursor = await connection.execute(SQL["archived_stream"], {"stream": stream}, prepare=True, binary=True)
        row = await cursor.fetchone()
        if row is None or row[0] <= after:
            return []
        version, first, last = row
        events: list[Recorded] = []
        wanted = min(limit, version - after)
        for partition in await partitions(connection):
            if partition.segment and partition.first <= last and partition.last >= first and len(events) < wanted:
                left, behind = wanted - len(events), after + len(events)
                events += await self._ask(partition, partial(Segment.stream, stream=stream, after=behind, limit=left))
        if [event.version for event in events] != list(range(after + 1, after + wanted + 1)):
            raise SegmentUnreadable(f"the archive does not hold versions {after + 1} to {after + wanted} of {stream}")
        return events

    async def _holding(self, connection: Connection, position: int) -> Partition | None:
        cursor = await connection.execute(SQL["archived"], {"position": position}, prepare=True, binary=True)
        row = await cursor.fetchone()
        return Partition(*row) if row else None

    async def _ask(self, partition: Partition, question: Callable[[Segment], T]) -> T:
        if self._folder is None:
            raise SegmentUnreadable(
                f"positions {partition.first} to {partition.last} are in the archive, in {partition.segment}:"
                " open the ledger with the folder of its archive"
            )
        return await asyncio.to_thread(self._asked, self._folder / str(partition.segment), partition, question)

    def _asked(self, path: Path, partition: Partition, question: Callable[[Segment], T]) -> T:
        with Segment(path) as segment:
            stat = path.stat()
            version = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if version not in self._checked:
                if (found := digest_of(path)) != partition.sha256:
                    raise SegmentUnreadable(f"{path} is not the file that was written: its sha256 is {found.hex()}")
                self._checked.add(version)
            return question(segment)


async def partitions(connection: Connection) -> list[Partition]:
    """All of them, in order."""
    rows = await (await connection.execute(SQL["partitions"], prepare=True, binary=True)).fetchall()
    return [Partition(*row) for row in rows]
