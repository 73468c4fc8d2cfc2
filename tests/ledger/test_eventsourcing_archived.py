"""Events of `eventsourcing` applications in the archive are as good as in the table: two ledgers are told the same, one
of them is archived again and again, and nothing they answer differs."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import product
from pathlib import Path
from threading import Event
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from appends import SECONDS, partitioned
from archiving import ALL, archive_of
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError, InternalError, Tracking
from eventsourcing.projection import Projection, ProjectionRunner
from stored import stored

from ledger.eventsourcing import Factory
from ledger.eventsourcing.recorders import LedgerApplicationRecorder, LedgerTrackingRecorder

PARTITION_EVENTS = 5


@pytest.fixture
def postgres_url(postgres_url: str) -> str:
    return partitioned(postgres_url, PARTITION_EVENTS)


@pytest.fixture
def es_env(es_env: dict[str, str], tmp_path: Path) -> dict[str, str]:
    return {**es_env, "CAIRN_DATA_DIR": str(tmp_path)}


@pytest.fixture
def twins(es_env: dict[str, str], tenant: str) -> Iterator[tuple[Any, Any]]:
    """The recorders of two applications, in a ledger that is archived and in one that is not."""

    def recorders(env: dict[str, str]) -> dict[str, LedgerApplicationRecorder]:
        factories.extend(Factory({**env, "ORIGINATOR_ID_TYPE": "text"}) for _ in "ab")
        for factory, name in zip(factories[-2:], ("bank", "bank2"), strict=True):
            factory.names = factory.names._replace(application=name)
        return {factory.names.application: factory.application_recorder() for factory in factories[-2:]}

    factories: list[Factory] = []
    yield recorders(es_env), recorders({**es_env, "CAIRN_TENANT": f"{tenant}_whole"})
    for factory in factories:
        factory.close()


def questions(originators: list[str], last: int, seed: int) -> Iterator[tuple[Callable[[Any], object], object]]:
    """What can be asked of a recorder, and what it was: some of all combinations."""
    numbers = (None, 0, 1, 3, 8)
    events = product(originators, numbers, numbers, (False, True), (None, 0, 1, 2, 50))
    starts = (None, -1, 0, 1, 4, 5, 6, 11, 17, last, last + 1)
    topics = ((), ("odd",), ("even", "never"))
    notifications = product(starts, (1, 3, 100), (None, 5, 12), topics, (True, False))
    chosen = random.Random(seed)
    for originator, gt, lte, desc, limit in chosen.sample([*events], 60):
        asked = {"gt": gt, "lte": lte, "desc": desc, "limit": limit}
        yield lambda it, of=originator, asked=asked: it.select_events(of, **asked), (originator, asked)  # type: ignore[misc]
    for asked in chosen.sample([*notifications], 60):
        yield lambda it, asked=asked: it.select_notifications(*asked[:4], inclusive_of_start=asked[4]), asked  # type: ignore[misc]
    yield lambda it: it.max_notification_id(), "last"


def assert_same(twins: tuple[Any, Any], originators: list[str], seed: int) -> None:
    for name in twins[0]:
        last = twins[1][name].max_notification_id()
        for ask, question in questions(originators, last, seed):
            assert ask(twins[0][name]) == ask(twins[1][name]), (name, question)


def outcome(ask: Callable[[], object]) -> object:
    try:
        return ask()
    except IntegrityError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(3))
def test_no_answer_tells_what_was_archived(twins: tuple[Any, Any], es_env: dict[str, str], seed: int) -> None:
    """Of `old` everything is archived soon, of others a part; one application stops, so that its last event goes too."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    archived, whole = twins
    originators = ["old", "from0", "from1", "new", "never"]
    recorded: dict[tuple[str, str], int] = {}
    files: list[Path] = []
    for round_ in range(12):
        for name in ("bank", "bank2") if round_ < 7 else ("bank",):
            chosen = rng.choice(["old", "from0"] if round_ < 3 else ["from0", "from1", "new"])
            first = recorded.setdefault((name, chosen), int(chosen != "from0"))
            right = range(first, first + rng.randint(1, 4))
            recorded[name, chosen] = right.stop
            events = [stored(chosen, at, b"%d" % at, "odd" if at % 2 else "even") for at in right]
            ask = [twin[name].insert_events(events) for twin in (archived, whole)]
            assert ask[0] == ask[1]
        if round_ % 3 == 2:
            files = archive_of(es_env, rng.choice((ALL, 5 * round_)))
            assert_same(twins, originators, seed + round_)
    assert len(files) >= 3
    for name, originator, at in product(("bank", "bank2"), originators[:-1], range(-1, 15)):
        tried = [
            outcome(partial(twin[name].insert_events, [stored(originator, at), stored("beside", 7)])) for twin in twins
        ]
        assert "Wrong version" in str(tried[0])
        assert tried[0] == tried[1]
    for (name, originator), at in recorded.items():
        tried = [twin[name].insert_events([stored(originator, at), stored(originator, at + 1)]) for twin in twins]
        assert tried[0] == tried[1]
    archive_of(es_env)
    assert_same(twins, originators, seed + 12)


