"""What a workflow is after its events: `evolve` folds, never validates and never raises. History cannot be refused.

The fold owns its state and changes it in place, so that one event costs the same in a workflow of ten tasks and of
ten thousand. Whoever needs an older state folds it again; `decide` never changes it.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from domain.events import (
    AskAnswered,
    AskOpened,
    AttemptFailed,
    Purpose,
    ReportRefused,
    RetryScheduled,
    TaskBranched,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskFailed,
    TaskReported,
    TaskRerouted,
    TaskSkipped,
    TaskStarted,
    TaskVerified,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowEvent,
    WorkflowFailed,
    WorkflowRestored,
    WorkflowStarted,
)
from domain.outcome import Failure, Receipt, Result
from domain.plan import FailureSign, Task

TaskStatus = Literal[
    "pending", "dispatched", "running", "verifying", "retrying", "branched", "waiting",
    "completed", "failed", "cancelled", "skipped",
]  # fmt: skip
WorkflowStatus = Literal["unknown", "running", "completed", "failed", "cancelled"]

CLOSED: frozenset[TaskStatus] = frozenset({"completed", "failed", "cancelled", "skipped"})

NOT_ITS_FAULT = frozenset({"agent_lost", "sandbox"})
"""Failures of what surrounds a task: they are no attempts of it."""
TESTERS_OWN = frozenset({"agent_error", "invalid_result", "timeout"})
"""Failures that are the tester's own when it brings no receipts: they say nothing of the work."""

