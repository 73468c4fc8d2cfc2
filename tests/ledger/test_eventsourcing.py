"""The suites of the `eventsourcing` library, on our table."""

from collections.abc import Iterator
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from eventsourcing.tests import persistence as suite
from eventsourcing.utils import Environment

from ledger.eventsourcing import Factory
from ledger.eventsourcing.recorders import (
    LedgerAggregateRecorder,
    LedgerApplicationRecorder,
    LedgerProcessRecorder,
    LedgerTrackingRecorder,
)


class OnTheLedger:
    """A tenant of its own for every test, and a factory that is closed behind it."""

    ids: ClassVar[str] = "uuid"

    @pytest.fixture(autouse=True)
    def place(self, postgres_url: str, tenant: str) -> Iterator[None]:
        self.env = Environment(
            "Bank",
            {
                "PERSISTENCE_MODULE": "ledger.eventsourcing",
                "DATABASE_URL": postgres_url,
                "CAIRN_TENANT": tenant,
                "ORIGINATOR_ID_TYPE": self.ids,
            },
        )
        self.factory = factory = Factory(self.env)
        yield
        factory.close()


class TextIds:
    ids: ClassVar[str] = "text"

    def new_originator_id(self) -> str:
        return f"Órder 7/{uuid4()}_x"


class TestAggregateRecorder(OnTheLedger, suite.AggregateRecorderTestCase):
    def create_recorder(self) -> Any:
        return self.factory.aggregate_recorder()


class TestSnapshotRecorder(OnTheLedger, suite.AggregateRecorderTestCase):
    def create_recorder(self) -> Any:
        return self.factory.aggregate_recorder("snapshots")


class TestApplicationRecorder(OnTheLedger, suite.ApplicationRecorderTestCase[Any]):
    def create_recorder(self) -> Any:
        return self.factory.application_recorder()

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestApplicationRecorderWithTextIds(TextIds, TestApplicationRecorder): ...


class TestNotificationIds(OnTheLedger, suite.NonInterleavingNotificationIDsBaseCase):
    def create_recorder(self) -> Any:
        return self.factory.application_recorder()


class TestTrackingRecorder(OnTheLedger, suite.TrackingRecorderTestCase):
    def create_recorder(self) -> Any:
        return self.factory.tracking_recorder()


class TestProcessRecorder(OnTheLedger, suite.ProcessRecorderTestCase):
    def create_recorder(self) -> Any:
        return self.factory.process_recorder()


class TestProcessRecorderWithTextIds(TextIds, TestProcessRecorder): ...


class TestProcessRecorderTracks(TestTrackingRecorder):
    def create_recorder(self) -> Any:
        return self.factory.process_recorder()


class TestProcessRecorderRecords(TestApplicationRecorder):
    def create_recorder(self) -> Any:
        return self.factory.process_recorder()


class ViewRecorder(LedgerTrackingRecorder): ...


class TestFactory(OnTheLedger, suite.InfrastructureFactoryTestCase[Factory]):
    def expected_factory_class(self) -> type[Factory]:
        return Factory

    def expected_aggregate_recorder_class(self) -> type[LedgerAggregateRecorder]:
        return LedgerAggregateRecorder

    def expected_application_recorder_class(self) -> type[LedgerApplicationRecorder]:
        return LedgerApplicationRecorder

    def expected_tracking_recorder_class(self) -> type[LedgerTrackingRecorder]:
        return LedgerTrackingRecorder

    def tracking_recorder_subclass(self) -> type[LedgerTrackingRecorder]:
        return ViewRecorder

    def expected_process_recorder_class(self) -> type[LedgerProcessRecorder]:
        return LedgerProcessRecorder
