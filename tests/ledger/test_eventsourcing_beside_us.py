"""Events of `eventsourcing` applications in the same ledger as ours: one order, one chain, one stream, no confusion."""

import asyncio
import json
from collections.abc import Iterator
from threading import Event
from typing import Any
from uuid import UUID, uuid4

import msgspec
import psycopg
import pytest
from appends import SECONDS, all_of, append, assert_both_logs_equal, followed
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import DataError, IntegrityError, ProgrammingError, StoredEvent
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.bus import Bus
from ledger.eventsourcing import Factory
from ledger.eventsourcing.names import Names
from ledger.foreign import Foreign
from ledger.ledger import Ledger
from ledger.postgres import connect, pool
from projections.board import Board
from projections.project import Projection

TOPIC = "dogs:Dog.TrickAdded"


class Dog(Aggregate):
    def __init__(self, name: str) -> None:
        self.name = name
        self.tricks: list[str] = []

    @event("TrickAdded")
    def add_trick(self, trick: str) -> None:
        self.tricks.append(trick)


class DogSchool(Application[UUID]):
    def register(self, name: str) -> UUID:
        dog = Dog(name)
        self.save(dog)
        return dog.id

    def add_trick(self, dog_id: UUID, trick: str) -> None:
        dog: Dog = self.repository.get(dog_id)
        dog.add_trick(trick)
        self.save(dog)


class CatSchool(DogSchool): ...


@pytest.fixture
def env(postgres_url: str, tenant: str) -> dict[str, str]:
    return {
        "PERSISTENCE_MODULE": "ledger.eventsourcing",
        "DATABASE_URL": postgres_url,
        "CAIRN_TENANT": tenant,
    }


@pytest.fixture
def factory(env: dict[str, str]) -> Iterator[Factory]:
    with_tables = Factory(env)
    yield with_tables
    with_tables.close()


@pytest.fixture
def recorder(factory: Factory) -> Any:
    return factory.application_recorder()


def stored(originator: UUID | str, version: int, state: bytes = b"{}", topic: str = TOPIC) -> StoredEvent:
    return StoredEvent(originator, version, topic, state)


async def test_we_and_an_application_write_at_once_and_a_subscriber_misses_nothing(
    ledger: Ledger, env: dict[str, str]
) -> None:
    dogs, rounds = 4, 40
    with DogSchool(env) as school:
        seen: list[int] = []

        def subscribe() -> None:
            with school.recorder.subscribe() as subscription:
                for notification in subscription:
                    seen.append(notification.id)
                    if len(seen) == dogs * (rounds + 1):
                        return

        def teach(_: int) -> None:
            dog_id = school.register("Fido")
            for number in range(rounds):
                school.add_trick(dog_id, f"trick {number}")

        async def ours(stream: str) -> None:
            for version in range(rounds):
                await ledger.append(append(stream, version))

        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(subscribe))
            for number in range(dogs):
                group.create_task(asyncio.to_thread(teach, number))
                group.create_task(ours(f"workflow-{number}"))
    recorded = await all_of(ledger)
    assert [event.position for event in recorded] == list(range(1, dogs * (2 * rounds + 1) + 1))
    assert seen == [event.position for event in recorded if event.stream.startswith("es-dogschool-")]
    assert (await ledger.verify()).events == len(recorded)


async def test_their_events_are_announced_followed_and_compared_like_ours(
    postgres_url: str, tenant: str, bus: Bus, env: dict[str, str]
) -> None:
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await ledger.append(append("workflow-one", 0))

        def use() -> None:
            with DogSchool({**env, "COMPRESSOR_TOPIC": "zlib"}) as compressed, CatSchool(env) as plain:
                compressed.add_trick(compressed.register("Fido"), "roll over")
                plain.register("Tom")

        await asyncio.to_thread(use)
        await ledger.append(append("workflow-one", 1))
        await assert_both_logs_equal(ledger, bus)
        seen = await followed(ledger, 5)
    assert [recorded.type for recorded in seen] == [
        "task.started", f"es.{__name__}:Dog.Created", f"es.{__name__}:Dog.TrickAdded", f"es.{__name__}:Dog.Created",
        "task.started",
    ]  # fmt: skip
    assert [type(recorded.event) is Foreign for recorded in seen] == [False, True, True, True, False]
    assert seen[3].actor == "catschool"


