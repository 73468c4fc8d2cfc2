"""The suites of the `eventsourcing` library, where all that is closed is archived before each of their questions."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
from appends import partitioned
from archiving import archive_of
from eventsourcing.tests import application as application_suite
from eventsourcing.tests import persistence as suite
from eventsourcing.tests import projection as projection_suite
from test_eventsourcing_applications import CountersView

from ledger.eventsourcing import Factory
from ledger.eventsourcing.recorders import LedgerApplicationRecorder

PARTITION_EVENTS = 2


class ArchivedBeforeEveryRead(LedgerApplicationRecorder):
    env: ClassVar[dict[str, str]]

    def select_events(self, *asked: Any, **named: Any) -> Any:
        archive_of(self.env)
        return super().select_events(*asked, **named)

    def select_notifications(self, *asked: Any, **named: Any) -> Any:
        archive_of(self.env)
        return super().select_notifications(*asked, **named)

    def max_notification_id(self) -> int | None:
        archive_of(self.env)
        return super().max_notification_id()


@pytest.fixture(autouse=True)
def place(postgres_url: str, es_env: dict[str, str], data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the library looks, as it would for a user's application."""
    ArchivedBeforeEveryRead.env = {
        **es_env,
        "DATABASE_URL": partitioned(postgres_url, PARTITION_EVENTS),
        "CAIRN_DATA_DIR": str(data_dir),
        "APPLICATION_RECORDER_TOPIC": f"{__name__}:{ArchivedBeforeEveryRead.__name__}",
    }
    for name, value in ArchivedBeforeEveryRead.env.items():
        monkeypatch.setenv(name, value)


class TestApplicationRecorder(suite.ApplicationRecorderTestCase[Any]):
    """Without its races: they append ten thousand events."""

    test_performance = test_concurrent_no_conflicts = test_concurrent_throughput = None  # type: ignore[assignment]

    @pytest.fixture(autouse=True)
    def factory(self, place: None) -> Iterator[None]:
        with closing(Factory(ArchivedBeforeEveryRead.env)) as self.made:
            yield

    def create_recorder(self) -> Any:
        return self.made.application_recorder()

    def test_insert_subscribe(self) -> None:
        self.optional_test_insert_subscribe()


class TestExampleApplication(application_suite.ExampleApplicationTestCase):
    expected_factory_topic = "ledger.eventsourcing:Factory"


class TestProjection(projection_suite.AggregateEventCountersProjectionTestCase):
    view_class = CountersView
