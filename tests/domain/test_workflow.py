"""The rules of a workflow that goes well: start, dispatch, report, evidence, end, and the cancel of all of it.

Approvals and failures have rulebooks of their own, next to this one.

It is long because a good end takes all of it, one sentence for each rule.
"""

import msgspec
import pytest
from spec import AT_ONCE, NOW, TESTS, An, completed, given, green, receipt, red, start, started, verified

from domain.commands import Cancel, Redispatch
from domain.errors import Conflict, NotFound, Refused
from domain.events import (
    AskVoided,
    AttemptFailed,
    ReportRefused,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskReported,
    TaskStarted,
    TaskVerified,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowStarted,
)
from domain.outcome import Result
from domain.plan import Plan, Task
from domain.workflow import TASK_BYTES, decide

A, B = Task("a"), Task("b")
CHECKED = Task("a", acceptance_criteria=TESTS)
AFTER_A = Task("b", dependencies=("a",))
CANCEL = Cancel(now=NOW, by="pat")


# Start


def test_a_start_dispatches_all_that_depends_on_nothing_at_once() -> None:
    last = Task("c", dependencies=("a", "b"))
    given().when(start(A, B, last)).then(
        An(WorkflowStarted, workflow="w", base="c0"),
        An(TaskDispatched, "a", run="a/1", attempt=1, token=1, purpose="work", bases=("c0",)),
        An(TaskDispatched, "b", run="b/1", attempt=1, token=2, purpose="work", bases=("c0",)),
    )


def test_of_tasks_that_are_ready_the_most_urgent_go_first_and_equals_keep_the_plans_order() -> None:
    tasks = [Task(name, priority=priority) for name, priority in (("a", -1), ("b", 5), ("c", 0), ("d", 5))]
    given().when(start(*tasks)).then(An(WorkflowStarted), *(An(TaskDispatched, name) for name in "bdca"))


def test_a_dispatch_carries_all_the_agent_needs() -> None:
    task = Task("a", "Title", "Do it", "writer", timeout_seconds=9.0, inputs={"n": 1}, files=("x.py",))
    given().when(start(task)).then(
        An(WorkflowStarted),
        TaskDispatched(
            workflow="w", task="a", run="a/1", attempt=1, role="writer", token=1, due=NOW + 600, lease_seconds=30.0,
            timeout_seconds=9.0, title="Title", description="Do it", inputs={"n": 1}, files=("x.py",),
            repository="/srv/w.git", bases=("c0",),
        ),
    )  # fmt: skip


def test_a_workflow_is_started_once() -> None:
    given(start(A)).when(start(A)).refused(Conflict, "was started before")
    given(start(A), CANCEL).when(start(A)).refused(Conflict, "was started before")


@pytest.mark.parametrize("command", [started("a/1", 1), CANCEL, Redispatch(now=NOW, task="a", token=1)])
def test_nothing_can_be_asked_of_a_workflow_that_does_not_exist(command: object) -> None:
    given().when(command).refused(NotFound, "no such workflow")


# A task is started


def test_whoever_starts_a_run_holds_its_lease() -> None:
    given(start(Task("a", timeout_seconds=90.0))).when(started("a/1", 1, now=NOW + 5)).then(
        TaskStarted(task="a", run="a/1", agent="ann", lease_until=NOW + 35, timeout_at=NOW + 95)
    )


@pytest.mark.parametrize("agent", ["ann", ""])
def test_saying_twice_that_it_has_begun_changes_nothing_and_renews_no_deadline(agent: str) -> None:
    given(start(A), started("a/1", 1, agent)).when(started("a/1", 1, agent, now=NOW + 20)).then()


def test_a_second_agent_is_refused_what_the_first_one_holds() -> None:
    given(start(A), started("a/1", 1, "ann")).when(started("a/1", 1, "bob")).then(
        ReportRefused(task="a", run="a/1", token=1, agent="bob", kind="started", why="ann holds the lease")
    )


# Work without tests


def test_work_without_tests_is_completed_by_its_report() -> None:
    given(start(A), started("a/1", 1)).when(completed("a/1", 1)).then(
        TaskCompleted(task="a", run="a/1", agent="ann", result=Result("done", "c1"), usage=AT_ONCE),
        An(WorkflowCompleted, workflow="w"),
    )


def test_an_outcome_that_overtakes_the_word_that_it_began_says_both() -> None:
    story = given(start(A)).when(completed("a/1", 1))
    story.then(An(TaskStarted, "a", agent="ann"), An(TaskCompleted, "a"), An(WorkflowCompleted))
    story.when(started("a/1", 1)).then(An(ReportRefused, "a", kind="started", why="the task is completed"))


def test_what_a_completed_task_frees_is_dispatched_in_the_same_breath() -> None:
    rest = [Task(name, dependencies=("a",), priority=priority) for name, priority in (("b", 0), ("c", 1))]
    given(start(A, *rest)).when(completed("a/1", 1)).then(
        An(TaskStarted), An(TaskCompleted, "a"), An(TaskDispatched, "c", token=2), An(TaskDispatched, "b", token=3)
    )


