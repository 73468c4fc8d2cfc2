"""A persistence module for the `eventsourcing` library (9.5): `PERSISTENCE_MODULE=ledger.eventsourcing`.

Its applications, views and process managers then keep their events in the ledger: in the same table, under the same
lock of the head, in the same order, chain and stream as everybody's. Besides PERSISTENCE_MODULE it takes DATABASE_URL,
CAIRN_TENANT (`main`), CAIRN_DATA_DIR (the system's: in its `archive` is what `cairn archive` moved out of Postgres),
ORIGINATOR_ID_TYPE (`uuid`; `text` for ids that are strings) and CREATE_TABLE (`no`: somebody else migrates the tenant's
schema); as always in the library, `<APPLICATION>_` before a name means that one alone.

*Where things stand.* The stream of an aggregate is `es-<application>-<id>` (`names.py`), so applications do not meet,
whatever ids they choose. Type and state are those of `ledger/foreign.py`; the event's topic is its type. The actor is
the application. Aggregates may count their versions from 0 or from 1, without gaps; the ledger counts from 1.
A notification's id is the event's position: ids of one application grow, with gaps where others have recorded.
Tracking and snapshots are tables beside the events: they are no facts.

*Order and failure.* Recorders promise what `ledger.Ledger` does, for one call of `insert_events`: all or nothing,
durable on return, IntegrityError where another was first. Postgres away: ten attempts, as the library does.
A subscription polls the head and misses nothing; it needs neither triggers nor NOTIFY.
Archived events are read like all others; without CAIRN_DATA_DIR, or if a file is not as it was written, whoever needs
one gets InternalError.
*Not promised.* Group commit: every call is a transaction of its own.

*Erasure.* `cipher.py`: a key for each person, and what is gone with it.
*Installed as a wheel*, this package lies in `cairn/_server`: that folder has to be on PYTHONPATH.
"""

from contextlib import ExitStack
from typing import Any, Literal, TypeVar, cast

from eventsourcing.persistence import (
    AggregateRecorder,
    ApplicationRecorder,
    Cipher,
    InfrastructureFactory,
    Mapper,
    ProcessRecorder,
    Transcoder,
)
from eventsourcing.utils import Environment, EnvType, resolve_topic, strtobool

from ledger.eventsourcing.names import Names
from ledger.eventsourcing.recorders import (
    LedgerAggregateRecorder,
    LedgerApplicationRecorder,
    LedgerProcessRecorder,
    LedgerTrackingRecorder,
    SnapshotRecorder,
)
from ledger.eventsourcing.store import Store
from ledger.eventsourcing.subjects import SubjectMapper

__all__ = ["Factory"]

T = TypeVar("T", LedgerApplicationRecorder, LedgerProcessRecorder, LedgerTrackingRecorder)


class Factory(InfrastructureFactory[LedgerTrackingRecorder]):
    """What the library makes an application's recorders with."""

    def __init__(self, env: Environment | EnvType | None) -> None:
        super().__init__(env)
        ids = self.env.get("ORIGINATOR_ID_TYPE", "uuid").lower()
        if ids not in ("uuid", "text"):
            raise OSError(f"ORIGINATOR_ID_TYPE is {ids!r}: uuid or text")
        self.names = Names(self.env.name.lower() or "stored", cast(Literal["uuid", "text"], ids))
        self._open = ExitStack()
        self.store = Store.of(self.env)
        self._views = Store.of(self.env, views=True)
        for store in (self.store, self._views):
            self._open.callback(store.close)

    def close(self) -> None:
        self._open.close()

    def aggregate_recorder(self, purpose: str = "events") -> AggregateRecorder:
        """Anything but `events` is a log of snapshots."""
        self._migrate()
        if purpose != "events":
            return SnapshotRecorder(self.store, self.names, purpose)
        return LedgerAggregateRecorder(self.store, self.names)

    def application_recorder(self) -> ApplicationRecorder:
        return self._recorder(self.APPLICATION_RECORDER_TOPIC, LedgerApplicationRecorder)

    def process_recorder(self) -> ProcessRecorder:
        return self._recorder(self.PROCESS_RECORDER_TOPIC, LedgerProcessRecorder)

    def tracking_recorder(
        self, tracking_recorder_class: type[LedgerTrackingRecorder] | None = None
    ) -> LedgerTrackingRecorder:
        if tracking_recorder_class is None:
            return self._recorder(self.TRACKING_RECORDER_TOPIC, LedgerTrackingRecorder, self._views)
        self._migrate()
        return tracking_recorder_class(self._views, self.names)

    def mapper(
        self, transcoder: Transcoder | None = None, mapper_class: type[Mapper[Any]] | None = None
    ) -> Mapper[Any]:
        """One that tells the cipher whose data it encrypts, unless the application has chosen another."""
        if mapper_class is None and not self.env.get(self.MAPPER_TOPIC):
            mapper_class = SubjectMapper
        return super().mapper(transcoder, mapper_class)

    def cipher(self) -> Cipher | None:
        cipher = super().cipher()
        if close := getattr(cipher, "close", None):
            self._open.callback(close)
        return cipher

    def _recorder(self, setting: str, recorder_class: type[T], store: Store | None = None) -> T:
        if topic := self.env.get(setting):
            chosen = resolve_topic(topic)
            if not issubclass(chosen, recorder_class):
                raise OSError(f"{setting} is {topic}: it has to be a subclass of {recorder_class.__name__}")
            recorder_class = chosen
        self._migrate()
        return recorder_class(store or self.store, self.names)

    def _migrate(self) -> None:
        if strtobool(self.env.get("CREATE_TABLE") or "yes"):
            self.store.migrate()
