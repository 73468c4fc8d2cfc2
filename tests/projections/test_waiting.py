"""What a task waits for, as people read it."""

from typing import Any

import pytest

from projections.board import BoardAttempt, BoardTask
from projections.waiting import waiting_on

TIME: Any = None


def task(name: str = "a", **fields: Any) -> BoardTask:
    return BoardTask("w", name, "", "coder", 0, 1, 9, **fields)


def attempt(purpose: Any, role: str, agent: str | None = None) -> BoardAttempt:
    return BoardAttempt("w", "a", "a/1", 1, purpose, role, TIME, 1, agent=agent, timeout_at=1_800_000_000.0)


DUE = "a timer that is due: what follows is being decided"
OTHERS = [
    task("broken", status="failed"),
    task("done", status="completed"),
    task("slow", status="running"),
    task("late"),
    task("a.fix1", parent="a", depth=1, status="failed"),
    task("a.fix2", parent="a", depth=1, status="completed"),
    task("a.fix2.fix1", parent="a.fix2", depth=2, status="running"),
]
CASES = [
    (task(dependencies=("done", "slow", "late")), None, "dependency slow, late"),
    (task(status="dispatched"), attempt("work", "coder"), "an agent of role coder"),
    (task(status="running"), attempt("work", "coder", "ann"), "lease of ann until 2027-01-15T08:00:00Z at the latest"),
    (task(status="verifying", agent="ann"), attempt("verify", "tester"), "tests by a tester other than ann"),
    (task(status="verifying"), attempt("verify", "tester", "tess"), "tests by tess until 2027-01-15T08:00:00Z at the latest"),
    (task(status="retrying", retry_due=1_800_000_000.0), None, "retry at 2027-01-15T08:00:00Z"),
    (task(status="branched"), None, "branch a.fix2.fix1"),
    (task(status="waiting", ask="ask-1"), None, "a person: ask-1"),
    (task(status="running"), None, DUE),
    (task(dependencies=("broken", "slow")), None, DUE),
    (task(dependencies=("done",)), None, "a slot of role coder"),
    (task(status="completed"), None, None),
    (task(status="skipped", dependencies=("late",)), None, None),
]  # fmt: skip


@pytest.mark.parametrize(("row", "run", "sentence"), CASES)
def test_an_open_task_says_what_it_waits_for(row: BoardTask, run: BoardAttempt | None, sentence: str | None) -> None:
    assert waiting_on(row, [row, *OTHERS], run) == sentence


def test_a_task_that_a_pause_holds_says_so() -> None:
    assert waiting_on(task(), OTHERS, None, paused=True) == "its workflow, which is paused"
    assert waiting_on(task(dependencies=("slow",)), OTHERS, None, paused=True) == "dependency slow"
