"""The rules of time: of a workflow, in which a person who is asked and a pause do not count, and of a task in all."""

from typing import Any

import msgspec
from spec import NOBODY, NOW, TESTS, An, asked, completed, failed, given, red, retry, start, started, too_late, verified

from domain.clock import Clock
from domain.commands import Admit, Cancel, ExpireTask, ExpireWorkflow, Grant, Pause, Restore, Resume, StartWorkflow
from domain.events import (
    AskAnswered,
    AskExpired,
    AskOpened,
    AttemptFailed,
    ReportRefused,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskFailed,
    TaskSkipped,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowResumed,
    WorkflowTimedOut,
)
from domain.plan import Escalation, Plan, Task

ASKS = Task("a", approval=("before_dispatch",))


def begun(*tasks: Task, seconds: float | None = 100.0, escalation: Escalation = NOBODY) -> StartWorkflow:
    plan = Plan(id="w", tasks=tasks, timeout_seconds=seconds, escalation=escalation)
    return StartWorkflow(now=NOW, workflow="w", plan=plan, base="c0")


def over(after: float) -> ExpireWorkflow:
    return ExpireWorkflow(now=NOW + after)


def expired(after: float, task: str = "a") -> ExpireTask:
    return ExpireTask(now=NOW + after, task=task)


def at(command: Any, after: float) -> Any:
    return msgspec.structs.replace(command, now=NOW + after)


# Of a workflow


def test_a_workflow_that_takes_too_long_is_ended_with_all_its_tasks() -> None:
    story = given(begun(Task("a"), Task("b", dependencies=("a",))), started("a/1", 1))
    story.when(over(99)).then()
    story.when(over(100)).then(
        An(TaskCancelled, "a", by="clock", reason="it took longer than 100 s"), An(TaskCancelled, "b"),
        WorkflowTimedOut(workflow="w", reason="it took longer than 100 s"),
    )  # fmt: skip
    assert story.state.status == "timed_out"
    story.when(over(101)).then()
    story.when(completed("a/1", 1)).then(An(ReportRefused))


def test_half_an_hour_is_what_a_plan_gives_that_does_not_say() -> None:
    assert given(start(Task("a"))).state.clock.due == NOW + 1800
    assert given(begun(Task("a"), seconds=None)).state.clock.due is None
    given(begun(Task("a"), seconds=None)).when(over(1e9)).then()


def test_time_in_which_a_person_is_asked_does_not_count() -> None:
    story = given(begun(ASKS, Task("b", approval=("before_dispatch",))))
    story.when(over(1e6)).then()
    first = at(story.answer("ask-1", "approve"), 1000)
    story = given(begun(ASKS, Task("b", approval=("before_dispatch",))), first)
    story.when(over(1e6)).then()
    second = at(story.answer("ask-2", "approve"), 2000)
    story = given(begun(ASKS, Task("b", approval=("before_dispatch",))), first, second)
    assert story.state.clock.due == NOW + 2100


def test_time_in_which_it_is_paused_does_not_count() -> None:
    pause, resume = Pause(now=NOW + 40, by="pat"), Resume(now=NOW + 1040, by="pat")
    story = given(begun(Task("a")), pause).when(over(1e6)).then()
    story = given(begun(Task("a")), pause, resume)
    story.when(over(1099)).then()
    story.when(over(1100)).then(An(TaskCancelled, "a"), An(WorkflowTimedOut))


def test_a_pause_while_a_person_is_asked_counts_once() -> None:
    clock = Clock(100.0)
    clock.begin(0.0)
    clock.halt(10.0)
    clock.halt(20.0)
    clock.go(500.0)
    assert clock.due is None
    clock.go(600.0)
    assert clock.due == 690.0


def test_the_time_begins_anew_when_the_ledger_is_restored() -> None:
    story = given(begun(Task("a")), Restore(now=NOW + 5000, skipped=10))
    assert story.state.clock.due == NOW + 5100


def test_a_workflow_that_waits_for_its_place_has_no_time_yet_when_the_ledger_is_restored() -> None:
    queued = msgspec.structs.replace(begun(Task("a")), queued=True)
    story = given(queued, Restore(now=NOW + 5000, skipped=10))
    assert story.state.clock.due is None
    story = given(queued, Restore(now=NOW + 5000, skipped=10), Admit(now=NOW + 9000))
    assert story.state.clock.due == NOW + 9100


def test_an_ask_that_is_void_stops_no_clock() -> None:
    story = given(begun(ASKS, Task("b")), Cancel(now=NOW + 30, by="pat", task="a"))
    assert story.state.clock.due == NOW + 130


# Of a task


LIMITED = Task("a", total_seconds=50.0)


def test_a_task_has_its_time_for_all_attempts_together_from_the_first_dispatch_on() -> None:
    story = given(begun(LIMITED))
    assert story.state.tasks["a"].expires == NOW + 50
    story = given(begun(LIMITED), failed("a/1", 1), at(retry(2), 30))
    story.when(expired(49)).then()
    story.when(expired(50)).then(An(AttemptFailed, "a", run="a/2", attempt=2), An(TaskFailed, "a"), An(WorkflowFailed))
    assert story.events[1].failure.type == "timeout" and "longer than 50 s in all" in story.events[1].failure.message