def test_a_task_waits_for_the_last_of_its_dependencies_and_is_given_what_all_of_them_made() -> None:
    story = given(start(A, B, Task("c", dependencies=("a", "b", "a")))).when(completed("b/1", 2, "c2", data=[1]))
    story.then(An(TaskStarted), An(TaskCompleted, "b"))
    made = {"a": Result("done", "c1"), "b": Result("done", "c2", data=[1])}
    story.when(completed("a/1", 1, "c1")).then(
        An(TaskStarted), An(TaskCompleted, "a"), An(TaskDispatched, "c", bases=("c1", "c2"), dependencies=made)
    )


def test_a_task_that_commits_nothing_hands_on_what_it_was_built_on() -> None:
    rest = [Task("c", dependencies=("b",)), Task("d"), Task("e", dependencies=("b", "d"))]
    story = given(start(A, AFTER_A, *rest), completed("a/1", 1, "c1")).when(completed("b/1", 3, None))
    story.then(An(TaskStarted), An(TaskCompleted), An(TaskDispatched, "c", bases=("c1",)))
    story.when(completed("d/1", 2, None)).then(
        An(TaskStarted), An(TaskCompleted), An(TaskDispatched, "e", bases=("c1", "c0"))
    )


def test_results_too_large_for_a_dispatch_keep_their_commit() -> None:
    big = ["x" * 60_000]
    tasks = [Task(f"t{n}") for n in range(6)]
    last = Task("z", dependencies=tuple(task.id for task in tasks))
    story = given(start(*tasks, last), *(completed(f"t{n}/1", n + 1, data=big) for n in range(5)))
    story.when(completed("t5/1", 6, data=big)).then(An(TaskStarted), An(TaskCompleted), An(TaskDispatched, "z"))
    carried = story.events[-1].dependencies
    assert [carried[f"t{n}"].data for n in range(6)] == [big] * 4 + [None] * 2
    assert {result.commit for result in carried.values()} == {"c1"}


# Evidence


def test_work_with_tests_is_verified_by_a_tester_on_the_very_commit() -> None:
    given(start(CHECKED), started("a/1", 1)).when(completed("a/1", 1)).then(
        TaskReported(task="a", run="a/1", agent="ann", result=Result("done", "c1"), usage=AT_ONCE),
        TaskDispatched(
            workflow="w", task="a", run="a/verify.1", attempt=1, role="tester", token=2, due=NOW + 600,
            lease_seconds=30.0, timeout_seconds=90.0, purpose="verify", repository="/srv/w.git", bases=("c1",),
            tests=TESTS.tests, worker="ann",
        ),
    )  # fmt: skip


def test_a_verification_may_take_as_long_as_its_tests_and_a_minute() -> None:
    given(start(CHECKED), completed("a/1", 1)).when(started("a/verify.1", 2, "tess")).then(
        An(TaskStarted, "a", run="a/verify.1", agent="tess", timeout_at=NOW + 90)
    )


def test_green_tests_complete_the_work_of_whoever_did_it() -> None:
    given(start(CHECKED, AFTER_A), completed("a/1", 1)).when(verified("a/verify.1", 2, *green())).then(
        An(TaskStarted, "a", agent="tess"),
        TaskVerified(task="a", run="a/verify.1", agent="tess", passed=True, receipts=green(), usage=AT_ONCE),
        TaskCompleted(task="a", run="a/1", agent="ann", result=Result("done", "c1")),
        An(TaskDispatched, "b", bases=("c1",)),
    )


@pytest.mark.parametrize(
    "receipts",
    [
        pytest.param(green(commit="c0"), id="of another commit"),
        pytest.param(green(commit=None), id="of no commit"),
        pytest.param((receipt("true"), receipt("make lint")), id="of another test"),
        pytest.param(green()[:1], id="of some of the tests"),
        pytest.param(green()[::-1], id="in another order"),
        pytest.param((*green(), receipt("true")), id="of more than the tests"),
        pytest.param((), id="none at all"),
    ],
)
def test_receipts_of_anything_else_prove_nothing_and_the_tests_are_run_again(receipts: tuple[object, ...]) -> None:
    report = msgspec.structs.replace(verified("a/verify.1", 2), receipts=receipts)
    given(start(CHECKED), completed("a/1", 1), started("a/verify.1", 2, "tess")).when(report).then(
        An(AttemptFailed, "a", run="a/verify.1", agent="tess"),
        An(TaskDispatched, "a", run="a/verify.2", token=3, purpose="verify", bases=("c1",), worker="ann"),
    )


def test_a_run_of_one_purpose_takes_no_outcome_of_the_other() -> None:
    story = given(start(CHECKED)).when(verified("a/1", 1, *green(None)))
    story.then(An(ReportRefused, "a", kind="verified", why="run a/1 is there to work"))
    story = given(start(CHECKED), completed("a/1", 1)).when(completed("a/verify.1", 2, agent="tess"))
    story.then(An(ReportRefused, "a", kind="completed", why="run a/verify.1 is there to verify"))


