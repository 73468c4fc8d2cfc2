"""The rules of what an operator does to a workflow: pause and resume, cancel, retry now, skip, prioritise."""

from typing import Any

import pytest
from spec import NOW, TESTS, An, completed, failed, given, green, red, retry, start, started, verified

from domain.commands import Act, Cancel, Pause, Prioritise, Resume, RetryNow, Skip
from domain.errors import NotFound, Refused
from domain.events import (
    AskAnswered,
    AskVoided,
    AttemptFailed,
    ReportRefused,
    RetryScheduled,
    TaskBranched,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskExcused,
    TaskHeld,
    TaskPrioritised,
    TaskReported,
    TaskSkipped,
    TaskStarted,
    TaskVerified,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowPaused,
    WorkflowResumed,
)
from domain.plan import Task

A, B = Task("a"), Task("b")
AFTER_A = Task("b", dependencies=("a",))
CHECKED = Task("a", acceptance_criteria=TESTS, failure_routing={"test_failure": "debugger"})


def by_pat(act: type[Act], **fields: Any) -> Any:
    return act(now=NOW, by="pat", reason="it is late", **fields)


PAUSE, RESUME = by_pat(Pause), by_pat(Resume)


# Pause and resume


def test_while_paused_what_is_out_goes_on_and_what_it_frees_is_held() -> None:
    story = given(start(A, B, Task("c", dependencies=("a",))), started("a/1", 1))
    story.when(PAUSE).then(WorkflowPaused(workflow="w", by="pat", at=NOW, reason="it is late"))
    story.when(completed("a/1", 1)).then(An(TaskCompleted, "a"), TaskHeld(task="c", role="coder", at=NOW))
    story.when(started("b/1", 2)).then(An(TaskStarted, "b"))
    story.when(RESUME).then(An(WorkflowResumed, by="pat", at=NOW), An(TaskDispatched, "c", run="c/1", attempt=1))


def test_the_tests_of_what_was_done_are_run_while_paused() -> None:
    story = given(start(CHECKED), PAUSE)
    story.when(completed("a/1", 1)).then(An(TaskStarted), An(TaskReported), An(TaskDispatched, "a", purpose="verify"))
    story.when(verified("a/verify.1", 2, *green())).then(
        An(TaskStarted), An(TaskVerified), An(TaskCompleted), An(WorkflowCompleted)
    )


def test_resuming_dispatches_all_that_was_held_the_most_urgent_first() -> None:
    tasks = [Task(name, dependencies=("a",), priority=priority) for name, priority in (("b", 0), ("c", 7), ("d", 2))]
    story = given(start(A, *tasks), PAUSE, completed("a/1", 1))
    story.when(RESUME).then(An(WorkflowResumed), *(An(TaskDispatched, name) for name in "cdb"))


def test_a_backoff_that_ends_while_paused_ends_in_a_slot() -> None:
    story = given(start(A), failed("a/1", 1), PAUSE)
    story.when(retry(2)).then(TaskHeld(task="a", role="coder", at=NOW))
    story.when(retry(2)).then()
    story.when(RESUME).then(An(WorkflowResumed), An(TaskDispatched, "a", run="a/2", attempt=2))


def test_a_branch_is_opened_while_paused_and_dispatched_later_with_all_it_is_told() -> None:
    story = given(start(CHECKED), completed("a/1", 1), PAUSE)
    story.when(verified("a/verify.1", 2, *red())).then(
        An(TaskStarted), An(TaskVerified, passed=False), An(AttemptFailed), An(TaskBranched), An(TaskHeld, "a.fix1")
    )
    told = story.events[3].debug
    story.when(RESUME).then(
        An(WorkflowResumed), An(TaskDispatched, "a.fix1", run="a.fix1/1", bases=("c1",), debug=told)
    )