def test_a_task_whose_time_is_over_between_two_attempts_has_no_other() -> None:
    story = given(begun(LIMITED, Task("b", dependencies=("a",))), failed("a/1", 1)).when(expired(50))
    story.then(An(TaskFailed, "a"), An(TaskSkipped, "b"), An(WorkflowFailed))


def test_a_person_may_give_a_task_whose_time_is_over_all_of_it_anew() -> None:
    story = given(begun(LIMITED, escalation=Escalation()), failed("a/1", 1))
    story.when(expired(50)).then(An(AskOpened, "a", kind="escalation", at=NOW + 50))
    story.when(expired(1e6)).then()
    story.when(at(story.answer("ask-1", "fail"), 900)).then(An(AskAnswered), An(TaskFailed, "a"), An(WorkflowFailed))
    assert story.events[1].failure.message == "task a took longer than 50 s in all"
    story = given(begun(LIMITED, escalation=Escalation()), expired(50))
    story.when(at(story.answer("ask-1", "retry"), 900)).then(
        An(AskAnswered), An(TaskDispatched, run="a/2", expires=NOW + 950)
    )


def test_where_nobody_is_asked_what_was_done_until_then_is_accepted_if_the_plan_says_so() -> None:
    tested = Task("a", total_seconds=50.0, acceptance_criteria=TESTS)
    accepts = begun(tested, escalation=Escalation(due_seconds=0.0, default="accept"))
    given(accepts, completed("a/1", 1)).when(expired(50)).then(
        An(AttemptFailed), An(TaskCompleted, "a", run="a/1", waived_by="the plan"), An(WorkflowCompleted)
    )
    story = given(accepts, completed("a/1", 1), verified("a/verify.1", 2, *red()), retry(2))
    story.when(expired(50)).then(An(AttemptFailed), An(AskOpened, "a", kind="escalation", due=NOW + 50))
    story.when(too_late("ask-1", NOW + 50)).then(
        An(AskExpired, choice="accept"), An(TaskCompleted, "a", run="a/1"), An(WorkflowCompleted)
    )


def test_who_mends_a_task_has_no_more_time_than_the_task() -> None:
    task = Task("a", total_seconds=50.0, acceptance_criteria=TESTS, failure_routing={"test_failure": "debugger"})
    story = given(begun(task), completed("a/1", 1), verified("a/verify.1", 2, *red())).when(expired(50))
    story.then(An(TaskCancelled, "a.fix1", by="clock"), An(TaskFailed, "a"), An(WorkflowFailed))


def test_time_in_which_a_task_waits_for_a_person_or_a_slot_does_not_count() -> None:
    asking = Task("a", total_seconds=50.0, approval=("before_completion",), failure_routing={"refused": "coder"})
    story = given(begun(asking), at(completed("a/1", 1), 20))
    story.when(expired(1e6)).then()
    held = given(begun(LIMITED), at(failed("a/1", 1), 10), Pause(now=NOW + 10, by="pat"), at(retry(2), 15))
    held.when(expired(1e6)).then()
    held.when(Resume(now=NOW + 1000, by="pat")).then(
        An(WorkflowResumed, by="pat"), An(TaskDispatched, expires=NOW + 1035)
    )


def test_time_in_which_it_queues_for_its_slot_does_not_count() -> None:
    task = Task("a", total_seconds=50.0, resources=("repo:x",))
    story = given(
        start(task), Grant(now=NOW, task="a", run="a/1"), started("a/1", 1), at(failed("a/1", 1), 10), at(retry(2), 20)
    )
    story.when(expired(1e6)).then()
    story.when(Grant(now=NOW + 1000, task="a", run="a/2")).then(An(TaskDispatched, expires=NOW + 1030))


MENDED = Task(
    "a", total_seconds=50.0, acceptance_criteria=TESTS, failure_routing={"test_failure": "debugger"}, max_attempts=9
)


def test_time_in_which_its_branch_waits_for_a_person_does_not_count_either() -> None:
    history = begun(MENDED), completed("a/1", 1), verified("a/verify.1", 2, *red()), at(asked("a.fix1/1", 3), 20)
    story = given(*history)
    story.when(expired(1e6)).then()
    story.when(at(story.answer("ask-1", "so"), 1000)).then(
        An(AskAnswered), An(TaskDispatched, "a.fix1", expires=NOW + 1030)
    )
    story.when(expired(1029)).then()
    story.when(expired(1030)).then(
        An(TaskCancelled, "a.fix1", by="clock"), An(TaskFailed, "a"), An(WorkflowFailed)
    )  # fmt: skip


def test_time_in_which_its_branch_is_held_by_a_pause_does_not_count_either() -> None:
    pause = Pause(now=NOW + 10, by="pat")
    story = given(begun(MENDED), completed("a/1", 1), pause, at(verified("a/verify.1", 2, *red()), 20))
    story.when(expired(1e6)).then()
    story.when(Resume(now=NOW + 1000, by="pat")).then(
        An(WorkflowResumed), An(TaskDispatched, "a.fix1", expires=NOW + 1030)
    )
    assert story.state.tasks["a"].expires == NOW + 1030


def test_a_task_without_a_limit_never_expires() -> None:
    story = given(begun(Task("a")))
    assert story.state.tasks["a"].expires is None
    story.when(expired(1e9)).then()
    story.when(expired(1e9, "ghost")).then()
