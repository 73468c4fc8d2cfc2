"""The library's recorders over the ledger's own table."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, cast
from uuid import UUID, uuid4

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    IntegrityError,
    Notification,
    ProcessRecorder,
    StoredEvent,
    Tracking,
    TrackingRecorder,
)
from psycopg import Cursor, Rollback
from psycopg.rows import TupleRow

from ledger import arrays
from ledger.append import VERSIONS, Append, NewEvent
from ledger.codec import event_id
from ledger.eventsourcing.names import Names
from ledger.eventsourcing.store import Store, Survey, patiently
from ledger.eventsourcing.subscription import LedgerSubscription
from ledger.foreign import PREFIX, Foreign
from ledger.group import Draft
from ledger.history import END
from ledger.postgres import Blocking
from ledger.recorded import Recorded
from ledger.sql import SQL

FIRST_VERSIONS = (0, 1)
"""An aggregate counts its events from one of these; the ledger counts those of every stream from 1."""


class LedgerAggregateRecorder(AggregateRecorder):
    """Aggregates' events without their positions."""

    def __init__(self, store: Store, names: Names) -> None:
        self.store, self.names = store, names

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        """All of them, or none and IntegrityError: each has to follow its aggregate's last."""
        self._record(uuid4(), stored_events)
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        stream = self.names.stream(originator_id)
        # A stream's version is the aggregate's, or one more: so there is at most one that was not asked for.
        after, to = max(0, gt or 0), VERSIONS if lte is None else lte + 1
        some = VERSIONS if limit is None else limit + 1
        if desc and limit is not None:
            ((_, version),) = self.store.rows("versions", streams=arrays.texts([stream]))
            after = max(after, min(to, version) - some)
        found = self.store.read_stream(stream, after, to, some)
        events = [StoredEvent(originator_id, *_stored(recorded)) for recorded in (reversed(found) if desc else found)]
        least, most = -1 if gt is None else gt, VERSIONS if lte is None else lte
        return [event for event in events if least < event.originator_version <= most][:limit]

    @patiently
    def _record(
        self, command: UUID, stored_events: Sequence[StoredEvent], tracking: Tracking | None = None
    ) -> list[int]:
        """The events' positions. Of a repeat after a lost answer `command` tells that the first attempt succeeded."""
        counted_from: dict[str, int] = {}
        while True:
            with self.store.connection() as connection, connection.pipeline(), connection.transaction():
                events = [Foreign.of(event.topic, event.originator_version, event.state) for event in stored_events]
                streams = [self.names.stream(event.originator_id) for event in stored_events]
                tracked = tracking and _track(connection, self.names.application, tracking)
                survey = Survey(connection, streams, event_id(command, 0)) if events else None
                if survey is not None and survey.found is not None:
                    return [survey.found + index for index in range(len(events))]
                if tracked and not tracked.fetchone():
                    raise IntegrityError(f"{self.names.application} has processed {tracking} already.")
                if survey is None:
                    return []
                counted_from |= {stream: _counted_from(newest) for stream, newest in survey.newest.items()}
                archived = [
                    stream for stream, version in survey.versions.items() if version and stream not in counted_from
                ]
                if not archived:
                    return survey.append(self._drafts(command, streams, events, survey.versions, counted_from))
                raise Rollback  # nobody reads a file while all the others wait for the head's lock
            counted_from |= {stream: _counted_from(self.store.read_stream(stream, 0, 1, 1)[0]) for stream in archived}

    def _drafts(
        self,
        command: UUID,
        streams: Sequence[str],
        events: Sequence[Foreign],
        versions: dict[str, int],
        counted_from: dict[str, int],
    ) -> Iterator[Draft]:
        """One for every run of events of the same aggregate. IntegrityError if an event does not follow the last."""
        for stream, indexes in groupby(range(len(events)), key=streams.__getitem__):
            expected = versions[stream]
            new: list[NewEvent] = []
            for index in indexes:
                event = events[index]
                first = counted_from.setdefault(stream, event.version)
                if first not in FIRST_VERSIONS or event.version != first + expected + len(new):
                    raise IntegrityError(
                        f"Wrong version: {event.version} (stream {stream} has {expected + len(new)} events,"
                        f" counted from {first}; from 0 or 1 it has to be)."
                    )
                new.append(NewEvent(event, event_id(command, index), self.names.application, causation_id=str(command)))
            versions[stream] = expected + len(new)
            yield Draft(Append(stream, expected, new))


