"""The one writer of a process: appends that wait together are committed together.

*Fast path.* The writer remembers the head it left, computes positions and digests itself, and sends one statement: it
moves the head if it is still that one, and inserts. *Locked path.* If nothing was inserted (another process has
written, a version is stale, an id is there already) or the outcome is unknown (the connection broke), the same group
is judged one append after another under the head's lock: each is accepted or refused alone. What an attempt with an
unknown outcome did commit is found by its ids then, because whoever might still commit it holds that very lock, or has
lost the head and will not. After a group that met another process's events the writer stays on the locked path until
it has been alone for a while.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import count
from time import monotonic
from uuid import UUID

import psycopg
import structlog

from ledger.append import Append, commands
from ledger.errors import AlreadyRecorded, LedgerClosed, LedgerError, LedgerUnavailable, NotRecordable, WrongVersion
from ledger.group import NO_CLAIMS, Group, Pending, bases, claims, compose, following, parameters, survey
from ledger.partitions import Partitions
from ledger.pipe import Pipe
from ledger.postgres import Connection
from ledger.recorded import Recorded
from ledger.rows import Head, answer_from, select
from ledger.sql import SQL

GROUP_EVENTS = 1_000
GROUP_BYTES = 8 * 1024 * 1024
QUEUED_EVENTS = 20_000
PATIENCE_SECONDS = 60.0
ATTEMPT_SECONDS = 35.0
"""Longer than Postgres's own limits allow: behind it hangs a disk or a server that answers nothing but keeps the line."""
CLOSING_SECONDS = 5.0
ALONE_GROUPS = 8
RETRY_SECONDS = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
LOST = (
    psycopg.OperationalError,
    psycopg.errors.ReadOnlySqlTransaction,
    psycopg.errors.IdleInTransactionSessionTimeout,
    psycopg.errors.TransactionTimeout,
)
"""A connection that is to be replaced. The last two end the transaction of a process that was suspended in it."""

log = structlog.get_logger(__name__)


