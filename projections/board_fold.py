"""How each event changes the board's rows.

It is long because the fold is one `match` over all that can happen.
"""

from datetime import datetime

import msgspec

from domain.events import (
    AskAnswered,
    AskExpired,
    AskOpened,
    AskVoided,
    AttemptFailed,
    BudgetRaised,
    CallReserved,
    CallSettled,
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
    WorkflowFailed,
    WorkflowPaused,
    WorkflowRestored,
    WorkflowResumed,
    WorkflowStarted,
    WorkflowTimedOut,
)
from domain.outcome import Failure, Receipt, Result
from domain.plan import Task
from domain.state import LATE, AskState, TaskStatus, refusal
from domain.usage import Usage
from ledger.recorded import Recorded
from projections.board_rows import (
    BoardAsk,
    BoardAttempt,
    BoardTask,
    BoardWorkflow,
    Entry,
    Outcome,
    StoredTask,
    WorkflowStatus,
)
from projections.progress import Part, advance

APPROVALS = ("before_dispatch", "before_completion")
SHOWN_CHARACTERS = 4_000
"""The tail of an output that the board keeps; the events have all that was recorded."""


class Changes:
    """Folds events into the rows it is given, adds new ones to them, and knows which of them differ now."""

    def __init__(self, workflows: dict[str, BoardWorkflow], entries: dict[tuple[str, str], Entry]) -> None:
        self._workflows, self._entries = workflows, entries
        self.workflows: dict[str, BoardWorkflow] = {}
        self.entries: dict[tuple[str, str], Entry] = {}
        self.created: list[tuple[str, str]] = []
        self.attempts: dict[tuple[str, str, str], BoardAttempt] = {}
        self.asks: dict[tuple[str, str], BoardAsk] = {}

    def fold(self, workflow: str, recorded: Recorded) -> None:
        """LookupError for an event about what was never begun: the rows or the ledger are not what they should be."""
        event, position, at = recorded.event, recorded.position, recorded.recorded_at
        if isinstance(event, WorkflowStarted):
            self._start(event, position, at)
            return
        board = self._board(workflow, position)
        match event:
            case TaskDispatched(task=name, run=run):
                entry = self._entry(board, name)
                task = entry.task
                _become(entry, "dispatched" if event.purpose == "work" else "verifying")
                task.attempt, task.run, task.receipts, task.retry_due = event.attempt, run, (), None
                self._offer(entry, event, position, at)
            case TaskQueued(task=name):
                entry = self._entry(board, name)
                _become(entry, "queued")
                entry.task.retry_due = None
            case TaskStarted(task=name, run=run, agent=agent):
                entry = self._entry(board, name)
                attempt = self._attempt(entry, run)
                if attempt is None:
                    raise LookupError(f"workflow {workflow}: run {run} was never dispatched")
                attempt.agent, attempt.started_at, attempt.timeout_at = agent, at, event.timeout_at
                if attempt.purpose == "work":
                    _become(entry, "running")
                    entry.task.agent = agent
                entry.task.started_at = entry.task.started_at or at
            case TaskReported(task=name, run=run, agent=agent, result=result):
                entry = self._entry(board, name)
                self._end(entry, run, at, "reported", used=event.usage)
                _judge(entry.task, agent, result)
            case TaskAsked(task=name, run=run):
                entry = self._entry(board, name)
                entry.task.run = None
                self._end(entry, run, at, "asked", used=event.usage)
            case TaskVerified(task=name, run=run, passed=passed, receipts=receipts):
                entry = self._entry(board, name)
                self._end(entry, run, at, "passed" if passed else "failed", used=event.usage)
                entry.task.receipts, entry.task.run = tuple(map(_short_receipt, receipts)), None
            case TaskCompleted(task=name, run=run, agent=agent, result=result):
                entry = self._entry(board, name)
                self._end(entry, run, at, "completed", used=event.usage)
                _judge(entry.task, agent, result)
                self._close(board, entry, at, "completed")
                self._done(board, entry.task)
                board.completed += not entry.task.depth
            case AttemptFailed(task=name, run=run, failure=failure):
                entry = self._entry(board, name)
                entry.task.failure, entry.task.run = _short_failure(failure), None
                self._end(entry, run, at, "failed", entry.task.failure, event.usage)
            case RetryScheduled(task=name, due=due):
                entry = self._entry(board, name)
                _become(entry, "retrying")
                entry.task.retry_due = due
            case TaskRerouted(task=name, role=role):
                task = self._entry(board, name).task
                task.role, task.capabilities = role, ()
            case TaskBranched(task=name, branch=branch, depth=depth):
                entry = self._entry(board, name)
                _become(entry, "branched")
                board.branches += 1
                self._create(board, branch, position, entry.task.ordinal, depth)
            case TaskFailed(task=name, failure=failure):
                entry = self._entry(board, name)
                entry.task.failure = _short_failure(failure)
                self._close(board, entry, at, "failed")
                board.failed += not entry.task.depth
            case TaskSkipped(task=name):
                self._close(board, self._entry(board, name), at, "skipped")
            case TaskCancelled(task=name):
                entry = self._entry(board, name)
                self._end(entry, entry.task.run, at, "cancelled", used=event.usage)
                self._close(board, entry, at, "cancelled")
            case UsageCorrected(task=name, run=run):
                entry = self._entry(board, name)
                attempt = self._attempt(entry, run)
                if attempt is None:
                    raise LookupError(f"workflow {workflow}: run {run} was never dispatched")
                attempt.usage = event.now
            case TaskNoted(task=name) | CallReserved(task=name) | CallSettled(task=name):
                self._entry(board, name)
            case TaskHeld(task=name):
                entry = self._entry(board, name)
                _become(entry, "pending")
                entry.task.retry_due = None
            case TaskExcused(task=name):
                entry = self._entry(board, name)
                self._end(entry, entry.task.run, at, "cancelled", used=event.usage)
                self._close(board, entry, at, "excused")
                self._done(board, entry.task)
            case TaskEdited(task=name, spec=spec):
                entry = self._entry(board, name)
                task = entry.task
                if spec.dependencies != task.dependencies:
                    _become(entry, "pending")
                    task.retry_due = None
                task.title, task.role, task.priority = spec.title, spec.agent_role, spec.priority
                task.dependencies, task.own = spec.dependencies, float(not spec.group)
                task.capabilities = spec.capabilities
            case TaskPrioritised(task=name, priority=priority):
                self._entry(board, name).task.priority = priority
            case TaskAdded(spec=spec):
                whole = self._entry(board, spec.parent_id) if spec.parent_id else None
                self._create(board, spec, position, whole.task.ordinal if whole else board.tasks, 0)
                self._join(board, spec)
                board.tasks += 1
            case AskOpened(task=name, ask=ask):
                entry = self._entry(board, name)
                _become(entry, "waiting")
                entry.task.ask = ask
                entry.ask = self.asks[workflow, ask] = BoardAsk(
                    workflow, ask, name, event.kind, event.shown, event.content, at, position, event.question,
                    event.options, event.default, event.who, event.due,
                )  # fmt: skip
                board.asks += 1
            case AskAnswered(task=name, ask=ask):
                entry, answered = self._asked(board, name, ask)
                answered.choice, answered.answered_by, answered.because = event.choice, event.by, event.because
                answered.instructions, answered.role, answered.edit = event.instructions, event.role, event.edit
                self._close_ask(board, entry, at, "answered")
                if answered.kind in APPROVALS and event.choice == "reject":
                    entry.task.failure = refusal(event.by, event.because)
            case WorkflowAdmitted():
                board.status = "running"
            case AskExpired(task=name, ask=ask):
                entry, expired = self._asked(board, name, ask)
                expired.choice = event.choice
                self._close_ask(board, entry, at, "expired")
                if expired.kind in APPROVALS and event.choice == "reject":
                    entry.task.failure = refusal("", LATE)
            case AskVoided(task=name, ask=ask, why=why):
                entry, voided = self._asked(board, name, ask)
                voided.because = why
                self._close_ask(board, entry, at, "voided")
            case WorkflowCompleted():
                board.status, board.ended_at = "completed", at
                board.progress = 1.0
            case WorkflowFailed(reason=reason):
                board.status, board.ended_at, board.reason = "failed", at, reason
            case WorkflowCancelled(by=by, reason=reason):
                board.status, board.ended_at = "cancelled", at
                board.reason = f"by {by}: {reason}" if reason else f"by {by}"
            case WorkflowTimedOut(reason=reason):
                board.status, board.ended_at, board.reason = "timed_out", at, reason
            case WorkflowPaused():
                board.paused = True
            case WorkflowResumed():
                board.paused = False
            case WorkflowRestored(repository=repository):
                board.repository = repository
            case ReportRefused() | BudgetRaised():
                pass
            case _:
                raise LookupError(f"the board does not know what a {recorded.type} means")
        if board.ended_at is None and board.status != "queued":
            board.status = "waiting" if board.asks else "running"

    def _board(self, workflow: str, position: int) -> BoardWorkflow:
        board = self._workflows.get(workflow)
        if board is None:
            raise LookupError(f"workflow {workflow} was never started")
        board.last = position
        self.workflows[workflow] = board
        return board

    def _entry(self, board: BoardWorkflow, name: str) -> Entry:
        key = (board.workflow, name)
        entry = self._entries.get(key)
        if entry is None:
            raise LookupError(f"workflow {board.workflow} has no task {name}")
        if key not in self.entries:
            entry.moved, entry.task.steps = False, None
            self.entries[key] = entry
        entry.task.updated = board.last
        return entry

    def _start(self, event: WorkflowStarted, position: int, at: datetime) -> None:
        plan = event.plan
        status: WorkflowStatus = "queued" if event.queued else "running"
        board = BoardWorkflow(
            event.workflow, plan.title, plan.objective, status, len(plan.tasks), event.lease_seconds, at, position,
            position, event.repository, event.base,
        )  # fmt: skip
        self._workflows[board.workflow] = self.workflows[board.workflow] = board
        for ordinal, spec in enumerate(plan.tasks):
            self._create(board, spec, position, ordinal, 0)
        for spec in plan.tasks:
            self._join(board, spec)

    def _create(self, board: BoardWorkflow, spec: Task, position: int, ordinal: int, depth: int) -> None:
        task = StoredTask(
            board.workflow, spec.id, spec.title, spec.agent_role, ordinal, position, position, spec.dependencies,
            spec.parent_id, depth, spec.branch_reason, spec.priority, spec.capabilities, weight=spec.weight,
            own=float(not spec.group),
        )  # fmt: skip
        key = (board.workflow, spec.id)
        self._entries[key] = self.entries[key] = Entry(task)
        self.created.append(key)

    def _join(self, board: BoardWorkflow, spec: Task) -> None:
        """It is part of a task, or of the workflow itself."""
        whole = self._entry(board, spec.parent_id).task if spec.parent_id else board
        whole.parts += spec.weight

    def _done(self, board: BoardWorkflow, task: BoardTask) -> None:
        if not task.depth:
            advance(task, 1.0, lambda part: self._whole(board, part), board)

    def _whole(self, board: BoardWorkflow, part: Part) -> BoardTask | None:
        assert isinstance(part, BoardTask)
        return self._entry(board, part.parent).task if part.parent else None

    def _offer(self, entry: Entry, event: TaskDispatched, position: int, at: datetime) -> None:
        attempt = self._attempt(entry, event.run)
        if attempt is None:
            attempt = BoardAttempt(
                entry.task.workflow, event.task, event.run, event.attempt, event.purpose, event.role, at, position
            )
            entry.attempts.append(attempt)
            self.attempts[attempt.workflow, attempt.task, attempt.run] = attempt
        attempt.dispatched_at, attempt.dispatched = at, position
        attempt.agent = attempt.started_at = attempt.timeout_at = None  # whoever had it before a restore has it no more

    def _attempt(self, entry: Entry, run: str) -> BoardAttempt | None:
        for attempt in reversed(entry.attempts):
            if attempt.run == run:
                self.attempts[attempt.workflow, attempt.task, run] = attempt
                return attempt
        return None

    def _end(
        self,
        entry: Entry,
        run: str | None,
        at: datetime,
        outcome: Outcome,
        failure: Failure | None = None,
        used: Usage | None = None,
    ) -> None:
        """Ends a run if there is one: work that a branch has done for its parent was no run of the parent."""
        if run and (attempt := self._attempt(entry, run)):
            attempt.outcome, attempt.failure = outcome, failure
            attempt.ended_at, attempt.usage = attempt.ended_at or at, used or attempt.usage

    def _close(self, board: BoardWorkflow, entry: Entry, at: datetime, status: TaskStatus) -> None:
        task = entry.task
        self._end(entry, task.run, at, "cancelled")
        if entry.ask and entry.ask.open:
            self._close_ask(board, entry, at, "voided")
        _become(entry, status)
        task.run, task.ended_at, task.retry_due = None, at, None

    def _asked(self, board: BoardWorkflow, name: str, ask: str) -> tuple[Entry, BoardAsk]:
        entry = self._entry(board, name)
        if entry.ask is None or entry.ask.ask != ask:
            raise LookupError(f"workflow {board.workflow}: ask {ask} is not the one that task {name} waits for")
        return entry, entry.ask

    def _close_ask(self, board: BoardWorkflow, entry: Entry, at: datetime, state: AskState) -> None:
        ask = entry.ask
        assert ask is not None
        ask.state, ask.closed_at = state, at
        self.asks[ask.workflow, ask.ask] = ask
        entry.ask = entry.task.ask = None
        board.asks -= 1


def _become(entry: Entry, status: TaskStatus) -> None:
    task = entry.task
    if status != task.status:
        if entry.moved:
            task.steps = (*(task.steps or ()), task.status)
        entry.moved, task.status = True, status


def _judge(task: BoardTask, agent: str, result: Result) -> None:
    task.agent, task.run = agent, None
    task.summary, task.commit, task.files = result.summary, result.commit, result.files


def _short_failure(failure: Failure) -> Failure:
    if len(failure.detail) <= SHOWN_CHARACTERS:
        return failure
    return msgspec.structs.replace(failure, detail=failure.detail[-SHOWN_CHARACTERS:])


def _short_receipt(receipt: Receipt) -> Receipt:
    if len(receipt.output) <= SHOWN_CHARACTERS:
        return receipt
    return msgspec.structs.replace(receipt, output=receipt.output[-SHOWN_CHARACTERS:])
