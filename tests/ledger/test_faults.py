"""Cancelled callers, killed connections, a Postgres that goes away: nothing lost, nothing twice, nothing in doubt.

It is long because each fault that the writer meets has its test beside the others.
"""

import asyncio
import os
import random
import selectors
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from appends import SECONDS, append, fill, lose_answers, partitioned, until

from ledger import history, judge, postgres, writer
from ledger.append import Append
from ledger.errors import AlreadyRecorded, BrokenChain, LedgerClosed, LedgerUnavailable, UnsafeServer, WrongVersion
from ledger.group import Pending
from ledger.ledger import Ledger
from ledger.migrate import migrate
from ledger.postgres import Connection, connect
from ledger.recorded import Recorded
from ops.embedded.postgres import Postgres
from tests.cluster import with_cluster


async def test_a_caller_cancelled_in_the_middle_can_always_find_out(ledger: Ledger) -> None:
    """Cancelled before the group is taken, while it is written, after its commit: recorded once or not at all."""
    random.seed(1)
    recorded = 0
    for number in range(150):
        command = uuid4()
        call = asyncio.create_task(ledger.append(append(f"workflow-w{number}", 0, 2, command=command)))
        await asyncio.sleep(random.choice((0, 0.0001, 0.0005, 0.001, 0.002)))
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        try:
            answer = await ledger.append(append(f"workflow-w{number}", 0, 2, command=command))
        except AlreadyRecorded as repeat:
            answer = repeat.recorded
            recorded += 1
        assert answer == await ledger.read_stream(f"workflow-w{number}")
        assert len(answer) == 2
    assert 0 < recorded < 150, "the cancellations did not fall on both sides of the commit"
    assert (await ledger.verify()).events == 300


