"""The rules of evidence: what is flaky, what fits the declared shape, and what the next attempt is told."""

from typing import Any

import msgspec
import pytest
from spec import AT_ONCE, NOW, TESTS, An, completed, failed, given, green, receipt, red, retry, start, verified

from domain.commands import ReportCompleted
from domain.events import (
    AttemptFailed,
    RetryScheduled,
    TaskBranched,
    TaskCompleted,
    TaskDispatched,
    TaskFailed,
    TaskReported,
    TaskRerouted,
    TaskStarted,
    TaskVerified,
    WorkflowCompleted,
)
from domain.outcome import FailedCase, Failure, Finding, Result, Severity, Tally
from domain.plan import AcceptanceCriteria, FailureSign, Plan, Retry, Route, Task

CHECKED = Task("a", acceptance_criteria=TESTS, retry=Retry(jitter=0.0))
RERUN = msgspec.structs.replace(CHECKED, flaky_reruns=1)
SHAPED = Task("a", result_schema={"type": "object", "required": ["lines"]}, retry=Retry(jitter=0.0))
FLAKY = (msgspec.structs.replace(green()[0], flaky=True), green()[1])


def test_failed_tests_are_run_again_on_the_same_commit_if_the_plan_wants_to_know() -> None:
    story = given(start(RERUN), completed("a/1", 1)).when(verified("a/verify.1", 2, *red()))
    story.then(
        An(TaskStarted), An(TaskVerified, passed=False),
        An(TaskDispatched, run="a/verify.2", token=3, purpose="verify", bases=("c1",), worker="ann"),
    )  # fmt: skip


def test_tests_that_pass_then_are_flaky_and_their_receipts_say_so() -> None:
    story = given(start(RERUN), completed("a/1", 1), verified("a/verify.1", 2, *red()))
    story.when(verified("a/verify.2", 3, *green())).then(
        An(TaskStarted), An(TaskVerified, passed=True, receipts=FLAKY), An(TaskCompleted, run="a/1"),
        An(WorkflowCompleted),
    )  # fmt: skip


def test_a_plan_that_routes_flaky_tests_does_not_take_them_for_a_pass() -> None:
    task = msgspec.structs.replace(RERUN, failure_routing={"flaky_test": Route("retry")})
    story = given(start(task), completed("a/1", 1), verified("a/verify.1", 2, *red()))
    why = Failure("flaky_test", "`make test` failed and then passed on the same commit")
    story.when(verified("a/verify.2", 3, *green())).then(
        An(TaskStarted), An(TaskVerified, passed=True, receipts=FLAKY), An(AttemptFailed, failure=why),
        An(RetryScheduled),
    )  # fmt: skip


def test_tests_that_fail_every_time_fail_the_attempt_and_the_next_work_begins_anew() -> None:
    story = given(start(RERUN), completed("a/1", 1), verified("a/verify.1", 2, *red()))
    story.when(verified("a/verify.2", 3, *red())).then(
        An(TaskStarted), An(TaskVerified, passed=False), An(AttemptFailed), An(RetryScheduled)
    )
    story.when(retry(2)).then(An(TaskDispatched, run="a/2", previous=story.state.tasks["a"].failure))
    story.when(completed("a/2", 4)).then(An(TaskStarted), An(TaskReported), An(TaskDispatched, run="a/verify.3"))
    story.when(verified("a/verify.3", 5, *green())).then(
        An(TaskStarted), An(TaskVerified, receipts=green()), An(TaskCompleted), An(WorkflowCompleted)
    )


@pytest.mark.parametrize("how", [{"exit_code": 127}, {"output": "NameError: name 'x' is not defined\n"}])
def test_what_no_second_run_can_change_is_not_run_again(how: dict[str, object]) -> None:
    story = given(start(RERUN), completed("a/1", 1)).when(verified("a/verify.1", 2, *red(**how)))
    story.then(An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(RetryScheduled))


def test_a_tester_that_dies_over_the_second_run_does_not_make_the_first_forgotten() -> None:
    story = given(start(RERUN), completed("a/1", 1), verified("a/verify.1", 2, *red()))
    story.when(failed("a/verify.2", 3, "sandbox", "tess")).then(
        An(TaskStarted), An(AttemptFailed), An(TaskDispatched, run="a/verify.3")
    )
    story.when(verified("a/verify.3", 4, *green())).then(
        An(TaskStarted), An(TaskVerified, receipts=FLAKY), An(TaskCompleted), An(WorkflowCompleted)
    )


def test_no_tester_has_a_say_in_what_is_flaky() -> None:
    story = given(start(CHECKED), completed("a/1", 1)).when(verified("a/verify.1", 2, *FLAKY))
    story.then(An(TaskStarted), An(TaskVerified, receipts=green()), An(TaskCompleted), An(WorkflowCompleted))


def test_a_result_that_does_not_fit_goes_back_to_its_source_and_says_why() -> None:
    story = given(start(SHAPED, Task("b", dependencies=("a",)))).when(completed("a/1", 1, data={"line": 3}))
    why = Failure("invalid_result", 'its data does not fit result_schema: (whole): required field "lines" is missing')
    story.then(An(TaskStarted), An(AttemptFailed, "a", failure=why), RetryScheduled(task="a", attempt=2, due=NOW + 1))
    story.when(retry(2)).then(An(TaskDispatched, run="a/2", previous=why))
    story.when(completed("a/2", 2, data={"lines": 3})).then(
        An(TaskStarted), An(TaskCompleted, "a"), An(TaskDispatched, "b", previous=None)
    )
    assert story.events[-1].dependencies["a"].data == {"lines": 3}


