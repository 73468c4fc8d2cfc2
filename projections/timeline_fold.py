"""How each event changes a workflow's chart and its tasks' lanes. What a task waits on is what `recovery_fold` says."""

from domain.events import (
    AskAnswered,
    AskExpired,
    AskOpened,
    AskVoided,
    AttemptFailed,
    TaskAdded,
    TaskAsked,
    TaskBranched,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskEdited,
    TaskExcused,
    TaskFailed,
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
    WorkflowResumed,
    WorkflowStarted,
    WorkflowTimedOut,
)
from domain.plan import Task
from domain.state import TaskStatus
from domain.usage import Usage
from ledger.recorded import Recorded
from projections import recovery_fold
from projections.board_rows import Outcome
from projections.timeline_rows import Asked, Attempt, Chart, Lane, Pause

TITLE_CHARACTERS = 200


class Work:
    """One workflow in memory: its chart, its open lanes and those that are asked for by name, and what these wait on."""

    def __init__(self, chart: Chart, lanes: list[Lane]) -> None:
        self.chart = chart
        self.lanes = {lane.task: lane for lane in lanes}
        self.flow = recovery_fold.Flow(chart.workflow, [])
        open_tasks = {lane.task for lane in lanes if lane.ended is None}
        for task in open_tasks:
            self.flow.add(self.lanes[task].wait(open_tasks))

    def lane(self, task: str) -> Lane:
        if lane := self.lanes.get(task):
            return lane
        raise LookupError(f"workflow {self.chart.workflow} has no open task {task}")


