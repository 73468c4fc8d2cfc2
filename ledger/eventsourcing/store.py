"""One tenant's ledger for programs that wait in threads, as the recorders of the `eventsourcing` library do.

`record` is the locked path of `ledger/writer.py` in a thread's shape: the same statements under the same lock of the
head, positions and digests from the same `compose`. Only the waiting differs.
"""

import asyncio
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self, TypeVar, cast
from uuid import UUID

import psycopg
from eventsourcing import persistence
from eventsourcing.utils import Environment, retry

from ledger import arrays
from ledger.errors import NotRecordable
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
    tables and not append: for what is made of events."""

    def __init__(self, dsn: str, tenant: str, *, views: bool = False) -> None:
        self._dsn, self._tenant = dsn, tenant
        self._pool = blocking_pool(dsn, tenant, size=CONNECTIONS, views=views)
        # The library closes an application's factory, but none of those it makes for views.
        self.close = weakref.finalize(self, self._pool.close)

    @classmethod
    def of(cls, env: Environment, *, views: bool = False) -> Self:
        """By DATABASE_URL and CAIRN_TENANT (`main` if it is not set). OSError without the first, or for a bad second."""
        dsn = env.get("DATABASE_URL")
        if not dsn:
            raise OSError("DATABASE_URL is not set: the Postgres that holds the ledger, as postgresql://user@host/name")
        try:
            return cls(dsn, env.get("CAIRN_TENANT", "main"), views=views)
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
        except (psycopg.Error, NotRecordable) as error:
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
            return connection.execute(SQL[name], parameters, prepare=True, binary=True).fetchall()

    @patiently
    def events(self, name: str, **parameters: object) -> list[Recorded]:
        """The events that a statement of `queries.sql` finds."""
        with self.connection() as connection:
            cursor = connection.cursor(binary=True, row_factory=recorded_row)
            return cursor.execute(SQL[name], parameters, prepare=True).fetchall()

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
            firsts = connection.cursor(binary=True, row_factory=recorded_row)
            firsts.execute(SQL["firsts"], named, prepare=True)
            found = connection.cursor(binary=True, row_factory=recorded_row)
            found.execute(SQL["find"], {"ids": arrays.uuids([first_id])}, prepare=True)
        epoch, position, digest, _ = head.fetchall()[0]
        self.head = Head(epoch, position, digest)
        self.versions: dict[str, int] = dict(versions.fetchall())
        self.firsts: dict[str, Recorded] = {recorded.stream: recorded for recorded in firsts.fetchall()}
        self.found = found.fetchone()
        """The event with `first_id`, if it is recorded already."""
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
