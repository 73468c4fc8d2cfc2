"""The rules of a workflow in trouble: attempts that fail, retries, agents and testers that are lost or late."""

import msgspec
import pytest
from spec import (
    AT_ONCE,
    NOW,
    TESTS,
    An,
    completed,
    failed,
    given,
    green,
    offer_again,
    red,
    retry,
    start,
    started,
    verified,
)

from domain.commands import ExpireLease, ExpireRun
from domain.events import (
    AttemptFailed,
    ReportRefused,
    RetryScheduled,
    TaskCompleted,
    TaskDispatched,
    TaskFailed,
    TaskReported,
    TaskSkipped,
    TaskStarted,
    TaskVerified,
    WorkflowCompleted,
    WorkflowFailed,
)
from domain.outcome import Failure
from domain.plan import Retry as Backoff
from domain.plan import Task
from domain.policy import LOST_LIMIT, backoff_seconds

A, AFTER_A = Task("a"), Task("b", dependencies=("a",))
CHECKED = Task("a", acceptance_criteria=TESTS)
STEADY = Backoff(initial_seconds=10.0, jitter=0.0)
ONCE = Task("a", max_attempts=1)
ROUTED = {"test_failure": "debugger", "agent_error": "debugger"}
MENDED = Task("a", "Indicators", acceptance_criteria=TESTS, failure_routing=ROUTED, inputs={"n": 1}, priority=3)


def lease_lost(token: int) -> ExpireLease:
    return ExpireLease(now=NOW, task="a", token=token)


def out_of_time(token: int) -> ExpireRun:
    return ExpireRun(now=NOW, task="a", token=token)


# Attempts


def test_a_failed_attempt_is_tried_again_after_a_while() -> None:
    story = given(start(Task("a", retry=STEADY)), started("a/1", 1)).when(failed("a/1", 1))
    story.then(
        AttemptFailed(
            task="a", run="a/1", attempt=1, failure=Failure("agent_error", "it broke"), agent="ann", usage=AT_ONCE
        ),
        RetryScheduled(task="a", attempt=2, due=NOW + 10),
    )
    story.when(retry(2)).then(An(TaskDispatched, "a", run="a/2", attempt=2, token=2, bases=("c0",)))


def test_a_retry_happens_once_and_only_as_scheduled() -> None:
    story = given(start(A), failed("a/1", 1))
    story.when(retry(1)).then()
    story.when(retry(3)).then()
    story.when(retry(2, "ghost")).then()
    story.when(retry(2)).then(An(TaskDispatched))
    story.when(retry(2)).then()
    story.when(retry(3)).then()


def test_the_last_attempt_fails_the_task_its_dependents_and_the_workflow() -> None:
    tasks = [Task("a", max_attempts=2), AFTER_A, Task("c", dependencies=("b",)), Task("d")]
    story = given(start(*tasks), failed("a/1", 1), retry(2)).when(failed("a/2", 3))
    story.then(
        An(TaskStarted), An(AttemptFailed, "a", attempt=2), An(TaskFailed, "a"), An(TaskSkipped, "b", because="a"),
        TaskSkipped(task="c", because="b"),
    )  # fmt: skip
    story.when(completed("d/1", 2)).then(
        An(TaskStarted), An(TaskCompleted, "d"), WorkflowFailed(workflow="w", reason="failed: a")
    )


def test_a_dependency_that_completes_after_another_has_failed_frees_nothing() -> None:
    story = given(start(ONCE, Task("b"), Task("c", dependencies=("a", "b"))), failed("a/1", 1))
    story.when(completed("b/1", 2)).then(An(TaskStarted), An(TaskCompleted, "b"), An(WorkflowFailed))


def test_a_task_that_depends_on_the_failed_one_in_two_ways_is_skipped_once() -> None:
    tasks = [ONCE, AFTER_A, Task("c", dependencies=("a",)), Task("d", dependencies=("b", "c"))]
    given(start(*tasks)).when(failed("a/1", 1)).then(
        An(TaskStarted), An(AttemptFailed), An(TaskFailed, "a"), An(TaskSkipped, "b"), An(TaskSkipped, "c"),
        An(TaskSkipped, "d"), An(WorkflowFailed),
    )  # fmt: skip