async def test_our_views_pass_over_their_events(ledger: Ledger, postgres_url: str, tenant: str, recorder: Any) -> None:
    await asyncio.to_thread(recorder.insert_events, [stored(uuid4(), 1, b"\x00 no JSON")])
    async with pool(postgres_url, tenant, size=2) as connections:
        board = Projection(connections, Board())
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            running = group.create_task(board.run(ledger))
            await board.reached(1)
            running.cancel()


@pytest.mark.parametrize(
    "state",
    [
        b'{"name":"Fido","n":1e400}',
        b'"\\u0000 \\ud800"',
        b"[1, 2]",
        b"\x00\xff",
        b"",
        b" {} ",
        b"NaN",
        b'{"a":1}x',
        b"[" * 5000,
    ],
)
async def test_people_can_read_whatever_was_stored_and_it_comes_back_byte_for_byte(
    postgres_url: str, tenant: str, recorder: Any, state: bytes
) -> None:
    dog = uuid4()
    recorder.insert_events([stored(dog, 1, state)])
    assert recorder.select_events(dog) == [stored(dog, 1, state)]
    async with await connect(postgres_url, tenant) as connection:
        row = await (await connection.execute("SELECT event->>'type', event FROM events_readable")).fetchone()
    assert row is not None and row[0] == f"es.{TOPIC}" and row[1]["version"] == 1


async def test_json_stays_json_for_people(postgres_url: str, tenant: str, env: dict[str, str]) -> None:
    with DogSchool(env) as school:
        school.register("Fido")
    async with await connect(postgres_url, tenant) as connection:
        row = await (await connection.execute("SELECT event->'json'->>'name' FROM events_readable")).fetchone()
    assert row == ("Fido",)


@settings(deadline=None)
@given(state=st.binary() | st.lists(st.none() | st.floats() | st.text()).map(lambda value: json.dumps(value).encode()))
def test_a_payload_survives_encoding(state: bytes) -> None:
    foreign = Foreign.of(TOPIC, 1, state)
    again = msgspec.json.decode(msgspec.json.encode(foreign), type=Foreign)
    assert (again.payload, again.name) == (state, TOPIC)


@settings(deadline=None)
@given(application=st.text(), originator=st.text())
def test_names_come_back_and_do_not_meet(application: str, originator: str) -> None:
    application, originator = (text.encode(errors="ignore").decode() for text in (application, originator))
    names = Names(application, "text")
    stream = names.stream(originator)
    assert names.originator(stream) == originator
    assert not stream.startswith(Names(application + "x", "text").prefix)


def test_applications_do_not_meet_whatever_ids_they_choose(env: dict[str, str]) -> None:
    dog_id = uuid4()
    with DogSchool(env) as dogs, CatSchool(env) as cats:
        assert dogs.recorder.insert_events([stored(dog_id, 1, b'"dog"')]) == [1]
        assert cats.recorder.insert_events([stored(dog_id, 1, b'"cat"')]) == [2]
        assert [event.state for event in cats.recorder.select_events(dog_id)] == [b'"cat"']
        assert [notification.id for notification in dogs.recorder.select_notifications(None, 10)] == [1]
        assert (dogs.recorder.max_notification_id(), cats.recorder.max_notification_id()) == (1, 2)


def test_aggregates_with_string_ids_are_found_again(env: dict[str, str]) -> None:
    with Factory({**env, "ORIGINATOR_ID_TYPE": "text"}) as factory:
        recorder = factory.application_recorder()
        recorder.insert_events([stored("Kunde/Ü 7", 0), stored("kunde", 1), stored("Kunde/Ü 7", 1)])
        assert [event.originator_version for event in recorder.select_events("Kunde/Ü 7", gt=0)] == [1]
        assert [found.originator_id for found in recorder.select_notifications(1, 9)] == [
            "Kunde/Ü 7",
            "kunde",
            "Kunde/Ü 7",
        ]
        with pytest.raises(ProgrammingError, match="ORIGINATOR_ID_TYPE"):
            recorder.insert_events([stored(uuid4(), 1)])
        factory.close()


