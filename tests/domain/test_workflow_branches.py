"""The rules of branches: a failure that the plan sends to somebody, its mending, and what follows when that fails."""

import msgspec
import pytest
from spec import NOW, TESTS, An, completed, failed, given, green, offer_again, red, retry, start, verified

from domain.commands import Cancel
from domain.consequences import Consequences
from domain.events import (
    AttemptFailed,
    Debug,
    ReportRefused,
    RetryScheduled,
    TaskBranched,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskFailed,
    TaskReported,
    TaskStarted,
    TaskVerified,
    WorkflowCompleted,
    WorkflowFailed,
)
from domain.outcome import Failure, Result
from domain.plan import Retry as Backoff
from domain.plan import Route, Task

A, AFTER_A = Task("a"), Task("b", dependencies=("a",))
CHECKED = Task("a", acceptance_criteria=TESTS)
STEADY = Backoff(initial_seconds=10.0, jitter=0.0)
ONCE = Task("a", max_attempts=1)
ROUTED = {"test_failure": "debugger", "agent_error": "debugger"}
MENDED = Task("a", "Indicators", acceptance_criteria=TESTS, failure_routing=ROUTED, inputs={"n": 1}, priority=3)


def test_a_failure_that_is_routed_opens_a_branch_on_top_of_what_failed() -> None:
    story = given(start(MENDED), completed("a/1", 1)).when(verified("a/verify.1", 2, *red()))
    told = Debug("a", "test_failure", "`make test` ended with exit code 1", red(), bases=("c0",), commit="c1")
    story.then(An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(TaskBranched, "a", depth=1, debug=told),
        An(TaskDispatched, "a.fix1", run="a.fix1/1", role="debugger", token=3, bases=("c1",), debug=told, tests=()),
    )  # fmt: skip
    branch = story.events[3].branch
    assert (branch.id, branch.parent_id, branch.is_temporary, branch.priority) == ("a.fix1", "a", True, 3)
    assert (branch.branch_reason, branch.debug_instructions) == (told.reason, told.instructions)
    assert story.state.open == 2


@pytest.mark.parametrize(("role", "needs"), [("coder", ("gpu", "rust")), ("debugger", ())])
def test_a_branch_needs_what_its_task_needs_if_it_is_for_the_same_role(role: str, needs: tuple[str, ...]) -> None:
    story = given(start(Task("a", capabilities=("rust", "gpu"), failure_routing={"agent_error": role})))
    story.when(failed("a/1", 1)).then(
        An(TaskStarted),
        An(AttemptFailed),
        An(TaskBranched),
        An(TaskDispatched, "a.fix1", role=role, capabilities=needs),
    )


def test_a_task_that_goes_to_another_role_needs_nothing_besides_there() -> None:
    routed = Task("a", capabilities=("gpu",), failure_routing={"agent_error": Route("route", "architect")})
    given(start(routed), failed("a/1", 1)).when(retry(2)).then(
        An(TaskDispatched, "a", role="architect", capabilities=())
    )


def test_when_the_branch_ends_its_work_is_tested_by_the_tests_of_its_parent() -> None:
    story = given(start(MENDED, AFTER_A), completed("a/1", 1), verified("a/verify.1", 2, *red()))
    story.when(completed("a.fix1/1", 3, "c2", "dora")).then(
        An(TaskStarted, "a.fix1"), An(TaskCompleted, "a.fix1", agent="dora"), An(TaskReported, "a", agent="dora"),
        An(TaskDispatched, "a", run="a/verify.2", token=4, purpose="verify", bases=("c2",), worker="dora"),
    )  # fmt: skip
    story.when(verified("a/verify.2", 4, *green("c2"))).then(
        An(TaskStarted), An(TaskVerified, passed=True),
        An(TaskCompleted, "a", run="a.fix1", agent="dora", result=Result("done", "c2")),
        An(TaskDispatched, "b", bases=("c2",)),
    )  # fmt: skip


def test_a_branch_that_commits_nothing_hands_back_what_it_was_given() -> None:
    story = given(start(MENDED), completed("a/1", 1), verified("a/verify.1", 2, *red()))
    story.when(completed("a.fix1/1", 3, None)).then(
        An(TaskStarted), An(TaskCompleted), An(TaskReported, "a", result=Result("done", "c1")),
        An(TaskDispatched, "a", bases=("c1",)),
    )  # fmt: skip


def test_a_task_without_tests_is_completed_by_its_branch() -> None:
    story = given(start(Task("a", failure_routing=ROUTED), AFTER_A), failed("a/1", 1))
    story.when(completed("a.fix1/1", 2, "c2")).then(
        An(TaskStarted), An(TaskCompleted, "a.fix1"), An(TaskCompleted, "a", run="a.fix1"), An(TaskDispatched, "b")
    )


