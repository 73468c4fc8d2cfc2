"""What a workflow is after its events: `evolve` folds, never validates and never raises. History cannot be refused.

The fold owns its state and changes it in place, so that one event costs the same in a workflow of ten tasks and of
ten thousand. Whoever needs an older state folds it again; `decide` never changes it.

It is long because the fold is one `match` over all that can happen.
"""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from domain.budget import UNLIMITED, Books, book, opened
from domain.clock import Clock, tick
from domain.events import (
    Answered,
    AskAnswered,
    AskExpired,
    AskKind,
    AskOpened,
    AskVoided,
    AttemptFailed,
    BudgetRaised,
    CallReserved,
    CallSettled,
    Purpose,
    ReportRefused,
    RetryScheduled,
    TaskAdded,
    TaskAsked,
    TaskBranched,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskEdited,
    TaskExcused,
    TaskFailed,
    TaskHeld,
    TaskNoted,
    TaskPrioritised,
    TaskQueued,
    TaskReported,
    TaskRerouted,
    TaskSkipped,
    TaskStarted,
    TaskVerified,
    UsageCorrected,
    WorkflowAdmitted,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowEvent,
    WorkflowFailed,
    WorkflowPaused,
    WorkflowRestored,
    WorkflowResumed,
    WorkflowStarted,
    WorkflowTimedOut,
)
from domain.outcome import Failure, Receipt, Result
from domain.plan import Approvals, Escalation, FailureSign, Task
from domain.usage import Prices, Usage

TaskStatus = Literal[
    "pending", "queued", "dispatched", "running", "verifying", "retrying", "branched", "waiting",
    "completed", "failed", "cancelled", "skipped", "excused",
]  # fmt: skip
WorkflowStatus = Literal["unknown", "queued", "running", "completed", "failed", "cancelled", "timed_out"]

CLOSED: frozenset[TaskStatus] = frozenset({"completed", "failed", "cancelled", "skipped", "excused"})
PASSED: frozenset[TaskStatus] = frozenset({"completed", "excused"})
"""What depends on a task goes on after these."""

OFFER_SECONDS = 600.0
"""A dispatch that nobody started is offered again after this: its message may have been lost with the bus."""
NOT_ITS_FAULT = frozenset({"agent_lost", "sandbox"})
"""Failures of what surrounds a task: they are no attempts of it."""
TESTERS_OWN = frozenset({"agent_error", "invalid_result", "timeout"})
"""Failures that are the tester's own when it brings no receipts: they say nothing of the work."""

ANSWERS_KEPT = 20
"""The last answers to what a task has asked; each of its dispatches carries them."""
LATE = "nobody answered in time"

TRANSITIONS: dict[TaskStatus, frozenset[TaskStatus]] = {
    "pending": frozenset(
        {"queued", "dispatched", "verifying", "waiting", "completed", "skipped", "cancelled", "excused"}
    ),
    "queued": frozenset({"queued", "pending", "dispatched", "waiting", "failed", "cancelled", "excused"}),
    "dispatched": frozenset({"dispatched", "running", "waiting", "failed", "cancelled", "excused"}),
    "running": frozenset(
        {"dispatched", "verifying", "retrying", "branched", "waiting", "completed", "failed", "cancelled", "excused"}
    ),
    "verifying": frozenset(
        {"verifying", "retrying", "branched", "waiting", "completed", "failed", "cancelled", "excused"}
    ),
    "retrying": frozenset({"queued", "dispatched", "pending", "waiting", "failed", "cancelled", "excused"}),
    "branched": frozenset(
        {"verifying", "branched", "retrying", "waiting", "completed", "failed", "cancelled", "excused"}
    ),
    "waiting": frozenset(
        {
            "queued", "dispatched", "pending", "verifying", "retrying", "branched", "completed", "failed", "cancelled",
            "excused",
        }
    ),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "skipped": frozenset(),
    "excused": frozenset(),
}  # fmt: skip
"""From a task's status to those that may follow it. `verifying` covers the run of its tests from its dispatch on."""
WORKFLOW_TRANSITIONS: dict[WorkflowStatus, frozenset[WorkflowStatus]] = {
    "unknown": frozenset({"queued", "running"}),
    "queued": frozenset({"running", "cancelled"}),
    "running": frozenset({"completed", "failed", "cancelled", "timed_out"}),
    "completed": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "timed_out": frozenset(),
}
"""From a workflow's status to those that may follow it. The board's tables refuse all others, of tasks too: whoever
changes either table raises `projections.board.Board.version`."""


