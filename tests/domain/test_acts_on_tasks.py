"""The rules by which a plan changes while it is carried out: tasks are edited, added, split; groups complete themselves."""

from typing import Any

from spec import NOW, TESTS, An, completed, failed, given, green, red, retry, start, started, verified

from domain.acts import TASK_BYTES, InvalidTasks
from domain.commands import (
    Act,
    AddTasks,
    Cancel,
    EditTask,
    Pause,
    Prioritise,
    Resume,
    RetryNow,
    SplitTask,
    StartWorkflow,
)
from domain.errors import Conflict, Refused
from domain.events import (
    AskAnswered,
    AskOpened,
    AskVoided,
    AttemptFailed,
    RetryScheduled,
    TaskAdded,
    TaskCompleted,
    TaskDispatched,
    TaskEdited,
    TaskHeld,
    TaskPrioritised,
    TaskReported,
    TaskStarted,
    TaskVerified,
    WorkflowCompleted,
    WorkflowPaused,
    WorkflowResumed,
)
from domain.plan import Plan, Task

A, B = Task("a"), Task("b")
AFTER_A = Task("b", dependencies=("a",))


def by_pat(act: type[Act], **fields: Any) -> Any:
    return act(now=NOW, by="pat", reason="so be it", **fields)


def edit(task: str, **changes: Any) -> Any:
    return by_pat(EditTask, task=task, changes=changes)


def add(*tasks: Task) -> Any:
    return by_pat(AddTasks, tasks=tasks)


def split(task: str, *parts: Task, replace: bool = False) -> Any:
    return by_pat(SplitTask, task=task, parts=parts, replace=replace)


# Edit


def test_a_task_that_waits_is_edited_and_then_done_as_it_is_now() -> None:
    story = given(start(A, AFTER_A))
    change = edit("b", description="Do it well.", inputs={"n": 2}, agent_role="writer", capabilities=["latin"],
                  timeout_seconds=60)  # fmt: skip
    after = Task("b", description="Do it well.", inputs={"n": 2}, agent_role="writer", capabilities=("latin",),
                 timeout_seconds=60.0, dependencies=("a",))  # fmt: skip
    story.when(change).then(TaskEdited(task="b", spec=after, by="pat", reason="so be it"))
    story.when(change).then()
    story.when(completed("a/1", 1)).then(
        An(TaskStarted), An(TaskCompleted),
        An(TaskDispatched, "b", role="writer", capabilities=("latin",), description="Do it well.", inputs={"n": 2},
           timeout_seconds=60.0),
    )  # fmt: skip


def test_tests_and_attempts_can_be_given_to_a_task_that_waits_for_its_next_attempt() -> None:
    story = given(start(Task("a", max_attempts=2)), failed("a/1", 1))
    story.when(edit("a", max_attempts=3, acceptance_criteria={"tests": [{"cmd": "make test"}]})).then(An(TaskEdited))
    story.when(retry(2)).then(An(TaskDispatched, "a"))
    story.when(completed("a/2", 2)).then(An(TaskStarted), An(TaskReported), An(TaskDispatched, purpose="verify"))


def test_a_task_that_is_given_to_another_role_needs_nothing_besides_there_unless_it_is_said() -> None:
    story = given(start(A, Task("b", dependencies=("a",), capabilities=("gpu",))))
    story.when(edit("b", title="B")).then(
        An(TaskEdited, spec=Task("b", "B", dependencies=("a",), capabilities=("gpu",)))
    )
    story.when(edit("b", agent_role="writer")).then(
        An(TaskEdited, spec=Task("b", "B", agent_role="writer", dependencies=("a",)))
    )
    story.when(edit("b", agent_role="writer")).then()


def test_a_task_is_not_edited_while_it_is_under_way() -> None:
    given(start(A), started("a/1", 1)).when(edit("a", description="x")).refused(
        Refused, r"task a is running and cannot be edited: it is under way \(a/1\)"
    )
    given(start(Task("a", approval=("before_completion",))), completed("a/1", 1)).when(
        edit("a", description="x")
    ).refused(Refused, "answer ask-1 first")
    given(start(A, B), completed("a/1", 1)).when(edit("a", description="x")).refused(Refused, "task a is completed")