def test_what_a_branch_did_not_mend_opens_the_next_until_there_may_be_no_more() -> None:
    task = msgspec.structs.replace(MENDED, max_debug_attempts=2, max_attempts=1)
    story = given(start(task), completed("a/1", 1), verified("a/verify.1", 2, *red()), completed("a.fix1/1", 3, "c2"))
    story.when(verified("a/verify.2", 4, *red("c2"))).then(
        An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(TaskBranched), An(TaskDispatched, "a.fix2", token=5)
    )
    story.when(completed("a.fix2/1", 5, "c3")).then(
        An(TaskStarted), An(TaskCompleted), An(TaskReported), An(TaskDispatched)
    )
    story.when(verified("a/verify.3", 6, *red("c3"))).then(
        An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(TaskFailed, "a"), An(WorkflowFailed)
    )


@pytest.mark.parametrize("limit", [{"max_debug_attempts": 0}, {"max_branch_depth": 0}, {"failure_routing": {}}])
def test_without_leave_to_branch_a_failure_is_retried(limit: dict[str, object]) -> None:
    task = msgspec.structs.replace(MENDED, **limit)
    story = given(start(task), completed("a/1", 1)).when(verified("a/verify.1", 2, *red()))
    story.then(An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(RetryScheduled))


def test_an_attempt_of_a_branch_is_tried_again_and_told_the_same() -> None:
    story = given(start(MENDED), completed("a/1", 1), verified("a/verify.1", 2, *red()))
    told = Debug("a", "test_failure", "`make test` ended with exit code 1", red(), bases=("c0",), commit="c1")
    story.when(offer_again(3, "a.fix1")).then(An(TaskDispatched, "a.fix1", token=4, bases=("c1",), debug=told))
    story.when(failed("a.fix1/1", 4)).then(An(TaskStarted), An(AttemptFailed, "a.fix1"), An(RetryScheduled, "a.fix1"))
    story.when(retry(2, "a.fix1")).then(An(TaskDispatched, run="a.fix1/2", token=5, bases=("c1",), debug=told))


def test_evidence_of_an_earlier_attempt_is_not_told_as_that_of_a_later_one() -> None:
    task = msgspec.structs.replace(MENDED, failure_routing={"agent_error": "debugger"})
    story = given(start(task), completed("a/1", 1), verified("a/verify.1", 2, *red()), retry(2), failed("a/2", 3))
    told = Debug("a", "agent_error", "it broke", bases=("c0",), commit="c1")
    story.when(offer_again(4, "a.fix1")).then(An(TaskDispatched, "a.fix1", debug=told))


def test_a_branch_that_failed_is_followed_by_the_next_branch() -> None:
    task = Task("a", failure_routing=ROUTED, max_attempts=1)
    story = given(start(task), failed("a/1", 1)).when(failed("a.fix1/1", 2))
    story.then(
        An(TaskStarted), An(AttemptFailed, "a.fix1"), An(TaskFailed, "a.fix1"), An(TaskBranched, "a"),
        An(TaskDispatched, "a.fix2"),
    )  # fmt: skip


def test_after_its_last_branch_a_task_still_has_the_attempts_the_plan_gave_it() -> None:
    task = Task("a", failure_routing=ROUTED, max_attempts=2, max_debug_attempts=1, retry=STEADY)
    branch_fails = failed("a.fix1/2", 3)
    story = given(start(task), failed("a/1", 1), failed("a.fix1/1", 2), retry(2, "a.fix1")).when(branch_fails)
    story.then(
        An(TaskStarted), An(AttemptFailed, "a.fix1"), An(TaskFailed, "a.fix1"),
        RetryScheduled(task="a", attempt=2, due=NOW + 10),
    )  # fmt: skip
    story.when(retry(2)).then(An(TaskDispatched, "a", run="a/2"))
    story.when(failed("a/2", 4)).then(
        An(TaskStarted), An(AttemptFailed), An(TaskFailed, "a"), An(WorkflowFailed, reason="failed: a")
    )


def test_a_failed_branch_is_no_failed_task_of_the_plan() -> None:
    task = Task("a", failure_routing=ROUTED, max_attempts=2, max_debug_attempts=1)
    story = given(start(task), failed("a/1", 1), failed("a.fix1/1", 2), retry(2, "a.fix1"), failed("a.fix1/2", 3))
    story.when(retry(2)).then(An(TaskDispatched, run="a/2"))
    story.when(completed("a/2", 4)).then(An(TaskStarted), An(TaskCompleted, "a"), An(WorkflowCompleted))


def test_the_reason_of_a_failed_workflow_names_the_tasks_of_the_plan() -> None:
    task = Task("a", failure_routing=ROUTED, max_attempts=1, max_debug_attempts=1)
    story = given(start(task), failed("a/1", 1)).when(failed("a.fix1/1", 2))
    story.then(
        An(TaskStarted), An(AttemptFailed), An(TaskFailed, "a.fix1"), An(TaskFailed, "a"),
        WorkflowFailed(workflow="w", reason="failed: a"),
    )  # fmt: skip


