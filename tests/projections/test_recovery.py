"""What falls due, and when: offers, leases, time-outs, retries, and the agents that are heard of or not."""

from collections.abc import AsyncIterator

import pytest
from stage import Sliced, opened, projected, record

from domain.commands import Command, ReportCompleted, ReportFailed, ReportStarted, StartWorkflow
from domain.outcome import Failure, Result
from domain.plan import AcceptanceCriteria, Plan, Task, Test
from domain.state import Workflow, replay
from domain.workflow import decide
from ledger.postgres import Connection
from projections.project import Projection
from projections.recovery import Lease, Recovery, beat, due, first_offer, held, next_due, sweep

NOW = 1_000.0
WHO = {"task": "a", "run": "a/1", "token": 1, "agent": "ann"}
LEASE = Lease("w", "a/1", 1)
TASKS = (
    Task("a", timeout_seconds=100.0, acceptance_criteria=AcceptanceCriteria((Test("x"),))),
    Task("b"),
    Task("c", agent_role="writer"),
)
START = StartWorkflow(now=NOW, workflow="w", lease_seconds=20.0, plan=Plan(id="w", tasks=TASKS))


@pytest.fixture
async def after(postgres_url: str) -> AsyncIterator[object]:
    """`await after(commands)`: a connection to where the view has seen what they led to."""
    async with opened(postgres_url) as (ledger, connections), connections.connection() as connection:

        async def happened(*commands: Command) -> Connection:
            state, decisions = Workflow(), []
            for command in commands:
                events = decide(state, command)
                replay(events, state)
                decisions.append(("w", events))
            head = (await record(ledger, decisions))[-1]
            await projected(Projection(connections, Recovery()), Sliced(ledger, [1]), head)
            return connection

        yield happened


async def kinds(connection: Connection, now: float, listening_since: float = 0.0) -> list[tuple[str, str]]:
    return [(it.task, it.kind) for it in await due(connection, now, listening_since) if it.task == "a"]


async def test_an_offer_falls_due_and_is_known_by_its_token(after) -> None:
    connection = await after(START)
    assert await next_due(connection) == NOW + 600
    assert await due(connection, NOW + 599) == []
    fallen = (await due(connection, NOW + 600))[0]
    assert (fallen.workflow, fallen.task, fallen.kind, fallen.token, fallen.run) == ("w", "a", "offer", 1, "a/1")
    assert [len(await due(connection, NOW + 600, limit=n)) for n in (2, 9)] == [2, 3]


async def test_a_lease_falls_due_only_if_its_agent_was_not_heard_of_while_somebody_listened(after) -> None:
    connection = await after(START, ReportStarted(now=NOW, **WHO))
    assert await kinds(connection, NOW + 19) == []
    assert await kinds(connection, NOW + 21) == [("a", "lease")]
    await beat(connection, [LEASE, LEASE], NOW + 15)
    await beat(connection, [LEASE], NOW + 14)
    assert await kinds(connection, NOW + 34) == []
    assert await next_due(connection) == NOW + 35
    assert await kinds(connection, NOW + 36) == [("a", "lease")]
    assert await kinds(connection, NOW + 36, listening_since=NOW + 30) == []
    assert await next_due(connection, listening_since=NOW + 30) == NOW + 50
    assert await kinds(connection, NOW + 50, listening_since=NOW + 30) == [("a", "lease")]


async def test_a_run_that_takes_too_long_falls_due_however_alive_its_agent_is(after) -> None:
    connection = await after(START, ReportStarted(now=NOW, **WHO))
    await beat(connection, [LEASE], NOW + 99)
    assert await kinds(connection, NOW + 99.9) == []
    assert await next_due(connection) == NOW + 100
    assert await kinds(connection, NOW + 100) == [("a", "timeout")]


async def test_a_retry_falls_due_as_its_next_attempt(after) -> None:
    failed = ReportFailed(now=NOW, failure=Failure("agent_error", "it broke"), **WHO)
    connection = await after(START, ReportStarted(now=NOW, **WHO), failed)
    retry = (await due(connection, NOW + 2))[0]
    assert (retry.task, retry.kind, retry.attempt, retry.token, retry.run) == ("a", "retry", 2, None, None)
    assert NOW < retry.due < NOW + 2
    assert await next_due(connection) == retry.due


async def test_a_lease_is_held_until_its_run_ends_and_by_no_other_token(after) -> None:
    asked = [LEASE, LEASE._replace(token=7), LEASE._replace(workflow="other"), Lease("w", "b/1", 2)]
    connection = await after(START, ReportStarted(now=NOW, **WHO))
    assert await held(connection, asked) == {LEASE, Lease("w", "b/1", 2)}
    assert await held(connection, []) == set()


async def test_the_tests_of_a_reported_task_are_offered_to_a_tester(after) -> None:
    connection = await after(START, ReportCompleted(now=NOW, result=Result("done", "c1"), **WHO))
    assert await held(connection, [LEASE]) == set()
    roles = ("coder", "writer", "tester", "debugger")
    assert [await first_offer(connection, role) for role in roles] == [3, 4, 7, 8]
    await connection.execute("UPDATE projections SET position = 5 WHERE name = 'recovery'")
    assert [await first_offer(connection, role) for role in roles] == [3, 4, 6, 6]  # what comes after it may be one
    [tests] = [it for it in await due(connection, NOW + 601) if it.role == "tester"]
    assert (tests.task, tests.kind, tests.attempt) == ("a", "offer", 1)


async def test_heartbeats_of_nobodys_leases_are_swept(after) -> None:
    connection = await after(START, ReportStarted(now=NOW, **WHO))
    await beat(connection, [LEASE, LEASE._replace(run="gone/1")], NOW)
    await beat(connection, [LEASE._replace(run="gone/2")], NOW + 50)
    assert await sweep(connection, NOW + 50) == 1
    assert await sweep(connection, NOW + 51) == 1