def test_of_a_task_that_waits_for_a_slot_nobody_says_that_it_is_under_way() -> None:
    story = given(start(Task("a", resources=("repo:x",))))
    for act in (edit("a", title="A"), split("a", B), by_pat(RetryNow, task="a")):
        story.when(act).refused(Refused, r"a is queued and cannot be .*: it waits for a slot")


def test_what_a_person_is_to_approve_can_be_edited_and_is_asked_for_anew() -> None:
    story = given(start(Task("a", approval=("before_dispatch",))))
    old = story.answer("ask-1", "approve")
    story.when(edit("a", description="x")).then(
        An(AskVoided, "a", ask="ask-1", why="so be it"), An(TaskEdited, "a"), An(AskOpened, "a", ask="ask-2")
    )
    story.when(old).refused(Conflict, "ask ask-1 is void, what it showed is no longer so: ask ask-2 asks anew")
    story.when(story.answer("ask-2", "approve")).then(An(AskAnswered), An(TaskDispatched, "a", description="x"))


def test_how_urgent_a_task_is_changes_nothing_of_what_was_approved() -> None:
    story = given(start(Task("a", approval=("before_dispatch",))))
    story.when(edit("a", priority=7)).then(An(TaskEdited, "a"))
    story.when(by_pat(Prioritise, task="a", priority=9)).then(An(TaskPrioritised, "a"))
    story.when(story.answer("ask-1", "approve")).then(An(AskAnswered), An(TaskDispatched, "a"))


def test_what_was_approved_and_edited_while_it_was_held_is_asked_for_anew() -> None:
    story = given(start(Task("a", approval=("before_dispatch",))), by_pat(Pause))
    story = story.when(story.answer("ask-1", "approve")).then(An(AskAnswered), An(TaskHeld, "a"))
    story.when(edit("a", description="x")).then(An(TaskEdited, "a"))
    story.when(by_pat(Resume)).then(An(WorkflowResumed), An(AskOpened, "a", ask="ask-2", kind="before_dispatch"))
    story.when(by_pat(Pause)).then(An(WorkflowPaused))
    story.when(by_pat(Resume)).then(An(WorkflowResumed))


def test_an_edit_that_no_plan_could_hold_names_the_place() -> None:
    story = given(start(A, AFTER_A))
    for changes, place in (
        ({"agent_role": "codr"}, "/changes/agent_role: unknown role"),
        ({"max_attempts": 0}, "/changes/max_attempts: must be at least 1"),
        ({"dependencies": []}, "/changes/dependencies: it cannot be edited"),
        ({"inputs": 3}, "/changes/inputs: expected object"),
        ({"acceptance_criteria": {"tests": [{"cmd": " "}]}}, "/changes/acceptance_criteria/tests/0/cmd"),
    ):
        story.when(edit("b", **changes)).refused(InvalidTasks, place)
    story.when(edit("b", description="x" * TASK_BYTES)).refused(Refused, "task b has .* bytes, the limit is")


# Add


def test_tasks_are_added_after_those_they_depend_on_and_what_is_ready_begins() -> None:
    story = given(start(A, B), completed("a/1", 1))
    new = (Task("e", dependencies=("d", "b")), Task("d", dependencies=("a",), priority=3), Task("f"))
    story.when(add(*new)).then(
        TaskAdded(task="d", spec=new[1], by="pat", reason="so be it"), An(TaskAdded, "f"), An(TaskAdded, "e"),
        An(TaskDispatched, "d", bases=("c1",)), An(TaskDispatched, "f", bases=("c0",)),
    )  # fmt: skip
    assert list(story.events[3].dependencies) == ["a"]
    story.when(add(*new)).then()
    story.when(completed("b/1", 2, "c2")).then(An(TaskStarted), An(TaskCompleted))
    story.when(completed("d/1", 3, "c3")).then(
        An(TaskStarted), An(TaskCompleted), An(TaskDispatched, "e", bases=("c3", "c2"))
    )


