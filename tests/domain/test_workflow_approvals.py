"""The rules of what needs a person: asked before dispatch or before completion, answered once, for what was shown."""

import msgspec
from spec import NOW, TESTS, An, completed, failed, given, green, retry, start, verified

from domain.errors import Conflict, NotFound
from domain.events import (
    AskAnswered,
    AskOpened,
    AttemptFailed,
    RetryScheduled,
    TaskBranched,
    TaskCompleted,
    TaskDispatched,
    TaskFailed,
    TaskReported,
    TaskSkipped,
    TaskStarted,
    TaskVerified,
    WorkflowFailed,
    WorkflowStarted,
)
from domain.outcome import Failure
from domain.plan import Task

A, AFTER_A = Task("a"), Task("b", dependencies=("a",))
CHECKED = Task("a", acceptance_criteria=TESTS)
BEFORE, AFTER = ("before_dispatch",), ("before_completion",)


# Approval before dispatch


def test_a_task_that_needs_approval_is_shown_before_it_is_dispatched() -> None:
    story = given(start(A, Task("b", "Pay", dependencies=("a",), approval=BEFORE)))
    story.when(completed("a/1", 1)).then(An(TaskStarted), An(TaskCompleted), An(AskOpened, "b", kind="before_dispatch"))
    made = {"summary": "done", "commit": "c1"}
    task = {"id": "b", "title": "Pay", "dependencies": ("a",), "approval": BEFORE}
    shown = {"task": task, "bases": ("c1",), "dependencies": {"a": made}}
    assert story.events[-1].content == shown


def test_approved_it_is_dispatched() -> None:
    story = given(start(Task("a", approval=BEFORE)))
    story.when(story.answer("ask-1", "approve", because="fine")).then(
        AskAnswered(ask="ask-1", task="a", choice="approve", by="pat", because="fine", at=NOW),
        An(TaskDispatched, "a", run="a/1", attempt=1),
    )


def test_refused_it_has_failed_and_what_depends_on_it_is_skipped() -> None:
    last = Task("c", dependencies=("b",))
    story = given(start(Task("a", approval=BEFORE, failure_routing={"refused": "coder"}), AFTER_A, last))
    story.when(story.answer("ask-1", "reject", because="too dear")).then(
        An(AskAnswered, "a", choice="reject"),
        TaskFailed(task="a", failure=Failure("refused", "too dear")),
        TaskSkipped(task="b", because="a"),
        TaskSkipped(task="c", because="b"),
        WorkflowFailed(workflow="w", reason="failed: a"),
    )


# Approval before completion


def test_before_completion_a_person_is_shown_the_result_and_the_evidence_for_it() -> None:
    task = msgspec.structs.replace(CHECKED, approval=AFTER)
    story = given(start(task), completed("a/1", 1)).when(verified("a/verify.1", 2, *green()))
    story.then(An(TaskStarted), An(TaskVerified, passed=True), An(AskOpened, "a", kind="before_completion"))
    content = story.events[-1].content
    assert content["result"] == {"summary": "done", "commit": "c1"}
    assert [proof["cmd"] for proof in content["receipts"]] == ["make test", "make lint"]


def test_approved_the_work_counts_as_its_agents() -> None:
    story = given(start(Task("a", approval=AFTER), AFTER_A)).when(completed("a/1", 1))
    story.then(An(TaskStarted), An(TaskReported, "a", run="a/1"), An(AskOpened, "a", ask="ask-1"))
    story.when(story.answer("ask-1", "approve")).then(
        An(AskAnswered, choice="approve"), An(TaskCompleted, "a", run="a/1", agent="ann"), An(TaskDispatched, "b")
    )


def test_refused_the_work_is_not_tried_again() -> None:
    story = given(start(Task("a", approval=AFTER)), completed("a/1", 1))
    story.when(story.answer("ask-1", "reject")).then(
        An(AskAnswered, choice="reject"),
        TaskFailed(task="a", failure=Failure("refused", "pat refused it")),
        An(WorkflowFailed),
    )


