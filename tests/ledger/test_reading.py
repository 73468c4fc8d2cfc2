"""Reads: bounded, in order, exact."""

from uuid import uuid4

import psycopg
import pytest
from appends import append, fill

from ledger.errors import BrokenChain, UnknownEvent
from ledger.ledger import Ledger


async def test_read_takes_a_window_of_positions(ledger: Ledger) -> None:
    events = await fill(ledger, "workflow-a", 10)
    assert await ledger.read(3, 4) == events[3:7]
    assert await ledger.read(3, to=5) == events[3:5]
    assert await ledger.read(10) == []


async def test_a_stream_is_read_whole_or_from_a_version(ledger: Ledger) -> None:
    answer = await ledger.append(append("workflow-a", 0, 1_500))
    await fill(ledger, "workflow-b", 1)
    assert await ledger.read_stream("workflow-a") == answer
    assert await ledger.read_stream("workflow-a", 1_498) == answer[1_498:]
    assert await ledger.read_stream("workflow-none") == []


async def test_events_are_found_by_id(ledger: Ledger) -> None:
    events = await fill(ledger, "workflow-a", 3)
    assert await ledger.find([events[2].id, uuid4(), events[0].id]) == [events[0], events[2]]
    assert await ledger.find([]) == []


async def test_an_event_of_a_newer_program_is_named_when_it_is_opened(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    await fill(ledger, "workflow-a", 1)
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        await connection.execute(f"SET search_path = cairn_{tenant}")
        await connection.execute("UPDATE ledger_head SET position = 2")
        await connection.execute(
            "INSERT INTO events SELECT 2, stream, 2, 'task.levitated', gen_random_uuid(), recorded_at, NULL, NULL,"
            " actor, NULL, state, digest FROM events"
        )
    (newer,) = await ledger.read(1)
    with pytest.raises(UnknownEvent, match=r"Position 2 holds 'task\.levitated'"):
        _ = newer.event


@pytest.mark.parametrize("state", ["no JSON", '{"type":"task.started","task":"\xff"}'])
async def test_an_event_that_was_made_unreadable_is_named_when_it_is_opened(
    ledger: Ledger, postgres_url: str, tenant: str, state: str
) -> None:
    await fill(ledger, "workflow-a", 3)
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        await connection.execute(f"SET search_path = cairn_{tenant}; ALTER TABLE events_from_1 DISABLE TRIGGER ALL")
        await connection.execute("UPDATE events_from_1 SET state = %s WHERE position = 2", (state.encode("latin-1"),))
    changed = (await ledger.read(0))[1]
    with pytest.raises(BrokenChain, match="position 2: its state cannot be read"):
        _ = changed.event


async def test_people_can_read_the_events_with_psql(ledger: Ledger, postgres_url: str, tenant: str) -> None:
    await fill(ledger, "workflow-a", 1)
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        cursor = await connection.execute(f"SELECT event->>'run', type FROM cairn_{tenant}.events_readable")
        assert await cursor.fetchall() == [("indicators/1", "task.started")]
