"""Workflows that wait for their place, and tasks that wait for a slot of their role or for a resource."""

import msgspec
import pytest
from spec import NOW, An, completed, failed, given, offer_again, retry, start, started

from domain.commands import Admit, Cancel, Command, Grant
from domain.errors import Refused
from domain.events import (
    AttemptFailed,
    RetryScheduled,
    TaskBranched,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskQueued,
    TaskStarted,
    WorkflowAdmitted,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowStarted,
)
from domain.plan import Task
from domain.validate import problems

LOCKED = Task("a", resources=("repo:x",), priority=3)
QUEUED = TaskQueued(task="a", run="a/1", role="coder", resources=("repo:x",), priority=3, at=NOW)


def limited(*tasks: Task, queued: bool = False, roles: tuple[str, ...] = ("coder",)) -> Command:
    return msgspec.structs.replace(start(*tasks), queued=queued, limited_roles=roles)


def grant(run: str) -> Grant:
    return Grant(now=NOW, task=run.split("/")[0], run=run)


def test_a_queued_workflow_dispatches_nothing_before_it_is_admitted() -> None:
    story = given().when(limited(Task("a"), Task("b", dependencies=("a",)), queued=True, roles=()))
    story.then(An(WorkflowStarted, queued=True))
    assert story.state.status == "queued"
    story.when(Admit(now=NOW)).then(WorkflowAdmitted(workflow="w", at=NOW), An(TaskDispatched, "a", run="a/1"))
    story.when(Admit(now=NOW)).then()


def test_a_queued_workflow_can_be_cancelled_and_is_then_not_admitted() -> None:
    story = given(limited(Task("a"), queued=True)).when(Cancel(now=NOW, by="pat"))
    story.then(An(TaskCancelled, "a"), An(WorkflowCancelled, by="pat"))
    story.when(Admit(now=NOW)).then()
    story.when(Cancel(now=NOW, by="pat")).then()


def test_a_task_with_resources_is_dispatched_when_it_has_them() -> None:
    story = given().when(start(LOCKED)).then(An(WorkflowStarted), QUEUED)
    story.when(grant("a/1")).then(An(TaskDispatched, "a", run="a/1", attempt=1))
    story.when(grant("a/1")).then()
    story.when(completed("a/1", 1)).then(An(TaskStarted), An(TaskCompleted), An(WorkflowCompleted))


def test_a_task_of_a_limited_role_waits_and_others_do_not() -> None:
    story = given().when(limited(Task("a"), Task("b", agent_role="writer")))
    story.then(An(WorkflowStarted), An(TaskQueued, "a", role="coder"), An(TaskDispatched, "b"))


def test_a_grant_of_another_run_or_of_no_task_is_none() -> None:
    story = given(start(LOCKED))
    for other in ("a/2", "b/1"):
        story.when(grant(other)).then()


def test_every_attempt_waits_for_its_slot_anew() -> None:
    story = given(start(LOCKED), grant("a/1"), started("a/1", 1)).when(failed("a/1", 1))
    story.then(An(AttemptFailed, "a"), An(RetryScheduled, "a", attempt=2))
    story.when(retry(2)).then(An(TaskQueued, "a", run="a/2"))
    story.when(retry(2)).then()
    story.when(grant("a/1")).then()
    story.when(grant("a/2")).then(An(TaskDispatched, "a", run="a/2", attempt=2))


def test_the_same_run_that_is_offered_again_keeps_what_it_has() -> None:
    given(start(LOCKED), grant("a/1")).when(offer_again(1)).then(An(TaskDispatched, "a", run="a/1", token=2))


def test_a_fix_of_a_task_with_resources_waits_for_the_same() -> None:
    fixed = msgspec.structs.replace(LOCKED, failure_routing={"agent_error": "debugger"})
    story = given(start(fixed), grant("a/1"), started("a/1", 1)).when(failed("a/1", 1))
    story.then(
        An(AttemptFailed, "a"),
        An(TaskBranched, "a"),
        An(TaskQueued, "a.fix1", run="a.fix1/1", role="debugger", resources=("repo:x",)),
    )
    story.when(grant("a.fix1/1")).then(An(TaskDispatched, "a.fix1", run="a.fix1/1", bases=("c0",)))
    assert story.events[0].debug.parent == "a"


def test_a_task_that_waits_for_a_slot_can_be_cancelled_and_is_then_not_dispatched() -> None:
    story = given(start(LOCKED)).when(Cancel(now=NOW, by="pat")).then(An(TaskCancelled, "a"), An(WorkflowCancelled))
    story.when(grant("a/1")).then()


def test_what_nobody_knows_is_not_admitted() -> None:
    given().when(Admit(now=NOW)).refused(Refused, "no such workflow")


@pytest.mark.parametrize(
    ("resources", "wrong"),
    [
        ('["repo:x", "repo:x"]', 'already listed'),
        ('["Repo"]', "does not match"),
        ('[""]', "does not match"),
        (str([f"r{n}" for n in range(17)]).replace("'", '"'), "at most 16"),
    ],
)  # fmt: skip
def test_resources_are_checked_with_the_plan(resources: str, wrong: str) -> None:
    (found,) = problems(f'{{"id": "w", "tasks": [{{"id": "a", "resources": {resources}}}]}}'.encode())
    assert found.pointer.startswith("/tasks/0/resources")
    assert wrong in found.message
