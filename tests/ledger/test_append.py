"""What append promises, to one process."""

import asyncio
from uuid import uuid4

import pytest
from appends import append, fill, started

from domain.events import Event
from ledger import append as appending
from ledger import queue
from ledger.append import Append, NewEvent
from ledger.codec import event_id
from ledger.errors import AlreadyRecorded, NotRecordable, WrongVersion
from ledger.group import Pending
from ledger.ledger import Ledger
from ledger.queue import Queue


async def test_what_append_answers_is_what_everyone_reads(ledger: Ledger) -> None:
    command = uuid4()
    answer = await ledger.append(append("workflow-a", 0, 2, command=command))
    assert [(event.position, event.version) for event in answer] == [(1, 1), (2, 2)]
    assert [event.id for event in answer] == [event_id(command, 0), event_id(command, 1)]
    assert answer[0].event == started()
    assert answer[0].type == "task.started"
    assert await ledger.read(0) == answer
    assert await ledger.read_stream("workflow-a") == answer
    assert (await ledger.head())[1:] == (2, answer[1].digest)


async def test_positions_have_no_gap_however_many_append_at_once(ledger: Ledger) -> None:
    await asyncio.gather(*(fill(ledger, f"workflow-w{number}", 10) for number in range(50)))
    events = await ledger.read(0)
    assert [event.position for event in events] == list(range(1, 501))
    for number in range(50):
        stream = await ledger.read_stream(f"workflow-w{number}")
        assert [event.version for event in stream] == list(range(1, 11))
    assert (await ledger.verify()).events == 500


@pytest.mark.parametrize("expected", [0, 1, 3, 2_000_000_000])
async def test_a_version_the_stream_is_not_at_is_refused_with_all_the_values(ledger: Ledger, expected: int) -> None:
    await fill(ledger, "workflow-a", 2)
    with pytest.raises(WrongVersion, match=rf"{expected} \(stream workflow-a is at version 2\)") as refusal:
        await ledger.append(append("workflow-a", expected))
    assert (refusal.value.expected, refusal.value.actual) == (expected, 2)
    assert len(await ledger.read(0)) == 2


async def test_a_conflict_fails_alone_and_its_neighbours_are_recorded(ledger: Ledger) -> None:
    await fill(ledger, "workflow-taken", 1)
    appends = [append(f"workflow-w{number}", 0) for number in range(9)]
    appends[4:4] = [append("workflow-taken", 0), append("workflow-new", 7)]
    outcomes = await asyncio.gather(*map(ledger.append, appends), return_exceptions=True)
    refused = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, WrongVersion)]
    assert refused == [4, 5]
    assert (await ledger.head()).position == 10
    await ledger.verify()


async def test_of_many_at_the_same_version_one_is_recorded(ledger: Ledger) -> None:
    outcomes = await asyncio.gather(
        *(ledger.append(append("workflow-a", 0)) for _ in range(20)), return_exceptions=True
    )
    assert sum(isinstance(outcome, list) for outcome in outcomes) == 1
    assert {str(outcome) for outcome in outcomes if not isinstance(outcome, list)} == {
        "Wrong expected version: 0 (stream workflow-a is at version 1)."
    }


async def test_appends_to_one_stream_that_follow_on_each_other_need_not_wait(ledger: Ledger) -> None:
    answers = await asyncio.gather(*(ledger.append(append("workflow-a", version)) for version in range(20)))
    assert [event.version for answer in answers for event in answer] == list(range(1, 21))


async def test_the_same_command_again_gets_the_first_answer(ledger: Ledger) -> None:
    command = uuid4()
    first = await ledger.append(append("workflow-a", 0, 3, command=command))
    await ledger.append(append("workflow-a", 3))
    for expected in (0, 4):
        with pytest.raises(AlreadyRecorded, match="position 1") as repeat:
            await ledger.append(append("workflow-a", expected, 1, command=command))
        assert repeat.value.recorded == first
    assert await ledger.find_command(command) == first
    assert await ledger.find_command(uuid4()) == []
    assert (await ledger.head()).position == 4


