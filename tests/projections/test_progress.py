"""How far a task and a workflow are: shares by weight, rolled up over the tree of tasks, and never less than before."""

from random import Random
from typing import Any

import pytest
from histories import NOW, history, recorded
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.commands import AddTasks, Cancel, Command, ReportCompleted, ReportFailed, Skip, SplitTask, StartWorkflow
from domain.events import TaskAdded, TaskEdited, WorkflowCompleted
from domain.outcome import Failure, Result
from domain.plan import Plan, Task
from domain.state import Workflow, replay
from domain.workflow import decide
from projections.board_fold import Changes

BY: dict[str, Any] = {"now": NOW, "by": "pat"}


class Told:
    """A workflow, and the board's rows of it."""

    def __init__(self, *tasks: Task) -> None:
        self.state, self.rows, self.position = Workflow(), Changes({}, {}), 0
        self.do(StartWorkflow(now=NOW, workflow="w", plan=Plan(id="w", tasks=tasks)))

    def do(self, command: Command) -> None:
        for event in decide(self.state, command):  # type: ignore[arg-type]
            replay([event], self.state)
            self.position += 1
            self.rows.fold("w", recorded(event, self.position))

    def complete(self, *names: str) -> None:
        for name in names:
            run = self.state.tasks[name].run
            assert run is not None
            who = {"now": NOW, "task": name, "run": run.id, "token": run.token, "agent": "ann"}
            self.do(ReportCompleted(result=Result(), **who))

    def fail(self, name: str) -> None:
        run = self.state.tasks[name].run
        assert run is not None
        who = {"now": NOW, "task": name, "run": run.id, "token": run.token, "agent": "ann"}
        self.do(ReportFailed(failure=Failure("agent_error", "no"), **who))

    def of(self, name: str = "") -> float:
        row = self.rows.entries["w", name].task if name else self.rows.workflows["w"]
        return round(row.progress, 6)


def test_tasks_count_by_their_weight() -> None:
    told = Told(Task("a"), Task("b", weight=3.0))
    told.complete("a")
    assert (told.of(), told.of("a"), told.of("b")) == (0.25, 1.0, 0.0)
    told.complete("b")
    assert told.of() == 1.0


def test_progress_is_rolled_up_at_every_level_and_own_work_is_one_part_more() -> None:
    tasks = (
        Task("top", dependencies=("mid", "x"), group=True), Task("mid", dependencies=("y", "z"), parent_id="top"),
        Task("x", parent_id="top"), Task("y", parent_id="mid"), Task("z", parent_id="mid"), Task("other"),
    )  # fmt: skip
    told = Told(*tasks)
    told.complete("y")
    assert [told.of(name) for name in ("y", "mid", "top", "")] == [1.0, 0.333333, 0.166667, 0.083333]
    told.complete("z", "mid")
    assert [told.of(name) for name in ("mid", "top", "")] == [1.0, 0.5, 0.25]
    told.complete("x")
    assert [told.of(name) for name in ("top", "")] == [1.0, 0.5], "the group completed by itself"


def test_what_is_added_does_not_make_it_go_back() -> None:
    told = Told(Task("a"), Task("b"))
    told.complete("a")
    told.do(AddTasks(tasks=(Task("c"), Task("d")), **BY))
    assert told.of() == 0.5
    told.complete("b")
    assert told.of() == 0.5, "two of four"
    told.complete("c")
    assert told.of() == 0.75


def test_what_is_split_does_not_make_it_go_back_and_counts_as_much_as_before_in_the_whole() -> None:
    told = Told(Task("a"), Task("b", dependencies=("a",)))
    told.do(SplitTask(task="b", parts=(Task("b1"), Task("b2", weight=2.0)), replace=True, **BY))
    told.complete("a")
    assert (told.of(), told.of("b")) == (0.5, 0.0)
    told.complete("b1")
    assert (told.of(), told.of("b")) == (0.666667, 0.333333)
    told.complete("b2")
    assert (told.of(), told.of("b")) == (1.0, 1.0)


def test_what_is_skipped_is_done_and_what_is_cancelled_or_fails_is_not() -> None:
    told = Told(Task("a"), Task("b"), Task("c"), Task("d", max_attempts=1), Task("e"))
    told.do(Skip(task="a", **BY))
    told.do(Cancel(task="b", **BY))
    told.fail("d")
    assert told.of() == 0.2
    told.complete("c", "e")
    assert told.of() == 0.6


def test_a_part_that_outlives_what_it_is_part_of_still_counts() -> None:
    told = Told(Task("a"), Task("a1", parent_id="a"), Task("b"))
    told.do(Cancel(task="a", **BY))
    told.complete("a1")
    assert (told.of("a"), told.of()) == (0.5, 0.25)


def expected(state: Workflow, name: str) -> float:
    task = state.tasks[name]
    if task.status in ("completed", "excused"):
        return 1.0
    parts = [it for it in state.tasks.values() if it.spec.parent_id == name and not it.depth]
    whole = (0.0 if task.spec.group else 1.0) + sum(it.spec.weight for it in parts)
    return sum(it.spec.weight * expected(state, it.spec.id) for it in parts) / whole if parts else 0.0


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 120))
def test_it_never_goes_back_and_is_the_share_as_long_as_the_plan_stays(seed: int, steps: int) -> None:
    rows, state, before, changed = Changes({}, {}), Workflow(), dict[str, float](), False
    position = 0
    for _, events in history(Random(seed), 1, steps):
        for event in events:
            position += 1
            replay([event], state)
            rows.fold("w0", recorded(event, position))
            changed = changed or isinstance(event, TaskAdded | TaskEdited)
            now = {name: entry.task.progress for (_, name), entry in rows.entries.items()}
            now[""] = rows.workflows["w0"].progress
            assert all(0.0 <= before.get(name, 0.0) <= share <= 1.0 for name, share in now.items()), (seed, event)
            before = now
            if not changed:
                for name, task in state.tasks.items():
                    if not task.depth:
                        assert now[name] == pytest.approx(expected(state, name)), (seed, name, event)
            if isinstance(event, WorkflowCompleted):
                assert now[""] == 1.0
