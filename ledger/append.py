"""What is asked of the ledger: events for one stream, with the version it must have for them to be right."""

import re
from collections.abc import Sequence
from itertools import pairwise
from uuid import UUID

from msgspec import Struct

from domain.events import Event
from ledger.codec import encode, tag_of
from ledger.errors import NotRecordable

STREAM = re.compile(r"[a-z]{1,32}-[a-z0-9][a-z0-9_-]{0,127}")
TEXT_BYTES = 1024
"""Envelope and subject have to fit into any message, however large the event: see `announce.ENVELOPE_BYTES`."""
APPEND_BYTES = 256 * 1024 * 1024
"""Two groups that hold one each still fit into a statement, which Postgres takes up to 1 GiB of."""
VERSIONS = 2**31 - 1


class NewEvent(Struct, frozen=True, gc=False):
    """An event about to be recorded. `id` comes from `event_id(command_id, index)`: it is what makes a repeat harmless.

    `causation_id` is the id of the command; `find_command` and AlreadyRecorded know by it what one answer consists of.
    """

    event: Event
    id: UUID
    actor: str
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None


class Append(Struct, frozen=True):
    """All of `events`, or none, as the versions after `expected_version` (0: the stream does not exist yet)."""

    stream: str
    expected_version: int
    events: Sequence[NewEvent]


class Row(Struct, frozen=True, gc=False):
    """A new event with the bytes it will have; position, time and digest come when it is written."""

    tag: str
    id: UUID
    correlation_id: str | None
    causation_id: str | None
    actor: str
    traceparent: str | None
    state: bytes
    event: Event


def rows(append: Append) -> list[Row]:
    """The bytes of an append. NotRecordable, before anything is queued, if Postgres or NATS could not take it."""
    if not STREAM.fullmatch(append.stream):
        raise NotRecordable(f"stream {append.stream!r}: a kind of a-z, '-', then an id of a-z, 0-9, '_' and '-'")
    if not 0 <= append.expected_version <= VERSIONS - len(append.events):
        raise NotRecordable(f"stream {append.stream}: expected version {append.expected_version} is out of range")
    if len(append.events) > len({new.id for new in append.events}):
        raise NotRecordable(f"stream {append.stream}: two events of one append have the same id")
    made = [_row(new) for new in append.events]
    if (size := sum(len(row.state) for row in made)) > APPEND_BYTES:
        raise NotRecordable(
            f"stream {append.stream}: the events of one append have {size} bytes, at most {APPEND_BYTES} are recorded"
            " together: split it"
        )
    return made


def commands(rows: Sequence[Row]) -> list[UUID]:
    """The ids by which a repeat is recognised: of the first event of each command."""
    ids = [rows[0].id]
    for before, row in pairwise(rows):
        if row.causation_id is None or row.causation_id != before.causation_id:
            ids.append(row.id)
    return ids


def _row(new: NewEvent) -> Row:
    for text in (new.actor, new.correlation_id, new.causation_id, new.traceparent):
        if text is not None and not (text.isprintable() and len(text.encode()) <= TEXT_BYTES):
            raise NotRecordable(
                f"event {new.id}: {text[:100]!r}: actor, ids and traceparent are printable, of at most {TEXT_BYTES} bytes"
            )
    return Row(
        tag_of(new.event),
        new.id,
        new.correlation_id,
        new.causation_id,
        new.actor,
        new.traceparent,
        encode(new.event),
        new.event,
    )
