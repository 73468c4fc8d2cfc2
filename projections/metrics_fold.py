"""How each event changes what is counted.

Times are whole microseconds and money whole billionths of a dollar: sums come out the same in whatever batches they
were made.

It is long because the fold is one `match` over all that can happen.
"""

from bisect import bisect_left
from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec

from domain.budget import KINDS, UNLIMITED, Books, book, opened
from domain.events import (
    AgentJoined,
    AskAnswered,
    AskExpired,
    AskOpened,
    AskVoided,
    AttemptFailed,
    Event,
    LedgerAudited,
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
    TaskQueued,
    TaskReported,
    TaskRerouted,
    TaskSkipped,
    TaskStarted,
    TaskVerified,
    UsageCorrected,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowEvent,
    WorkflowFailed,
    WorkflowStarted,
    WorkflowTimedOut,
)
from domain.outcome import Result
from domain.plan import Budget
from domain.usage import Spent, Usage
from ledger.foreign import PREFIX
from ledger.recorded import Recorded
from projections.figures import LEDGER, NAMES, OTHER

STREAM = "workflow-"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
NANO = 1_000_000_000
MODEL_CHARACTERS = 100

ENDS: dict[type[Event], str] = {
    WorkflowCompleted: "completed", WorkflowFailed: "failed", WorkflowCancelled: "cancelled",
    WorkflowTimedOut: "timed_out",
}  # fmt: skip
CLOSES: dict[type[Event], str] = {
    TaskCompleted: "completed", TaskFailed: "failed", TaskCancelled: "cancelled", TaskSkipped: "skipped",
    TaskExcused: "excused",
}  # fmt: skip
CLOSES_ASK: dict[type[Event], str] = {AskAnswered: "answered", AskExpired: "expired", AskVoided: "voided"}
FAILED = {"agent_lost": "lost", "timeout": "timed_out"}
"""How an attempt ended whose failure was of this type: that of any other has failed."""


class Work(msgspec.Struct, omit_defaults=True, gc=False):
    """An open task, a row of `metrics_tasks`. `run` is the one that is out."""

    workflow: str
    task: str
    role: str
    ready: int | None = None
    dispatched: int | None = None
    run: str | None = None
    run_role: str = ""
    work: bool = False
    started: int | None = None
    ask: str | None = None
    asked: int | None = None


class Flow(msgspec.Struct):
    """A workflow that is under way, a row of `metrics_flows`, and its open tasks."""

    workflow: str
    started: int
    books: Books | None = None
    tasks: dict[str, Work] = {}

    @property
    def used(self) -> float | None:
        """The highest share of one of its limits; None without a budget."""
        if self.books is None:
            return None
        return max((_share(one.limit, one.used, one.attempts) for one in self.books.accounts.values()), default=0.0)


