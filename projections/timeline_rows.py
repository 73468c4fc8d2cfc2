"""What a Gantt chart of a workflow is drawn from: a row for the workflow, and one for each of its tasks.

Times are seconds since the epoch at which events were recorded; none is before the one of the event before it. What
goes on has no `to`.
"""

import msgspec

from domain.events import AskKind, Purpose
from domain.state import AskState, TaskStatus
from domain.usage import Usage
from projections.board_rows import Outcome, WorkflowStatus
from projections.recovery_fold import Kind, Wait

TIMES = {"began": "from", "ended": "to"}
"""How the names of two fields are written."""


class Pause(msgspec.Struct, omit_defaults=True, gc=False, rename=TIMES):
    """Time in which nothing of the workflow was dispatched, because somebody said so."""

    began: float
    ended: float | None = None
    by: str = ""
    reason: str = ""


class Chart(msgspec.Struct, gc=False, rename=TIMES):
    """A workflow. `tasks` counts all there are, branches too; `until` is when the last of its events was recorded.

    What is `queued` has no time at which it was `admitted`. `outcome` is None while it is open.
    """

    workflow: str
    title: str
    began: float
    tasks: int
    until: float
    last: int
    admitted: float | None = None
    ended: float | None = None
    outcome: WorkflowStatus | None = None
    pauses: list[Pause] = []


class Interval(msgspec.Struct, omit_defaults=True, gc=False, rename=TIMES):
    """A time in which a task waited on one thing, as `projections.recovery` names it. A `lease` is an agent at work.

    A slot without a `run` is not there yet, with one it is offered to the agents of `role`. `purpose` is set where it
    is the run of its tests. A dependency with a `branch` is the task that mends it. A timer without `due` is what was
    being decided on.
    """

    kind: Kind
    began: float
    ended: float | None = None
    role: str | None = None
    run: str | None = None
    purpose: Purpose | None = None
    agent: str | None = None
    ask: str | None = None
    branch: str | None = None
    due: float | None = None

    def same(self, other: "Interval") -> bool:
        """Whether the other one only goes on with this one."""
        return (self.kind, self.role, self.run, self.agent, self.ask, self.branch, self.due) == (
            other.kind, other.role, other.run, other.agent, other.ask, other.branch, other.due
        )  # fmt: skip


class Attempt(msgspec.Struct, omit_defaults=True, gc=False, rename=TIMES):
    """A run of the task's work or of its tests, from its first offer on. `failure` is the class of what went wrong."""

    run: str
    attempt: int
    role: str
    began: float
    purpose: Purpose = "work"
    agent: str | None = None
    started: float | None = None
    ended: float | None = None
    outcome: Outcome | None = None
    failure: str | None = None
    usage: Usage | None = None


class Asked(msgspec.Struct, omit_defaults=True, gc=False, rename=TIMES):
    """A time in which a person was asked."""

    ask: str
    kind: AskKind
    began: float
    due: float | None = None
    ended: float | None = None
    state: AskState = "open"
    choice: str | None = None
    by: str | None = None


class Lane(msgspec.Struct, gc=False, rename=TIMES):
    """A task. `number` counts the tasks of a workflow in the order in which they were created; a branch has a `depth`.

    `intervals` begin with the task, follow each other without a gap, and end with it; none is empty, unless it goes on.
    """

    workflow: str
    number: int
    task: str
    title: str
    role: str
    began: float
    dependencies: tuple[str, ...] = ()
    parent: str | None = None
    depth: int = 0
    ended: float | None = None
    outcome: TaskStatus | None = None
    intervals: list[Interval] = []
    attempts: list[Attempt] = []
    asks: list[Asked] = []

    def waits(self, wait: Wait | None, at: float) -> bool:
        """From `at` on it waits on this, on nothing if it is over; whether that is another thing than before."""
        new = wait and self._interval(wait, at)
        last = self.intervals[-1] if self.intervals else None
        if last and new and last.same(new):
            return False
        if last:
            last.ended = at
            if last.began == at:
                self.intervals.pop()
        if new:
            before = self.intervals[-1] if self.intervals else None
            if before and before.same(new):
                before.ended = None
            else:
                self.intervals.append(new)
        return True

    def wait(self, open_tasks: set[str]) -> Wait:
        """What it waits on now, as far as later events go by it. LookupError for a task that is over."""
        if self.ended is not None:
            raise LookupError(f"task {self.task} of workflow {self.workflow} is over")
        now = self.intervals[-1]
        found = Wait(
            self.workflow, self.task, now.kind, now.due, now.role, ask=now.ask, run=now.run, agent=now.agent
        )  # fmt: skip
        if now.kind == "dependency":
            needs = (now.branch,) if now.branch else dict.fromkeys(self.dependencies)
            found.needs = tuple(need for need in needs if need in open_tasks)
            found.missing = len(found.needs)
        return found

    def run(self, name: str) -> Attempt | None:
        return next((one for one in reversed(self.attempts) if one.run == name), None)

    def _interval(self, wait: Wait, at: float) -> Interval:
        new = Interval(wait.kind, at, None, wait.role, wait.run, None, wait.agent, wait.ask)
        if wait.run and (run := self.run(wait.run)) and run.purpose != "work":
            new.purpose = run.purpose
        if wait.kind == "ask" or (wait.attempt is not None and wait.kind == "timer"):
            new.due = wait.due
        if wait.kind == "dependency" and wait.role is None and wait.needs:
            new.branch = wait.needs[0]
        return new


class TimelinePage(msgspec.Struct):
    """A workflow with a page of its tasks."""

    workflow: Chart
    tasks: list[Lane]