class Changes:
    """Folds events into the workflows it is given and knows which rows differ now."""

    def __init__(self, works: dict[str, Work]) -> None:
        self._works = works
        self.charts: dict[str, Chart] = {}
        self.lanes: dict[tuple[str, str], Lane] = {}

    def fold(self, workflow: str, recorded: Recorded) -> None:
        """LookupError for an event about what is not there: the rows or the ledger are not what they should be."""
        event: WorkflowEvent = recorded.event  # type: ignore[assignment]  # of this stream's kind
        at = recorded.recorded_at.timestamp()
        if isinstance(event, WorkflowStarted):
            title = event.plan.title[:TITLE_CHARACTERS]
            chart = Chart(workflow, title, at, 0, at, recorded.position, None if event.queued else at)
            self._works[workflow] = Work(chart, [])
        work = self._works.get(workflow)
        if work is None:
            raise LookupError(f"workflow {workflow} was never started")
        chart = self.charts[workflow] = work.chart
        chart.until, chart.last = max(chart.until, at), recorded.position
        self._tasks(work, event)
        self._workflow(chart, event)
        waits = recovery_fold.Changes({workflow: work.flow})
        waits.fold(workflow, recorded)
        for (_, task), wait in waits.waits.items():
            lane = work.lane(task)
            if lane.waits(wait, chart.until):
                self.lanes[workflow, task] = lane

    def _tasks(self, work: Work, event: WorkflowEvent) -> None:
        at = work.chart.until
        match event:
            case WorkflowStarted(plan=plan):
                for spec in plan.tasks:
                    self._create(work, spec)
            case TaskAdded(spec=spec):
                self._create(work, spec)
            case TaskBranched(branch=branch, depth=depth):
                self._create(work, branch, depth)
            case TaskEdited(task=task, spec=spec):
                lane = self._lane(work, task)
                lane.title, lane.role, lane.dependencies = (
                    spec.title[:TITLE_CHARACTERS],
                    spec.agent_role,
                    spec.dependencies,
                )
            case TaskRerouted(task=task, role=role):
                self._lane(work, task).role = role
            case TaskDispatched(task=task, run=run):
                lane = self._lane(work, task)
                attempt = lane.run(run)
                if attempt is None:
                    attempt = Attempt(run, event.attempt, event.role, at, event.purpose)
                    lane.attempts.append(attempt)
                attempt.agent = attempt.started = None  # whoever had it before has it no more
            case TaskStarted(task=task, run=run, agent=agent):
                attempt = self._lane(work, task).run(run)
                if attempt is None:
                    raise LookupError(f"workflow {work.chart.workflow}: run {run} was never dispatched")
                attempt.agent, attempt.started = agent, at
            case TaskReported(task=task, run=run):
                _end(self._lane(work, task), run, at, "reported", event.usage)
            case TaskAsked(task=task, run=run):
                _end(self._lane(work, task), run, at, "asked", event.usage)
            case TaskVerified(task=task, run=run, passed=passed):
                _end(self._lane(work, task), run, at, "passed" if passed else "failed", event.usage)
            case AttemptFailed(task=task, run=run, failure=failure):
                _end(self._lane(work, task), run, at, "failed", event.usage, failure.type)
            case UsageCorrected(task=task, run=run, now=now):
                attempt = self._lane(work, task).run(run)
                if attempt is None:
                    raise LookupError(f"workflow {work.chart.workflow}: run {run} was never dispatched")
                attempt.usage = now
            case AskOpened(task=task, ask=ask, kind=kind, due=due):
                self._lane(work, task).asks.append(Asked(ask, kind, at, due))
            case AskAnswered(task=task, ask=ask, choice=choice, by=by):
                asked = _asked(self._lane(work, task), ask, at)
                asked.state, asked.choice, asked.by = "answered", choice, by
            case AskExpired(task=task, ask=ask, choice=expired):
                asked = _asked(self._lane(work, task), ask, at)
                asked.state, asked.choice = "expired", expired
            case AskVoided(task=task, ask=ask):
                _asked(self._lane(work, task), ask, at).state = "voided"
            case TaskCompleted(task=task, run=run):
                lane = self._lane(work, task)
                _end(lane, run, at, "completed", event.usage)
                _close(lane, at, "completed")
            case TaskFailed(task=task):
                _close(self._lane(work, task), at, "failed")
            case TaskSkipped(task=task):
                _close(self._lane(work, task), at, "skipped")
            case TaskCancelled(task=task):
                _close(self._lane(work, task), at, "cancelled", event.usage)
            case TaskExcused(task=task):
                _close(self._lane(work, task), at, "excused", event.usage)

    def _workflow(self, chart: Chart, event: WorkflowEvent) -> None:
        at = chart.until
        match event:
            case WorkflowAdmitted():
                chart.admitted = at
            case WorkflowPaused(by=by, reason=reason):
                chart.pauses.append(Pause(at, None, by, reason))
            case WorkflowResumed():
                _resume(chart)
            case WorkflowCompleted():
                chart.ended, chart.outcome = at, "completed"
            case WorkflowFailed():
                chart.ended, chart.outcome = at, "failed"
            case WorkflowCancelled():
                chart.ended, chart.outcome = at, "cancelled"
            case WorkflowTimedOut():
                chart.ended, chart.outcome = at, "timed_out"
        if chart.ended is not None:
            _resume(chart)

    def _lane(self, work: Work, task: str) -> Lane:
        lane = self.lanes[work.chart.workflow, task] = work.lane(task)
        return lane

    def _create(self, work: Work, spec: Task, depth: int = 0) -> None:
        chart = work.chart
        chart.tasks += 1
        lane = Lane(
            chart.workflow, chart.tasks, spec.id, spec.title[:TITLE_CHARACTERS], spec.agent_role, chart.until,
            spec.dependencies, spec.parent_id, depth,
        )  # fmt: skip
        work.lanes[spec.id] = self.lanes[chart.workflow, spec.id] = lane


def _end(
    lane: Lane, run: str, at: float, outcome: Outcome, usage: Usage | None = None, failure: str | None = None
) -> None:
    """Ends a run if there is one: work that a branch has done for its parent was no run of the parent."""
    if attempt := lane.run(run):
        attempt.outcome, attempt.failure = outcome, failure
        attempt.ended = at if attempt.ended is None else attempt.ended
        attempt.usage = usage or attempt.usage


def _close(lane: Lane, at: float, outcome: TaskStatus, usage: Usage | None = None) -> None:
    for attempt in lane.attempts:
        if attempt.ended is None:
            _end(lane, attempt.run, at, "cancelled", usage)
    for asked in lane.asks:
        if asked.ended is None:
            asked.ended, asked.state = at, "voided"
    lane.ended, lane.outcome = at, outcome


def _asked(lane: Lane, ask: str, at: float) -> Asked:
    for asked in reversed(lane.asks):
        if asked.ask == ask:
            asked.ended = at
            return asked
    raise LookupError(f"workflow {lane.workflow}: task {lane.task} never asked {ask}")


def _resume(chart: Chart) -> None:
    if chart.pauses and chart.pauses[-1].ended is None:
        chart.pauses[-1].ended = chart.until