def test_a_person_may_decide_while_paused_and_what_they_approve_is_held() -> None:
    story = given(start(Task("a", approval=("before_dispatch",))), PAUSE)
    story.when(story.answer("ask-1", "approve")).then(An(AskAnswered), An(TaskHeld, "a"))
    story.when(RESUME).then(An(WorkflowResumed), An(TaskDispatched, "a", run="a/1"))


def test_pausing_what_is_paused_and_resuming_what_is_not_changes_nothing() -> None:
    given(start(A), PAUSE).when(PAUSE).then()
    given(start(A)).when(RESUME).then()


# Cancel one task


def test_cancelling_one_task_skips_what_depends_on_it_and_leaves_the_others_alone() -> None:
    story = given(start(A, AFTER_A, Task("c")), started("a/1", 1))
    story.when(by_pat(Cancel, task="a")).then(
        An(TaskCancelled, "a", by="pat", reason="it is late"), An(TaskSkipped, "b", because="a")
    )
    story.when(completed("a/1", 1)).then(An(ReportRefused, why="the task is cancelled"))
    story.when(completed("c/1", 2)).then(An(TaskStarted), An(TaskCompleted), An(WorkflowFailed, reason="cancelled: a"))


def test_cancelling_a_task_cancels_who_mends_it() -> None:
    story = given(start(CHECKED, B), completed("a/1", 1), verified("a/verify.1", 3, *red()))
    story.when(by_pat(Cancel, task="a.fix1")).refused(Refused, "a.fix1 mends a: cancel that one")
    story.when(by_pat(Cancel, task="a")).then(An(TaskCancelled, "a.fix1", by="pat"), An(TaskCancelled, "a"))


def test_nobody_can_answer_for_a_task_that_was_cancelled() -> None:
    story = given(start(Task("a", approval=("before_dispatch",)), B))
    story.when(by_pat(Cancel, task="a")).then(An(AskVoided, "a", ask="ask-1"), An(TaskCancelled, "a"))
    assert story.state.clock.halts == 0


def test_the_last_task_that_is_cancelled_ends_the_workflow_and_it_has_failed() -> None:
    story = given(start(A)).when(by_pat(Cancel, task="a"))
    story.then(An(TaskCancelled, "a"), An(WorkflowFailed, reason="cancelled: a"))


def test_cancelling_a_workflow_says_of_every_task_who_did_it() -> None:
    given(start(A, AFTER_A)).when(by_pat(Cancel)).then(
        *(An(TaskCancelled, name, by="pat", reason="it is late") for name in "ab"), An(WorkflowCancelled, by="pat")
    )


# Retry now


def test_a_backoff_is_cut_short() -> None:
    story = given(start(A), failed("a/1", 1))
    story.when(by_pat(RetryNow, task="a")).then(
        RetryScheduled(task="a", attempt=2, due=NOW, by="pat", reason="it is late"),
        An(TaskDispatched, "a", run="a/2", attempt=2),
    )
    story.when(by_pat(RetryNow, task="a")).then()
    story.when(retry(2)).then()


def test_a_retry_of_what_cannot_be_retried_is_refused_with_the_reason() -> None:
    now = by_pat(RetryNow, task="a")
    given(start(Task("a", max_attempts=1), B), failed("a/1", 1)).when(now).refused(
        Refused, "task a is failed, there is nothing left to retry: what is closed stays so, add a task"
    )
    given(start(AFTER_A, A)).when(by_pat(RetryNow, task="b")).refused(Refused, "pending .* retried: it waits for a")
    given(start(Task("a", approval=("before_dispatch",)))).when(now).refused(Refused, "a person: answer ask-1 first")
    branched = given(start(CHECKED), completed("a/1", 1), verified("a/verify.1", 2, *red()))
    branched.when(now).refused(Refused, "a.fix1 mends it")


# Skip


