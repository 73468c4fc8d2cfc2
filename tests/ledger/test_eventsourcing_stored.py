"""How events of `eventsourcing` applications are stored: names, versions, bytes, and what is refused."""

import json
from contextlib import closing
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from eventsourcing.application import Application
from eventsourcing.domain import Aggregate
from eventsourcing.persistence import DataError, IntegrityError, ProgrammingError
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import TOPIC, stored

from ledger.eventsourcing import Factory
from ledger.eventsourcing.names import Names
from ledger.foreign import Foreign
from ledger.postgres import connect


class Named(Aggregate):
    def __init__(self, name: str) -> None:
        self.name = name


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


async def test_json_stays_json_for_people(postgres_url: str, tenant: str, es_env: dict[str, str]) -> None:
    with Application[UUID](es_env) as application:
        application.save(Named("Fido"))
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


def test_aggregates_with_string_ids_are_found_again(es_env: dict[str, str]) -> None:
    with closing(Factory({**es_env, "ORIGINATOR_ID_TYPE": "text"})) as factory:
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