async def test_the_same_command_twice_at_once_is_recorded_once(ledger: Ledger) -> None:
    command = uuid4()
    outcomes = await asyncio.gather(
        *(ledger.append(append("workflow-a", 0, 2, command=command)) for _ in range(5)), return_exceptions=True
    )
    answers = [getattr(outcome, "recorded", outcome) for outcome in outcomes]
    assert answers == [await ledger.read(0)] * 5
    assert sum(isinstance(outcome, AlreadyRecorded) for outcome in outcomes) == 4


async def test_an_append_larger_than_any_group_is_recorded_whole(ledger: Ledger) -> None:
    command = uuid4()
    answer = await ledger.append(append("workflow-a", 0, 2_500, command=command))
    assert await ledger.read_stream("workflow-a") == answer
    assert await ledger.find_command(command) == answer


class Unlisted(Event, tag="unlisted"):
    pass


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (Append("Workflow-A", 0, [NewEvent(started(), uuid4(), "ann")]), "stream"),
        (Append("workflow-a.b", 0, [NewEvent(started(), uuid4(), "ann")]), "stream"),
        (Append("workflow-a", -1, [NewEvent(started(), uuid4(), "ann")]), "out of range"),
        (Append("workflow-a", 2**31 - 1, [NewEvent(started(), uuid4(), "ann")]), "out of range"),
        (Append("workflow-a", 0, [NewEvent(started(), uuid4(), "a\0b")]), "printable"),
        (Append("workflow-a", 0, [NewEvent(started(), uuid4(), "ann", "corr\ud800")]), "printable"),
        (Append("workflow-a", 0, [NewEvent(started(), uuid4(), "ä" * 513)]), "at most 1024 bytes"),
        (Append("w" * 33 + "-a", 0, [NewEvent(started(), uuid4(), "ann")]), "stream"),
        (Append("workflow-a", 0, [NewEvent(Unlisted(), uuid4(), "ann")]), "Unlisted is not an event"),
        (Append("workflow-a", 0, [NewEvent(started("x" * 9_000_000), uuid4(), "ann")]), "bytes"),
    ],
)
async def test_what_can_never_be_recorded_is_refused_at_once(ledger: Ledger, bad: Append, why: str) -> None:
    with pytest.raises(NotRecordable, match=why):
        await ledger.append(bad)
    assert (await ledger.head()).position == 0


async def test_an_append_that_no_statement_could_take_is_refused_at_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres would be asked again and again for a minute, and whatever waits with it too."""
    monkeypatch.setattr(appending, "APPEND_BYTES", 1_000)
    with pytest.raises(NotRecordable, match="bytes, at most 1000 are recorded together: split it"):
        await ledger.append(append("workflow-a", 0, 10))
    await ledger.append(append("workflow-a", 0, 1))


async def test_ids_that_repeat_inside_an_append_spoil_no_neighbour(ledger: Ledger) -> None:
    same = NewEvent(started(), uuid4(), "ann")
    outcomes = await asyncio.gather(
        ledger.append(append("workflow-a", 0)),
        ledger.append(Append("workflow-b", 0, [same, same])),
        ledger.append(append("workflow-c", 0)),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [list, NotRecordable, list]
    assert [event.stream for event in await ledger.read(0)] == ["workflow-a", "workflow-c"]


async def test_a_full_queue_makes_callers_wait(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "QUEUED_EVENTS", 4)
    longest = 0
    put = Queue.put

    async def watched(waiting: Queue, pending: Pending) -> None:
        nonlocal longest
        await put(waiting, pending)
        longest = max(longest, waiting.events)

    monkeypatch.setattr(Queue, "put", watched)
    await asyncio.gather(*(fill(ledger, f"workflow-w{number}", 3) for number in range(30)))
    assert (await ledger.head()).position == 90
    assert longest == 4


async def test_nothing_to_append_is_no_append(ledger: Ledger) -> None:
    assert await ledger.append(Append("workflow-a", 0, [])) == []
