"""A command is decided once, whoever else decides at the same time, and its answer is the same for ever."""

import asyncio
from itertools import count
from typing import Any
from uuid import uuid4

import pytest

from domain.commands import Answer, Cancel, ExpireLease
from domain.errors import Conflict, NotFound
from domain.events import ReportRefused
from domain.plan import Task
from domain.state import replay
from handlers import cases, execute
from handlers.execute import Executor, Order
from handlers.kinds import WORKFLOW
from ledger.errors import NotRecordable
from ledger.ledger import Ledger
from ledger.recorded import Recorded
from tests.spec import completed, started
from tests.spec import start as start_w

SECONDS = 30.0
WIDE = [Task(f"t{number}") for number in range(60)]


def order(command: Any) -> Order:
    return Order(uuid4(), command, "test")


def start(*tasks: Task) -> Order:
    return order(start_w(*(tasks or (Task("a"), Task("b")))))


def names(recorded: list[Recorded]) -> list[str]:
    return [type(one.event).__name__ for one in recorded]


async def test_the_same_command_again_gives_the_first_answer(executor: Executor, ledger: Ledger) -> None:
    first = start()
    answer = await executor.execute("w", first)
    done = order(completed("a/1", 1))
    told = await executor.execute("w", done)
    assert await executor.execute("w", first) == answer
    assert await executor.execute("w", done) == told, "a report that is repeated is not one that came too late"
    assert await Executor(ledger).execute("w", done) == told, "nor for a process that knows nothing of it"
    assert (await ledger.head()).position == len(answer) + len(told)


async def test_the_same_command_many_times_at_once_is_decided_once(executor: Executor, ledger: Ledger) -> None:
    first = start()
    answers = await asyncio.gather(*(executor.execute("w", first) for _ in range(20)))
    done = order(completed("a/1", 1))
    told = await asyncio.gather(*(executor.execute("w", done) for _ in range(20)))
    for same in (answers, told):
        assert all(one == same[0] and one for one in same)
    assert (await ledger.head()).position == len(answers[0]) + len(told[0])


async def test_a_repeat_among_new_commands_gets_its_answer_and_they_theirs(executor: Executor, ledger: Ledger) -> None:
    await executor.execute("w", start(Task("a"), Task("b"), Task("c")))
    done = order(completed("a/1", 1))
    first = await executor.execute("w", done)
    fresh = [order(started("b/1", 2)), order(started("c/1", 3))]
    answers = await asyncio.gather(*(executor.execute("w", one) for one in (fresh[0], done, fresh[1])))
    assert names(answers[0]) == names(answers[2]) == ["TaskStarted"]
    assert answers[1] == first
    assert not any(isinstance(one.event, ReportRefused) for one in await ledger.read_stream("workflow-w"))