class Writer:
    """`connect` opens a connection of its own, one for each path; `committed` is told, in order, what was committed;
    `recall` answers with what a command led to whose first event, of this id, is in the archive."""

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        committed: Callable[[list[Recorded]], None],
        recall: Callable[[UUID], Awaitable[list[Recorded]]],
    ) -> None:
        self._connect, self._committed, self._recall = connect, committed, recall
        self._partitions = Partitions()
        self._connection: Connection | None = None
        self._pipe: Pipe | None = None
        self._queue: deque[Pending] = deque()
        self._queued_events = 0
        self._work, self._room, self._idle = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._room.set()
        self._idle.set()
        self._closed = False
        self._head: Head | None = None
        self._contended = 0

    async def append(self, append: Append) -> list[Recorded]:
        """See `Ledger.append`."""
        if not append.events:
            return []
        pending = Pending(append, asyncio.get_running_loop().create_future())
        while self._queued_events >= QUEUED_EVENTS and not self._closed:
            self._room.clear()
            await self._room.wait()
        if self._closed:
            raise LedgerClosed("The ledger is closed: nothing was written.")
        self._queue.append(pending)
        self._queued_events += len(pending.rows)
        self._idle.clear()
        self._work.set()
        return await pending.future

    async def run(self) -> None:
        """Writes for ever. Cancelled in the middle of a group, it ends that group first."""
        try:
            while True:
                await self._work.wait()
                await asyncio.sleep(0)  # whoever the last group has just answered may ask again in time for this one
                if group := self._take():
                    await self._to_its_end(group)
                if not self._queue:
                    self._work.clear()
                    self._idle.set()
        finally:
            self._closed = True
            self._room.set()
            for pending in self._queue:
                pending.fail(LedgerClosed("The ledger was closed: nothing of this was written."))
            self._idle.set()
            await self._disconnect()

    async def close(self) -> None:
        """Takes no more, and returns when all that was taken is written or answered, at most seconds later."""
        self._closed = True
        self._room.set()
        await self._idle.wait()

    async def _to_its_end(self, appends: list[Pending]) -> None:
        write = asyncio.ensure_future(self._write(appends))
        try:
            await asyncio.shield(write)
        except asyncio.CancelledError:
            self._closed = True
            await write
            raise
        finally:
            for pending in appends:
                pending.fail(LedgerUnavailable(f"The writer broke down; ask again: {pending.stream} is in doubt."))

    def _take(self) -> list[Pending]:
        """The next appends; one that repeats the id of another waits for the next time, when that one can be found."""
        taken: list[Pending] = []
        ids = set()
        events = size = 0
        while self._queue and events < GROUP_EVENTS and size < GROUP_BYTES:
            pending = self._queue[0]
            if pending.rows[0].id in ids:
                break
            self._queue.popleft()
            self._queued_events -= len(pending.rows)
            if pending.future.done():  # its caller was cancelled before anything was sent
                continue
            ids.add(pending.rows[0].id)
            events += len(pending.rows)
            size += pending.size
            taken.append(pending)
        if self._queued_events < QUEUED_EVENTS:
            self._room.set()
        return taken

    async def _write(self, appends: list[Pending]) -> None:
        """Commits what can be, answers every append; a Postgres that is away is waited for."""
        for attempt in count():
            try:
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    if not await self._fast(appends):
                        await self._locked(appends)
                return
            except (*LOST, TimeoutError) as error:
                for pending in appends:
                    pending.attempted = True
                await self._reconnect(appends, error, attempt)
                appends = [pending for pending in appends if not pending.future.done()]
                if not appends:
                    return
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                # Something in one of them cannot be stored: find it by writing each alone.
                if len(appends) == 1:
                    appends[0].fail(NotRecordable(f"stream {appends[0].stream}: {error}"))
                    return
                for pending in appends:
                    await self._write([pending])
                return

    async def _fast(self, appends: list[Pending]) -> bool:
        if self._contended or self._head is None or (starts := bases(appends)) is None:
            return False
        if self._pipe is None:
            self._pipe = Pipe(await self._connect())
        group = compose(appends, self._head)
        floor = await self._partitions.holding(await self._connected(), group.after.position)
        try:
            written = await self._pipe.send(SQL["append"], parameters(group, claims(appends, starts, floor))) > 0
        except (psycopg.errors.UniqueViolation, psycopg.errors.RestrictViolation):
            return False
        if written:
            self._settle(appends, group)
        return written

    async def _locked(self, appends: list[Pending]) -> None:
        connection = await self._connected()
        answers: list[tuple[Pending, list[Recorded] | Exception]] = []
        archived: list[Pending] = []
        async with connection.transaction():
            head, versions, found = await survey(connection, appends)
            self._note_contention(head)
            accepted: list[Pending] = []
            for pending in appends:
                actual = versions[pending.stream]
                repeated = [id_ for id_ in commands(pending.rows) if id_ in found]
                if repeated and repeated[0] == pending.rows[0].id:
                    if first := found[repeated[0]]:
                        answers.append((pending, await _found(connection, pending, first)))
                    else:
                        archived.append(pending)
                elif actual != pending.expected:
                    answers.append((pending, WrongVersion(pending.stream, pending.expected, actual)))
                elif repeated:
                    why = (
                        f"stream {pending.stream}: event {repeated[0]} is recorded already, the ones before it are not"
                    )
                    answers.append((pending, NotRecordable(why)))
                else:
                    versions[pending.stream] += len(pending.rows)
                    accepted.append(pending)
            group = compose(accepted, head)
            lacking = bool(accepted) and group.after.position > self._partitions.last
            if accepted and not lacking:
                with following(head):
                    written = await connection.execute(SQL["append"], parameters(group, NO_CLAIMS), prepare=True)
                if not written.rowcount:
                    raise RuntimeError(f"The ledger's head left position {head.position} while it was locked.")
        if lacking:  # it is made, and committed, while nobody waits for the lock
            await self._partitions.holding(connection, group.after.position)
            await self._locked(appends)
            return
        self._settle(accepted, group)
        for pending in archived:  # now that nobody waits for the lock: a file may have to be read
            try:
                answers.append((pending, AlreadyRecorded(await self._recall(pending.rows[0].id))))
            except LedgerError as error:
                answers.append((pending, error))
        for pending, outcome in answers:
            if isinstance(outcome, Exception):
                pending.fail(outcome)
            else:
                pending.succeed(outcome)
        if accepted:
            await self._partitions.holding(connection, group.after.position)

    def _note_contention(self, head: Head) -> None:
        if self._head is not None and self._head != head:
            self._contended = ALONE_GROUPS
        elif self._contended:
            self._contended -= 1

    def _settle(self, appends: list[Pending], group: Group) -> None:
        self._head = group.after
        self._committed([recorded for answer in group.answers for recorded in answer])
        for pending, answer in zip(appends, group.answers, strict=True):
            pending.succeed(answer)

    async def _disconnect(self) -> None:
        """Forgets the head too: whoever comes back has to look."""
        if self._pipe is not None:
            await self._pipe.close()
        if self._connection is not None:
            await self._connection.close()
        self._pipe = self._connection = self._head = None

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = await self._connect()
        return self._connection

    async def _reconnect(self, appends: list[Pending], error: Exception, attempt: int) -> None:
        """Disconnects, waits a little, and gives up the appends that have waited too long."""
        said = str(error).strip() or "no answer"
        log.warning("ledger.append.retried", attempt=attempt + 1, error=said)
        await self._disconnect()
        patience = CLOSING_SECONDS if self._closed else PATIENCE_SECONDS
        for pending in appends:
            waited = monotonic() - pending.since
            if waited > patience:
                why = (
                    f"Postgres did not answer for {waited:.0f} s ({said}). Whether {pending.stream} was appended to is"
                )
                pending.fail(LedgerUnavailable(f"{why} not known: ask again with the same ids, that is always safe."))
        await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])


async def _found(connection: Connection, pending: Pending, first: Recorded) -> list[Recorded] | AlreadyRecorded:
    """What became of an append whose first event is there: recorded just as it was sent, or a repeat of its command.

    Its events may have several causes, and a repeat may have been sent too: so versions and ids decide.
    """
    if pending.attempted:
        there = await select(
            connection, "read_stream", stream=pending.stream, after=pending.expected, limit=len(pending.rows)
        )
        if [recorded.id for recorded in there] == [row.id for row in pending.rows]:
            return there
    return AlreadyRecorded(await answer_from(connection, first))