class Run(msgspec.Struct):
    """A lease: who may report, and with which token. `began` is when it was started, or offered while nobody has
    (seconds since the epoch), `allowed` how long it may take; `usage` what is known of it, whole once it has ended;
    `short` why its last call was refused that did not fit the budget."""

    id: str
    purpose: Purpose
    token: int
    began: float = 0.0
    allowed: float = 0.0
    agent: str | None = None
    usage: Usage | None = None
    short: str = ""
    role: str = ""

    def foreign(self, agent: str, role: str | None) -> str:
        """Why nobody of this role may report on it; empty if they may, or if nobody has vouched for the role."""
        return "" if role in (None, self.role) else f"it is offered to the role {self.role}, and {agent} is {role}"


class TaskState(msgspec.Struct):
    spec: Task
    status: TaskStatus = "pending"
    missing: int = 0  # dependencies that have neither completed nor been excused
    begun: bool = False  # it was dispatched since it last waited for dependencies
    held: bool = False  # it could be dispatched, but for a pause
    depth: int = 0
    attempt: int = 0
    failures: int = 0
    lost: int = 0
    checks: int = 0  # runs of its acceptance tests
    red: tuple[tuple[int, ...], ...] = ()  # the tests that failed, of each run on this work that did not pass
    branches: int = 0
    run: Run | None = None
    ended: list[Run] = []
    notes: dict[str, Any] = {}
    work: str = ""  # the run, or the branch, whose work is being judged
    agent: str = ""
    result: Result | None = None
    made: str = ""  # the run, or the branch, whose work `result` is
    tips: tuple[str, ...] = ()  # the commits that dependents build on
    failure: Failure | None = None
    receipts: tuple[Receipt, ...] = ()
    ask: str | None = None
    expires: float | None = None  # when the time for all its attempts is over
    left: float | None = None  # seconds of that time, while it waits for a person or a slot
    approved: str = ""  # the sha256 of what a person agreed to have dispatched
    answers: tuple[Answered, ...] = ()

    @property
    def runs(self) -> list[Run]:
        """All there were, the one that is out among them."""
        return [*self.ended, *([self.run] if self.run else [])]


AskState = Literal["open", "answered", "expired", "voided"]


class Ask(msgspec.Struct):
    task: str
    kind: AskKind
    shown: str
    state: AskState = "open"
    question: str = ""
    options: tuple[str, ...] = ()
    default: str | None = None
    who: tuple[str, ...] = ()
    due: float | None = None
    answered_by: str | None = None


class Workflow(msgspec.Struct):
    id: str = ""
    status: WorkflowStatus = "unknown"
    repository: str | None = None
    base: str | None = None
    lease_seconds: float = 30.0
    signs: tuple[FailureSign, ...] = ()
    prices: Prices | None = None
    limited_roles: tuple[str, ...] = ()
    tasks: dict[str, TaskState] = msgspec.field(default_factory=dict)
    dependents: dict[str, list[str]] = msgspec.field(default_factory=dict)
    asks: dict[str, Ask] = msgspec.field(default_factory=dict)
    roles: tuple[str, ...] = ()  # of the plan, besides the built-in ones
    approvals: Approvals = Approvals()
    escalation: Escalation = Escalation()
    open: int = 0
    failed: int = 0  # tasks of the plan that failed; a branch that failed is its parent's matter
    dropped: int = 0  # tasks of the plan that were cancelled
    tokens: int = 0
    books: Books | None = None
    paused: bool = False
    clock: Clock = msgspec.field(default_factory=Clock)


def replay(events: Iterable[WorkflowEvent], state: Workflow | None = None) -> Workflow:
    """Folds events, oldest first, into a state of its own or onto the given one."""
    state = state or Workflow()
    for event in events:
        evolve(state, event)
    return state


