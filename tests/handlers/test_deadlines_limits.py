"""The clock ends what takes too long: a workflow, and a task with all its attempts; a person who is asked stops it."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from clockwork import Clockwork, clockwork

from cairn.bus import Bus
from domain.commands import Answer, Pause, ReportAsked, Resume, StartWorkflow
from domain.plan import Plan, Task
from handlers.kinds import WORKFLOW
from tests.spec import NOBODY


@pytest.fixture
async def works(postgres_url: str, tenant: str, bus: Bus) -> AsyncIterator[Clockwork]:
    async with clockwork(postgres_url, tenant, bus) as works:
        yield works


async def begin(works: Clockwork, *tasks: Task, seconds: float | None = 100.0) -> None:
    plan = Plan(id="w", tasks=tasks, timeout_seconds=seconds, escalation=NOBODY)
    await works.do(StartWorkflow(now=works.clock(), workflow="w", plan=plan))


async def status(works: Clockwork) -> str:
    return (await works.executor.state("w", WORKFLOW)).status


async def limits(works: Clockwork) -> list[tuple[Any, ...]]:
    await works.seen()
    async with works.pool.connection() as connection:
        found = await connection.execute("SELECT task, due IS NULL FROM limits WHERE workflow = 'w' ORDER BY task")
        return await found.fetchall()


async def test_a_workflow_whose_time_is_over_is_ended_once(works: Clockwork) -> None:
    await begin(works, Task("a"), Task("b", dependencies=("a",)))
    await works.fire(99.0)
    assert await status(works) == "running"
    await works.fire(101.0, works.deadlines(), works.deadlines())
    assert await status(works) == "timed_out"
    events = await works.ledger.read_stream("workflow-w")
    assert [event.type for event in events[-3:]] == ["task.cancelled", "task.cancelled", "workflow.timed_out"]
    assert events[-1].actor == "clock/limit"
    assert await limits(works) == []


async def test_time_in_which_a_person_is_asked_or_it_is_paused_does_not_count(works: Clockwork) -> None:
    await begin(works, Task("a", approval=("before_dispatch",)))
    assert await limits(works) == [("", True)]
    await works.fire(50_000.0)
    ask = (await works.executor.state("w", WORKFLOW)).asks["ask-1"]
    await works.do(Answer(now=works.clock(), ask="ask-1", shown=ask.shown, choice="approve", by="pat"))
    assert await limits(works) == [("", False)]
    await works.do(Pause(now=works.clock(), by="pat"))
    await works.fire(60_000.0)
    await works.do(Resume(now=works.clock(), by="pat"))
    await works.fire(60_098.0)
    assert await status(works) == "running"
    await works.fire(60_101.0)
    assert await status(works) == "timed_out"


async def test_a_task_whose_time_is_over_fails_between_two_attempts_too(works: Clockwork) -> None:
    await begin(works, Task("a", total_seconds=30.0, max_attempts=9), seconds=None)
    await works.fail("a", "a/1", 1)
    await works.fire(5.0)
    assert (await works.executor.state("w", WORKFLOW)).tasks["a"].attempt == 2
    await works.fire(31.0)
    state = await works.executor.state("w", WORKFLOW)
    assert state.status == "failed"
    failure = state.tasks["a"].failure
    assert failure is not None and failure.type == "timeout" and "30 s in all" in failure.message
    assert await limits(works) == []


async def test_a_task_has_no_limit_while_its_branch_waits_and_has_what_is_left_of_it_after(works: Clockwork) -> None:
    await begin(works, Task("a", total_seconds=30.0, failure_routing={"agent_error": "debugger"}), seconds=None)
    await works.fail("a", "a/1", 1)
    await works.do(ReportAsked(**works.report("a.fix1", "a.fix1/1", 2), question="Which?"))
    assert await limits(works) == []
    await works.fire(1_000.0)
    ask = (await works.executor.state("w", WORKFLOW)).asks["ask-1"]
    await works.do(Answer(now=works.clock(), ask="ask-1", shown=ask.shown, choice="this", by="pat"))
    assert await limits(works) == [("a", False)]
    await works.fire(1_029.0)
    assert await status(works) == "running"
    await works.fire(1_031.0)
    assert await status(works) == "failed"
    assert await limits(works) == []


async def test_a_view_that_is_read_anew_knows_every_limit(works: Clockwork) -> None:
    await begin(works, Task("a", total_seconds=30.0), Task("b"))
    before = await limits(works)
    assert [task for task, _ in before] == ["", "a"]
    works.view.view.forget()
    await works.do(Pause(now=works.clock(), by="pat"))
    assert await limits(works) == [("", True), ("a", False)]
