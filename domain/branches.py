"""Branches: the tasks that mend a task. Which they are, what they are made of, and what they are told.

A branch is named after the task or branch it is under: `a.fix1`, and `a.fix1.fix1` below it. The task that waits for it
is the nearest above that is not over (`domain.state.waiting`).
"""

from collections.abc import Iterator

import msgspec

from domain.events import Debug
from domain.outcome import Failure
from domain.plan import AcceptanceCriteria, Task
from domain.state import CLOSED, TaskState, Workflow, bases, waiting


def branch(task: TaskState, role: str, under: TaskState, failure: Failure) -> Task:
    """The same work for somebody else: its result has to be what the task's has to be, its failures go the same ways.

    Tests and approvals stay with the task, which is judged by them when the branch is done.
    """
    spec = task.spec
    return Task(
        id=_name(under, under.branches + 1), title=spec.title if task.depth else f"Fix {spec.title or spec.id}",
        description=spec.description, agent_role=role, timeout_seconds=spec.timeout_seconds,
        max_attempts=spec.max_attempts, retry=spec.retry, failure_routing=spec.failure_routing,
        max_debug_attempts=spec.max_debug_attempts, max_branch_depth=spec.max_branch_depth,
        acceptance_criteria=AcceptanceCriteria(findings_below=spec.acceptance_criteria.findings_below),
        result_schema=spec.result_schema, priority=spec.priority, resources=spec.resources, inputs=spec.inputs,
        files=spec.files, capabilities=spec.capabilities if role == spec.agent_role else (),
        parent_id=under.spec.id, branch_reason=failure.type, debug_instructions=failure.message, is_temporary=True,
    )  # fmt: skip


def line(state: Workflow, task: TaskState) -> list[TaskState]:
    """From the branch whose work was judged last, if it was one's, up to the task itself."""
    found, one = [], state.tasks.get(task.work)
    while one and one.work in state.tasks:
        one = state.tasks[one.work]
    while one and one.depth > task.depth:
        found.append(one)
        one = state.tasks[one.spec.parent_id or task.spec.id]
    return [*found, task]


def below(state: Workflow, task: TaskState) -> Iterator[TaskState]:
    """The branches of a task that are not over, at any depth, the deepest first."""
    for n in range(task.branches):
        one = state.tasks[_name(task, n + 1)]
        yield from below(state, one)
        if one.status not in CLOSED:
            yield one


def told(state: Workflow, task: TaskState, failure: Failure) -> Debug:
    """What the branch for a failure of `task` is told.

    Where a branch itself has failed, it left no evidence: then also by which tests it was to be judged, and on what.
    """
    receipts, commit, root = task.receipts, _commit(task), task
    while root.depth:
        root = waiting(state, root)
        receipts, commit = receipts or root.receipts, commit or _commit(root)
    spec = task.spec
    return Debug(spec.id, failure.type, failure.message, receipts, failure.detail, bases(state, root), commit)


def told_again(state: Workflow, task: TaskState) -> Debug | None:
    """A later attempt of a branch is told the same as the first."""
    if not task.depth:
        return None
    parent, spec = waiting(state, task), task.spec
    why = parent.failure or Failure("agent_error", "")
    debug = told(state, parent, why)
    return msgspec.structs.replace(debug, reason=spec.branch_reason or "", instructions=spec.debug_instructions or "")


def _name(under: TaskState, n: int) -> str:
    return f"{under.spec.id}.fix{n}"


def _commit(task: TaskState) -> str | None:
    return task.result.commit if task.result else None
