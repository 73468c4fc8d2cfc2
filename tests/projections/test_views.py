"""Views are exact: at every position they equal the fold of the domain, whatever the batches were."""

from collections.abc import Sequence
from random import Random
from typing import Any

from histories import Decision, history
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from stage import Sliced, opened, projected, record, tables

from domain.state import CLOSED, PASSED, TaskState, Workflow, evolve, waiting
from ledger.ledger import Ledger
from ledger.postgres import Connection, Pool
from ledger.recorded import Recorded
from projections.board import Board, BoardDetail, workflow, workflows
from projections.board_fold import SHOWN_CHARACTERS
from projections.project import Projection, View
from projections.recovery import Recovery, orphans
from projections.task_page import task_page

WAITS = "SELECT workflow, task, kind, token, run, attempt, agent, ask FROM waits"


class Fold:
    """The domain's own fold of a ledger, up to a position that only grows."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._position = ledger, 0
        self.states: dict[str, Workflow] = {}

    async def to(self, position: int) -> dict[str, Workflow]:
        for recorded in await self._ledger.read(self._position, 10_000, to=position):
            evolve(self.states.setdefault(recorded.stream, Workflow()), recorded.event)
        self._position = position
        return self.states


def shown(text: str) -> str:
    return text.replace("\0", "\ufffd")


def assert_same(detail: BoardDetail, state: Workflow) -> None:
    board, tasks = detail.workflow, {task.task: task for task in detail.tasks}
    assert tasks.keys() == state.tasks.keys()
    asks = [ask for ask in detail.asks if ask.open]
    assert {ask.ask for ask in asks} == {task.ask for task in state.tasks.values() if task.ask}
    assert detail.asks == sorted(detail.asks, key=lambda ask: ask.opened)
    for ask in detail.asks:
        told = state.asks[ask.ask]
        assert (ask.task, ask.kind, ask.shown, ask.state) == (told.task, told.kind, told.shown, told.state)
        assert (ask.question, ask.options, ask.default) == (shown(told.question), told.options, told.default)
        assert (ask.due, ask.answered_by, ask.closed_at is None) == (told.due, told.answered_by, told.state == "open")
    assert board.asks == len(asks)
    assert board.status == ("waiting" if state.status == "running" and asks else state.status)
    planned = [task for task in state.tasks.values() if not task.depth]
    assert (board.tasks, board.branches) == (len(planned), len(state.tasks) - len(planned))
    assert board.completed == sum(task.status == "completed" for task in planned)
    assert board.failed == state.failed
    assert (board.ended_at is None) == (state.status in ("queued", "running"))
    assert board.paused == state.paused
    for name, task in state.tasks.items():
        row = tasks[name]
        assert (row.status, row.attempt, row.ask, row.depth) == (task.status, task.attempt, task.ask, task.depth)
        assert row.run == (task.run.id if task.run else None)
        assert (row.role, row.dependencies) == (task.spec.agent_role, task.spec.dependencies)
        assert row.capabilities == task.spec.capabilities
        assert (row.title, row.priority) == (shown(task.spec.title), task.spec.priority)
        assert (row.progress == 1.0) >= (task.status in PASSED and not task.depth)
        assert (row.ended_at is None) == (task.status not in CLOSED)
        if task.result:
            assert (row.summary, row.commit) == (shown(task.result.summary), task.result.commit)
        if task.status == "completed":
            assert row.agent == task.agent
        assert (row.failure and row.failure.message) == (task.failure and shown(task.failure.message)), (row, task)
        outputs = [shown(receipt.output)[-SHOWN_CHARACTERS:] for receipt in task.receipts]
        assert [receipt.output for receipt in row.receipts] == outputs
        opened = [attempt for attempt in detail.attempts if attempt.task == name and attempt.ended_at is None]
        assert [attempt.run for attempt in opened] == ([task.run.id] if task.run else [])
        assert [attempt.agent for attempt in opened] == ([task.run.agent] if task.run else [])


def waits(state: Workflow, name: str, task: TaskState) -> tuple[Any, ...]:
    """What an open task waits on: kind, token, run, attempt, agent, ask."""
    needs = [state.tasks[need].status for need in task.spec.dependencies]
    branches = [
        it for it in state.tasks.values() if it.depth and it.status not in CLOSED and waiting(state, it).spec.id == name
    ]
    if run := task.run:
        return "lease" if run.agent else "slot", run.token, run.id, task.attempt, run.agent, None
    if task.status == "queued":
        return "slot", None, None, None, None, None
    if task.status == "retrying":
        return "timer", None, None, task.attempt + 1, None, None
    if task.ask:
        return "ask", None, None, None, None, task.ask
    if task.status == "pending" and not {"failed", "skipped", "cancelled"} & {*needs}:
        return "dependency" if task.missing else "slot", None, None, None, None, None
    return "dependency" if branches and task.status == "branched" else "timer", None, None, None, None, None


async def assert_waits(connections: Pool, states: dict[str, Workflow]) -> dict[tuple[str, str], str]:
    """The kinds of the rows, which are what the domain has."""
    async with connections.connection() as connection:
        rows = {(row[0], row[1]): row[2:] for row in await (await connection.execute(WAITS)).fetchall()}
        assert await orphans(connection) == []
    assert rows == {
        (state.id, name): waits(state, name, task)
        for state in states.values()
        for name, task in state.tasks.items()
        if task.status not in CLOSED
    }
    return {key: row[0] for key, row in rows.items()}


SAID = {
    "dependency": ("dependency ", "branch "),
    "slot": (
        "a slot of role ",
        "its workflow, which is paused",
        "a slot: no agent ",
        "an agent of role ",
        "tests by a tester",
    ),
    "lease": ("lease of ", "tests by "),
    "timer": ("retry at ", "a timer "),
    "ask": ("a person: ",),
}
"""How the sentence about a kind of wait begins."""


async def assert_pages(connection: Connection, detail: BoardDetail) -> None:
    """The tasks page by page are the tasks of the whole, and say the same of what they wait for."""
    name, tasks, attempts, after = detail.workflow.workflow, [], [], None
    while True:
        page = await task_page(connection, name, after, 3)
        assert page is not None and page.workflow.last == detail.workflow.last and len(page.tasks) <= 3
        tasks += page.tasks
        attempts += page.attempts
        if (after := page.next) is None:
            break
    assert tasks == detail.tasks
    assert sorted(attempts, key=lambda one: one.dispatched) == detail.attempts
    assert await task_page(connection, name, "nothing", 3) is None
    assert await task_page(connection, "nobody", None, 3) is None


class Together(View):
    """Several views as one, so that they stand at the same position."""

    name, version = "together", 1

    def __init__(self, *views: View) -> None:
        self._views = views
        self.sql = {name: ";".join(view.sql[name] for view in views) for name in ("drop", "create")}

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        for view in self._views:
            await view.apply(connection, batch)

    def forget(self) -> None:
        for view in self._views:
            view.forget()


async def check(url: str, decisions: list[Decision], sizes: list[int]) -> None:
    async with opened(url) as (ledger, connections):
        head, fold = (await record(ledger, decisions))[-1], Fold(ledger)

        async def stands(position: int) -> None:
            states = await fold.to(position)
            kinds = await assert_waits(connections, states)
            async with connections.connection() as connection:
                assert len(await workflows(connection)) == len(states)
                for state in states.values():
                    detail = await workflow(connection, state.id)
                    assert detail is not None
                    assert_same(detail, state)
                    await assert_pages(connection, detail)
                    for row in detail.tasks:
                        if row.status in CLOSED:
                            assert row.waiting_on is None
                        else:
                            said = row.waiting_on or ""
                            assert said.startswith(SAID[kinds[row.workflow, row.task]]), row

        await projected(Projection(connections, Together(Board(), Recovery())), Sliced(ledger, sizes, stands), head)
        in_slices = await tables(connections)
        for view in (Board(), Recovery()):
            projection = Projection(connections, view)
            await projected(projection, Sliced(ledger, [1]), head)
            await projection.rebuild()
        for view in (Board(), Recovery()):
            await projected(Projection(connections, view), ledger, head)
        assert await tables(connections) == in_slices


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 80), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
async def test_views_equal_the_fold_of_the_domain_at_every_position(
    postgres_url: str, seed: int, steps: int, sizes: list[int]
) -> None:
    await check(postgres_url, history(Random(seed), 3, steps), sizes)