TRANSITIONS: dict[TaskStatus, frozenset[TaskStatus]] = {
    "pending": frozenset({"dispatched", "waiting", "skipped", "cancelled"}),
    "dispatched": frozenset({"dispatched", "running", "cancelled"}),
    "running": frozenset(
        {"dispatched", "verifying", "retrying", "branched", "waiting", "completed", "failed", "cancelled"}
    ),
    "verifying": frozenset(
        {"verifying", "retrying", "branched", "waiting", "completed", "failed", "cancelled"}
    ),
    "retrying": frozenset({"dispatched", "cancelled"}),
    "branched": frozenset({"verifying", "branched", "retrying", "waiting", "completed", "failed", "cancelled"}),
    "waiting": frozenset({"dispatched", "retrying", "branched", "completed", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "skipped": frozenset(),
}  # fmt: skip
"""From a task's status to those that may follow it. `verifying` covers the run of its tests from its dispatch on."""
WORKFLOW_TRANSITIONS: dict[WorkflowStatus, frozenset[WorkflowStatus]] = {
    "unknown": frozenset({"running"}),
    "running": frozenset({"completed", "failed", "cancelled"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
"""From a workflow's status to those that may follow it. The board's tables refuse all others, of tasks too: whoever
changes either table raises `projections.board.Board.version`."""


class Run(msgspec.Struct):
    """The lease that is out: who may report, and with which token."""

    id: str
    purpose: Purpose
    token: int
    agent: str | None = None
    role: str = ""


class TaskState(msgspec.Struct):
    spec: Task
    status: TaskStatus = "pending"
    missing: int = 0  # dependencies that have not completed
    depth: int = 0
    attempt: int = 0
    failures: int = 0
    lost: int = 0
    checks: int = 0  # runs of its acceptance tests
    red: tuple[tuple[int, ...], ...] = ()  # the tests that failed, of each run on this work that did not pass
    branches: int = 0
    run: Run | None = None
    work: str = ""  # the run, or the branch, whose work is being judged
    agent: str = ""
    result: Result | None = None
    tips: tuple[str, ...] = ()  # the commits that dependents build on
    failure: Failure | None = None
    receipts: tuple[Receipt, ...] = ()
    ask: str | None = None


class Ask(msgspec.Struct):
    task: str
    kind: str
    shown: str
    answered_by: str | None = None


class Workflow(msgspec.Struct):
    id: str = ""
    status: WorkflowStatus = "unknown"
    repository: str | None = None
    base: str | None = None
    lease_seconds: float = 30.0
    signs: tuple[FailureSign, ...] = ()
    tasks: dict[str, TaskState] = msgspec.field(default_factory=dict)
    dependents: dict[str, list[str]] = msgspec.field(default_factory=dict)
    asks: dict[str, Ask] = msgspec.field(default_factory=dict)
    open: int = 0
    failed: int = 0  # tasks of the plan that failed; a branch that failed is its parent's matter
    tokens: int = 0


def replay(events: Iterable[WorkflowEvent], state: Workflow | None = None) -> Workflow:
    """Folds events, oldest first, into a state of its own or onto the given one."""
    state = state or Workflow()
    for event in events:
        evolve(state, event)
    return state


def evolve(state: Workflow, event: WorkflowEvent) -> Workflow:
    match event:
        case TaskDispatched(task=name, run=run, purpose=purpose, token=token, attempt=attempt, role=role):
            task = state.tasks[name]
            task.checks += purpose == "verify" and task.run is None  # the same run offered again is no new one
            task.run, task.receipts = Run(run, purpose, token, role=role), ()
            if purpose == "work":
                task.status, task.work = "dispatched", ""
            else:
                task.status = "verifying"
            task.attempt = attempt
            state.tokens = token
        case TaskStarted(task=name, agent=agent):
            task = state.tasks[name]
            if task.run:
                task.run.agent = agent
                task.status = "running" if task.run.purpose == "work" else "verifying"
        case TaskReported(task=name, run=run, agent=agent, result=result):
            task = state.tasks[name]
            task.result, task.work, task.agent, task.run, task.red = result, run, agent, None, ()
        case TaskVerified(task=name, passed=passed, receipts=receipts):
            task = state.tasks[name]
            task.receipts, task.run = receipts, None
            if not passed:
                task.red += (tuple(n for n, receipt in enumerate(receipts) if not receipt.passed),)
        case TaskCompleted(task=name, run=run, agent=agent, result=result):
            task = state.tasks[name]
            task.tips = (result.commit,) if result.commit else bases(state, task)
            task.result, task.work, task.agent = result, run, agent
            _close(state, task, "completed")
            for dependent in state.dependents.get(name, ()):
                state.tasks[dependent].missing -= 1
        case AttemptFailed(task=name, failure=failure):
            task = state.tasks[name]
            if is_lost(failure, task.run):
                task.lost += 1
            else:
                task.failures += 1
            task.failure, task.run = failure, None
        case RetryScheduled(task=name):
            state.tasks[name].status = "retrying"
        case TaskRerouted(task=name, role=role):
            task = state.tasks[name]
            task.spec = msgspec.structs.replace(task.spec, agent_role=role)
        case TaskBranched(task=name, branch=branch, depth=depth):
            state.tasks[name].status = "branched"
            state.tasks[branch.parent_id or name].branches += 1
            state.tasks[branch.id] = TaskState(branch, depth=depth)
            state.open += 1
        case TaskFailed(task=name, failure=failure):
            task = state.tasks[name]
            task.failure = failure
            state.failed += task.depth == 0
            _close(state, task, "failed")
        case TaskSkipped(task=name):
            _close(state, state.tasks[name], "skipped")
        case TaskCancelled(task=name):
            _close(state, state.tasks[name], "cancelled")
        case AskOpened(ask=ask, task=name, kind=kind, shown=shown):
            state.asks[ask] = Ask(name, kind, shown)
            task = state.tasks[name]
            task.status, task.ask = "waiting", ask
        case AskAnswered(ask=ask, task=name, approved=approved, by=by, because=because):
            state.asks[ask].answered_by = by
            task = state.tasks[name]
            task.ask = None
            if not approved:
                task.failure = refusal(by, because)
        case WorkflowStarted(workflow=name, plan=plan, repository=repository, base=base, lease_seconds=lease):
            state.id, state.status = name, "running"
            state.repository, state.base, state.lease_seconds = repository, base, lease
            state.open, state.signs = len(plan.tasks), plan.failure_signs
            for spec in plan.tasks:
                needs = dict.fromkeys(spec.dependencies)
                state.tasks[spec.id] = TaskState(spec, missing=len(needs))
                for need in needs:
                    state.dependents.setdefault(need, []).append(spec.id)
        case WorkflowRestored(tokens=tokens, repository=repository):
            state.tokens, state.repository = tokens, repository
        case WorkflowCompleted():
            state.status = "completed"
        case WorkflowFailed():
            state.status = "failed"
        case WorkflowCancelled():
            state.status = "cancelled"
        case ReportRefused():
            pass
    return state


def is_lost(failure: Failure, run: Run | None) -> bool:
    """Whether what surrounds a task failed, and not its work. `run` is the one without evidence, if there is one."""
    of_the_tester = run is not None and run.purpose == "verify" and failure.type in TESTERS_OWN
    return of_the_tester or failure.type in NOT_ITS_FAULT


def refusal(by: str, because: str) -> Failure:
    return Failure("refused", because or f"{by} refused it")


def waiting(state: Workflow, branch: TaskState) -> TaskState:
    """The task that waits for a branch: the nearest above it that is not over."""
    above = branch
    while above.spec.parent_id and above.depth:
        above = state.tasks[above.spec.parent_id]
        if above.status not in CLOSED:
            break
    return above


def bases(state: Workflow, task: TaskState) -> tuple[str, ...]:
    """The commits a task starts from: those of its dependencies, its parent's for a branch, else the first one."""
    if task.depth and task.spec.parent_id:
        parent = waiting(state, task)
        if parent.result and parent.result.commit:
            return (parent.result.commit,)
        return bases(state, parent)
    found = dict.fromkeys(tip for need in task.spec.dependencies for tip in state.tasks[need].tips)
    return tuple(found) or ((state.base,) if state.base else ())


def _close(state: Workflow, task: TaskState, status: TaskStatus) -> None:
    task.status, task.run, task.ask = status, None, None
    state.open -= 1
