"""One tenant's ledger for programs that wait in threads, as the recorders of the `eventsourcing` library do.

`record` is the locked path of `ledger/writer.py` in a thread's shape: the same statements under the same lock of the
head, positions and digests from the same `compose`. Only the waiting differs.
"""

import asyncio
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar, cast
from uuid import UUID

import psycopg
from eventsourcing import persistence
from eventsourcing.utils import Environment, retry

from ledger import arrays
from ledger.archive import Archive, Partition, joined
from ledger.errors import NotRecordable, SegmentUnreadable
from ledger.group import NO_CLAIMS, Draft, compose, following, parameters
from ledger.migrate import migrate
from ledger.postgres import Blocking, blocking_pool, connect, refuse_unsafe
from ledger.recorded import Recorded
from ledger.rows import Head, recorded_row
from ledger.sql import SQL

CONNECTIONS = 10
_FAULTS: tuple[tuple[type[Exception], type[Exception]], ...] = (
    (psycopg.InterfaceError, persistence.InterfaceError),
    (psycopg.OperationalError, persistence.OperationalError),
    (psycopg.DataError, persistence.DataError),
    (NotRecordable, persistence.DataError),
    (SegmentUnreadable, persistence.InternalError),
    (psycopg.IntegrityError, persistence.IntegrityError),
    (psycopg.InternalError, persistence.InternalError),
    (psycopg.NotSupportedError, persistence.NotSupportedError),
    (psycopg.ProgrammingError, persistence.ProgrammingError),
)

F = TypeVar("F", bound=Callable[..., Any])


def patiently(ask: F) -> F:
    """As the library's own recorders: what failed for want of Postgres is tried ten times, 0.2 s apart."""
    again = retry((persistence.InterfaceError, persistence.OperationalError), max_attempts=10, wait=0.2)
    return cast(F, again(ask))


class Store:
    """`connection` and `transaction` raise the library's errors in place of the driver's. With `views` it may make
    tables and not append: for what is made of events. `archive` is the folder with what is no longer in Postgres; it
    is read as `ledger.history` does, the table first."""

    def __init__(self, dsn: str, tenant: str, *, archive: Path | None = None, views: bool = False) -> None:
        self._dsn, self._tenant, self._archive = dsn, tenant, Archive(archive)
        self._pool = blocking_pool(dsn, tenant, size=CONNECTIONS, views=views)
        # The library closes an application's factory, but none of those it makes for views.
        self.close = weakref.finalize(self, self._pool.close)

    @classmethod
    def of(cls, env: Environment, *, views: bool = False) -> Self:
        """By DATABASE_URL, CAIRN_TENANT (`main` if it is not set) and CAIRN_DATA_DIR, whose `archive` it is. OSError
        without the first, or for a bad second."""
        dsn = env.get("DATABASE_URL")
        if not dsn:
            raise OSError("DATABASE_URL is not set: the Postgres that holds the ledger, as postgresql://user@host/name")
        folder = env.get("CAIRN_DATA_DIR")
        archive = Path(folder, "archive") if folder else None
        try:
            return cls(dsn, env.get("CAIRN_TENANT", "main"), archive=archive, views=views)
        except ValueError as error:
            raise OSError(f"CAIRN_TENANT: {error}") from error

    def migrate(self) -> None:
        """Makes the tenant's tables, if they are not there yet. UnsafeServer, MigrationError."""
        with ThreadPoolExecutor(1) as apart:  # the caller's thread may have an event loop of its own
            apart.submit(asyncio.run, self._migrate()).result()

    async def _migrate(self) -> None:
        async with await connect(self._dsn, self._tenant) as connection:
            await refuse_unsafe(connection)
            await migrate(connection, self._tenant)

    @contextmanager
    def connection(self) -> Iterator[Blocking]:
        """In autocommit, in the tenant's schema."""
        try:
            self._pool.open()
            with self._pool.connection() as connection:
                yield connection
        except (psycopg.Error, NotRecordable, SegmentUnreadable) as error:
            ours = next((ours for theirs, ours in _FAULTS if isinstance(error, theirs)), persistence.DatabaseError)
            raise ours(str(error)) from error

    @contextmanager
    def transaction(self) -> Iterator[Blocking]:
        """Everything in it is committed, or nothing."""
        with self.connection() as connection, connection.transaction():
            yield connection

    @patiently
    def rows(self, name: str, **parameters: object) -> list[tuple[Any, ...]]:
        """What a statement of `queries.sql` answers."""
        with self.connection() as connection:
            return _rows(connection, name, **parameters)

    @patiently
    def read_stream(self, stream: str, after: int, to: int, limit: int) -> list[Recorded]:
        """At most `limit` events of a stream after a version, up to and with another, in order."""
        with self.connection() as connection:
            events = _select(connection, "read_stream", stream=stream, after=after, to=to, limit=limit)
            if events and events[0].version == after + 1:
                return events
            known = _rows(connection, "archived_stream", stream=stream)
            if not known or known[0][0] <= after:
                return events
            older = self._archive.stream(_partitions(connection), stream, known[0], after, min(limit, to - after))
            return joined(older, events, limit)

    @patiently
    def read_streams(self, prefix: str, types: Sequence[str], after: int, to: int, limit: int) -> list[Recorded]:
        """At most `limit` events after a position, up to and with another, in order: those in streams whose name begins
        with the prefix, of these types, or of all if none are named."""
        asked = {"prefix": prefix, "after": after, "to": to, "types": arrays.texts(types) if types else None}
        with self.connection() as connection:
            events = _select(connection, "es_notifications", **asked, limit=limit)
            # The archive is the beginning of history: if the next position is not in it, nothing that was asked for is.
            if not _rows(connection, "archived", position=after + 1):
                return events
            ((first, last),) = _rows(connection, "es_archived", prefix=prefix)
            if last is None:
                return events
            older = self._archive.those(
                _partitions(connection),
                lambda one: one.stream.startswith(prefix) and (not types or one.type in types),
                max(after, first - 1),
                min(to, last),
                limit,
            )
            return joined(older, events, limit)

    def position(self) -> int:
        """The ledger's last position. Whoever reads up to it misses nothing."""
        position: int = self.rows("head")[0][1]
        return position