def test_what_cannot_be_added_is_refused_and_the_place_named() -> None:
    story = given(start(Task("a", max_attempts=1), B), failed("a/1", 1))
    for new, place in (
        ([Task("c", dependencies=("nowhere",))], '/tasks/0/dependencies/0: unknown task "nowhere"'),
        ([Task("c", dependencies=("d",)), Task("d", dependencies=("c",))], "cycle in dependencies"),
        ([Task("c"), Task("c")], "already taken at /tasks/0/id"),
        ([Task("c.d")], "/tasks/0/id"),
        ([Task("c", agent_role="codr")], "/tasks/0/agent_role"),
    ):
        story.when(add(*new)).refused(InvalidTasks, place)
    story.when(add(Task("b", title="other"))).refused(Refused, "has a task b already: give the new one another id")
    story.when(add(Task("c", dependencies=("a",)))).refused(Refused, "task c would wait for ever: a is failed")
    story.when(add(Task("c", description="x" * TASK_BYTES))).refused(Refused, "task c has .* bytes")


def test_roles_of_the_plan_hold_for_what_is_added() -> None:
    begun = StartWorkflow(now=NOW, workflow="w", plan=Plan(id="w", tasks=(A,), roles=("painter",)))
    story = given(begun).when(add(Task("c", agent_role="painter")))
    story.then(An(TaskAdded, "c"), An(TaskDispatched, "c", role="painter"))


def test_what_is_added_while_paused_is_held() -> None:
    story = given(start(A), by_pat(Pause), add(B))
    assert story.state.tasks["b"].held
    story.when(by_pat(Resume)).then(An(WorkflowResumed), An(TaskDispatched, "b"))


def test_what_is_added_is_asked_about_if_it_says_so() -> None:
    story = given(start(A)).when(add(Task("c", approval=("before_dispatch",))))
    story.then(An(TaskAdded, "c"), An(AskOpened, "c"))


# Split


def test_a_task_that_is_split_waits_for_its_parts_which_wait_for_what_it_waited_for() -> None:
    story = given(start(A, AFTER_A, Task("c", dependencies=("b",))))
    parts = Task("b1"), Task("b2", dependencies=("b1",))
    story.when(split("b", *parts)).then(
        An(TaskAdded, "b1", spec=Task("b1", parent_id="b", dependencies=("a",))),
        An(TaskAdded, "b2", spec=Task("b2", parent_id="b", dependencies=("a", "b1"))),
        An(TaskEdited, "b", spec=Task("b", dependencies=("a", "b1", "b2"))),
    )
    story.when(split("b", *parts)).then()
    story.when(completed("a/1", 1)).then(An(TaskStarted), An(TaskCompleted), An(TaskDispatched, "b1"))
    story.when(completed("b1/1", 2, "c2")).then(An(TaskStarted), An(TaskCompleted), An(TaskDispatched, "b2"))
    story.when(completed("b2/1", 3, "c3")).then(
        An(TaskStarted), An(TaskCompleted), An(TaskDispatched, "b", run="b/1", bases=("c1", "c2", "c3"))
    )


def test_a_task_that_its_parts_replace_completes_with_them() -> None:
    story = given(start(A, Task("c", dependencies=("a",))), failed("a/1", 1))
    story.when(split("a", Task("a1"), Task("a2"), replace=True)).then(
        An(TaskAdded, "a1"), An(TaskAdded, "a2"), An(TaskEdited, "a", spec=Task("a", dependencies=("a1", "a2"), group=True)),
        An(TaskDispatched, "a1"), An(TaskDispatched, "a2"),
    )  # fmt: skip
    assert story.state.tasks["a"].status == "pending", "its backoff is over"
    story.when(completed("a1/1", 2)).then(An(TaskStarted), An(TaskCompleted))
    story.when(completed("a2/1", 3, "c2")).then(
        An(TaskStarted), An(TaskCompleted, "a2"), An(TaskCompleted, "a", agent=""),
        An(TaskDispatched, "c", bases=("c1", "c2")),
    )  # fmt: skip