async def test_many_repeats_after_a_restart_load_the_workflow_once_or_twice_and_not_each(
    executor: Executor, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await executor.execute("w", start(*WIDE))
    reports = [order(completed(f"t{number}/1", number + 1)) for number in range(len(WIDE))]
    first = await asyncio.gather(*(executor.execute("w", report) for report in reports))
    loads = 0

    async def counted(stream: str, after_version: int = 0) -> list[Recorded]:
        nonlocal loads
        loads += not after_version
        return await Ledger.read_stream(ledger, stream, after_version)

    monkeypatch.setattr(ledger, "read_stream", counted)
    again = Executor(ledger)
    assert await asyncio.gather(*(again.execute("w", report) for report in reports)) == first
    assert loads <= 2


async def test_two_executors_on_one_workflow_decide_every_command_once(postgres_url: str, tenant: str) -> None:
    async with Ledger.open(postgres_url, tenant=tenant) as one, Ledger.open(postgres_url, tenant=tenant) as two:
        executors = Executor(one), Executor(two)
        await executors[0].execute("w", start(*WIDE))
        orders = [order(completed(f"t{number}/1", number + 1)) for number in range(len(WIDE))]

        async def send(executor: Executor, mine: list[Order]) -> list[list[Recorded]]:
            answers = []
            for some in range(0, len(mine), 7):
                answers += await asyncio.gather(*(executor.execute("w", it) for it in mine[some : some + 7]))
            return answers

        async with asyncio.timeout(SECONDS):
            forth, back = await asyncio.gather(send(executors[0], orders), send(executors[1], orders[::-1]))
        assert forth == back[::-1]
        events = await one.read_stream("workflow-w")
        assert [event.version for event in events] == list(range(1, len(events) + 1))
        assert names(events).count("TaskCompleted") == len(WIDE)
        assert names(events)[-1] == "WorkflowCompleted"
        assert "ReportRefused" not in names(events)


async def test_commands_that_wait_together_are_recorded_in_few_appends(
    executor: Executor, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    await executor.execute("w", start(*WIDE))
    appends = count(1)
    append = ledger.append

    async def counted(asked: Any) -> list[Recorded]:
        next(appends)
        return await append(asked)

    monkeypatch.setattr(ledger, "append", counted)
    orders = [order(completed(f"t{number}/1", number + 1)) for number in range(len(WIDE))]
    answers = await asyncio.gather(*(executor.execute("w", it) for it in orders))
    assert all("TaskCompleted" in names(answer) for answer in answers)
    assert next(appends) - 1 <= 2


async def test_a_refusal_that_rested_on_what_was_not_recorded_is_decided_again(
    executor: Executor, ledger: Ledger
) -> None:
    begun = await executor.execute("w", start(Task("a", approval=("before_dispatch",))))
    answer = Answer(now=2.0, ask="ask-1", shown=begun[-1].event.shown, choice="approve", by="ann")  # type: ignore[union-attr]
    # One that knows nothing of it takes the start for the first one, and in what that leads to there is no such ask.
    other = Executor(ledger)
    refusal, answered = await asyncio.gather(
        other.execute("w", start(Task("x"))), other.execute("w", order(answer)), return_exceptions=True
    )
    assert isinstance(refusal, Conflict)
    assert not isinstance(answered, BaseException) and names(answered) == ["AskAnswered", "TaskDispatched"]


async def test_no_is_not_said_on_a_state_that_another_process_has_left_behind(
    executor: Executor, ledger: Ledger
) -> None:
    await executor.execute("w", start(Task("a"), Task("b", dependencies=("a",), approval=("before_dispatch",))))
    other = Executor(ledger)
    opened = await other.execute("w", order(completed("a/1", 1)))
    shown = opened[-1].event.shown  # type: ignore[union-attr]
    answered = await executor.execute("w", order(Answer(now=1.0, ask="ask-1", shown=shown, choice="approve", by="ann")))
    assert names(answered) == ["AskAnswered", "TaskDispatched"]


async def test_nothing_is_not_said_on_a_state_that_another_process_has_left_behind(
    executor: Executor, ledger: Ledger
) -> None:
    """Else the clock of the server that survives would never give up the agents of the one that died."""
    await executor.execute("w", start(Task("a")))
    await Executor(ledger).execute("w", order(started("a/1", 1)))
    assert "AttemptFailed" in names(await executor.execute("w", order(ExpireLease(now=9e9, task="a", token=1))))


async def test_a_workflow_is_started_once(executor: Executor, ledger: Ledger) -> None:
    await executor.execute("w", start())
    for one in (executor, Executor(ledger)):
        with pytest.raises(Conflict, match="started before"):
            await one.execute("w", start())
    answers = await asyncio.gather(*(executor.execute("v", start()) for _ in range(5)), return_exceptions=True)
    assert [type(one) for one in answers].count(Conflict) == 4
    with pytest.raises(NotFound):
        await executor.execute("unheard-of", order(Cancel(now=1.0, by="ann")))


async def test_what_can_never_be_recorded_fails_alone(executor: Executor) -> None:
    await executor.execute("w", start())
    bad = Order(uuid4(), started("b/1", 2), "an actor\nof two lines")
    answers = await asyncio.gather(
        executor.execute("w", order(started("a/1", 1))), executor.execute("w", bad), return_exceptions=True
    )
    assert names(answers[0]) == ["TaskStarted"]  # type: ignore[arg-type]
    assert isinstance(answers[1], NotRecordable)
    assert names(await executor.execute("w", order(started("b/1", 2)))) == ["TaskStarted"]


async def test_a_command_whose_caller_goes_away_is_recorded_or_not_and_the_next_one_goes_on(
    executor: Executor, ledger: Ledger
) -> None:
    await executor.execute("w", start(*WIDE))
    for number in range(30):
        one = order(completed(f"t{number}/1", number + 1))
        call = asyncio.create_task(executor.execute("w", one))
        for _ in range(number % 6):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert "TaskCompleted" in names(await executor.execute("w", one))
    events = await ledger.read_stream("workflow-w")
    assert names(events).count("TaskCompleted") == 30
    assert "ReportRefused" not in names(events)


async def test_the_states_in_memory_are_bounded(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "CACHED_TASKS", 20)
    await asyncio.gather(*(executor.execute(f"w{number}", start()) for number in range(40)))
    assert executor._cases.tasks <= 20
    assert not executor._queues
    answers = await asyncio.gather(
        *(executor.execute(f"w{number}", order(completed("a/1", 1))) for number in range(40))
    )
    assert all("TaskCompleted" in names(answer) for answer in answers)
    assert executor._cases.tasks <= 20


async def test_a_long_workflow_is_read_from_its_snapshot(
    executor: Executor, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "SNAPSHOT_EVENTS", 50)
    await executor.execute("w", start(*WIDE))
    for number in range(0, len(WIDE), 10):
        orders = [order(completed(f"t{one}/1", one + 1)) for one in range(number, number + 10)]
        await asyncio.gather(*(executor.execute("w", it) for it in orders[:-1]))
    async with asyncio.timeout(SECONDS):
        while ledger.snapshots._waiting:
            await asyncio.sleep(0.001)
    reads: list[int] = []
    read_stream = ledger.snapshots._read_stream

    async def watched(stream: str, after: int) -> list[Recorded]:
        reads.append(after)
        return await read_stream(stream, after)

    monkeypatch.setattr(ledger.snapshots, "_read_stream", watched)
    other = Executor(ledger)
    assert (
        await other.state("w", WORKFLOW)
        == await executor.state("w", WORKFLOW)
        == replay(one.event for one in await everything(ledger))
    )
    length = len(await everything(ledger))
    assert reads and length - 70 <= reads[0] < length
    last = [order(completed(f"t{one}/1", one + 1)) for one in range(9, len(WIDE), 10)]
    answers = await asyncio.gather(*(other.execute("w", it) for it in last))
    assert names(answers[-1])[-1] == "WorkflowCompleted"
    assert await other.execute("w", last[0]) == answers[0], "and what was recorded before the snapshot is found"


async def everything(ledger: Ledger) -> list[Any]:
    return await ledger.read_stream("workflow-w")


async def test_a_trace_goes_on_until_somebody_begins_another(executor: Executor, ledger: Ledger) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    other = trace.replace("4bf9", "0000")
    asked = [start(*WIDE)._replace(traceparent=trace), order(started("t0/1", 1))]
    asked += [order(started("t1/1", 2))._replace(traceparent=other), order(started("t2/1", 3))]
    for one in asked[:2]:
        await executor.execute("w", one)
    another = Executor(ledger)
    await asyncio.gather(*(another.execute("w", one) for one in asked[2:]))
    await Executor(ledger).execute("w", order(started("t3/1", 4)))
    repeat = order(started("t1/1", 2))._replace(traceparent=trace)
    assert await executor.execute("w", repeat) == [], "who changes nothing begins nothing"
    await executor.execute("w", order(started("t4/1", 5)))
    recorded = (await everything(ledger))[len(WIDE) + 1 :]
    assert [one.event.run for one in recorded] == ["t0/1", "t1/1", "t2/1", "t3/1", "t4/1"]
    assert [one.traceparent for one in recorded] == [trace, other, other, other, other]
    for one in await everything(ledger):
        assert one.correlation_id == "w" and one.actor == "test"
    assert [one.causation_id for one in recorded[:3]] == [str(one.id) for one in asked[1:]]