class Survey:
    """What a transaction that holds the head's lock sees: nobody else appends before it ends."""

    def __init__(self, connection: Blocking, streams: Sequence[str], first_id: UUID) -> None:
        with connection.pipeline():
            head = connection.execute(SQL["lock_head"], prepare=True, binary=True)
            named = {"streams": arrays.texts(list({*streams}))}
            versions = connection.execute(SQL["versions"], named, prepare=True, binary=True)
            newest = connection.cursor(binary=True, row_factory=recorded_row)
            newest.execute(SQL["es_newest"], named, prepare=True)
            ids = {"ids": arrays.uuids([first_id])}
            found = connection.cursor(binary=True, row_factory=recorded_row)
            found.execute(SQL["find"], ids, prepare=True)
            archived = connection.execute(SQL["archived_commands"], ids, prepare=True, binary=True)
        epoch, position, digest, _ = head.fetchall()[0]
        self.head = Head(epoch, position, digest)
        self.versions: dict[str, int] = dict(versions.fetchall())
        self.newest: dict[str, Recorded] = {recorded.stream: recorded for recorded in newest.fetchall()}
        """The last event of each stream, unless that is in the archive."""
        there = [event.position for event in found.fetchall()] + [position for _, position in archived.fetchall()]
        self.found: int | None = there[0] if there else None
        """The position of the event with `first_id`, if it is recorded already."""
        self._connection = connection

    def append(self, drafts: Iterable[Draft]) -> list[int]:
        """The positions of what is recorded by the end of the transaction."""
        group = compose(list(drafts), self.head)
        with following(self.head), self._connection.pipeline():
            self._connection.execute(SQL["partition_for"], {"position": group.after.position}, prepare=True)
            cursor = self._connection.execute(SQL["append"], parameters(group, NO_CLAIMS), prepare=True)
        positions = [recorded.position for answer in group.answers for recorded in answer]
        if cursor.rowcount != len(positions):
            raise RuntimeError(f"The ledger's head left position {self.head.position} while it was locked.")
        return positions


def _rows(connection: Blocking, name: str, **parameters: object) -> list[tuple[Any, ...]]:
    return connection.execute(SQL[name], parameters, prepare=True, binary=True).fetchall()


def _select(connection: Blocking, name: str, **parameters: object) -> list[Recorded]:
    cursor = connection.cursor(binary=True, row_factory=recorded_row)
    return cursor.execute(SQL[name], parameters, prepare=True).fetchall()


def _partitions(connection: Blocking) -> list[Partition]:
    return [Partition(*row) for row in _rows(connection, "partitions")]
