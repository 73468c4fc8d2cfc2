"""The one writer of a process: appends that wait together are committed together.

*Fast path.* The writer remembers the head it left, computes positions and digests itself, and sends one statement: it
moves the head if it is still that one, and inserts. While Postgres commits one group the next is made and sent after
it, as if that one had succeeded: if it did not, the head is not the one expected, and nothing is inserted either.
*Locked path.* If nothing was inserted (another process has written, a version is stale, an id is there already) or the
outcome is unknown (the connection broke), the same appends are judged one after another under the head's lock: each is
accepted or refused alone. What an attempt with an unknown outcome did commit is found by its ids then, because whoever
might still commit it holds that very lock, or has lost the head and will not. After a group that met another process's
events the writer stays on the locked path until it has been alone for a while.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from itertools import count
from time import monotonic
from typing import NamedTuple
from uuid import UUID

import psycopg
import structlog

from ledger.append import Append
from ledger.errors import AlreadyRecorded, LedgerError, LedgerUnavailable, NotRecordable
from ledger.group import Group, Pending, bases, claims, compose, parameters
from ledger.judge import judge
from ledger.partitions import Partitions
from ledger.pipe import Pipe
from ledger.postgres import Connection
from ledger.queue import GROUP_EVENTS, Queue
from ledger.recorded import Recorded
from ledger.rows import Head
from ledger.sql import SQL

GROUPS_UNDER_WAY = 2
WORTH_A_COMMIT_EVENTS = 32
"""Fewer wait for the end of what is under way: to be committed with others costs them less than a commit of their own."""
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


class Flight(NamedTuple):
    """A group that was sent; `answer` ends in how many rows were inserted."""

    appends: list[Pending]
    group: Group
    answer: asyncio.Future[int]


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
        self._queue = Queue()
        self._work, self._idle = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._head: Head | None = None
        self._contended = 0
        self._flying: deque[Flight] = deque()
        self._tip: Head | None = None
        """The head after all that flies; None: nothing may be sent, the locked path comes first."""
        self._enough_events = WORTH_A_COMMIT_EVENTS

    async def append(self, append: Append) -> list[Recorded]:
        """See `Ledger.append`."""
        if not append.events:
            return []
        pending = Pending(append, asyncio.get_running_loop().create_future())
        await self._queue.put(pending)
        self._idle.clear()
        self._work.set()
        if self._worth_another():
            self._launch()
        return await pending.future

    async def run(self) -> None:
        """Writes for ever. Cancelled in the middle of a group, it ends that group first."""
        try:
            while True:
                await self._work.wait()
                await asyncio.sleep(0)  # whoever the last group has just answered may ask again in time for this one
                await self._to_its_end(self._go_on())
                if not self._queue and not self._flying:
                    self._work.clear()
                    self._idle.set()
        finally:
            self._queue.close()
            try:
                while self._flying:
                    await self._land()
            finally:
                for flight in self._flying:
                    _in_doubt(flight.appends)
                self._queue.refuse()
                self._idle.set()
                await self._disconnect()

    async def close(self) -> None:
        """Takes no more, and returns when all that was taken is written or answered, at most seconds later."""
        self._queue.close()
        await self._idle.wait()

    async def _to_its_end(self, step: Coroutine[None, None, None]) -> None:
        """Cancelled in the middle of it, it goes on to its end first, and takes no more."""
        task = asyncio.ensure_future(step)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            self._queue.close()
            await task
            raise

    async def _go_on(self) -> None:
        if not self._flying or self._worth_another():
            self._launch()
        if self._flying:
            await self._land()
        elif appends := self._queue.take(()):
            await self._judge(appends)

    def _worth_another(self) -> bool:
        return self._queue.events >= self._enough_events and len(self._flying) < GROUPS_UNDER_WAY

    def _launch(self) -> None:
        """Sends the next group, if the fast path is open."""
        if self._pipe is None or self._tip is None or not (appends := self._queue.take(self._under_way())):
            return
        try:
            group = compose(appends, self._tip)
            if (starts := bases(appends)) is None or not self._partitions.ready(group.after.position):
                answer = asyncio.get_running_loop().create_future()
                answer.set_result(0)
            else:
                floor = self._partitions.first
                answer = self._pipe.send(SQL["append"], parameters(group, claims(appends, starts, floor)))
        except BaseException:
            _in_doubt(appends)
            raise
        self._flying.append(Flight(appends, group, answer))
        self._tip = group.after

    async def _land(self) -> None:
        """Waits for the oldest group that flies. If it was not inserted, nor were those behind it: all are judged."""
        appends, group, answer = self._flying[0]
        written, lost = 0, None
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                written = await answer
        except (*LOST, TimeoutError) as error:
            lost = error
        except psycopg.Error:
            pass  # the locked path will tell whose it is
        outstanding = self._queue.events + sum(len(pending.rows) for pending in self._under_way())
        self._enough_events = min(GROUP_EVENTS, max(WORTH_A_COMMIT_EVENTS, outstanding // 2))
        if written:
            self._settle(appends, group)
            self._flying.popleft()
            return
        grounded = []
        while self._flying:
            flight = self._flying.popleft()
            flight.answer.cancel()
            grounded += flight.appends
        await self._judge(grounded, lost)

    def _under_way(self) -> Iterator[Pending]:
        return (pending for flight in self._flying for pending in flight.appends)

    async def _judge(self, appends: list[Pending], lost: Exception | None = None) -> None:
        """Answers every append; `lost`: how they were sent before, and the answer was not had."""
        try:
            await self._write(appends, lost)
        finally:
            _in_doubt(appends)

    async def _write(self, appends: list[Pending], lost: Exception | None = None) -> None:
        """Commits what can be, on the locked path; a Postgres that is away is waited for."""
        self._tip = None
        for attempt in count():
            if lost is not None:
                for pending in appends:
                    pending.attempted = True
                await self._reconnect(appends, lost, attempt)
                # All that nobody was told of belongs together: what was sent may still be committed as it was sent.
                appends = [pending for pending in appends if pending.in_doubt]
                if all(pending.future.done() for pending in appends):
                    return
            try:
                async with asyncio.timeout(ATTEMPT_SECONDS):
                    await self._locked(appends)
                    if not self._contended:
                        self._pipe = self._pipe or Pipe(await self._connect())
                        self._tip = self._head
                return
            except (*LOST, TimeoutError) as error:
                lost = error
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                # Something in one of them cannot be stored: find it by writing each alone.
                if len(appends) == 1:
                    appends[0].fail(NotRecordable(f"stream {appends[0].stream}: {error}"))
                    return
                for pending in appends:
                    await self._write([pending])
                return

    async def _locked(self, appends: list[Pending]) -> None:
        connection = await self._connected()
        verdict = await judge(connection, appends, self._partitions.last)
        self._note_contention(verdict.head)
        if verdict.lacking:  # it is made, and committed, while nobody waits for the lock
            await self._partitions.holding(connection, verdict.group.after.position)
            await self._locked(appends)
            return
        self._settle(verdict.accepted, verdict.group)
        for pending in verdict.archived:  # now that nobody waits for the lock: a file may have to be read
            try:
                pending.fail(AlreadyRecorded(await self._recall(pending.rows[0].id)))
            except LedgerError as error:
                pending.fail(error)
        for pending, outcome in verdict.others:
            if isinstance(outcome, Exception):
                pending.fail(outcome)
            else:
                pending.succeed(outcome)
        if verdict.accepted:
            await self._partitions.holding(connection, verdict.group.after.position)

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
        self._pipe = self._connection = self._head = self._tip = None

    async def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = await self._connect()
        return self._connection

    async def _reconnect(self, appends: list[Pending], error: Exception, attempt: int) -> None:
        """Disconnects, waits a little, and gives up the appends that have waited too long."""
        said = str(error).strip() or "no answer"
        log.warning("ledger.append.retried", attempt=attempt + 1, error=said)
        await self._disconnect()
        patience = CLOSING_SECONDS if self._queue.closed else PATIENCE_SECONDS
        for pending in appends:
            waited = monotonic() - pending.since
            if waited > patience:
                why = (
                    f"Postgres did not answer for {waited:.0f} s ({said}). Whether {pending.stream} was appended to is"
                )
                pending.fail(LedgerUnavailable(f"{why} not known: ask again with the same ids, that is always safe."))
        await asyncio.sleep(RETRY_SECONDS[min(attempt, len(RETRY_SECONDS) - 1)])


def _in_doubt(appends: list[Pending]) -> None:
    """Answers those that were not: nobody else will."""
    for pending in appends:
        pending.fail(LedgerUnavailable(f"The writer broke down; ask again: {pending.stream} is in doubt."))
