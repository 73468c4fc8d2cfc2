"""Events in the archive are as good as in the table."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import structlog
from appends import all_of, append, assert_both_logs_equal, fill, followed, partitioned, until

from cairn.bus import Bus
from ledger import scrub
from ledger.archive import Partition
from ledger.audit import audit
from ledger.errors import AlreadyRecorded, ArchiveBusy, BrokenChain, SegmentUnreadable, WrongVersion
from ledger.ledger import Ledger
from ledger.postgres import connect
from ledger.recorded import Recorded
from ledger.retire import closed, lock, retire
from ledger.segment import Segment
from ledger.stream import delete, stream_name

PARTITION_EVENTS = 100
ALL = 1_000_000


@pytest.fixture
def postgres_url(postgres_url: str) -> str:
    return partitioned(postgres_url, PARTITION_EVENTS)


@pytest.fixture
async def ledger(postgres_url: str, tenant: str, tmp_path: Path) -> AsyncIterator[Ledger]:
    async with Ledger.open(postgres_url, tenant=tenant, archive=tmp_path) as ledger:
        yield ledger


@pytest.fixture
def archive(postgres_url: str, tenant: str, tmp_path: Path) -> Callable[..., object]:
    """Archives all that lies before; answers with what was archived."""

    async def archive(before: int | datetime = ALL) -> list[Partition]:
        async with await connect(postgres_url, tenant) as connection:
            await lock(connection, tenant)
            return [await retire(connection, tenant, tmp_path, one) for one in await closed(connection, before)]

    return archive


async def history(ledger: Ledger) -> list[Recorded]:
    """450 events of some streams: short ones, long ones, one that ends early, one of a single append."""
    random.seed(7)
    at: dict[str, int] = {}
    await ledger.append(append("workflow-once", 0, 120))
    recorded = 120
    while recorded < 450:
        stream = f"workflow-{random.choice('abcdefgh')}" if recorded < 300 else f"workflow-{random.choice('abcdz')}"
        count = min(random.choice((1, 1, 2, 5)), 450 - recorded)
        await ledger.append(append(stream, at.get(stream, 0), count))
        at[stream] = at.get(stream, 0) + count
        recorded += count
    return await all_of(ledger)


async def test_what_is_archived_is_read_as_if_it_were_in_the_table(
    ledger: Ledger, archive: Callable[..., object], postgres_url: str, tenant: str, tmp_path: Path
) -> None:
    events = await history(ledger)
    assert [(one.first, one.last) for one in await archive()] == [(1, 100), (101, 200), (201, 300), (301, 400)]
    async with await connect(postgres_url, tenant) as connection:
        assert await (await connection.execute("SELECT count(*), min(position) FROM events")).fetchone() == (50, 401)
    assert await all_of(ledger) == events
    for after, limit, to in ((0, 10, None), (95, 10, None), (395, 10, None), (350, 1000, 399), (199, 1, 200), (90, 320, None),
                             (449, 5, None), (450, 5, None), (0, 5, 3), (399, 3, 400), (20, 30, 20)):  # fmt: skip
        assert await ledger.read(after, limit, to=to) == events[after : min(after + limit, to or 450)], (
            after,
            limit,
            to,
        )
    for stream in {event.stream for event in events}:
        own = [event for event in events if event.stream == stream]
        for version in (0, 1, len(own) // 2, len(own) - 1, len(own)):
            assert await ledger.read_stream(stream, version) == own[version:]
            assert await ledger.read_stream(stream, version, 3) == own[version : version + 3]
    assert await ledger.read_stream("workflow-never") == []
    chosen = [events[number] for number in (3, 99, 100, 250, 399, 400, 449)]
    assert await ledger.find([*(event.id for event in reversed(chosen)), uuid4()]) == chosen
    assert await followed(ledger, 450) == events
    assert (await ledger.verify()).events == 450
    assert (await ledger.verify(150, 350)).events == 201
    assert (await audit(postgres_url, tenant, archive=tmp_path, processes=1)).events == 450


async def test_every_archived_command_keeps_its_first_answer(ledger: Ledger, archive: Callable[..., object]) -> None:
    """Its events may lie on both sides of a border, between two files or between a file and the table."""
    commands = [uuid4() for _ in range(150)]
    answers = [
        await ledger.append(append(f"workflow-w{n}", 0, 3, command=command)) for n, command in enumerate(commands)
    ]
    await archive()
    for number, (command, answer) in enumerate(zip(commands, answers, strict=True)):
        assert await ledger.find_command(command) == answer
        with pytest.raises(AlreadyRecorded) as repeat:
            await ledger.append(append(f"workflow-w{number}", 3 * (number % 2), 3, command=command))
        assert repeat.value.recorded == answer
    with pytest.raises(AlreadyRecorded):
        await ledger.append(append("workflow-elsewhere", 0, 1, command=commands[0]))
    assert (await ledger.head()).position == 450


async def test_archived_streams_keep_their_version(ledger: Ledger, archive: Callable[..., object]) -> None:
    await fill(ledger, "workflow-old", 3)
    await ledger.append(append("workflow-filler", 0, 300))
    await archive()
    for wrong in (0, 2, 4):
        with pytest.raises(WrongVersion, match=rf"{wrong} \(stream workflow-old is at version 3\)"):
            await ledger.append(append("workflow-old", wrong))
    (event,) = await ledger.append(append("workflow-old", 3))
    assert event.version == 4
    assert len(await ledger.read_stream("workflow-old")) == 4
    await ledger.append(append("workflow-filler", 300, 300))
    await archive()
    with pytest.raises(WrongVersion, match="is at version 4"):
        await ledger.append(append("workflow-old", 3))
    assert [one.version for one in await ledger.read_stream("workflow-old", 2)] == [3, 4]


async def test_only_closed_partitions_go_and_only_those_before(ledger: Ledger, archive: Callable[..., object]) -> None:
    await ledger.append(append("workflow-a", 0, 300))
    assert await archive(100) == []
    assert [one.first for one in await archive(101)] == [1]
    assert await archive(datetime.now(UTC) - timedelta(days=1)) == []
    assert [one.first for one in await archive(datetime.now(UTC) + timedelta(days=1))] == [101]
    assert await archive() == []  # 201 to 300 is full, but nothing came after it


async def test_appending_and_reading_go_on_while_partitions_are_archived(
    ledger: Ledger, archive: Callable[..., object]
) -> None:
    appending = [asyncio.create_task(fill(ledger, f"workflow-w{number}", 40)) for number in range(25)]
    seen: list[int] = []
    archived = 0
    while not all(task.done() for task in appending) or archived < 9:
        archived += len(await archive())
        seen = [event.position for event in await all_of(ledger)]
        assert seen == list(range(1, len(seen) + 1))
    for number, task in enumerate(appending):
        assert await ledger.read_stream(f"workflow-w{number}") == await task
    assert (await ledger.verify()).events == 1000
    assert archived == 9


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "another", "no folder"])
async def test_a_file_that_is_not_as_it_was_written_is_named(
    ledger: Ledger, archive: Callable[..., object], postgres_url: str, tenant: str, tmp_path: Path, damage: str
) -> None:
    await ledger.append(append("workflow-a", 0, 350))
    one, other, _ = await archive()
    file = tmp_path / one.segment
    content = file.read_bytes()
    match damage:
        case "missing":
            file.unlink()
        case "cut":
            file.write_bytes(content[: len(content) // 2])
        case "flipped":
            file.write_bytes(content[:-100] + bytes([content[-100] ^ 1]) + content[-99:])
        case "another":
            file.write_bytes((tmp_path / other.segment).read_bytes())
    folder = None if damage == "no folder" else tmp_path
    async with Ledger.open(postgres_url, tenant=tenant, archive=folder) as later:
        for ask in (later.read(0), later.read_stream("workflow-a"), later.verify(), later.read(99, 1, to=100)):
            with pytest.raises(SegmentUnreadable, match=one.segment):
                await ask
        assert len(await later.read(300)) == 50
        assert (await later.append(append("workflow-b", 0)))[0].position == 351
        with pytest.raises(WrongVersion):
            await later.append(append("workflow-a", 0))


async def test_a_lost_file_that_the_stream_still_covers_stops_neither_appends_nor_the_relay(
    ledger: Ledger, archive: Callable[..., object], bus: Bus, postgres_url: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(scrub, "SCRUB_SECONDS", 0.01)
    await ledger.append(append("workflow-a", 0, 350))
    async with Ledger.open(postgres_url, tenant=ledger.tenant, bus=bus, archive=tmp_path) as relayed:
        await assert_both_logs_equal(relayed, bus)
    one, *_ = await archive(150)
    (tmp_path / one.segment).rename(tmp_path / "elsewhere")
    with structlog.testing.capture_logs() as logs:
        async with Ledger.open(postgres_url, tenant=ledger.tenant, bus=bus, archive=tmp_path) as relayed:
            assert relayed.relay is not None
            await until(lambda: any(log["event"] == "ledger.scrub.unreadable" for log in logs))
            await relayed.append(append("workflow-b", 0))
            await relayed.relay.published(351)
            await delete(bus, stream_name(ledger.tenant, 1))
            await until(
                lambda: any(log["event"] == "ledger.relay.waits" and one.segment in log["error"] for log in logs)
            )
            await relayed.append(append("workflow-b", 1))
            (tmp_path / "elsewhere").rename(tmp_path / one.segment)
            await assert_both_logs_equal(relayed, bus)
            assert (await relayed.head()).epoch == 1


async def test_a_repeat_whose_answer_cannot_be_read_fails_alone(
    ledger: Ledger, archive: Callable[..., object], tmp_path: Path
) -> None:
    command = uuid4()
    await ledger.append(append("workflow-a", 0, 1, command=command))
    await ledger.append(append("workflow-filler", 0, 200))
    one, *_ = await archive()
    (tmp_path / one.segment).unlink()
    repeat, new = await asyncio.gather(
        ledger.append(append("workflow-a", 1, 1, command=command)),
        ledger.append(append("workflow-b", 0)),
        return_exceptions=True,
    )
    assert isinstance(repeat, SegmentUnreadable)
    assert isinstance(new, list)


async def test_history_that_was_changed_is_not_archived(
    ledger: Ledger, archive: Callable[..., object], postgres_url: str, tenant: str, tmp_path: Path
) -> None:
    await ledger.append(append("workflow-a", 0, 250))
    async with await connect(postgres_url, tenant) as connection:
        await connection.execute("SET ROLE NONE")
        await connection.execute("ALTER TABLE events_from_101 DISABLE TRIGGER ALL")
        await connection.execute("UPDATE events_from_101 SET actor = 'mallory' WHERE position = 142")
    with pytest.raises(BrokenChain, match="position 142:"):
        await archive()
    assert [file.suffix for file in tmp_path.iterdir()] == [".segment"]
    assert (await ledger.verify(1, 141)).events == 141


async def test_two_do_not_archive_at_once(
    ledger: Ledger, archive: Callable[..., object], postgres_url: str, tenant: str
) -> None:
    async with await connect(postgres_url, tenant) as connection:
        await lock(connection, tenant)
        with pytest.raises(ArchiveBusy, match="is being archived already"):
            await archive()


async def test_a_segment_can_be_read_with_sqlite_alone(
    ledger: Ledger, archive: Callable[..., object], tmp_path: Path
) -> None:
    events = await history(ledger)
    one, *_ = await archive()
    with sqlite3.connect(tmp_path / one.segment) as file:
        (row,) = file.execute("SELECT first, last, previous, digest FROM segment").fetchall()
    assert row == (1, 100, bytes(32), events[99].digest) == (one.first, one.last, one.previous, one.digest)
    with Segment(tmp_path / one.segment) as segment:
        segment.check(1, 100, bytes(32), events[99].digest)
        with pytest.raises(SegmentUnreadable, match="not 99"):
            segment.check(1, 99, bytes(32), events[98].digest)
        with pytest.raises(BrokenChain):
            segment.check(1, 100, bytes([1]) * 32, events[99].digest)