def test_a_result_that_does_not_fit_is_not_worth_a_test() -> None:
    task = msgspec.structs.replace(SHAPED, acceptance_criteria=TESTS)
    given(start(task)).when(completed("a/1", 1)).then(An(TaskStarted), An(AttemptFailed), An(RetryScheduled))


def test_what_a_branch_hands_to_its_parent_has_to_fit_too() -> None:
    task = msgspec.structs.replace(SHAPED, failure_routing={"agent_error": "debugger"})
    story = given(start(task), failed("a/1", 1))
    story.when(completed("a.fix1/1", 2, data={})).then(
        An(TaskStarted), An(AttemptFailed, "a.fix1"), An(RetryScheduled, "a.fix1")
    )
    story.when(retry(2, "a.fix1")).then(An(TaskDispatched, "a.fix1"))
    story.when(completed("a.fix1/2", 3, data={"lines": 1})).then(
        An(TaskStarted), An(TaskCompleted, "a.fix1"), An(TaskCompleted, "a"), An(WorkflowCompleted)
    )


def test_the_signs_of_a_plan_decide_what_a_failed_test_is() -> None:
    command = start(CHECKED)
    signs = (FailureSign("sandbox", "licence server"),)
    plan = msgspec.structs.replace(command.plan, failure_signs=signs)
    assert isinstance(plan, Plan)
    story = given(msgspec.structs.replace(command, plan=plan), completed("a/1", 1))
    story.when(verified("a/verify.1", 2, *red(output="no licence server\n"))).then(
        An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(RetryScheduled)
    )
    assert story.events[2].failure.type == "sandbox"


def test_a_report_and_the_time_a_test_took_are_evidence_too() -> None:
    tally = Tally(1, 0, 1, 0, (FailedCase("t", "ModuleNotFoundError: No module named 'x'"),))
    reported = msgspec.structs.replace(receipt("make test", 1), report=tally)
    slow = msgspec.structs.replace(receipt("make test", 1), duration_seconds=20.0)
    for seen, kind in ((reported, "missing_dependency"), (slow, "timeout")):
        story = given(start(CHECKED), completed("a/1", 1)).when(verified("a/verify.1", 2, seen, green()[1]))
        story.then(An(TaskStarted), An(TaskVerified), An(AttemptFailed), An(RetryScheduled))
        assert story.events[2].failure.type == kind


def test_the_next_attempt_may_be_for_another_role_and_so_are_those_after_it() -> None:
    task = msgspec.structs.replace(CHECKED, failure_routing={"agent_error": Route("route", "architect")})
    story = given(start(task)).when(failed("a/1", 1))
    story.then(An(TaskStarted), An(AttemptFailed), TaskRerouted(task="a", role="architect"), An(RetryScheduled))
    story.when(retry(2)).then(An(TaskDispatched, role="architect"))
    story.when(failed("a/2", 2)).then(An(TaskStarted), An(AttemptFailed), An(RetryScheduled))
    story.when(retry(3)).then(An(TaskDispatched, role="architect"))


KEY, LONG = Finding("security", "high", "a key", "a.py", 3), Finding("lint", "critical", "a long line")
FOUND = Failure("finding", "a security finding, high: a.py:3 a key", "high: a.py:3 a key")


def found(run: str, token: int, *findings: Finding) -> ReportCompleted:
    done = completed(run, token)
    return msgspec.structs.replace(done, result=msgspec.structs.replace(done.result, findings=findings))


def held_to(below: Severity, **more: Any) -> Task:
    return Task("a", acceptance_criteria=AcceptanceCriteria(findings_below=below), retry=Retry(jitter=0.0), **more)


def test_a_result_with_too_grave_a_security_finding_is_recorded_and_not_accepted() -> None:
    story = given(start(held_to("high"))).when(found("a/1", 1, LONG, KEY))
    story.then(
        An(TaskStarted), An(TaskReported, usage=AT_ONCE), An(AttemptFailed, failure=FOUND, usage=None),
        An(RetryScheduled),
    )  # fmt: skip
    story.when(retry(2)).then(An(TaskDispatched, previous=FOUND))
    story.when(found("a/2", 2, LONG)).then(An(TaskStarted), An(TaskCompleted), An(WorkflowCompleted))


@pytest.mark.parametrize("below", ["critical", None])
def test_findings_below_what_the_plan_says_are_only_kept(below: Severity | None) -> None:
    task = Task("a", acceptance_criteria=AcceptanceCriteria(findings_below=below))
    story = given(start(task)).when(found("a/1", 1, KEY))
    story.then(An(TaskStarted), An(TaskCompleted, result=Result("done", "c1", findings=(KEY,))), An(WorkflowCompleted))


def test_a_finding_may_be_mended_by_a_branch_whose_result_is_held_to_the_same() -> None:
    story = given(start(held_to("medium", failure_routing={"finding": "debugger"}, max_attempts=1)))
    story.when(found("a/1", 1, KEY)).then(
        An(TaskStarted), An(TaskReported), An(AttemptFailed), An(TaskBranched),
        An(TaskDispatched, task="a.fix1", role="debugger", bases=("c1",)),
    )  # fmt: skip
    assert story.events[3].debug.commit == "c1" and story.events[3].debug.output == FOUND.detail
    story.when(found("a.fix1/1", 2, KEY)).then(
        An(TaskStarted), An(TaskReported), An(AttemptFailed, "a.fix1"), An(TaskFailed, "a.fix1"), An(TaskBranched),
        An(TaskDispatched, "a.fix2"),
    )  # fmt: skip
    story.when(found("a.fix2/1", 3)).then(
        An(TaskStarted), An(TaskCompleted, "a.fix2"), An(TaskCompleted, "a"), An(WorkflowCompleted)
    )
