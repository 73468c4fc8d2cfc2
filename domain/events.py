"""What has happened, a long list: every event there is.

A tag is a promise: it never changes its meaning; new meaning, new tag; new fields have defaults.

Times are seconds since the epoch, UTC; they were decided with the event and are never read from a clock again.
A *run* is one lease of a task: `indicators/1` is the first attempt's work, `indicators/1/verify` the run of its tests.

It is long because there is one struct for each thing that can happen.
"""

from typing import Any, Literal

import msgspec

from domain.outcome import Failure, Receipt, Result
from domain.plan import Budget, Edit, Plan, Task, Test
from domain.usage import Prices, Usage

Purpose = Literal["work", "verify"]
AskKind = Literal["before_dispatch", "before_completion", "question", "escalation", "budget"]


class Event(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True, tag_field="type"):
    """A fact about one stream. A field stands in the bytes only if it says something, so one that is unknown is none to
    pass over: a newer program has decided on it."""


class Debug(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a branch task is told of the failure it is to mend: that of `parent`, which waits for it.

    `output` is the end of what the failed run said. What was done until then leads from `bases`, merged, to `commit`.
    """

    parent: str
    reason: str
    instructions: str
    receipts: tuple[Receipt, ...] = ()
    output: str = ""
    bases: tuple[str, ...] = ()
    commit: str | None = None


class Answered(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the agents of a task are told of an ask of theirs: what a person chose; "" when nobody did in time."""

    ask: str
    question: str
    choice: str = ""
    instructions: str = ""
    by: str = ""


class WorkflowStarted(Event, frozen=True, tag="workflow.started"):
    """A plan was accepted. `base` is the commit all work starts from, `repository` the path or URL that holds it.

    If it is `queued`, nothing of it is dispatched before `workflow.admitted`. Tasks of `limited_roles` wait for a slot.
    """

    workflow: str
    plan: Plan
    repository: str | None = None
    base: str | None = None
    lease_seconds: float = 30.0
    prices: Prices | None = None
    queued: bool = False
    limited_roles: tuple[str, ...] = ()
    at: float = 0.0


class WorkflowAdmitted(Event, frozen=True, tag="workflow.admitted"):
    """It is one of those that run at once."""

    workflow: str
    at: float = 0.0


class TaskQueued(Event, frozen=True, tag="task.queued"):
    """The run could be dispatched, and waits until its resources and a slot of its role are its own."""

    task: str
    run: str
    role: str
    resources: tuple[str, ...] = ()
    priority: int = 0
    at: float = 0.0


class TaskDispatched(Event, frozen=True, tag="task.dispatched"):
    """A run is offered to the agents of `role`, with all they need. It is offered again after `due` if nobody starts it.

    `previous` is what ended the attempt before. What is to be verified was done by `worker`, who does not judge it.
    `notes` are what the attempts before have noted, a branch's parent's among them; `budget` is what is reserved for it.
    `expires` is when the task's time is over, all its attempts together. Only agents that have all `capabilities`, which
    are sorted, get it.
    """

    workflow: str
    task: str
    run: str
    attempt: int
    role: str
    token: int
    due: float
    lease_seconds: float
    timeout_seconds: float
    purpose: Purpose = "work"
    title: str = ""
    description: str = ""
    inputs: dict[str, Any] = {}
    files: tuple[str, ...] = ()
    repository: str | None = None
    bases: tuple[str, ...] = ()
    dependencies: dict[str, Result] = {}
    tests: tuple[Test, ...] = ()
    debug: Debug | None = None
    previous: Failure | None = None
    worker: str = ""
    notes: dict[str, Any] = {}
    budget: Budget | None = None
    expires: float | None = None
    answers: tuple[Answered, ...] = ()
    capabilities: tuple[str, ...] = ()


class TaskStarted(Event, frozen=True, tag="task.started"):
    """An agent holds the lease until `lease_until`, renewed by heartbeats; `timeout_at` ends the run in any case."""

    task: str
    run: str
    agent: str
    lease_until: float
    timeout_at: float


class TaskReported(Event, frozen=True, tag="task.reported"):
    """The work of an attempt was accepted; what is owed now is evidence or an approval."""

    task: str
    run: str
    agent: str
    result: Result
    usage: Usage | None = None


class TaskAsked(Event, frozen=True, tag="task.asked"):
    """The agent cannot go on without a person: its run is over and no failure. What it asks stands in the next event."""

    task: str
    run: str
    agent: str
    usage: Usage | None = None


class TaskVerified(Event, frozen=True, tag="task.verified"):
    """The acceptance tests were run on `commit` of the reported result."""

    task: str
    run: str
    agent: str
    passed: bool
    receipts: tuple[Receipt, ...]
    usage: Usage | None = None


class TaskCompleted(Event, frozen=True, tag="task.completed"):
    """The work counts. `usage` is None where the run has ended before, with `task.reported`, or was a branch's.

    `waived_by` accepted the work as it is, although the evidence is against it or there is none.
    """

    task: str
    run: str
    agent: str
    result: Result
    usage: Usage | None = None
    waived_by: str = ""


class AttemptFailed(Event, frozen=True, tag="task.attempt_failed"):
    """A run ended without success. What follows (retry, branch, failure) stands in the events after it."""

    task: str
    run: str
    attempt: int
    failure: Failure
    agent: str | None = None
    usage: Usage | None = None


class RetryScheduled(Event, frozen=True, tag="task.retry_scheduled"):
    """The next attempt is dispatched at `due`; the jitter of the backoff is in it already. `by` cut it short."""

    task: str
    attempt: int
    due: float
    by: str = ""
    reason: str = ""


class TaskRerouted(Event, frozen=True, tag="task.rerouted"):
    """From its next attempt on it is for another role, of which nothing besides is asked."""

    task: str
    role: str


class TaskBranched(Event, frozen=True, tag="task.branched"):
    """A branch task was created to mend what failed; `task` waits for it, then its own tests are run again.

    The branch's `parent_id` is `task` itself, or the branch before it, which had not mended it.
    """

    task: str
    branch: Task
    depth: int
    debug: Debug


class TaskFailed(Event, frozen=True, tag="task.failed"):
    task: str
    failure: Failure


class TaskSkipped(Event, frozen=True, tag="task.skipped"):
    """It can never be ready: `because` names the task it depended on."""

    task: str
    because: str


class TaskCancelled(Event, frozen=True, tag="task.cancelled"):
    """`usage` is that of the run that was out, if there was one."""

    task: str
    usage: Usage | None = None
    by: str = ""
    reason: str = ""


class TaskNoted(Event, frozen=True, tag="task.noted"):
    """An entry of the task's scratchpad: the attempts after this one are shown it."""

    task: str
    run: str
    key: str
    value: Any


class UsageCorrected(Event, frozen=True, tag="usage.corrected"):
    """Numbers that came before a run's end or after it; `was` is None where none were known. `role` is the run's."""

    task: str
    run: str
    was: Usage | None
    now: Usage
    why: str = ""
    role: str = ""


class CallReserved(Event, frozen=True, tag="call.reserved"):
    """A call of a model was let through: so much is reserved for it until it is settled."""

    task: str
    run: str
    call: str
    tokens: int = 0
    usd: float = 0.0


class CallSettled(Event, frozen=True, tag="call.settled"):
    """What the call has used; None is unknown, and counted as it was reserved."""

    task: str
    run: str
    call: str
    tokens: int | None = None
    usd: float | None = None


class BudgetRaised(Event, frozen=True, tag="budget.raised"):
    """`amount` was added to the limit of `scope`: `workflow`, `role/<role>` or `task/<id>`."""

    scope: str
    amount: Budget
    by: str
    because: str = ""


class TaskHeld(Event, frozen=True, tag="task.held"):
    """It could be dispatched, and is not: since `at` it waits for a slot, as the workflow is paused."""

    task: str
    role: str
    at: float


class TaskExcused(Event, frozen=True, tag="task.excused"):
    """Somebody said that it need not be done: what depends on it goes on without its result."""

    task: str
    by: str
    reason: str = ""
    usage: Usage | None = None


class TaskEdited(Event, frozen=True, tag="task.edited"):
    """From now on the task is `spec`. `expires` is its limit in time if that goes on to count."""

    task: str
    spec: Task
    by: str
    reason: str = ""
    expires: float | None = None


class TaskPrioritised(Event, frozen=True, tag="task.prioritised"):
    task: str
    priority: int
    by: str
    reason: str = ""


class TaskAdded(Event, frozen=True, tag="task.added"):
    """A task joined the plan, its own or as a part of the one that `spec.parent_id` names."""

    task: str
    spec: Task
    by: str
    reason: str = ""


class AskOpened(Event, frozen=True, tag="ask.opened"):
    """A person is asked at `at`. `shown` is the sha256 of `content`, the very thing that an answer is given to.

    One of `options` can be chosen, anything if there are none; at `due` it is `default` (None: there is no answer).
    `who` may answer, anyone if it is empty.
    """

    ask: str
    task: str
    kind: AskKind
    shown: str
    content: dict[str, Any]
    question: str = ""
    options: tuple[str, ...] = ()
    default: str | None = None
    who: tuple[str, ...] = ()
    at: float = 0.0
    due: float | None = None


class AskAnswered(Event, frozen=True, tag="ask.answered"):
    """`instructions` are for the agents. `role` is to do the task from now on, or what `edit` says is to be done: the
    next event has the task as it is then."""

    ask: str
    task: str
    choice: str
    by: str
    because: str = ""
    instructions: str = ""
    role: str | None = None
    edit: Edit | None = None
    at: float = 0.0


class AskExpired(Event, frozen=True, tag="ask.expired"):
    """Nobody answered in time; `choice` is the default that was taken, None where there was none."""

    ask: str
    task: str
    choice: str | None = None
    at: float = 0.0


class AskVoided(Event, frozen=True, tag="ask.voided"):
    """What was shown is no longer so: nobody can answer it any more. If it still has to be asked, a new ask follows."""

    ask: str
    task: str
    why: str
    at: float = 0.0


class ReportRefused(Event, frozen=True, tag="report.refused"):
    """A report came from a run that no longer holds the lease; it changed nothing and is kept visible."""

    task: str
    run: str
    token: int
    agent: str
    kind: str
    why: str


class WorkflowCompleted(Event, frozen=True, tag="workflow.completed"):
    workflow: str


class WorkflowFailed(Event, frozen=True, tag="workflow.failed"):
    workflow: str
    reason: str


class WorkflowCancelled(Event, frozen=True, tag="workflow.cancelled"):
    workflow: str
    by: str
    reason: str = ""


class WorkflowPaused(Event, frozen=True, tag="workflow.paused"):
    """What is out goes on; what could be dispatched is held. The workflow's time stands still."""

    workflow: str
    by: str
    at: float
    reason: str = ""


class WorkflowResumed(Event, frozen=True, tag="workflow.resumed"):
    workflow: str
    by: str
    at: float
    reason: str = ""


class WorkflowTimedOut(Event, frozen=True, tag="workflow.timed_out"):
    workflow: str
    reason: str


class WorkflowRestored(Event, frozen=True, tag="workflow.restored"):
    """The ledger was brought back from a backup while this was under way. Every lease is void: what was out is offered
    again in the events after this one, under tokens above `tokens`, which the life that is given up has never handed
    out. `repository` is where the restored one lies. The workflow's time begins anew `at` then."""

    workflow: str
    tokens: int
    repository: str | None = None
    at: float = 0.0


class LedgerRestored(Event, frozen=True, tag="ledger.restored"):
    """The ledger was brought back from a backup of `taken_at` and goes on from there: what was recorded after
    `position` in the life that is given up has not happened. JetStream is filled anew under `epoch`."""

    position: int
    previous_epoch: int
    epoch: int
    taken_at: float | None = None


class LedgerAudited(Event, frozen=True, tag="ledger.audited"):
    """Digests were computed again, of `checked_events`. If it is `ok`, all up to `position` is as it was recorded, and
    `digest` (hex) stands for it; else `position` is the first that is not, for the `reason` that is given."""

    position: int
    ok: bool
    checked_events: int
    digest: str = ""
    reason: str = ""


class AgentJoined(Event, frozen=True, tag="agent.joined"):
    """An agent takes work of `role`, `capacity` tasks at once; also when it describes itself anew."""

    agent: str
    role: str
    capacity: int = 1
    capabilities: tuple[str, ...] = ()
    version: str = ""


class AgentLost(Event, frozen=True, tag="agent.lost"):
    """Nothing was heard of it since `heard_at`, for longer than it promised."""

    agent: str
    heard_at: float


class AgentReturned(Event, frozen=True, tag="agent.returned"):
    """It was lost, and was heard of again."""

    agent: str


class AgentDrained(Event, frozen=True, tag="agent.drained"):
    """It takes no more work until it leaves, and finishes what it holds."""

    agent: str
    by: str
    reason: str = ""


class AgentLeft(Event, frozen=True, tag="agent.left"):
    """It said goodbye."""

    agent: str


WorkflowEvent = (
    WorkflowStarted
    | WorkflowAdmitted
    | TaskQueued
    | TaskDispatched
    | TaskStarted
    | TaskReported
    | TaskAsked
    | TaskVerified
    | TaskCompleted
    | AttemptFailed
    | RetryScheduled
    | TaskRerouted
    | TaskBranched
    | TaskFailed
    | TaskSkipped
    | TaskCancelled
    | TaskNoted
    | UsageCorrected
    | CallReserved
    | CallSettled
    | BudgetRaised
    | TaskHeld
    | TaskExcused
    | TaskEdited
    | TaskPrioritised
    | TaskAdded
    | AskOpened
    | AskAnswered
    | AskExpired
    | AskVoided
    | ReportRefused
    | WorkflowCompleted
    | WorkflowFailed
    | WorkflowCancelled
    | WorkflowTimedOut
    | WorkflowPaused
    | WorkflowResumed
    | WorkflowRestored
)
"""Everything a `workflow-<id>` stream can hold."""

AgentEvent = AgentJoined | AgentLost | AgentReturned | AgentDrained | AgentLeft
"""Everything an `agent-<name>` stream can hold."""

LedgerEvent = LedgerRestored | LedgerAudited
"""Everything a `ledger-<tenant>` stream can hold."""