def evolve(state: Workflow, event: WorkflowEvent) -> Workflow:
    if isinstance(event, TaskAdded) and state.books is None and event.spec.budget != UNLIMITED:
        state.books = Books({})
    if state.books is not None:
        book(state.books, event)
    match event:
        case TaskDispatched(task=name, run=run, purpose=purpose, token=token, attempt=attempt, role=role):
            task = state.tasks[name]
            task.checks += purpose == "verify" and task.run is None  # the same run offered again is no new one
            began, allowed = event.due - OFFER_SECONDS, event.timeout_seconds
            task.run, task.receipts = Run(run, purpose, token, began, allowed, role=role), ()
            if purpose == "work":
                task.status, task.work = "dispatched", ""
            else:
                task.status = "verifying"
            task.attempt = attempt
            task.held, task.begun = False, True
            if not task.depth or event.expires is not None:
                root(state, task).expires = event.expires
            state.tokens = token
        case TaskQueued(task=name, at=at):
            task = state.tasks[name]
            task.status, task.held = "queued", False
            _stand_still(root(state, task), at)
        case TaskStarted(task=name, agent=agent, lease_until=lease_until):
            task = state.tasks[name]
            if task.run:
                task.run.agent, task.run.began = agent, lease_until - state.lease_seconds
                task.status = "running" if task.run.purpose == "work" else "verifying"
        case TaskReported(task=name, run=run, agent=agent, result=result, usage=usage):
            task = state.tasks[name]
            _end(task, usage)
            task.result, task.made, task.work, task.agent, task.red = result, run, run, agent, ()
        case TaskAsked(task=name, usage=usage):
            _end(state.tasks[name], usage)
        case TaskVerified(task=name, passed=passed, receipts=receipts, usage=usage):
            task = state.tasks[name]
            _end(task, usage)
            task.receipts = receipts
            if not passed:
                task.red += (tuple(n for n, receipt in enumerate(receipts) if not receipt.passed),)
        case TaskCompleted(task=name, run=run, agent=agent, result=result, usage=usage):
            task = state.tasks[name]
            _end(task, usage)
            task.tips = (result.commit,) if result.commit else bases(state, task)
            task.result, task.work, task.agent = result, run, agent
            _close(state, task, "completed")
            _free(state, name)
        case AttemptFailed(task=name, failure=failure, usage=usage):
            task = state.tasks[name]
            if is_lost(failure, task.run):
                task.lost += 1
            else:
                task.failures += 1
            task.failure = failure
            _end(task, usage)
        case RetryScheduled(task=name):
            state.tasks[name].status = "retrying"
        case TaskRerouted(task=name, role=role):
            task = state.tasks[name]
            task.spec = msgspec.structs.replace(task.spec, agent_role=role, capabilities=())
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
        case TaskCancelled(task=name, usage=usage):
            task = state.tasks[name]
            _end(task, usage)
            state.dropped += task.depth == 0
            _close(state, task, "cancelled")
        case TaskNoted(task=name, key=key, value=value):
            state.tasks[name].notes[key] = value
        case UsageCorrected(task=name, run=run, now=now):
            for one in state.tasks[name].runs:
                if one.id == run:
                    one.usage = now
        case TaskHeld(task=name, at=at):
            task = state.tasks[name]
            task.status, task.held = "pending", True
            _stand_still(root(state, task), at)
        case TaskExcused(task=name, usage=usage):
            task = state.tasks[name]
            _end(task, usage)
            task.result, task.tips = None, bases(state, task)
            _close(state, task, "excused")
            _free(state, name)
        case TaskEdited(task=name, spec=spec):
            task = state.tasks[name]
            new = [need for need in dict.fromkeys(spec.dependencies) if need not in task.spec.dependencies]
            if new or spec.total_seconds != task.spec.total_seconds:
                task.expires = task.left = None
            task.spec = spec
            if new:
                task.status, task.held, task.begun = "pending", False, False
                _depend(state, task, new)
        case TaskPrioritised(task=name, priority=priority):
            task = state.tasks[name]
            task.spec = msgspec.structs.replace(task.spec, priority=priority)
        case TaskAdded(task=name, spec=spec):
            task = state.tasks[name] = TaskState(spec)
            state.open += 1
            _depend(state, task, dict.fromkeys(spec.dependencies))
        case AskOpened(ask=ask, task=name, at=at):
            state.asks[ask] = Ask(
                name,
                event.kind,
                event.shown,
                "open",
                event.question,
                event.options,
                event.default,
                event.who,
                event.due,
            )
            task = state.tasks[name]
            task.status, task.ask, task.held = "waiting", ask, False
            if event.kind == "escalation":  # not all that a person is asked about was an attempt's failure
                task.failure = msgspec.convert(event.content["failure"], Failure)
            _stand_still(root(state, task), at)
        case AskAnswered(ask=ask, task=name, by=by):
            settle(state.tasks[name], state.asks[ask], event)
            state.asks[ask].state, state.asks[ask].answered_by = "answered", by
        case AskExpired(ask=ask, task=name):
            settle(state.tasks[name], state.asks[ask], event)
            state.asks[ask].state = "expired"
        case AskVoided(ask=ask, task=name):
            state.asks[ask].state, state.tasks[name].ask = "voided", None
        case WorkflowStarted(
            workflow=name, plan=plan, repository=repository, base=base, lease_seconds=lease, prices=prices
        ):
            state.id, state.status = name, "queued" if event.queued else "running"
            state.repository, state.base, state.lease_seconds, state.prices = repository, base, lease, prices
            state.open, state.signs, state.books = len(plan.tasks), plan.failure_signs, opened(plan)
            state.limited_roles, state.roles = event.limited_roles, plan.roles
            state.approvals, state.escalation = plan.approvals, plan.escalation
            state.clock = Clock(plan.timeout_seconds)
            for spec in plan.tasks:
                needs = dict.fromkeys(spec.dependencies)
                state.tasks[spec.id] = TaskState(spec, missing=len(needs))
                for need in needs:
                    state.dependents.setdefault(need, []).append(spec.id)
        case WorkflowRestored(tokens=tokens, repository=repository):
            state.tokens, state.repository = tokens, repository
        case WorkflowAdmitted():
            state.status = "running"
        case WorkflowPaused():
            state.paused = True
        case WorkflowResumed():
            state.paused = False
        case WorkflowCompleted():
            state.status = "completed"
        case WorkflowFailed():
            state.status = "failed"
        case WorkflowCancelled():
            state.status = "cancelled"
        case WorkflowTimedOut():
            state.status = "timed_out"
        case ReportRefused(task=name, token=token, kind="reserve", why=why):
            if (held := state.tasks[name].run) and held.token == token:
                held.short = why
        case ReportRefused() | CallReserved() | CallSettled() | BudgetRaised():
            pass
    tick(state.clock, event)
    return state


