"""Time brings each thing once: whoever is silent is given up, whoever beats is not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from clockwork import Clockwork, clockwork

from cairn.bus import Bus
from domain.commands import Answer, ReportFailed
from domain.consequences import OFFER_SECONDS
from domain.outcome import Failure
from domain.plan import AcceptanceCriteria, Retry, Route, Task, Test
from handlers.deadlines import Deadlines
from handlers.execute import Executor
from handlers.kinds import WORKFLOW
from handlers.roster import Held

SECONDS = 20.0


@pytest.fixture
async def works(postgres_url: str, tenant: str, bus: Bus) -> AsyncIterator[Clockwork]:
    async with clockwork(postgres_url, tenant, bus) as works:
        yield works


async def answer(works: Clockwork, ask: str, choice: str) -> None:
    shown = (await works.executor.state("w", WORKFLOW)).asks[ask].shown
    await works.do(Answer(now=works.clock(), ask=ask, shown=shown, choice=choice, by="pat"))


async def test_an_offer_that_nobody_takes_is_made_again_under_a_new_token(works: Clockwork) -> None:
    await works.start(Task("a"))
    await works.fire(590)
    assert (await works.names()).count("TaskDispatched") == 1
    await works.fire(601)
    assert (await works.names()).count("TaskDispatched") == 2
    assert (await works.last("TaskDispatched")).token == 2
    assert (await works.last("TaskDispatched")).run == "a/1"


async def test_an_agent_that_is_silent_for_the_length_of_its_lease_is_given_up(works: Clockwork) -> None:
    await works.start(Task("a"), lease_seconds=30.0)
    await works.begin("a", "a/1", 1)
    await works.fire(25)
    assert "AttemptFailed" not in await works.names()
    await works.fire(32)
    assert (await works.last("AttemptFailed")).failure.type == "agent_lost"
    assert (await works.last("RetryScheduled")).attempt == 2


async def test_an_agent_that_beats_is_not(works: Clockwork) -> None:
    await works.start(Task("a"), lease_seconds=1.0)
    await works.begin("a", "a/1", 1)
    await asyncio.sleep(0.6)  # the lease of its start has to run out before that of its heartbeat
    assert await works.timers.beat("ann", [Held("w", "a/1", 1)]) == []
    await works.fire(0.6)
    assert "AttemptFailed" not in await works.names()
    await works.fire(1.2)
    assert (await works.last("AttemptFailed")).failure.type == "agent_lost"


async def test_a_run_ends_in_time_however_well_its_agent_beats(works: Clockwork) -> None:
    await works.start(Task("a", timeout_seconds=5.0), lease_seconds=30.0)
    await works.begin("a", "a/1", 1)
    await works.timers.beat("ann", [Held("w", "a/1", 1)])
    await works.fire(4)
    assert "AttemptFailed" not in await works.names()
    await works.fire(5.5)
    assert (await works.last("AttemptFailed")).failure.type == "timeout"


async def test_a_retry_comes_after_its_backoff(works: Clockwork) -> None:
    await works.start(Task("a", retry=Retry(initial_seconds=10.0, jitter=0.0)))
    await works.fail("a", "a/1", 1)
    await works.fire(9)
    assert (await works.names()).count("TaskDispatched") == 1
    await works.fire(10.5)
    assert (await works.names()).count("TaskDispatched") == 2
    assert (await works.last("TaskDispatched")).attempt == 2


async def test_a_retry_that_a_person_keeps_from_beginning_comes_again(works: Clockwork) -> None:
    routes: dict[str, str | Route] = {"agent_error": Route("route", "writer"), "refused": Route("retry")}
    task = Task("a", approval=("before_dispatch",), retry=Retry(5.0, jitter=0.0), failure_routing=routes,
                acceptance_criteria=AcceptanceCriteria((Test("true"),)), max_attempts=9)  # fmt: skip
    await works.start(task)
    await answer(works, "ask-1", "approve")
    await works.complete("a", "a/1", 1)
    await works.do(ReportFailed(**works.report("a", "a/verify.1", 2, "tess"), failure=Failure("spec_mismatch", "no")))
    await works.fire(6)
    await works.fail("a", "a/2", 3)
    for n, ahead in ((2, 20), (3, 40)):
        await works.fire(ahead)
        assert (await works.last("AskOpened")).ask == f"ask-{n}"
        await answer(works, f"ask-{n}", "reject")
    assert (await works.last("RetryScheduled")).attempt == 3


async def test_an_ask_that_nobody_answers_takes_its_default_once(works: Clockwork) -> None:
    await works.start(Task("a", max_attempts=1), Task("b", approval=("before_dispatch",)))
    await works.fail("a", "a/1", 1)
    clocks = [Deadlines(works.timers, Executor(works.ledger), works.clock) for _ in range(3)]
    await works.fire(86_000, *clocks)
    assert "AskExpired" not in await works.names()
    await works.fire(86_405, *clocks)
    assert (await works.last("AskExpired")).choice == "fail"
    await works.fire(8 * 86_400, *clocks)
    assert (await works.last("AskExpired")).choice == "reject"
    names = await works.names()
    assert (names.count("AskExpired"), names.count("TaskFailed"), names[-1]) == (2, 2, "WorkflowFailed")


async def test_what_is_settled_in_time_fires_nothing(works: Clockwork) -> None:
    await works.start(Task("a"), Task("b"))
    await works.complete("a", "a/1", 1)
    await works.complete("b", "b/1", 2)
    before = await works.names()
    await works.fire(10_000)
    assert await works.names() == before


async def test_many_clocks_fire_once(works: Clockwork) -> None:
    tasks = [Task(f"t{number}", retry=Retry(initial_seconds=1.0)) for number in range(20)]
    await works.start(*tasks, lease_seconds=5.0)
    for number in range(10):
        await works.begin(f"t{number}", f"t{number}/1", number + 1)
    clocks = [Deadlines(works.timers, Executor(works.ledger), works.clock) for _ in range(3)]
    await works.fire(10, *clocks, *clocks)
    assert (await works.names()).count("AttemptFailed") == 10
    await works.fire(20, *clocks)
    assert (await works.names()).count("TaskDispatched") == 30
    await works.fire(700, *clocks)
    names = await works.names()
    assert names.count("TaskDispatched") == 50, "20 offers, 10 retries, and all 20 again"
    assert names.count("AttemptFailed") == 10


async def test_a_clock_whose_server_knows_an_old_state_fires_all_the_same(works: Clockwork) -> None:
    """The other server has carried the workflow on, and died."""
    await works.start(Task("a"), lease_seconds=5.0)
    survivor = Executor(works.ledger)
    await survivor.state("w", WORKFLOW)
    await works.begin("a", "a/1", 1)
    await works.fire(10, Deadlines(works.timers, survivor, works.clock))
    assert "AttemptFailed" in await works.names()


async def test_it_runs_until_it_is_cancelled_and_wakes_up_by_itself(works: Clockwork) -> None:
    await works.start(Task("a", retry=Retry(initial_seconds=0.3, jitter=0.0)))
    deadlines = works.deadlines()
    running = asyncio.create_task(deadlines.run())
    await works.fail("a", "a/1", 1)
    async with asyncio.timeout(SECONDS):
        while (await works.names()).count("TaskDispatched") < 2:
            await asyncio.sleep(0.02)
    assert not running.done()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.wait_for(running, 2)


async def test_an_offer_to_a_role_that_is_handed_nothing_is_not_made_again(
    works: Clockwork,
) -> None:
    await works.start(Task("a"), Task("b", agent_role="writer"))
    await works.seen()
    now = works.clock() + 2 * OFFER_SECONDS
    assert [one.task for one in await works.timers.due(now, ["coder"])] == ["b"]
    assert await works.timers.due(now, [""]) == []
    assert await works.timers.next_due([""]) > works.clock() + OFFER_SECONDS, (
        "what is left is the limit of the workflow"
    )
    assert len(await works.timers.due(now)) == 2