def test_a_stale_append_to_a_stream_that_is_wholly_archived_is_a_conflict(
    recorder: Any, es_env: dict[str, str]
) -> None:
    """Three events counted from 1: a fourth is expected as 4. Counted from 0 it would be 3."""
    dog, filler = uuid4(), uuid4()
    recorder.insert_events([stored(dog, at) for at in (1, 2, 3)])
    recorder.insert_events([stored(filler, at) for at in range(10)])
    assert len(archive_of(es_env)) == 2
    for wrong in (0, 1, 3, 5):
        with pytest.raises(IntegrityError, match="has 3 events, counted from 1"):
            recorder.insert_events([stored(filler, 10), stored(dog, wrong)])
    assert recorder.insert_events([stored(filler, 10), stored(dog, 4)]) == [14, 15]
    assert [found.originator_version for found in recorder.select_events(dog)] == [1, 2, 3, 4]


def test_tracking_is_kept_with_an_append_to_an_archived_stream_and_only_with_it(es_env: dict[str, str]) -> None:
    dog = uuid4()
    with closing(Factory(es_env)) as factory:
        recorder = factory.process_recorder()
        recorder.insert_events([stored(dog, 1)], tracking=Tracking("up", 1))
        recorder.insert_events([stored(uuid4(), 1) for _ in range(9)])
        archive_of(es_env)
        with pytest.raises(IntegrityError, match="Wrong version"):
            recorder.insert_events([stored(dog, 1)], tracking=Tracking("up", 2))
        assert recorder.max_tracking_id("up") == 1
        recorder.insert_events([stored(dog, 2)], tracking=Tracking("up", 2))
        assert recorder.max_tracking_id("up") == 2
        with pytest.raises(IntegrityError, match="has processed"):
            recorder.insert_events([stored(dog, 3)], tracking=Tracking("up", 2))


def test_an_attempt_whose_answer_was_lost_is_not_made_twice_once_it_is_archived(
    recorder: Any, es_env: dict[str, str]
) -> None:
    command, dog = uuid4(), uuid4()
    first = recorder._record(command, [stored(dog, 1), stored(dog, 2)])
    recorder.insert_events([stored(uuid4(), 1) for _ in range(9)])
    archive_of(es_env)
    assert recorder._record(command, [stored(dog, 1), stored(dog, 2)]) == first == [1, 2]


class Dog(Aggregate):
    def __init__(self) -> None:
        self.tricks: list[str] = []

    @event("Learned")
    def learn(self, trick: str) -> None:
        self.tricks.append(trick)


class Kennel(Application[UUID]):
    is_snapshotting_enabled = True