class Changes:
    """Folds events into the flows and the names that it is given, and knows what they add to what was counted."""

    def __init__(self, flows: dict[str, Flow], names: dict[str, set[str]]) -> None:
        self._flows, self._names = flows, names
        self.added: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.put: dict[tuple[str, tuple[str, ...]], int] = {}
        self.ended: Counter[tuple[str, int]] = Counter()
        self.named: list[tuple[str, str]] = []
        self.tasks: dict[tuple[str, str], Work | None] = {}
        self.flows: dict[str, Flow | None] = {}

    def fold(self, recorded: Recorded) -> None:
        """LookupError for an event about what is not under way: the rows or the ledger are not what they should be."""
        foreign = recorded.type.startswith(PREFIX)
        self._count("cairn_events_total", "foreign" if foreign else recorded.type)
        if foreign:
            return
        at = (recorded.recorded_at - EPOCH) // MICROSECOND
        if recorded.stream.startswith(STREAM):
            self._about(recorded.stream.removeprefix(STREAM), recorded.event, at)  # type: ignore[arg-type]
            return
        match recorded.event:
            case LedgerAudited(ok=True, position=position):
                self.put["cairn_audit_verified_position", ()] = position
                self.put["cairn_audit_last_success_timestamp_seconds", ()] = at
            case LedgerAudited():
                self._count("cairn_audit_failures_total")
            case AgentJoined(role=role):
                self._role(role)

    def _about(self, name: str, event: WorkflowEvent, at: int) -> None:
        flow = self._flows.get(name)
        if isinstance(event, UsageCorrected):
            self._correct(flow.tasks.get(event.task) if flow else None, event)
        elif isinstance(event, WorkflowStarted):
            flow = self._flows[name] = Flow(name, at, opened(event.plan))
            self.flows[name] = flow
            for spec in event.plan.tasks:
                self._create(flow, spec.id, spec.agent_role)
        elif flow is None:
            if not isinstance(event, ReportRefused):
                raise LookupError(f"workflow {name} is not under way")
        elif outcome := ENDS.get(type(event)):
            self._end(flow, outcome, at)
        else:
            self._follow(flow, event, at)
        if flow is not None and flow.workflow in self._flows:
            self._book(flow, event)

    def _follow(self, flow: Flow, event: WorkflowEvent, at: int) -> None:
        match event:
            case TaskHeld(task=name) | TaskQueued(task=name):
                task = self._task(flow, name)
                task.ready = task.ready or at
            case TaskDispatched(task=name, run=run, role=role, purpose=purpose):
                task = self._task(flow, name)
                task.ready, task.dispatched = task.ready or at, task.dispatched or at
                task.run, task.run_role, task.work, task.started = run, role, purpose == "work", None
            case TaskStarted(task=name):
                task = self._task(flow, name)
                if task.ready is not None:
                    self._observe("cairn_task_wait_seconds", at - task.ready, self._role(task.run_role))
                task.ready, task.started = None, at
            case TaskReported(task=name, run=run, usage=usage, result=result):
                self._end_run(self._task(flow, name), run, "succeeded", usage, result)
            case TaskAsked(task=name, run=run, usage=usage):
                self._end_run(self._task(flow, name), run, "asked", usage)
            case TaskVerified(task=name, run=run, usage=usage, passed=passed, receipts=receipts):
                task = self._task(flow, name)
                self._end_run(task, run, "succeeded", usage)
                outcome, role = "passed" if passed else "failed", self._role(task.role)
                self._count("cairn_verifications_total", role, outcome)
                for receipt in receipts:
                    if receipt.coverage is not None:
                        self.put["cairn_coverage_percent", (role,)] = round(receipt.coverage * 100)
            case AttemptFailed(task=name, run=run, failure=failure, usage=usage):
                self._end_run(self._task(flow, name), run, FAILED.get(failure.type, "failed"), usage)
            case RetryScheduled(task=name, by=by):
                task = self._task(flow, name)
                if not by:  # else one that was scheduled before is made to come sooner
                    self._count("cairn_retries_total", self._role(task.role))
            case TaskRerouted(task=name, role=role):
                self._task(flow, name).role = role
            case TaskEdited(task=name, spec=spec):
                task = self._task(flow, name)
                task.role, task.ready = spec.agent_role, None  # it may wait for more now
            case TaskBranched(branch=branch):
                self._create(flow, branch.id, branch.agent_role)
                self._count("cairn_branches_total", self._role(branch.agent_role))
            case TaskAdded(spec=spec):
                self._create(flow, spec.id, spec.agent_role)
            case AskOpened(task=name, kind=kind):
                task = self._task(flow, name)
                task.ready, task.ask, task.asked = None, kind, at
            case AskAnswered(task=name) | AskExpired(task=name) | AskVoided(task=name):
                self._close_ask(self._task(flow, name), CLOSES_ASK[type(event)])
            case (
                TaskCompleted(task=name) | TaskFailed(task=name) | TaskCancelled(task=name) | TaskSkipped(task=name)
                | TaskExcused(task=name)
            ):  # fmt: skip
                self._close(flow, self._task(flow, name), event, at)

    def _task(self, flow: Flow, name: str) -> Work:
        task = flow.tasks.get(name)
        if task is None:
            raise LookupError(f"workflow {flow.workflow} has no open task {name}")
        self.tasks[flow.workflow, name] = task
        return task

    def _create(self, flow: Flow, name: str, role: str) -> None:
        self._role(role)
        flow.tasks[name] = self.tasks[flow.workflow, name] = Work(flow.workflow, name, role)

    def _close(self, flow: Flow, task: Work, event: WorkflowEvent, at: int) -> None:
        outcome, role = CLOSES[type(event)], self._role(task.role)
        if task.run:
            own = event.result if isinstance(event, TaskCompleted) and event.run == task.run else None
            self._end_run(task, task.run, "succeeded" if own else "cancelled", getattr(event, "usage", None), own)
        if task.ask:
            self._close_ask(task, "voided")
        self._count("cairn_tasks_total", role, outcome)
        if task.dispatched is not None:
            self._observe("cairn_task_duration_seconds", at - task.dispatched, role, outcome)
        del flow.tasks[task.task]
        self.tasks[flow.workflow, task.task] = None

    def _close_ask(self, task: Work, outcome: str) -> None:
        if task.ask:
            self._count("cairn_asks_total", task.ask, outcome)
        task.ask = task.asked = None

    def _end_run(self, task: Work, run: str, outcome: str, usage: Usage | None, result: Result | None = None) -> None:
        """Ends the run that is out if it is this one: what a branch has done for its task was no run of the task."""
        if task.run != run:
            return
        role = self._role(task.run_role)
        self._count("cairn_attempts_total", role, outcome)
        self._spend(role, usage, None)
        for finding in result.findings if result else ():
            self._count("cairn_findings_total", finding.kind, finding.severity)
        if task.work and task.started is not None and (usage is None or usage.tokens is None):
            self._count("cairn_usage_unknown_total", role)
        task.run = task.started = task.ready = None

    def _correct(self, task: Work | None, event: UsageCorrected) -> None:
        """What is told of a run that is out stands in its end too."""
        if task is None or task.run != event.run:
            self._spend(self._role(event.role or OTHER), event.now, event.was)

    def _spend(self, role: str, usage: Spent | None, before: Spent | None) -> None:
        if usage is None:
            return
        model = self._name("model", (usage.model or "unknown")[:MODEL_CHARACTERS].replace("\0", "\ufffd"))
        known = _tokens(before)
        for kind, tokens in _tokens(usage).items():
            if tokens > known[kind]:
                self._count("cairn_tokens_total", role, model, kind, by=tokens - known[kind])
        if (more := _nanos(usage) - _nanos(before)) > 0:
            self._count("cairn_cost_usd_total", role, model, by=more)

    def _end(self, flow: Flow, outcome: str, at: int) -> None:
        micros = max(at - flow.started, 0)
        self._count("cairn_workflows_total", outcome)
        self._count("cairn_workflow_duration_seconds", outcome, "sum", by=micros)
        self.ended[outcome, -(-micros // 1_000_000)] += 1
        del self._flows[flow.workflow]
        self.flows[flow.workflow] = None

    def _book(self, flow: Flow, event: WorkflowEvent) -> None:
        if isinstance(event, TaskAdded) and flow.books is None and event.spec.budget != UNLIMITED:
            flow.books = Books({})
        if flow.books is not None:
            book(flow.books, event)
            self.flows[flow.workflow] = flow

    def _count(self, name: str, *labels: str, by: int = 1) -> None:
        self.added[name, labels] += by

    def _observe(self, name: str, micros: int, *labels: str) -> None:
        micros = max(micros, 0)  # clocks may be set back
        bounds = LEDGER[name].bounds
        at = bisect_left(bounds, micros / 1e6)
        self._count(name, *labels, f"{bounds[at]:g}" if at < len(bounds) else "+Inf")
        self._count(name, *labels, "sum", by=micros)

    def _role(self, role: str) -> str:
        return self._name("role", role)

    def _name(self, label: str, value: str) -> str:
        """The value under which it is counted: the first that were named have a series of their own."""
        names = self._names.setdefault(label, set())
        if value in names or value == OTHER:
            return value
        if len(names) >= NAMES:
            return OTHER
        names.add(value)
        self.named.append((label, value))
        return value


def _tokens(usage: Spent | None) -> dict[str, int]:
    """By kind; of what is unknown none."""
    read, written = (usage and usage.cache_read) or 0, (usage and usage.cache_write) or 0
    plain = max(((usage and usage.input_total) or 0) - read - written, 0)
    return {"input": plain, "cache_read": read, "cache_write": written, "output": (usage and usage.output) or 0}


def _nanos(usage: Spent | None) -> int:
    return round(((usage and usage.cost_usd) or 0.0) * NANO)


def _share(limit: Budget, used: object, attempts: int) -> float:
    spent = {**{kind: getattr(used, kind) for kind in KINDS}, "attempts": attempts}
    return max((spent[kind] / most for kind in spent if (most := getattr(limit, kind))), default=0.0)