def test_an_approval_of_dispatch_is_none_of_completion() -> None:
    story = given(start(Task("a", approval=("before_dispatch", "before_completion"))))
    story.when(story.answer("ask-1", "approve")).then(An(AskAnswered), An(TaskDispatched, "a"))
    story.when(completed("a/1", 1)).then(An(TaskStarted), An(TaskReported), An(AskOpened, "a", ask="ask-2"))


# Answers


def test_an_answer_holds_only_for_exactly_what_was_shown() -> None:
    asked = given(start(Task("a", approval=BEFORE)))
    asked.when(asked.answer("ask-1", "approve", shown="f" * 64)).refused(Conflict, "shows something else")


def test_the_hash_tells_different_things_apart_and_equal_things_together() -> None:
    def shown(task: Task) -> str:
        return given(start(task)).state.asks["ask-1"].shown

    task = Task("a", "One", approval=BEFORE)
    assert shown(task) == shown(msgspec.structs.replace(task))
    assert shown(task) != shown(msgspec.structs.replace(task, title="Two"))


def test_an_ask_is_answered_once() -> None:
    story = given(start(Task("a", approval=BEFORE)))
    yes, no = story.answer("ask-1", "approve"), story.answer("ask-1", "reject")
    story.when(yes).then(An(AskAnswered), An(TaskDispatched))
    story.when(yes).refused(Conflict, "was answered by pat")
    story.when(no).refused(Conflict, "was answered by pat")


def test_an_ask_that_was_never_opened_has_no_answer() -> None:
    asked = given(start(A))
    asked.when(asked.answer("ask-9", "approve", shown="f" * 64)).refused(NotFound, "no ask ask-9")


def test_asks_are_numbered_through_within_one_decision() -> None:
    shy = [Task(name, approval=BEFORE) for name in "ab"]
    given().when(start(*shy)).then(An(WorkflowStarted), An(AskOpened, "a", ask="ask-1"), An(AskOpened, ask="ask-2"))


# A refusal that the plan sends to somebody


ROUTED = Task("a", approval=AFTER, failure_routing={"refused": "coder"}, max_debug_attempts=1)


def test_a_refusal_that_is_routed_opens_a_branch_and_its_work_is_shown_again() -> None:
    story = given(start(ROUTED), completed("a/1", 1))
    story.when(story.answer("ask-1", "reject", because="too slow")).then(
        An(AskAnswered), An(TaskBranched, "a"), An(TaskDispatched, "a.fix1", role="coder", bases=("c1",))
    )
    debug = story.events[-1].debug
    assert (debug.reason, debug.instructions) == ("refused", "too slow")
    story.when(completed("a.fix1/1", 2, "c2")).then(
        An(TaskStarted), An(TaskCompleted, "a.fix1"), An(TaskReported, "a"), An(AskOpened, "a", ask="ask-2")
    )
    assert story.state.asks["ask-1"].shown != story.state.asks["ask-2"].shown


def test_a_refusal_whose_branch_fails_is_final() -> None:
    task = msgspec.structs.replace(ROUTED, max_attempts=2)
    story = given(start(task), failed("a/1", 1), retry(2), completed("a/2", 2))
    story.when(story.answer("ask-1", "reject", because="too slow")).then(
        An(AskAnswered), An(TaskBranched), An(TaskDispatched)
    )
    story.when(failed("a.fix1/1", 3)).then(An(TaskStarted), An(AttemptFailed), An(RetryScheduled, "a.fix1"))
    story.when(retry(2, "a.fix1")).then(An(TaskDispatched))
    story.when(failed("a.fix1/2", 4)).then(
        An(TaskStarted),
        An(AttemptFailed, "a.fix1"),
        An(TaskFailed, "a.fix1"),
        TaskFailed(task="a", failure=Failure("refused", "too slow")),
        An(WorkflowFailed),
    )