@pytest.mark.parametrize("first", [0, 1])
def test_versions_are_those_of_the_application_whether_it_counts_from_0_or_1(recorder: Any, first: int) -> None:
    dog = uuid4()
    recorder.insert_events([stored(dog, first + number) for number in range(5)])

    def found(**asked: Any) -> list[int]:
        return [event.originator_version - first for event in recorder.select_events(dog, **asked)]

    assert found() == [0, 1, 2, 3, 4]
    assert found(gt=first + 1) == [2, 3, 4]
    assert found(lte=first + 1) == [0, 1]
    assert found(gt=first, lte=first + 3, limit=2) == [1, 2]
    assert found(gt=first, lte=first + 3, limit=2, desc=True) == [3, 2]
    assert found(gt=first + 4) == found(lte=first - 1) == found(limit=0) == []


@pytest.mark.parametrize("versions", [[2], [1, 3], [1, 1], [-1]])
def test_an_aggregate_has_no_gaps(recorder: Any, versions: list[int]) -> None:
    dog = uuid4()
    with pytest.raises(IntegrityError, match="Wrong version"):
        recorder.insert_events([stored(dog, version) for version in versions])
    assert recorder.select_events(dog) == []


@pytest.mark.parametrize("topic", ["", "a b", "a..b", "a.*", ">", "a\n", "x" * 513])
def test_a_topic_that_cannot_be_announced_is_refused(recorder: Any, topic: str) -> None:
    with pytest.raises(DataError, match="event name"):
        recorder.insert_events([stored(uuid4(), 1, topic=topic)])
    assert recorder.max_notification_id() is None


def test_a_state_that_is_too_large_is_refused(recorder: Any) -> None:
    with pytest.raises(DataError, match="bytes"):
        recorder.insert_events([stored(uuid4(), 1, b"\x00" * 13 * 1024 * 1024)])


def test_events_of_several_aggregates_keep_their_order(recorder: Any) -> None:
    dog, cat = uuid4(), uuid4()
    events = [stored(dog, 1), stored(cat, 0), stored(dog, 2), stored(cat, 1), stored(cat, 2), stored(dog, 3)]
    assert recorder.insert_events(events) == [1, 2, 3, 4, 5, 6]
    found = recorder.select_notifications(None, 10)
    assert [(event.originator_id, event.originator_version) for event in found] == [
        (event.originator_id, event.originator_version) for event in events
    ]


def test_an_attempt_whose_answer_was_lost_is_not_made_twice(recorder: Any) -> None:
    command, dog = uuid4(), uuid4()
    first = recorder._record(command, [stored(dog, 1), stored(dog, 2)])
    assert recorder._record(command, [stored(dog, 1), stored(dog, 2)]) == first
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored(dog, 1), stored(dog, 2)])


async def test_connections_that_are_cut_cost_and_double_nothing(
    ledger: Ledger, postgres_url: str, env: dict[str, str]
) -> None:
    tricks, done = 60, Event()

    def cut() -> int:
        cuts = 0
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            while not done.wait(0.02):
                row = connection.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%INSERT INTO events%'"
                    " AND pid <> pg_backend_pid()"
                ).fetchone()
                cuts += row[0] if row else 0
        return cuts

    def teach(_: int) -> None:
        with Factory(env) as factory:
            recorder, dog = factory.application_recorder(), uuid4()
            for number in range(1, tricks + 1):
                recorder.insert_events([stored(dog, number)])
            assert len(recorder.select_events(dog)) == tricks
            factory.close()

    cutting = asyncio.create_task(asyncio.to_thread(cut))
    try:
        await asyncio.gather(*(asyncio.to_thread(teach, number) for number in range(3)))
    finally:
        done.set()
    assert await cutting > 0
    assert [event.position for event in await all_of(ledger)] == list(range(1, 3 * tricks + 1))
    await ledger.verify()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"DATABASE_URL": ""}, "DATABASE_URL"),
        ({"CAIRN_TENANT": "Not A Name"}, "CAIRN_TENANT"),
        ({"ORIGINATOR_ID_TYPE": "int"}, "ORIGINATOR_ID_TYPE"),
    ],
)
def test_a_setting_that_cannot_be_is_named(env: dict[str, str], settings: dict[str, str], said: str) -> None:
    with pytest.raises(OSError, match=said):
        Factory({**env, **settings})