def test_a_task_whose_tests_fail_is_worked_on_again_from_where_it_began() -> None:
    story = given(start(CHECKED), completed("a/1", 1)).when(verified("a/verify.1", 2, *red(output="1 failed")))
    story.then(
        An(TaskStarted),
        TaskVerified(
            task="a", run="a/verify.1", agent="tess", passed=False, receipts=red(output="1 failed"), usage=AT_ONCE
        ),
        An(AttemptFailed, failure=Failure("test_failure", "`make test` ended with exit code 1", "1 failed")),
        An(RetryScheduled, attempt=2),
    )
    story.when(retry(2)).then(An(TaskDispatched, "a", run="a/2", bases=("c0",)))


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("timeout", {"exit_code": None, "timed_out": True}),
        ("missing_dependency", {"exit_code": 127}),
        ("implementation_bug", {"output": "E   ValueError: no"}),
    ],
)
def test_what_failed_is_read_from_the_receipt(kind: str, how: dict[str, object]) -> None:
    story = given(start(CHECKED), completed("a/1", 1)).when(verified("a/verify.1", 2, *red(**how)))
    story.then(An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(RetryScheduled))
    assert story.events[2].failure.type == kind


# Backoff


def test_the_wait_doubles_and_is_capped() -> None:
    waits = [backoff_seconds(Backoff(1.0, 2.0, 10.0, jitter=0.0), failures, "w/a") for failures in range(1, 7)]
    assert waits == [1, 2, 4, 8, 10, 10]


def test_jitter_spreads_the_waits_stays_within_its_part_and_under_the_cap() -> None:
    waits = [backoff_seconds(Backoff(10.0, 1.0, 60.0, jitter=0.5), 1, f"w/{n}") for n in range(100)]
    assert 5 <= min(waits) < 7
    assert 13 < max(waits) <= 15
    assert max(backoff_seconds(Backoff(60.0, 1.0, 60.0, jitter=0.5), 1, f"w/{n}") for n in range(100)) <= 60


def test_the_same_failure_waits_the_same_time_again() -> None:
    assert backoff_seconds(Backoff(), 3, "w/a") == backoff_seconds(Backoff(), 3, "w/a")
    assert backoff_seconds(Backoff(), 3, "w/a") != backoff_seconds(Backoff(), 3, "w/b")


def test_the_longest_row_of_failures_a_plan_allows_can_still_be_waited_for() -> None:
    """A failure of mended work opens the next branch, whatever the attempts: 100 of them, and 100 branches."""
    assert backoff_seconds(Backoff(1.0, 100.0, 60.0, jitter=0.0), 100 + 100 + LOST_LIMIT, "w/a") == 60


# Leases


def test_an_offer_that_nobody_took_is_made_again_under_a_new_token() -> None:
    story = given(start(A)).when(offer_again(1))
    story.then(An(TaskDispatched, "a", run="a/1", attempt=1, token=2, bases=("c0",)))
    story.when(started("a/1", 1, "slow")).then(An(ReportRefused, "a", run="a/1", token=1, agent="slow"))
    story.when(started("a/1", 2)).then(An(TaskStarted, "a", agent="ann"))


def test_a_run_that_began_is_not_offered_again() -> None:
    given(start(A), started("a/1", 1)).when(offer_again(1)).then()


def test_an_agent_not_heard_of_loses_the_lease_and_the_next_one_gets_the_task() -> None:
    story = given(start(Task("a", max_attempts=1, retry=STEADY)), started("a/1", 1)).when(lease_lost(1))
    story.then(
        An(AttemptFailed, failure=Failure("agent_lost", "agent ann was not heard of for 30 s"), agent="ann"),
        RetryScheduled(task="a", attempt=2, due=NOW + 10),
    )
    story.when(retry(2)).then(An(TaskDispatched, "a", run="a/2", token=2))


def test_a_zombie_changes_nothing_and_is_seen() -> None:
    story = given(start(A), started("a/1", 1), lease_lost(1), retry(2), started("a/2", 2, "bob"))
    for agent in ("ann", "bob"):
        for report in (
            completed("a/1", 1, agent=agent),
            failed("a/2", 1, agent=agent),
            completed("a/1", 2, agent=agent),
        ):
            story.when(report).then(An(ReportRefused, "a", agent=agent))
    story.when(completed("a/2", 2, agent="ann")).then(An(ReportRefused, "a", why="bob holds the lease"))
    story.when(completed("a/2", 2, agent="bob")).then(An(TaskCompleted, "a", agent="bob"), An(WorkflowCompleted))


