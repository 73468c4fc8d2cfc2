"""The timeline is exact: a task's intervals follow each other without a gap, and the open one is what it waits on."""

from collections.abc import Sequence
from random import Random

from histories import Decision, history
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from stage import Sliced, opened, projected, record, tables
from test_views import Fold, Together, shown

from domain.state import CLOSED, Workflow
from ledger.postgres import Pool
from projections.project import Projection
from projections.recovery import Recovery
from projections.timeline import Lane, Timeline, TimelinePage, timeline

TABLES = ("timeline_charts", "timeline_lanes")
WAITS = """SELECT workflow, task, kind, run, agent, ask, CASE WHEN kind = 'ask' OR attempt IS NOT NULL AND kind = 'timer'
           THEN due END, CASE WHEN kind IN ('slot', 'lease') THEN role END FROM waits"""
NOW = 1_800_000_000.0


def assert_whole(lane: Lane, until: float) -> None:
    """Contiguous and in order, from the task's beginning to its end; nothing of it goes on after that."""
    times = [lane.began]
    for interval in lane.intervals:
        assert interval.began == times[-1], lane
        assert interval.ended is None or interval.ended > interval.began, lane
        times.append(until if interval.ended is None else interval.ended)
    assert times[-1] == (until if lane.ended is None else lane.ended), lane
    assert [interval.ended is None for interval in lane.intervals[:-1]] == [False] * len(lane.intervals[:-1])
    for one in (*lane.attempts, *lane.asks):
        assert lane.began <= one.began <= (until if one.ended is None else one.ended)
        assert lane.ended is None or one.ended is not None


def assert_same(page: TimelinePage, state: Workflow) -> None:
    lanes = {lane.task: lane for lane in page.tasks}
    assert lanes.keys() == state.tasks.keys() and page.workflow.tasks == len(lanes)
    assert [lane.number for lane in page.tasks] == list(range(1, len(lanes) + 1))
    chart = page.workflow
    assert (chart.ended is None) == (state.status in ("queued", "running"))
    assert (chart.admitted is None) >= (state.status == "queued")
    assert chart.outcome == (None if chart.ended is None else state.status)
    assert bool(chart.pauses and chart.pauses[-1].ended is None) == (state.paused and chart.ended is None)
    for name, task in state.tasks.items():
        lane = lanes[name]
        assert_whole(lane, chart.until)
        assert lane.outcome == (task.status if task.status in CLOSED else None)
        assert (lane.title, lane.role, lane.depth) == (shown(task.spec.title)[:200], task.spec.agent_role, task.depth)
        assert (lane.dependencies, lane.parent) == (task.spec.dependencies, task.spec.parent_id)
        assert [attempt.run for attempt in lane.attempts if attempt.ended is None] == (
            [task.run.id] if task.run else []
        )
        known = {run.id: run.usage for run in task.runs if run.usage}
        for attempt in lane.attempts:
            told = known.get(attempt.run)
            assert (attempt.usage and attempt.usage.input_total) == (told and told.input_total)
        assert [asked.ask for asked in lane.asks] == [ask for ask, it in state.asks.items() if it.task == name]
        assert [asked.ask for asked in lane.asks if asked.state == "open"] == ([task.ask] if task.ask else [])


async def pages(connections: Pool, names: Sequence[str]) -> dict[str, TimelinePage]:
    async with connections.connection() as connection:
        found = {name: await timeline(connection, name) for name in names}
    return {name: page for name, page in found.items() if page}


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 80), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
async def test_at_every_position_the_open_interval_is_what_the_task_waits_on(
    postgres_url: str, seed: int, steps: int, sizes: list[int]
) -> None:
    decisions: list[Decision] = history(Random(seed), 3, steps)
    async with opened(postgres_url) as (ledger, connections):
        head, fold = (await record(ledger, decisions))[-1], Fold(ledger)
        view = Timeline()

        async def stands(position: int) -> None:
            if position % 3 == 0:
                view.forget()  # as after a restart
            states = await fold.to(position)
            found = await pages(connections, [state.id for state in states.values()])
            for state in states.values():
                assert_same(found[state.id], state)
            open_lanes = [lane for page in found.values() for lane in page.tasks if lane.ended is None]
            waits = {
                (lane.workflow, lane.task, now.kind, now.run, now.agent, now.ask, now.due,
                 now.role if now.kind in ("slot", "lease") else None)
                for lane in open_lanes for now in lane.intervals[-1:]
            }  # fmt: skip
            async with connections.connection() as connection:
                assert waits == set(await (await connection.execute(WAITS)).fetchall())

        await projected(Projection(connections, Together(Recovery(), view)), Sliced(ledger, sizes, stands), head)
        in_slices = await tables(connections, TABLES)
        again = Projection(connections, Timeline())
        await projected(again, ledger, head)
        await again.rebuild()
        await projected(again, ledger, head)
        assert await tables(connections, TABLES) == in_slices