async def test_connections_killed_at_random_lose_and_double_nothing(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    done = False
    kills = 0

    async def kill() -> None:
        nonlocal kills
        async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as killer:
            while not done:
                await asyncio.sleep(random.uniform(0, 0.03))
                if ledger._writer._pipe is not None:
                    await killer.execute("SELECT pg_terminate_backend(%s)", (ledger._writer._pipe.backend_pid,))
                    kills += 1

    killing = asyncio.create_task(kill())
    answers: list[list[Recorded]] = []
    while kills <= 5:
        streams = range(len(answers), len(answers) + 20)
        answers += await asyncio.gather(*(fill(ledger, f"workflow-w{number}", 25) for number in streams))
    done = True
    await killing
    assert (await ledger.verify()).events == len(answers) * 25 >= 500
    for number, answer in enumerate(answers):
        assert answer == await ledger.read_stream(f"workflow-w{number}")


async def test_an_answer_lost_after_the_commit_is_found_out(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group was committed and the connection broke before anyone heard of it: recorded once, answered as recorded."""
    await fill(ledger, "workflow-a", 1)
    left = lose_answers(monkeypatch, 2)
    command = uuid4()
    first = await ledger.append(append("workflow-a", 1, 2, command=command))
    others: list[list[Recorded]] = []
    while left():
        others.append(await fill(ledger, f"workflow-w{len(others)}", 2))
    assert first == await ledger.find_command(command)
    assert [event.version for event in first] == [2, 3]
    assert {len(events) for events in others} == {2}
    assert (await ledger.verify()).events == 3 + 2 * len(others)


async def two_groups(ledger: Ledger, *last: Append, command: UUID | None = None) -> list[asyncio.Task[list[Recorded]]]:
    """Appends in two groups that were sent one after the other, as long as somebody else holds the head's lock.
    `command`: of the first one."""
    many = writer.WORTH_A_COMMIT_EVENTS
    await until(lambda: ledger._writer._tip is not None)
    others = (append(f"workflow-w{number}", 0) for number in range(1, 2 * many - len(last)))
    appends = [append("workflow-w0", 0, command=command), *others, *last]
    calls = [asyncio.create_task(ledger.append(one)) for one in appends]
    await until(lambda: len(ledger._writer._flying) == 2)
    assert len(ledger._writer._flying[0].appends) == many
    return calls


@pytest.mark.parametrize("lost", ["neither", "both"])
async def test_of_two_groups_under_way_only_a_conflict_fails_and_it_fails_alone(
    ledger: Ledger, postgres_url: str, tenant: str, lost: str
) -> None:
    last = [append("workflow-a", 5), append("workflow-b", 5), append("workflow-c", 0)]
    await fill(ledger, "workflow-a", 1)
    async with await psycopg.AsyncConnection.connect(postgres_url) as slow:
        await slow.execute(f"SELECT 1 FROM cairn_{tenant}.ledger_head FOR UPDATE")
        calls = await two_groups(ledger, *last)
        if lost == "both":
            assert ledger._writer._pipe is not None
            await slow.execute("SELECT pg_terminate_backend(%s)", (ledger._writer._pipe.backend_pid,))
        await slow.rollback()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[-3:]] == [WrongVersion, WrongVersion, list]
    recorded = [event for outcome in outcomes if isinstance(outcome, list) for event in outcome]
    assert recorded == await ledger.read(1)
    assert (await ledger.verify()).events == len(outcomes) - 1


@pytest.mark.parametrize("expected", [0, 1])
async def test_a_command_that_is_repeated_while_it_is_under_way_is_recorded_once(
    postgres_url: str, tenant: str, expected: int
) -> None:
    """Asked the same again, or decided again, in the next group; then both groups have to be judged, and the two appends
    fall into different partitions."""
    command = uuid4()
    async with Ledger.open(partitioned(postgres_url, 100), tenant=tenant) as ledger:
        await fill(ledger, "workflow-a", 1)
        await ledger.append(append("workflow-a", 1, 59))
        async with await psycopg.AsyncConnection.connect(postgres_url) as slow:
            await slow.execute(f"SELECT 1 FROM cairn_{tenant}.ledger_head FOR UPDATE")
            repeat = append("workflow-w0", expected, command=command)
            calls = await two_groups(ledger, repeat, command=command)
            assert ledger._writer._pipe is not None
            await slow.execute("SELECT pg_terminate_backend(%s)", (ledger._writer._pipe.backend_pid,))
            await slow.rollback()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(outcomes[-1], AlreadyRecorded)
        assert outcomes[-1].recorded == outcomes[0]
        assert (await ledger.verify()).events == 60 + len(outcomes) - 1 > 100


async def test_two_groups_under_way_are_committed_when_nobody_hears_of_it(
    ledger: Ledger, postgres_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(ledger, "workflow-a", 1)
    left = lose_answers(monkeypatch, 1)
    async with await psycopg.AsyncConnection.connect(postgres_url) as slow:
        await slow.execute(f"SELECT 1 FROM cairn_{tenant}.ledger_head FOR UPDATE")
        calls = await two_groups(ledger)
        await slow.rollback()
    answers = await asyncio.gather(*calls)
    assert left() == 0
    assert [event for answer in answers for event in answer] == await ledger.read(1)
    assert (await ledger.verify()).events == len(answers) + 1


async def test_an_unheard_append_of_several_commands_is_answered_whole(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands that are decided together share an append; none of them may be told that it changed nothing."""
    await fill(ledger, "workflow-a", 1)
    left = lose_answers(monkeypatch, 1)
    one, other = append("workflow-a", 1, 2), append("workflow-a", 3, 2)
    answer = await ledger.append(Append("workflow-a", 1, [*one.events, *other.events]))
    assert left() == 0
    assert [event.id for event in answer] == [new.id for new in (*one.events, *other.events)]
    assert answer == await ledger.read_stream("workflow-a", 1)


async def test_a_repeat_is_a_repeat_also_when_its_first_attempt_did_not_reach_postgres(ledger: Ledger) -> None:
    """Else its old events were taken for new ones, at versions they do not have, and what came with them was lost."""
    first = append("workflow-a", 0)
    answer = await ledger.append(first)
    await ledger.append(append("workflow-a", 1))
    assert ledger._writer._pipe is not None
    await ledger._writer._pipe.close()
    with pytest.raises(AlreadyRecorded) as repeat:
        await ledger.append(Append("workflow-a", 2, [*first.events, *append("workflow-a", 3).events]))
    assert repeat.value.recorded == answer
    assert (await ledger.head()).position == 2


async def test_a_process_suspended_in_the_middle_of_a_transaction_begins_it_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres ends the session of one that holds the head's lock for too long: that is a lost connection, no fault."""
    await fill(ledger, "workflow-a", 1)
    await until(lambda: ledger._writer._tip is not None)
    ledger._writer._tip = None
    survey, suspended = judge.survey, False

    async def suspending(connection: Connection, appends: Sequence[Pending]) -> Any:
        nonlocal suspended
        surveyed = await survey(connection, appends)
        if not suspended:
            suspended = True
            await connection.execute("SET idle_in_transaction_session_timeout = '50ms'")
            with selectors.DefaultSelector() as ended:  # without the loop, as a suspended process
                ended.register(connection.pgconn.socket, selectors.EVENT_READ)
                assert ended.select(SECONDS)
        return surveyed

    monkeypatch.setattr(judge, "survey", suspending)
    assert (await ledger.append(append("workflow-a", 1)))[0].position == 2
    assert suspended
    assert (await ledger.verify()).events == 2


async def test_a_process_suspended_in_the_middle_of_a_question_may_ask_it_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command is looked up in a transaction: who is suspended meanwhile has lost a connection, no more."""
    command = uuid4()
    answer = await ledger.append(append("workflow-a", 0, command=command))
    answer_from, suspended = history.answer_from, False

    async def suspending(connection: Connection, first: Recorded) -> list[Recorded]:
        nonlocal suspended
        if not suspended:
            suspended = True
            await connection.execute("SET idle_in_transaction_session_timeout = '50ms'")
            with selectors.DefaultSelector() as ended:  # without the loop, as a suspended process
                ended.register(connection.pgconn.socket, selectors.EVENT_READ)
                assert ended.select(SECONDS)
        return await answer_from(connection, first)

    monkeypatch.setattr(history, "answer_from", suspending)
    with pytest.raises(LedgerUnavailable, match="idle-in-transaction"):
        await ledger.find_command(command)
    assert await ledger.find_command(command) == answer


async def test_a_postgres_that_hangs_is_left_and_does_nothing_when_it_goes_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stalled disk or a suspended process keeps the line and answers nothing: no time limit of its own ends that."""
    await fill(ledger, "workflow-a", 2)
    await until(lambda: ledger._writer._pipe is not None)
    assert ledger._writer._pipe is not None
    backend = ledger._writer._pipe.backend_pid
    monkeypatch.setattr(writer, "ATTEMPT_SECONDS", 0.5)
    os.kill(backend, signal.SIGSTOP)
    try:
        async with asyncio.timeout(SECONDS):
            (recorded,) = await ledger.append(append("workflow-a", 2))
    finally:
        os.kill(backend, signal.SIGCONT)
    await until(lambda: not Path(f"/proc/{backend}").exists())
    assert recorded.position == 3
    assert (await ledger.verify()).events == 3


@pytest.mark.parametrize("left", ["cancelled", "given up"])
async def test_what_is_refused_after_a_hanging_postgres_is_not_recorded_when_it_goes_on(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """The second of two was refused because the first was not there, and nobody waited for that any more: so the head
    stayed where the one that hung had to find it to commit both."""
    monkeypatch.setattr(writer, "ATTEMPT_SECONDS", 0.3)
    await fill(ledger, "workflow-a", 2)
    await until(lambda: ledger._writer._tip is not None)
    assert ledger._writer._pipe is not None
    backend = ledger._writer._pipe.backend_pid
    os.kill(backend, signal.SIGSTOP)
    try:
        calls = [asyncio.create_task(ledger.append(append("workflow-a", version))) for version in (2, 3)]
        await until(lambda: bool(ledger._writer._flying))
        ((first, _),) = (flight.appends for flight in ledger._writer._flying)
        if left == "cancelled":
            calls[0].cancel()
        else:
            first.since -= writer.PATIENCE_SECONDS
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    finally:
        os.kill(backend, signal.SIGCONT)
    await until(lambda: not Path(f"/proc/{backend}").exists())
    assert isinstance(outcomes[0], asyncio.CancelledError if left == "cancelled" else LedgerUnavailable)
    assert isinstance(outcomes[1], list)
    assert outcomes[1] == await ledger.read_stream("workflow-a", 3)
    assert (await ledger.verify()).events == 4


async def test_a_writer_that_is_cancelled_ends_the_group_it_has_sent(postgres_url: str, tenant: str) -> None:
    async with await connect(postgres_url, tenant) as slow:
        await migrate(slow, tenant)
        alone = writer.Writer(lambda: connect(postgres_url, tenant), lambda events: None, nothing_is_archived)
        running = asyncio.create_task(alone.run())
        await alone.append(append("workflow-a", 0))
        async with slow.transaction():
            await slow.execute("SELECT 1 FROM ledger_head FOR UPDATE")
            sent = asyncio.create_task(alone.append(append("workflow-a", 1)))
            await until(lambda: bool(alone._flying))
            queued = asyncio.create_task(alone.append(append("workflow-a", 2)))
            await until(lambda: bool(alone._queue))
            running.cancel()
            await asyncio.sleep(0)
            assert not running.done()
        (recorded,) = await sent
        assert recorded.position == 2
        with pytest.raises(LedgerClosed):
            await queued
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_a_writer_that_is_cancelled_again_leaves_nobody_without_an_answer(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    alone = writer.Writer(lambda: connect(postgres_url, tenant), lambda events: None, nothing_is_archived)
    running = asyncio.create_task(alone.run())
    await alone.append(append("workflow-a", 0))
    async with await psycopg.AsyncConnection.connect(postgres_url) as slow:
        await slow.execute(f"SELECT 1 FROM cairn_{tenant}.ledger_head FOR UPDATE")
        sent = asyncio.create_task(alone.append(append("workflow-a", 1)))
        await until(lambda: bool(alone._flying))
        for _ in range(2):
            running.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await running
    async with asyncio.timeout(SECONDS):
        with pytest.raises(LedgerUnavailable, match="ask again: workflow-a is in doubt"):
            await sent


async def test_a_writer_that_is_cancelled_is_as_impatient_as_one_that_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer, "CLOSING_SECONDS", 0.0)

    async def refused() -> Connection:
        raise psycopg.OperationalError("connection refused")

    alone = writer.Writer(refused, lambda events: None, nothing_is_archived)
    running = asyncio.create_task(alone.run())
    waiting = asyncio.create_task(alone.append(append("workflow-a", 0)))
    await until(lambda: alone._work.is_set() and not alone._queue)
    running.cancel()
    async with asyncio.timeout(SECONDS):
        with pytest.raises(LedgerUnavailable, match="not known"):
            await waiting
        with pytest.raises(asyncio.CancelledError):
            await running


async def nothing_is_archived(id_: UUID) -> list[Recorded]:
    return []


async def test_postgres_away_is_waited_for_and_a_killed_one_loses_nothing(
    data_dir: Path, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "POOL_SECONDS", 1.0)
    (data_dir / "log").mkdir()
    server = Postgres(with_cluster(data_dir), print)
    await server.start()
    try:
        async with Ledger.open(server.url, tenant=tenant) as ledger:
            await fill(ledger, "workflow-a", 3)
            assert server.child.pid is not None
            os.kill(server.child.pid, signal.SIGKILL)
            await server.child.exited()
            await until_unreadable(ledger)
            waiting = asyncio.create_task(ledger.append(append("workflow-a", 3)))
            with pytest.raises(LedgerUnavailable):
                await ledger.read(0)
            assert not waiting.done()
            await server.start()
            async with asyncio.timeout(SECONDS):
                assert (await waiting)[0].position == 4
            await until_readable(ledger)
            assert len(await ledger.read(0)) == 4
            await ledger.verify()
    finally:
        await server.stop()


async def until_unreadable(ledger: Ledger) -> None:
    """A Postgres that was killed has children that answer until they notice."""
    async with asyncio.timeout(SECONDS):
        while not isinstance((await asyncio.gather(ledger.head(), return_exceptions=True))[0], LedgerUnavailable):
            await asyncio.sleep(0.01)


async def until_readable(ledger: Ledger) -> None:
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await ledger.head()
                return
            except LedgerUnavailable:
                continue


async def test_patience_ends_and_says_that_the_outcome_is_not_known(
    ledger: Ledger, postgres_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", 0.1)

    async def refused() -> None:
        raise psycopg.OperationalError("connection refused")

    monkeypatch.setattr(ledger._writer, "_connect", refused)
    with pytest.raises(LedgerUnavailable, match="not known: ask again with the same ids"):
        await ledger.append(append("workflow-a", 0))
    monkeypatch.undo()
    assert (await ledger.append(append("workflow-a", 0)))[0].position == 1


async def test_closing_ends_what_was_taken_and_takes_no_more(postgres_url: str, tenant: str) -> None:
    async with Ledger.open(postgres_url, tenant=tenant) as ledger:
        calls = [asyncio.create_task(ledger.append(append(f"workflow-w{number}", 0))) for number in range(50)]
        await asyncio.sleep(0)
    assert len({(await call)[0].position for call in calls}) == 50
    with pytest.raises(LedgerClosed):
        await ledger.append(append("workflow-a", 0))


async def test_a_fault_of_the_ledgers_own_work_surfaces(postgres_url: str, tenant: str) -> None:
    async def without_its_tables() -> None:
        async with Ledger.open(postgres_url, tenant=tenant) as ledger:
            async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
                await connection.execute(f"DROP SCHEMA cairn_{tenant} CASCADE")
            await ledger.append(append("workflow-a", 0))

    with pytest.raises(ExceptionGroup) as fault:
        await without_its_tables()
    assert fault.group_contains(psycopg.errors.UndefinedTable)


@pytest.mark.parametrize(
    ("beyond", "tampering"),
    [
        (2, "UPDATE ledger_head SET position = 1, digest = (SELECT digest FROM events WHERE position = 1)"),
        (3, "INSERT INTO events SELECT 7, stream, 9, type, gen_random_uuid(), recorded_at, NULL, NULL, actor, NULL, state,"
            " digest FROM events WHERE position = 1"),
    ],
)  # fmt: skip
async def test_events_behind_the_head_are_a_fault_and_no_appends_own(
    postgres_url: str, tenant: str, beyond: int, tampering: str
) -> None:
    """Every append was answered that it can never be recorded: what is told so is given up for ever."""

    async def beyond_its_head() -> None:
        async with Ledger.open(postgres_url, tenant=tenant) as ledger:
            await fill(ledger, "workflow-a", 2)
            async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
                await connection.execute(f"SET search_path = cairn_{tenant}")
                for table in ("events", "ledger_head"):
                    await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL".encode())
                await connection.execute(tampering.encode())
                for table in ("events", "ledger_head"):
                    await connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER ALL".encode())
            await ledger.append(append("workflow-b", 0))

    with pytest.raises(ExceptionGroup) as fault:
        await beyond_its_head()
    assert fault.group_contains(BrokenChain, match=f"position {beyond}: there are events behind the head")


async def test_an_error_of_the_caller_passes_through_as_it_is(postgres_url: str, tenant: str) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Ledger.open(postgres_url, tenant=tenant):
            raise ZeroDivisionError


async def test_a_server_that_may_lose_what_it_committed_is_refused(postgres_url: str, tenant: str) -> None:
    unsafe = f"{postgres_url}{'&' if '?' in postgres_url else '?'}options=-c%20synchronous_commit%3Doff"
    with pytest.raises(UnsafeServer, match="synchronous_commit = off"):
        async with Ledger.open(unsafe, tenant=tenant):
            pass