class LedgerApplicationRecorder(LedgerAggregateRecorder, ApplicationRecorder):
    """One application's events in the order of the ledger: a notification's id is the event's position.

    The ids of one application have gaps where others have recorded; the ledger as a whole has none.
    """

    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        return self._record(uuid4(), stored_events)

    def select_notifications(
        self,
        start: int | None,
        limit: int,
        stop: int | None = None,
        topics: Sequence[str] = (),
        *,
        inclusive_of_start: bool = True,
    ) -> Sequence[Notification]:
        found = self.store.read_streams(
            self.names.prefix,
            [PREFIX + topic for topic in topics],
            after=max(0, 0 if start is None else start - inclusive_of_start),
            to=END if stop is None else stop,
            limit=limit,
        )
        return [
            Notification(self.names.originator(recorded.stream), *_stored(recorded), recorded.position)
            for recorded in found
        ]

    def max_notification_id(self) -> int | None:
        if found := self.store.rows("es_last", prefix=self.names.prefix):
            return cast(int, found[0][0])
        ((_, last),) = self.store.rows("es_archived", prefix=self.names.prefix)
        return cast(int | None, last)

    def subscribe(self, gt: int | None = None, topics: Sequence[str] = ()) -> LedgerSubscription:
        return LedgerSubscription(self, gt, topics)


class LedgerTrackingRecorder(TrackingRecorder):
    """How far an application has processed others. A view's own recorder is a subclass: it changes its rows in the
    transaction of `processing`."""

    def __init__(self, store: Store, names: Names) -> None:
        self.store, self.names = store, names

    @contextmanager
    def processing(self, tracking: Tracking) -> Iterator[Blocking]:
        """A transaction that records `tracking`, and whatever else is done in it. IntegrityError if it was recorded."""
        with self.store.transaction() as connection:
            if not _track(connection, self.names.application, tracking).fetchone():
                raise IntegrityError(f"{self.names.application} has processed {tracking} already")
            yield connection

    @patiently
    def insert_tracking(self, tracking: Tracking) -> None:
        with self.processing(tracking):
            ...

    def max_tracking_id(self, application_name: str) -> int | None:
        found = self.store.rows("es_tracked", application=self.names.application, upstream=application_name)
        return found[0][0] if found else None


class LedgerProcessRecorder(LedgerTrackingRecorder, LedgerApplicationRecorder, ProcessRecorder):
    """Events, and in the same transaction what they were made of."""

    def insert_events(self, stored_events: Sequence[StoredEvent], **kwargs: Any) -> Sequence[int] | None:
        return self._record(uuid4(), stored_events, kwargs.get("tracking"))


class SnapshotRecorder(AggregateRecorder):
    """Snapshots, in a table of their own: they are no events, and may be deleted."""

    def __init__(self, store: Store, names: Names, purpose: str) -> None:
        self.store, self.names = store, names
        self._log = f"{names.application}_{purpose}"

    @patiently
    def insert_events(self, stored_events: Sequence[StoredEvent], **_: Any) -> Sequence[int] | None:
        with self.store.connection() as connection:
            connection.execute(
                SQL["es_keep_snapshots"],
                {
                    "log": self._log,
                    "originator": arrays.texts([str(event.originator_id) for event in stored_events]),
                    "version": arrays.integers([event.originator_version for event in stored_events]),
                    "topic": arrays.texts([event.topic for event in stored_events]),
                    "state": arrays.byteas([event.state for event in stored_events]),
                },
                prepare=True,
            )
        return None

    def select_events(
        self,
        originator_id: UUID | str,
        *,
        gt: int | None = None,
        lte: int | None = None,
        desc: bool = False,
        limit: int | None = None,
    ) -> Sequence[StoredEvent]:
        found = self.store.rows(
            "es_snapshots_back" if desc else "es_snapshots",
            log=self._log,
            originator=str(originator_id),
            after=-1 if gt is None else gt,
            to=VERSIONS if lte is None else lte,
            limit=limit,
        )
        return [StoredEvent(originator_id, *row) for row in found]


def _track(connection: Blocking, application: str, tracking: Tracking) -> Cursor[TupleRow]:
    """A row if that was new."""
    step = {"application": application, "upstream": tracking.application_name, "position": tracking.notification_id}
    return connection.execute(SQL["es_track"], step, prepare=True)


def _stored(recorded: Recorded) -> tuple[int, str, bytes]:
    event = recorded.event
    assert isinstance(event, Foreign), recorded.type
    return event.version, event.name, event.payload


def _counted_from(recorded: Recorded) -> int:
    return _stored(recorded)[0] - recorded.version + 1
