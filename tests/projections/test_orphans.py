"""Every open task waits on exactly one thing that will come: in the tables, after every single event."""

from collections.abc import AsyncIterator, Sequence
from random import Random

import pytest
from histories import history
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from psycopg.errors import UniqueViolation
from stage import opened, record

from domain.commands import Command, ReportFailed, ReportStarted, Restore, StartWorkflow
from domain.outcome import Failure
from domain.plan import Plan, Task
from domain.state import CLOSED, Workflow, evolve, replay
from domain.workflow import decide
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.board import Board
from projections.project import Projection, View
from projections.recovery import Recovery, orphans, standing

NOW = 1_800_000_000.0


async def apply(connection: Connection, view: View, events: Sequence[Recorded]) -> None:
    async with connection.transaction():
        await view.apply(connection, events)


@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 80))
async def test_after_every_event_every_open_task_waits_on_one_thing(postgres_url: str, seed: int, steps: int) -> None:
    async with opened(postgres_url) as (ledger, connections), connections.connection() as connection:
        head = (await record(ledger, history(Random(seed), 3, steps)))[-1]
        views, states = (Board(), Recovery()), dict[str, Workflow]()
        for view in views:
            await Projection(connections, view).install()
        for event in await ledger.read(0, head):
            for view in views:
                await apply(connection, view, [event])
            evolve(states.setdefault(event.stream, Workflow()), event.event)
            assert await orphans(connection) == [], f"after {event.type} at {event.position}, seed {seed}"
            found = await standing(connection)
            tasks = [task for state in states.values() for task in state.tasks.values()]
            assert (found.orphans, sum(found.waits.values())) == (0, sum(it.status not in CLOSED for it in tasks))


@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32), steps=st.integers(20, 80))
async def test_two_views_that_stand_apart_make_no_orphan(postgres_url: str, seed: int, steps: int) -> None:
    random = Random(seed)
    async with opened(postgres_url) as (ledger, connections), connections.connection() as connection:
        head = (await record(ledger, history(random, 3, steps)))[-1]
        events, stands = await ledger.read(0, head), dict[View, int].fromkeys((Board(), Recovery()), 0)
        for view in stands:
            await Projection(connections, view).install()
        while behind := [view for view, position in stands.items() if position < head]:
            view, size = random.choice(behind), random.randint(1, 10)
            await apply(connection, view, events[stands[view] :][:size])
            stands[view] = min(head, stands[view] + size)
            assert await orphans(connection) == [], f"at {[*stands.values()]}, seed {seed}"


TASKS = (
    Task("asking", approval=("before_dispatch",)),
    Task("branched", failure_routing={"agent_error": "debugger"}),
    Task("leased"),
    Task("needy", dependencies=("leased", "offered")),
    Task("offered"),
    Task("retrying", max_attempts=2),
)
EVERY_KIND = {
    "asking": "ask", "branched": "dependency", "branched.fix1": "slot", "leased": "lease", "needy": "dependency",
    "offered": "slot", "retrying": "timer",
}  # fmt: skip


def report(task: str, token: int) -> dict[str, object]:
    return {"now": NOW, "task": task, "run": f"{task}/1", "token": token, "agent": "ann"}


def commands() -> list[Command]:
    broken = Failure("agent_error", "it broke")
    return [
        StartWorkflow(now=NOW, workflow="w", plan=Plan(id="w", tasks=TASKS)),
        ReportFailed(failure=broken, **report("branched", 1)),
        ReportStarted(**report("leased", 2)),
        ReportFailed(failure=broken, **report("retrying", 4)),
    ]


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Connection]:
    """To where a workflow waits on every kind of thing there is."""
    state, decisions = Workflow(), []
    for command in commands():
        events = decide(state, command)
        replay(events, state)
        decisions.append(("w", events))
    async with opened(postgres_url) as (ledger, connections), connections.connection() as connection:
        head = (await record(ledger, decisions))[-1]
        for view in (Board(), Recovery()):
            await Projection(connections, view).install()
            await apply(connection, view, await ledger.read(0, head))
        yield connection


async def test_each_kind_of_wait_has_a_row(connection: Connection) -> None:
    rows = await (await connection.execute("SELECT task, kind FROM waits")).fetchall()
    assert dict(rows) == EVERY_KIND
    assert await orphans(connection) == []
    assert (await standing(connection)).waits == {"ask": 1, "dependency": 2, "lease": 1, "slot": 2, "timer": 1}


BROKEN = [
    *((f"DELETE FROM waits WHERE task = '{task}'", task, "it waits on nothing") for task in EVERY_KIND),
    ("DELETE FROM waits_seen; DELETE FROM waits WHERE task = 'leased'", "leased", "it waits on nothing"),
    ("UPDATE waits SET dispatched = 1 WHERE task = 'leased'", "leased", "its run is over, or is out under another token"),
    ("UPDATE waits SET kind = 'slot', agent = NULL WHERE task = 'leased'", "leased",
     "its run is over, or is out under another token"),
    ("UPDATE waits SET run = 'offered/7' WHERE task = 'offered'", "offered", "its run is another one"),
    ("UPDATE waits SET missing = 1 WHERE task = 'needy'", "needy", "what it depends on is closed"),
    ("UPDATE board_tasks SET ended_at = now() WHERE task = 'branched.fix1'; DELETE FROM waits WHERE task = 'branched.fix1'",
     "branched", "what it depends on is closed"),
    ("UPDATE board_asks SET state = 'voided'", "asking", "its ask is closed"),
    ("UPDATE waits SET due = due + 1 WHERE task = 'retrying'", "retrying", "its timer is not the one that was set"),
    ("UPDATE waits SET attempt = NULL, due = 0 WHERE task = 'retrying'", "retrying", "nothing followed"),
    ("UPDATE board_tasks SET ended_at = now() WHERE task = 'leased'", "leased", "the task is closed"),
    ("UPDATE board_workflows SET ended_at = now(); DELETE FROM waits WHERE task <> 'offered'", "offered",
     "the task is closed"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "task", "why"), BROKEN)
async def test_a_task_that_waits_for_nothing_that_comes_is_an_orphan(
    connection: Connection, damage: str, task: str, why: str
) -> None:
    await connection.execute("UPDATE projections SET position = 1000")
    await connection.execute(damage)
    found = await orphans(connection)
    assert (task, why) in [(one.task, one.why) for one in found]
    assert (await standing(connection)).orphans == len(found)


async def test_no_task_can_wait_twice(connection: Connection) -> None:
    with pytest.raises(UniqueViolation):
        await connection.execute("INSERT INTO waits VALUES ('w', 'leased', 'timer')")


async def test_a_run_that_a_restore_offers_again_is_nobodys_until_it_is_begun(postgres_url: str) -> None:
    start = StartWorkflow(now=NOW, workflow="w", plan=Plan(id="w", tasks=(Task("a"),)), base="c0", repository="/r")
    begun = ReportStarted(now=NOW, task="a", run="a/1", token=1, agent="ann")
    restored = Restore(now=NOW, skipped=10)
    async with opened(postgres_url) as (ledger, connections), connections.connection() as connection:
        state, decisions = Workflow(), []
        for command in (start, begun, restored):
            decisions.append(("w", decide(state, command)))
            replay(decisions[-1][1], state)
        head = (await record(ledger, decisions))[-1]
        for view in (Board(), Recovery()):
            await Projection(connections, view).install()
            await apply(connection, view, await ledger.read(0, head))
        assert await orphans(connection) == []
