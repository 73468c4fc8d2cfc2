"""Events of `eventsourcing` applications in the same ledger as ours: one order, one chain, one stream, no confusion."""

import asyncio
from contextlib import closing
from threading import Event
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from appends import SECONDS, all_of, append, assert_both_logs_equal, followed
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import IntegrityError
from stored import stored

from cairn.bus import Bus
from ledger.eventsourcing import Factory
from ledger.foreign import Foreign
from ledger.ledger import Ledger
from ledger.postgres import pool
from projections.board import Board
from projections.project import Projection


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


async def test_we_and_an_application_write_at_once_and_a_subscriber_misses_nothing(
    ledger: Ledger, es_env: dict[str, str]
) -> None:
    dogs, rounds = 4, 40
    with DogSchool(es_env) as school:
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
    postgres_url: str, tenant: str, bus: Bus, es_env: dict[str, str]
) -> None:
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await ledger.append(append("workflow-one", 0))

        def use() -> None:
            with DogSchool({**es_env, "COMPRESSOR_TOPIC": "zlib"}) as compressed, CatSchool(es_env) as plain:
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


async def test_json_that_is_nested_as_deep_as_a_parser_goes_stops_no_relay(
    postgres_url: str, tenant: str, bus: Bus, recorder: Any
) -> None:
    """How deep that is depends on who parses: the application, close to the limit, could; the relay could not."""
    state, flat = b"[" * 970 + b"]" * 970, b'["' + b"[" * 970 + b'",' + b"{}," * 970 + b"{}]"
    rex = uuid4()
    await asyncio.to_thread(recorder.insert_events, [stored(rex, 1, state), stored(rex, 2, flat)])
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        await ledger.append(append("workflow-one", 0))
        await assert_both_logs_equal(ledger, bus)
        recorded = await ledger.read(0)
    assert [b'"json"' in one.state for one in recorded] == [False, True, False]
    assert await asyncio.to_thread(recorder.select_events, rex) == [stored(rex, 1, state), stored(rex, 2, flat)]


async def test_our_views_pass_over_their_events(ledger: Ledger, postgres_url: str, tenant: str, recorder: Any) -> None:
    await asyncio.to_thread(recorder.insert_events, [stored(uuid4(), 1, b"\x00 no JSON")])
    async with pool(postgres_url, tenant, size=2, views=True) as connections:
        board = Projection(connections, Board())
        async with asyncio.timeout(SECONDS), asyncio.TaskGroup() as group:
            running = group.create_task(board.run(ledger))
            await board.reached(1)
            running.cancel()


def test_applications_do_not_meet_whatever_ids_they_choose(es_env: dict[str, str]) -> None:
    dog_id = uuid4()
    with DogSchool(es_env) as dogs, CatSchool(es_env) as cats:
        assert dogs.recorder.insert_events([stored(dog_id, 1, b'"dog"')]) == [1]
        assert cats.recorder.insert_events([stored(dog_id, 1, b'"cat"')]) == [2]
        assert [event.state for event in cats.recorder.select_events(dog_id)] == [b'"cat"']
        assert [notification.id for notification in dogs.recorder.select_notifications(None, 10)] == [1]
        assert (dogs.recorder.max_notification_id(), cats.recorder.max_notification_id()) == (1, 2)


def test_an_attempt_whose_answer_was_lost_is_not_made_twice(recorder: Any) -> None:
    command, dog = uuid4(), uuid4()
    first = recorder._record(command, [stored(dog, 1), stored(dog, 2)])
    assert recorder._record(command, [stored(dog, 1), stored(dog, 2)]) == first
    with pytest.raises(IntegrityError):
        recorder.insert_events([stored(dog, 1), stored(dog, 2)])


async def test_connections_that_are_cut_cost_and_double_nothing(
    ledger: Ledger, postgres_url: str, es_env: dict[str, str]
) -> None:
    tricks, done = 60, Event()

    def cut() -> int:
        cuts = 0
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            while not done.wait(0.2):
                row = connection.execute(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE pid <> pg_backend_pid() AND (query LIKE '%INSERT INTO events%' OR query IN ('BEGIN', 'COMMIT'))"
                ).fetchone()
                cuts += row[0] if row else 0
        return cuts

    def teach(_: int) -> None:
        with closing(Factory(es_env)) as factory:
            recorder, dog = factory.application_recorder(), uuid4()
            for number in range(1, tricks + 1):
                recorder.insert_events([stored(dog, number)])
            assert len(recorder.select_events(dog)) == tricks

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
def test_a_setting_that_cannot_be_is_named(es_env: dict[str, str], settings: dict[str, str], said: str) -> None:
    with pytest.raises(OSError, match=said):
        Factory({**es_env, **settings})