def test_what_cannot_be_split_says_why() -> None:
    running = given(start(A, AFTER_A), started("a/1", 1))
    running.when(split("a", Task("x"))).refused(Refused, "a is running and cannot be split: it is under way")
    running.when(split("b", Task("x", dependencies=("b",)))).refused(
        InvalidTasks, "/parts/0/dependencies: part x cannot"
    )
    running.when(split("b")).refused(InvalidTasks, "at least one part")
    running.when(split("b", Task("x", agent_role="codr"))).refused(InvalidTasks, "/parts/0/agent_role")
    running.when(split("b", Task("a", title="other"))).refused(Refused, "has a task a already")


# Groups


def test_a_group_completes_when_what_it_waits_for_has_and_frees_others_in_the_same_decision() -> None:
    story = given(start(A, Task("g", dependencies=("a",), group=True), Task("c", dependencies=("a", "g"))))
    story.when(completed("a/1", 1)).then(
        An(TaskStarted), An(TaskCompleted, "a"), An(TaskCompleted, "g"), An(TaskDispatched, "c", bases=("c1",))
    )


def test_the_tests_of_a_group_are_run_on_what_its_parts_made_and_if_they_fail_an_agent_is_asked() -> None:
    story = given(start(A, B, Task("g", dependencies=("a", "b"), group=True, acceptance_criteria=TESTS)))
    story.when(completed("a/1", 1)).then(An(TaskStarted), An(TaskCompleted))
    story.when(completed("b/1", 2, "c2")).then(
        An(TaskStarted), An(TaskCompleted, "b"), An(TaskReported, "g", agent=""),
        An(TaskDispatched, "g", purpose="verify", bases=("c1", "c2"), tests=TESTS.tests),
    )  # fmt: skip
    good, bad = green("m"), red("m")
    story.when(verified("g/verify.1", 3, *bad)).then(
        An(TaskStarted), An(TaskVerified, passed=False), An(AttemptFailed, "g"), An(RetryScheduled, "g", attempt=2)
    )
    story.when(retry(2, "g")).then(An(TaskDispatched, "g", purpose="work", run="g/2"))
    story.when(completed("g/2", 4, "m")).then(An(TaskStarted), An(TaskReported), An(TaskDispatched, purpose="verify"))
    story.when(verified("g/verify.2", 5, *good)).then(
        An(TaskStarted), An(TaskVerified), An(TaskCompleted, "g", agent="ann"), An(WorkflowCompleted)
    )


def test_a_person_may_be_asked_before_a_group_completes() -> None:
    both = ("before_dispatch", "before_completion")
    story = given(start(Task("g", group=True, approval=both)))
    story.when(story.answer("ask-1", "approve")).then(An(AskAnswered), An(TaskReported), An(AskOpened, "g"))
    story.when(story.answer("ask-2", "approve")).then(An(AskAnswered), An(TaskCompleted, "g"), An(WorkflowCompleted))


def test_a_chain_of_groups_of_any_length_completes_at_once() -> None:
    groups = [Task(f"g{n}", dependencies=(f"g{n - 1}",) if n else ("a",), group=True) for n in range(3000)]
    story = given(start(A, *groups), completed("a/1", 1))
    assert story.state.status == "completed" and story.state.open == 0


def test_a_cancel_of_one_part_ends_the_whole() -> None:
    story = given(start(A, B), by_pat(Pause), by_pat(Cancel, task="b"), by_pat(Resume), completed("a/1", 1))
    assert story.state.status == "failed"


def test_a_group_that_is_split_after_its_tests_have_failed_has_a_second_result_of_its_own() -> None:
    group = Task("g", dependencies=("a",), group=True, acceptance_criteria=TESTS)
    story = given(start(A, group), completed("a/1", 1), verified("g/verify.1", 2, *red()), split("g", B))
    story.when(completed("b/1", 3)).then(
        An(TaskStarted), An(TaskCompleted, "b"), An(TaskReported, "g", run="g/parts.3"),
        An(TaskDispatched, "g", run="g/verify.2", purpose="verify"),
    )  # fmt: skip
