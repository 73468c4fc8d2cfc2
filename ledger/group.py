"""A group of appends on its way into one transaction: what it will look like, and the statements that put it there."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from time import monotonic
from typing import NamedTuple
from uuid import UUID

import psycopg

from ledger import arrays
from ledger.append import Append, Row, commands, rows
from ledger.codec import chain
from ledger.errors import BrokenChain, LedgerUnavailable
from ledger.postgres import Connection
from ledger.recorded import Recorded
from ledger.rows import Head, one, recorded_row
from ledger.sql import SQL


class Draft:
    """An append with the bytes its events will have."""

    __slots__ = ("expected", "rows", "stream")

    def __init__(self, append: Append) -> None:
        self.stream, self.expected = append.stream, append.expected_version
        self.rows = rows(append)


class Pending(Draft):
    """An append in the queue. `attempted`: it was sent to Postgres, and the answer was lost."""

    __slots__ = ("attempted", "commands", "future", "since", "size")

    def __init__(self, append: Append, future: "asyncio.Future[list[Recorded]]") -> None:
        super().__init__(append)
        self.commands = commands(self.rows)
        self.size = sum(len(row.state) for row in self.rows)
        self.future = future
        self.since = monotonic()
        self.attempted = False

    @property
    def in_doubt(self) -> bool:
        """Whether nobody was told what became of it: it is waited for, its caller is gone, or was told just that."""
        future = self.future
        return not future.done() or future.cancelled() or isinstance(future.exception(), LedgerUnavailable)

    def succeed(self, answer: list[Recorded]) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Group(NamedTuple):
    """Appends as they are about to be written, and what the ledger's head will be after them."""

    answers: list[list[Recorded]]
    before: Head
    after: Head


def compose(appends: Sequence[Draft], head: Head) -> Group:
    """Gives every event its position, version, time and digest, following on `head`."""
    position, digest = head.position, head.digest
    now = datetime.now(UTC)
    answers = []
    for draft in appends:
        answer = []
        for version, row in enumerate(draft.rows, draft.expected + 1):
            position += 1
            envelope = (position, draft.stream, version, row.tag, row.id, now, *_carried(row))
            digest = chain(digest, envelope, row.state)
            recorded = Recorded(*envelope, row.state, digest)
            recorded.__dict__["event"] = row.event  # whoever follows in this process need not decode it
            answer.append(recorded)
        answers.append(answer)
    return Group(answers, head, Head(head.epoch, position, digest))


def _carried(row: Row) -> tuple[str | None, str | None, str, str | None]:
    return row.correlation_id, row.causation_id, row.actor, row.traceparent


class Claims(NamedTuple):
    """What has to hold for a group besides what the unique indices of its own partition see to.

    `floor` is the first position of that partition (of the last event's, if they fall into two): only older events, and
    those in the archive, have to be asked for. `versions`: at which each stream is; `commands`: recorded nowhere yet.
    """

    floor: int
    versions: dict[str, int]
    commands: list[UUID]


NO_CLAIMS = Claims(1, {}, [])
"""All was judged before, under the head's lock."""


def claims(appends: Sequence[Pending], versions: dict[str, int], floor: int) -> Claims:
    if floor == 1:
        # There is nothing older: that a stream is new, and so are the commands, the indices tell.
        return Claims(floor, {stream: version for stream, version in versions.items() if version}, [])
    return Claims(floor, versions, [id_ for pending in appends for id_ in pending.commands])


def bases(appends: Sequence[Pending]) -> dict[str, int] | None:
    """The version at which each stream has to be before the group; None if two of them exclude each other."""
    starts: dict[str, int] = {}
    ends: dict[str, int] = {}
    for pending in appends:
        if ends.get(pending.stream, pending.expected) != pending.expected:
            return None
        ends[pending.stream] = pending.expected + len(pending.rows)
        starts.setdefault(pending.stream, pending.expected)
    return starts


async def survey(
    connection: Connection, appends: Sequence[Pending]
) -> tuple[Head, dict[str, int], dict[UUID, Recorded | None]]:
    """Takes the head's lock; then the streams' versions, and the commands' first events that are there already: None
    for one that is in the archive."""
    ids = {"ids": arrays.uuids([id_ for pending in appends for id_ in pending.commands])}
    async with connection.pipeline():
        lock = await connection.execute(SQL["lock_head"], prepare=True, binary=True)
        streams = {"streams": arrays.texts(list({pending.stream for pending in appends}))}
        versions = await connection.execute(SQL["versions"], streams, prepare=True, binary=True)
        found = connection.cursor(binary=True, row_factory=recorded_row)
        await found.execute(SQL["find"], ids, prepare=True)
        # After the table: what leaves it in between is met here.
        archived = await connection.execute(SQL["archived_commands"], ids, prepare=True, binary=True)
    epoch, position, digest, _ = await one(lock)
    return (
        Head(epoch, position, digest),
        dict(await versions.fetchall()),
        dict.fromkeys(id_ for id_, _ in await archived.fetchall())
        | {recorded.id: recorded for recorded in await found.fetchall()},
    )


def parameters(group: Group, claims: Claims) -> dict[str, arrays.Column]:
    """What the statement `append` is told: the group, and what has to hold for it."""
    events = [recorded for answer in group.answers for recorded in answer]
    return {
        "epoch": arrays.number(group.before.epoch),
        "first": arrays.number(group.before.position + 1),
        "previous": arrays.Column(group.before.digest),
        "last": arrays.number(group.after.position),
        "digest": arrays.Column(group.after.digest),
        "floor": arrays.number(claims.floor),
        "bases": arrays.texts(list(claims.versions)),
        "expected": arrays.integers(list(claims.versions.values())),
        "commands": arrays.uuids(claims.commands),
        "recorded_at": arrays.instant(events[0].recorded_at),
        "stream": arrays.texts([event.stream for event in events]),
        "version": arrays.integers([event.version for event in events]),
        "type": arrays.texts([event.type for event in events]),
        "id": arrays.uuids([event.id for event in events]),
        "correlation_id": arrays.texts([event.correlation_id for event in events]),
        "causation_id": arrays.texts([event.causation_id for event in events]),
        "actor": arrays.texts([event.actor for event in events]),
        "traceparent": arrays.texts([event.traceparent for event in events]),
        "state": arrays.byteas([event.state for event in events]),
        "digests": arrays.byteas([event.digest for event in events]),
    }


@contextmanager
def following(head: Head) -> Iterator[None]:
    """BrokenChain if what is inserted in this block meets events behind the head, whose lock is held."""
    try:
        yield
    except (psycopg.errors.UniqueViolation, psycopg.errors.RestrictViolation) as error:
        # The second is the guards' of the table: they look for what lies further on.
        if error.diag.constraint_name is None or error.diag.constraint_name.endswith("_position"):
            raise BrokenChain(head.position + 1, "there are events behind the head") from error
        raise