# The end


def test_a_workflow_is_completed_with_its_last_task() -> None:
    story = given(start(A, B)).when(completed("b/1", 2)).then(An(TaskStarted), An(TaskCompleted, "b"))
    story.when(completed("a/1", 1)).then(An(TaskStarted), An(TaskCompleted, "a"), An(WorkflowCompleted))


def test_reports_after_the_end_are_refused_and_kept_visible() -> None:
    over = given(start(A), completed("a/1", 1))
    for report in (started("a/1", 1), completed("a/1", 1, "c2"), verified("a/1", 1)):
        over.when(report).then(An(ReportRefused, "a", run="a/1", token=1, why="the task is completed"))
    assert over.state.status == "completed"


def test_a_report_about_a_task_that_never_was_is_refused() -> None:
    given(start(A)).when(started("ghost/1", 1)).refused(NotFound, "no task ghost")


# Cancel


def test_cancelling_closes_every_open_task_and_no_other() -> None:
    asking = Task("c", approval=("before_dispatch",))
    given(start(A, B, asking, Task("d", dependencies=("b",))), completed("a/1", 1)).when(CANCEL).then(
        TaskCancelled(task="b", usage=AT_ONCE, by="pat"),
        An(AskVoided, "c", ask="ask-1", why="pat cancelled the workflow"),
        *(TaskCancelled(task=name, by="pat") for name in "cd"),
        WorkflowCancelled(workflow="w", by="pat"),
    )


def test_after_a_cancel_runs_are_void_asks_are_closed_and_cancelling_again_changes_nothing() -> None:
    story = given(start(A, Task("b", approval=("before_dispatch",))), started("a/1", 1), CANCEL)
    story.when(completed("a/1", 1)).then(An(ReportRefused, "a", why="the task is cancelled"))
    story.when(Redispatch(now=NOW, task="a", token=1)).then()
    story.when(story.answer("ask-1", "approve")).refused(Conflict, "task b is cancelled")
    story.when(CANCEL).then()
    assert story.state.open == 0


def test_a_workflow_that_ended_cannot_be_cancelled() -> None:
    given(start(A), completed("a/1", 1)).when(CANCEL).refused(Refused, "is completed: nothing is left")


# The size of it


def test_a_step_of_a_large_workflow_leads_to_no_more_than_it_would_in_a_small_one() -> None:
    many = [Task(f"t{n}", dependencies=(f"t{n - 1}",) if n else ()) for n in range(5_000)]
    assert len(decide(given(start(*many)).state, completed("t0/1", 1))) == 3


def test_a_plan_of_one_test_and_no_repository_needs_neither() -> None:
    plan = Plan(id="w", tasks=(msgspec.structs.replace(CHECKED, approval=()),))
    story = given(msgspec.structs.replace(start(A), plan=plan, base=None, repository=None))
    story.when(completed("a/1", 1, None)).then(An(TaskStarted), An(TaskReported), An(TaskDispatched, "a", bases=()))
    story.when(verified("a/verify.1", 2, *green(None))).then(
        An(TaskStarted), An(TaskVerified), An(TaskCompleted), An(WorkflowCompleted)
    )


def test_work_that_commits_nothing_is_tested_where_it_began() -> None:
    story = given(start(CHECKED), completed("a/1", 1, None)).when(verified("a/verify.1", 2, *green("c0")))
    story.then(An(TaskStarted), An(TaskVerified, passed=True), An(TaskCompleted), An(WorkflowCompleted))


def test_red_tests_of_a_cancelled_task_change_nothing() -> None:
    story = given(start(CHECKED), completed("a/1", 1), CANCEL).when(verified("a/verify.1", 2, *red()))
    story.then(An(ReportRefused, "a", kind="verified", why="the task is cancelled"))


# What is not taken


def test_who_did_the_work_does_not_judge_it() -> None:
    story = given(start(CHECKED), completed("a/1", 1))
    story.when(verified("a/verify.1", 2, *green(), agent="ann")).then(
        An(ReportRefused, "a", agent="ann", why="ann did the work and does not judge it")
    )
    story.when(verified("a/verify.1", 2, *green())).then(
        An(TaskStarted), An(TaskVerified), An(TaskCompleted), An(WorkflowCompleted)
    )


def test_a_task_too_large_for_a_message_is_refused_at_the_start() -> None:
    large = Task("a", inputs={"text": "x" * TASK_BYTES})
    given().when(start(large)).refused(Refused, "task a has .* bytes")


def test_what_a_dependency_found_out_is_handed_on_however_many_files_it_changed() -> None:
    files = tuple(f"src/generated/module_{number}.py" for number in range(20_000))
    story = given(start(Task("a"), Task("b", dependencies=("a",))))
    report = msgspec.structs.replace(completed("a/1", 1), result=Result("done", "c1", files, {"n": 1}))
    story.when(report).then(
        An(TaskStarted),
        An(TaskCompleted),
        An(TaskDispatched, "b", dependencies={"a": Result("done", "c1", (), {"n": 1})}),
    )