class Seen(LedgerTrackingRecorder):
    ids: ClassVar[list[int]] = []

    def saw(self, tracking: Tracking) -> None:
        with self.processing(tracking):
            self.ids.append(tracking.notification_id)


class Watching(Projection[Seen]):
    def process_event(self, domain_event: object, tracking: Tracking) -> None:
        self.view.saw(tracking)


@pytest.mark.parametrize("cipher", [{}, {"CIPHER_TOPIC": "ledger.eventsourcing.cipher:SubjectCipher"}])
def test_an_application_and_its_projection_live_through_an_archive(
    es_env: dict[str, str], cipher: dict[str, str]
) -> None:
    """The projection starts at 0, in the archive, and goes on into what is appended and archived while it runs."""
    Seen.ids = []
    with Kennel({**es_env, **cipher}) as kennel:
        dogs = [Dog() for _ in range(4)]
        for dog in dogs:
            for number in range(5):
                dog.learn(f"trick {number}")
            kennel.save(dog)
        kennel.take_snapshot(dogs[1].id, version=3)
        assert len(archive_of(es_env)) == 4
        with ProjectionRunner(
            application_class=Kennel, projection_class=Watching, view_class=Seen, env={**es_env, **cipher}
        ) as runner:
            runner.wait(kennel.recorder.max_notification_id(), timeout=SECONDS)
            for dog in dogs:
                found: Dog = kennel.repository.get(dog.id)
                assert found.tricks == [f"trick {number}" for number in range(5)]
                found.learn("one more")
                kennel.save(found)
                archive_of(es_env)
            assert kennel.repository.get(dogs[0].id, version=3).tricks == ["trick 0", "trick 1"]
            runner.wait(kennel.recorder.max_notification_id(), timeout=SECONDS)
    assert Seen.ids == [*range(1, 29)]


def test_a_subscription_misses_nothing_while_what_it_reads_is_archived(recorder: Any, es_env: dict[str, str]) -> None:
    events, done = 150, Event()

    def append() -> None:
        for number in range(events):
            recorder.insert_events([stored(uuid4(), 1)])
            if number % 2:
                other.insert_events([stored(uuid4(), 1)])
        done.set()

    def move() -> None:
        while not done.is_set():
            archive_of(es_env)

    with closing(Factory(es_env)) as factory, ThreadPoolExecutor(2) as threads:
        factory.names = factory.names._replace(application="other")
        other = factory.application_recorder()
        with recorder.subscribe() as subscription:
            running = [threads.submit(append), threads.submit(move)]
            seen = [next(subscription).id for _ in range(events)]
        for job in running:
            job.result()
        archive_of(es_env)
        assert seen == [found.id for found in recorder.select_notifications(1, 1000)]
        assert len(other.select_notifications(1, 1000)) == events // 2


@pytest.mark.parametrize("damage", ["missing", "changed", "no folder"])
def test_what_cannot_be_read_in_the_archive_is_said_and_not_left_out(
    recorder: Any, es_env: dict[str, str], damage: str
) -> None:
    old, live = uuid4(), uuid4()
    recorder.insert_events([stored(old, at) for at in range(9)])
    recorder.insert_events([stored(live, at) for at in range(9)])
    first, *_ = archive_of(es_env, 10)
    said = first.name
    match damage:
        case "missing":
            first.unlink()
        case "changed":
            first.write_bytes(first.read_bytes()[:-1] + b"?")
        case "no folder":
            es_env.pop("CAIRN_DATA_DIR")
            said = "CAIRN_DATA_DIR"
    with closing(Factory(es_env)) as factory:
        later = factory.application_recorder()
        for ask in (
            lambda: later.select_events(old),
            lambda: later.select_events(old, desc=True),
            lambda: later.select_notifications(None, 10),
            lambda: next(later.subscribe()),
        ):
            with pytest.raises(InternalError, match=said):
                ask()
        assert len(later.select_events(live)) == 9
        assert len(later.select_notifications(11, 10)) == 8
        assert later.insert_events([stored(live, 9)]) == [19]