def test_what_depends_on_a_skipped_task_goes_on_without_its_result() -> None:
    story = given(start(A, Task("b", dependencies=("a",)), Task("c", dependencies=("a", "b"))), completed("a/1", 1))
    story.when(by_pat(Skip, task="b")).then(
        An(TaskExcused, "b", by="pat", reason="it is late"), An(TaskDispatched, "c", bases=("c1",))
    )
    assert list(story.events[1].dependencies) == ["a"]
    story.when(completed("b/1", 2)).then(An(ReportRefused, why="the task is excused"))
    story.when(completed("c/1", 3)).then(An(TaskStarted), An(TaskCompleted), An(WorkflowCompleted))


def test_work_that_was_not_proven_is_handed_to_nobody_when_its_task_is_skipped() -> None:
    story = given(start(CHECKED, AFTER_A), completed("a/1", 1)).when(by_pat(Skip, task="a"))
    story.then(An(TaskExcused, "a"), An(TaskDispatched, "b", bases=("c0",), dependencies={}))


def test_a_workflow_whose_last_task_is_skipped_has_completed() -> None:
    story = given(start(A)).when(by_pat(Skip, task="a")).then(An(TaskExcused, "a"), An(WorkflowCompleted))
    story.when(by_pat(Skip, task="a")).refused(Refused, "workflow w is completed: nothing is left to skip")


def test_what_is_skipped_while_it_is_mended_or_asked_about_leaves_nobody_behind() -> None:
    story = given(start(CHECKED, B), completed("a/1", 1), verified("a/verify.1", 3, *red()))
    story.when(by_pat(Skip, task="a")).then(An(TaskCancelled, "a.fix1"), An(TaskExcused, "a"))
    asked = given(start(Task("a", approval=("before_dispatch",)), B))
    asked.when(by_pat(Skip, task="a")).then(An(AskVoided, "a"), An(TaskExcused, "a"))


def test_skipping_again_changes_nothing_and_what_is_closed_otherwise_cannot_be_skipped() -> None:
    given(start(A, B), by_pat(Skip, task="a")).when(by_pat(Skip, task="a")).then()
    given(start(A, B), completed("a/1", 1)).when(by_pat(Skip, task="a")).refused(Refused, "task a is completed")


# Prioritise


def test_the_priority_of_an_open_task_can_be_changed() -> None:
    story = given(start(A, AFTER_A, Task("c", dependencies=("a",))))
    more = by_pat(Prioritise, task="c", priority=9)
    story.when(more).then(TaskPrioritised(task="c", priority=9, by="pat", reason="it is late"))
    story.when(more).then()
    story.when(by_pat(Prioritise, task="c", priority=1001)).refused(Refused, "from -1000 to 1000, not 1001")
    story.when(completed("a/1", 1)).then(
        An(TaskStarted), An(TaskCompleted), An(TaskDispatched, "c"), An(TaskDispatched, "b")
    )


# Whatever it is


ACTS = [
    Cancel, Pause, Resume, lambda **it: RetryNow(task="a", **it), lambda **it: Skip(task="a", **it),
    lambda **it: Prioritise(task="a", priority=3, **it),
]  # fmt: skip


@pytest.mark.parametrize("kind", ACTS)
def test_nothing_is_done_to_a_workflow_that_has_ended(kind: Any) -> None:
    given(start(A), completed("a/1", 1)).when(kind(now=NOW, by="pat")).refused(
        Refused, "w is completed: nothing is left"
    )


@pytest.mark.parametrize("act", [by_pat(kind, task="ghost") for kind in (Cancel, RetryNow, Skip)])
def test_a_task_that_nobody_knows_is_not_found(act: Act) -> None:
    given(start(A)).when(act).refused(NotFound, "workflow w has no task ghost")


def test_a_failure_is_told_before_what_was_cancelled() -> None:
    story = given(start(A, B, Task("c", max_attempts=1)), failed("c/1", 3), by_pat(Cancel, task="a"))
    story.when(completed("b/1", 2)).then(
        An(TaskStarted), An(TaskCompleted), An(WorkflowFailed, reason="failed: c; cancelled: a")
    )
