"""Moves closed partitions out of the table into segments of the archive, oldest first.

The order is what makes a crash harmless at any point: the file is written, synced, given its name, read back and
compared with the chain of digests; only then one transaction makes it known and drops the partition. Before its commit
the events are in the table, and a file nobody knows is written anew next time; after it they are in the file.
A file's name ends in the digest of its last event, so that two histories never share one.
"""

import asyncio
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from ledger import arrays
from ledger.archive import Partition
from ledger.codec import event_id
from ledger.errors import ArchiveBusy, BrokenChain, NotOwner, SegmentUnwritable
from ledger.history import partitions
from ledger.names import schema_of
from ledger.postgres import Connection
from ledger.recorded import Recorded
from ledger.rows import one, select
from ledger.segment import BLOCK_EVENTS, Segment, Writing, digest_of
from ledger.sql import SQL
from ledger.verify import GENESIS


class Closed(NamedTuple):
    """A partition that may go: every position of it is taken, and it is not the newest that holds events."""

    first: int
    last: int


async def closed(connection: Connection, before: int | datetime) -> list[Closed]:
    """The partitions in the table all of whose events lie before a position, or were recorded before a moment (UTC).

    Those of a later one never go before those of an earlier one: what is in the archive is the beginning of history.
    """
    found: list[Closed] = []
    for first, last in await (await connection.execute(SQL["closed"], binary=True)).fetchall():
        if isinstance(before, datetime):
            between = {"first": first, "last": last}
            (recorded_at,) = await one(await connection.execute(SQL["recorded_last"], between, binary=True))
            goes = recorded_at is not None and recorded_at < before
        else:
            goes = last < before
        if not goes:
            break
        found.append(Closed(first, last))
    return found


async def lock(connection: Connection, tenant: str) -> None:
    """Until this connection ends nobody else archives this ledger. ArchiveBusy if somebody does, NotOwner."""
    name = f"archive {schema_of(tenant)}"
    if await one(await connection.execute(SQL["archive_lock"], {"name": name})) != (True,):
        raise ArchiveBusy(f"Tenant {tenant} is being archived already: wait for that to end.")
    await connection.execute("SET ROLE NONE")  # only the owner may drop what is his
    may, owner = await one(await connection.execute(SQL["archive_owner"]))
    if not may:
        user = connection.info.user
        raise NotOwner(f"{user} does not own the ledger of {tenant}: archive it as {owner}, by another DATABASE_URL.")
    # Longer than any other statement: a whole partition is read, and what is kept of it written, in one transaction.
    await connection.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
    await connection.execute("SET lock_timeout = '60s'")


async def retire(connection: Connection, tenant: str, folder: Path, partition: Closed) -> Partition:
    """Moves one closed partition into a segment, under `lock`. BrokenChain if its events are not as recorded: nothing
    is moved then. SegmentUnwritable. The folder is made if there is none."""
    first, last = partition
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    previous, digest = await _digest_before(connection, first), await _digest_at(connection, last)
    path = folder / f"{tenant}-{first:012}-{last:012}-{digest.hex()[:16]}.segment"
    try:
        await _write(connection, path, partition, previous)
    except (OSError, sqlite3.Error) as error:
        raise SegmentUnwritable(
            f"{path} cannot be written ({error}): nothing of it was moved. Make room there, and archive again."
        ) from error
    sha256 = await asyncio.to_thread(_check, path, partition, previous, digest)
    async with connection.transaction():
        await _keep_commands(connection, path)
        what = {"first": first, "segment": path.name, "sha256": sha256, "previous": previous, "digest": digest}
        await connection.execute(SQL["archive_partition"], what)
    return next(one for one in await partitions(connection) if one.first == first)


async def _write(connection: Connection, path: Path, partition: Closed, previous: bytes) -> None:
    writing = await asyncio.to_thread(Writing, path, partition.first, previous)
    try:
        after = partition.first - 1
        while after < partition.last:
            events = await select(connection, "read", after=after, to=partition.last, limit=BLOCK_EVENTS)
            if not events:
                raise BrokenChain(after + 1, "it is missing")
            await asyncio.to_thread(writing.add, events)
            after = events[-1].position
        await asyncio.to_thread(writing.finish)
    except BaseException:
        writing.give_up()
        raise


def _check(path: Path, partition: Closed, previous: bytes, digest: bytes) -> bytes:
    """The sha256 of a file in which everything was found as it was recorded."""
    with Segment(path) as segment:
        segment.check(partition.first, partition.last, previous, digest)
    return digest_of(path)


async def _keep_commands(connection: Connection, path: Path) -> None:
    with Segment(path) as segment:
        async with connection.cursor() as cursor, cursor.copy(SQL["keep_commands"]) as copy:
            for event in _first_of_commands(segment):
                await copy.write_row((event.id, arrays.number(event.position)))


def _first_of_commands(events: Iterable[Recorded]) -> Iterator[Recorded]:
    """All but those that certainly are a later event of their command."""
    last: dict[str, tuple[str | None, int]] = {}
    for event in events:
        cause, index = last.get(event.stream, (None, 0))
        index = index + 1 if event.causation_id is not None and event.causation_id == cause else 0
        last[event.stream] = event.causation_id, index
        if index == 0 or event.id != _expected_id(event.causation_id, index):
            yield event


def _expected_id(cause: str | None, index: int) -> UUID | None:
    try:
        return event_id(UUID(cause), index)
    except (ValueError, TypeError):
        return None


async def _digest_at(connection: Connection, position: int) -> bytes:
    found = await select(connection, "read", after=position - 1, to=position, limit=1)
    if not found:
        raise BrokenChain(position, "it is missing")
    return found[0].digest


async def _digest_before(connection: Connection, first: int) -> bytes:
    """The digest that the first event of a partition continues: the segment before it may hold that."""
    if first == 1:
        return GENESIS
    for partition in await partitions(connection):
        if partition.last == first - 1 and partition.digest is not None:
            return partition.digest
    return await _digest_at(connection, first - 1)