def test_a_branch_is_cancelled_with_its_parent() -> None:
    story = given(start(MENDED), completed("a/1", 1), verified("a/verify.1", 2, *red()), Cancel(now=NOW, by="pat"))
    story.when(completed("a.fix1/1", 3)).then(An(ReportRefused, "a.fix1", why="the task is cancelled"))
    assert story.state.open == 0


DEEP = msgspec.structs.replace(MENDED, max_branch_depth=2, max_attempts=1, failure_routing={"test_failure": "debugger"})


def test_what_a_branch_did_not_mend_opens_a_deeper_one_and_at_the_bottom_one_beside_it() -> None:
    story = given(start(DEEP), completed("a/1", 1), verified("a/verify.1", 2, *red()))
    token, opened = 3, ["a.fix1"]
    while True:
        commit = f"c{token}"
        story.when(completed(f"{opened[-1]}/1", token, commit)).then(
            An(TaskStarted),
            An(TaskCompleted, opened[-1]),
            An(TaskReported, "a", run=opened[-1]),
            An(TaskDispatched, "a"),
        )
        if len(opened) == 6:
            break
        story.when(verified(f"a/verify.{len(opened) + 1}", token + 1, *red(commit)))
        below = ["a.fix1.fix1", "a.fix1.fix2", "a.fix2", "a.fix2.fix1", "a.fix2.fix2"][len(opened) - 1]
        told = Debug(
            "a", "test_failure", "`make test` ended with exit code 1", red(commit), bases=("c0",), commit=commit
        )
        story.then(
            An(TaskStarted), An(TaskVerified), An(AttemptFailed, "a"),
            An(TaskBranched, "a", depth=below.count("fix"), debug=told),
            An(TaskDispatched, below, bases=(commit,), debug=told),
        )  # fmt: skip
        assert story.events[3].branch.parent_id == below.rpartition(".")[0]
        opened.append(below)
        token += 2
        story.when(offer_again(token, below)).then(An(TaskDispatched, below, bases=(commit,), debug=told))
        token += 1
    story.when(verified("a/verify.7", token + 1, *red(commit))).then(
        An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(TaskFailed, "a"), An(WorkflowFailed)
    )


def test_a_branch_that_fails_opens_a_deeper_one_which_knows_the_tests_it_was_for() -> None:
    task = msgspec.structs.replace(DEEP, failure_routing=ROUTED)
    story = given(start(task), completed("a/1", 1), verified("a/verify.1", 2, *red())).when(failed("a.fix1/1", 3))
    told = Debug("a.fix1", "agent_error", "it broke", red(), bases=("c0",), commit="c1")
    story.then(
        An(TaskStarted), An(AttemptFailed, "a.fix1"), An(TaskBranched, "a.fix1", depth=2, debug=told),
        An(TaskDispatched, "a.fix1.fix1", bases=("c1",), debug=told),
    )  # fmt: skip
    story.when(offer_again(4, "a.fix1.fix1")).then(An(TaskDispatched, bases=("c1",), debug=told))
    story.when(completed("a.fix1.fix1/1", 5, "c2")).then(
        An(TaskStarted), An(TaskCompleted, "a.fix1.fix1"), An(TaskCompleted, "a.fix1", run="a.fix1.fix1"),
        An(TaskReported, "a", run="a.fix1"), An(TaskDispatched, "a", purpose="verify", bases=("c2",)),
    )  # fmt: skip


def test_no_branch_branches_deeper_than_the_plan_allows() -> None:
    task = msgspec.structs.replace(DEEP, failure_routing=ROUTED, max_debug_attempts=1)
    story = given(start(task), completed("a/1", 1), verified("a/verify.1", 2, *red()), failed("a.fix1/1", 3))
    story.when(failed("a.fix1.fix1/1", 4)).then(
        An(TaskStarted), An(AttemptFailed), An(TaskFailed, "a.fix1.fix1"), An(TaskFailed, "a.fix1"),
        An(TaskFailed, "a"), An(WorkflowFailed),
    )  # fmt: skip


def test_who_ends_a_task_ends_what_was_to_mend_it() -> None:
    task = msgspec.structs.replace(DEEP, failure_routing=ROUTED)
    story = given(start(task), completed("a/1", 1), verified("a/verify.1", 2, *red()), failed("a.fix1/1", 3))
    then = Consequences(story.state, NOW)
    then.fail(story.state.tasks["a"], Failure("timeout", "too late"))
    assert then.events == [
        An(TaskFailed, "a"), An(TaskCancelled, "a.fix1.fix1"), An(TaskCancelled, "a.fix1"), An(WorkflowFailed)
    ]  # fmt: skip