def is_lost(failure: Failure, run: Run | None) -> bool:
    """Whether what surrounds a task failed, and not its work. `run` is the one without evidence, if there is one."""
    of_the_tester = run is not None and run.purpose == "verify" and failure.type in TESTERS_OWN
    return of_the_tester or failure.type in NOT_ITS_FAULT


def settle(task: TaskState, ask: Ask, event: AskAnswered | AskExpired) -> None:
    """What an answer, or a default that is taken, changes of its task; what then happens stands in later events."""
    said = event if isinstance(event, AskAnswered) else AskAnswered(event.ask, event.task, event.choice or "", "", LATE)
    task.ask = None
    if ask.kind == "question" or said.instructions:
        told = Answered(said.ask, ask.question, said.choice, said.instructions, said.by)
        task.answers = (*task.answers, told)[-ANSWERS_KEPT:]
    match ask.kind, said.choice:
        case "before_dispatch", "approve":
            task.approved = ask.shown
        case (("before_dispatch" | "before_completion"), "reject"):
            task.failure = refusal(said.by, said.because)
        case "escalation", ("retry" | "edit" | "reassign"):
            task.failures = task.lost = 0


def refusal(by: str, because: str) -> Failure:
    return Failure("refused", because or f"{by} refused it")


def next_run(task: TaskState) -> str:
    """The run that a task's next attempt will be."""
    return f"{task.spec.id}/{task.attempt + 1}"


def waiting(state: Workflow, branch: TaskState) -> TaskState:
    """The task that waits for a branch: the nearest above it that is not over."""
    above = branch
    while above.spec.parent_id and above.depth:
        above = state.tasks[above.spec.parent_id]
        if above.status not in CLOSED:
            break
    return above


def root(state: Workflow, task: TaskState) -> TaskState:
    """The task of the plan that a branch mends, directly or not; of a task of the plan itself."""
    return state.tasks[task.spec.id.partition(".")[0]] if task.depth else task


def bases(state: Workflow, task: TaskState) -> tuple[str, ...]:
    """The commits a task starts from: those of its dependencies, its parent's for a branch, else the first one."""
    if task.depth and task.spec.parent_id:
        parent = waiting(state, task)
        if parent.result and parent.result.commit:
            return (parent.result.commit,)
        return bases(state, parent)
    found = dict.fromkeys(tip for need in task.spec.dependencies for tip in state.tasks[need].tips)
    return tuple(found) or ((state.base,) if state.base else ())


def _end(task: TaskState, usage: Usage | None) -> None:
    if task.run:
        task.run.usage = usage
        task.ended.append(task.run)
        task.run = None


def _close(state: Workflow, task: TaskState, status: TaskStatus) -> None:
    task.status, task.run, task.ask, task.held = status, None, None, False
    state.open -= 1


def _free(state: Workflow, name: str) -> None:
    for dependent in state.dependents.get(name, ()):
        state.tasks[dependent].missing -= 1


def _depend(state: Workflow, task: TaskState, needs: Iterable[str]) -> None:
    for need in needs:
        state.dependents.setdefault(need, []).append(task.spec.id)
        task.missing += state.tasks[need].status not in PASSED


def _stand_still(task: TaskState, at: float) -> None:
    if task.expires is not None:
        task.left, task.expires = task.expires - at, None