def test_a_task_that_loses_one_agent_after_the_other_has_failed_in_the_end() -> None:
    story = given(start(ONCE))
    for attempt in range(1, LOST_LIMIT):
        story.when(started(f"a/{attempt}", attempt)).then(An(TaskStarted))
        story.when(lease_lost(attempt)).then(An(AttemptFailed), An(RetryScheduled))
        story.when(retry(attempt + 1)).then(An(TaskDispatched))
    story.when(started(f"a/{LOST_LIMIT}", LOST_LIMIT)).then(An(TaskStarted))
    story.when(lease_lost(LOST_LIMIT)).then(An(AttemptFailed), An(TaskFailed, "a"), An(WorkflowFailed))


def test_a_run_that_takes_too_long_is_a_failed_attempt() -> None:
    story = given(start(Task("a", timeout_seconds=90.0)), started("a/1", 1)).when(out_of_time(1))
    failure = Failure("timeout", "run a/1 took longer than 90 s")
    story.then(An(AttemptFailed, failure=failure, agent="ann"), An(RetryScheduled))
    story.when(completed("a/1", 1)).then(An(ReportRefused, "a", kind="completed", why="the task is retrying"))


def test_deadlines_of_runs_that_are_over_or_never_began_mean_nothing() -> None:
    offered = given(start(A))
    for deadline in (lease_lost(1), out_of_time(1)):
        offered.when(deadline).then()
    over = given(start(A), started("a/1", 1), failed("a/1", 1))
    for deadline in (lease_lost(1), out_of_time(1), offer_again(1), offer_again(1, "ghost")):
        over.when(deadline).then()


# Testers in trouble


@pytest.mark.parametrize("trouble", ["agent_lost", "agent_error", "invalid_result", "sandbox", "timeout"])
def test_a_tester_that_fails_has_the_tests_run_again_and_costs_the_task_no_attempt(trouble: str) -> None:
    task = msgspec.structs.replace(CHECKED, max_attempts=2)
    story = given(start(task), completed("a/1", 1)).when(failed("a/verify.1", 2, trouble, "tess"))
    story.then(An(TaskStarted), An(AttemptFailed, run="a/verify.1"), An(TaskDispatched, run="a/verify.2", token=3))
    story.when(verified("a/verify.2", 3, *red())).then(
        An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(RetryScheduled, attempt=2)
    )


@pytest.mark.parametrize("deadline", [lease_lost, out_of_time])
def test_a_tester_that_dies_or_hangs_has_the_tests_run_again(deadline: type[ExpireLease]) -> None:
    story = given(start(CHECKED), completed("a/1", 1), started("a/verify.1", 2, "tess")).when(deadline(2))
    story.then(An(AttemptFailed, run="a/verify.1", agent="tess"), An(TaskDispatched, run="a/verify.2", bases=("c1",)))


def test_a_verification_nobody_took_is_offered_again() -> None:
    story = given(start(CHECKED), completed("a/1", 1)).when(offer_again(2))
    story.then(An(TaskDispatched, "a", run="a/verify.1", token=3, purpose="verify", bases=("c1",), tests=TESTS.tests))
    story.when(verified("a/verify.1", 2, *green())).then(An(ReportRefused, "a", token=2))
    story.when(failed("a/verify.1", 3, "sandbox", "tess")).then(
        An(TaskStarted), An(AttemptFailed), An(TaskDispatched, run="a/verify.2", token=4)
    )


def test_testers_that_fail_for_ever_fail_the_task() -> None:
    story = given(start(CHECKED), completed("a/1", 1))
    for check in range(1, LOST_LIMIT):
        report = failed(f"a/verify.{check}", check + 1, "timeout", "tess")
        story.when(report).then(An(TaskStarted), An(AttemptFailed), An(TaskDispatched, purpose="verify"))
    report = failed(f"a/verify.{LOST_LIMIT}", LOST_LIMIT + 1, "timeout", "tess")
    story.when(report).then(An(TaskStarted), An(AttemptFailed), An(TaskFailed, "a"), An(WorkflowFailed))


def test_failures_of_the_work_do_not_wear_out_the_patience_with_testers() -> None:
    task = msgspec.structs.replace(CHECKED, max_attempts=20)
    story = given(start(task))
    for attempt in range(1, 8):
        story.when(failed(f"a/{attempt}", attempt)).then(An(TaskStarted), An(AttemptFailed), An(RetryScheduled))
        story.when(retry(attempt + 1)).then(An(TaskDispatched))
    story.when(completed("a/8", 8)).then(An(TaskStarted), An(TaskReported), An(TaskDispatched, run="a/verify.1"))
    story.when(failed("a/verify.1", 9, "sandbox", "tess")).then(
        An(TaskStarted), An(AttemptFailed), An(TaskDispatched, run="a/verify.2")
    )
