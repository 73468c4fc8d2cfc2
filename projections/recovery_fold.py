"""How each event changes what tasks wait on. After every one of them an open task has one wait, a closed one none.

A task whose run, ask or branch has just ended, or whose dependency cannot complete any more, waits on a timer that is
due at once: what happens to it stands in the events that follow in the same append.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from domain.events import (
    AskAnswered,
    AskOpened,
    AskVoided,
    AttemptFailed,
    RetryScheduled,
    TaskAdded,
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
    TaskSkipped,
    TaskStarted,
    TaskVerified,
    WorkflowStarted,
)
from domain.plan import Task
from ledger.recorded import Recorded

Kind = Literal["dependency", "slot", "lease", "timer", "ask"]


class Wait(msgspec.Struct, omit_defaults=True, gc=False):
    """What one open task waits on, a row of `waits`.

    `missing` of its `needs` have not closed; a row that is stored no longer carries them, they do not change. One with
    a `role` goes to a slot of it when all have completed; one without waits for its branch.
    """

    workflow: str
    task: str
    kind: Kind
    due: float | None = None
    role: str | None = None
    missing: int | None = None
    needs: tuple[str, ...] | None = None
    ask: str | None = None
    attempt: int | None = None
    run: str | None = None
    token: int | None = None
    agent: str | None = None
    timeout_at: float | None = None
    lease_seconds: float | None = None
    dispatched: int | None = None


class Flow:
    """The waits of one workflow, and who waits for which task."""

    def __init__(self, name: str, waits: list[Wait]) -> None:
        self.name = name
        self.waits: dict[str, Wait] = {}
        self.dependents: dict[str, list[str]] = {}
        for wait in waits:
            self.add(wait)
            wait.needs = None

    def add(self, wait: Wait) -> None:
        self.waits[wait.task] = wait
        for need in wait.needs or ():
            self.dependents.setdefault(need, []).append(wait.task)

    def of(self, task: str) -> Wait:
        """LookupError for a task that is closed or was never there."""
        if wait := self.waits.get(task):
            return wait
        raise LookupError(f"workflow {self.name} has no open task {task}")


class Changes:
    """Folds events into the flows it is given and knows which waits differ now: None is one that is gone."""

    def __init__(self, flows: dict[str, Flow]) -> None:
        self._flows = flows
        self.waits: dict[tuple[str, str], Wait | None] = {}
        self.seen: dict[str, int] = {}

    def fold(self, workflow: str, recorded: Recorded) -> None:
        """LookupError for an event about a task that is not open: the rows or the ledger are not what they should be."""
        event, at = recorded.event, recorded.recorded_at
        self.seen[workflow] = recorded.position
        flow = self._flows.get(workflow)
        if flow is None:
            flow = self._flows[workflow] = Flow(workflow, [])
        match event:
            case WorkflowStarted(plan=plan):
                for spec in plan.tasks:
                    self._create(flow, spec, dict.fromkeys(spec.dependencies))
            case TaskDispatched(task=task):
                flow.of(task)
                offer = Wait(
                    workflow, task, "slot", event.due, event.role, attempt=event.attempt, run=event.run,
                    token=event.token, lease_seconds=event.lease_seconds, dispatched=recorded.position,
                )  # fmt: skip
                self._put(flow, offer)
            case TaskQueued(task=task, role=role):
                flow.of(task)
                self._put(flow, Wait(workflow, task, "slot", None, role))
            case TaskStarted(task=task, run=run, timeout_at=timeout_at):
                wait = flow.of(task)
                if wait.run != run:
                    raise LookupError(f"workflow {workflow}: run {run} is not the one that task {task} waits for")
                wait.kind, wait.due = "lease", min(event.lease_until, timeout_at)
                wait.timeout_at, wait.agent = timeout_at, event.agent
                self._put(flow, wait)
            case TaskReported(task=task) if flow.of(task).kind == "slot" and flow.of(task).run is None:
                pass  # a group whose parts are its work: nothing of it was out
            case TaskReported(task=task) | TaskVerified(task=task) | AttemptFailed(task=task):
                self._settle(flow, task, at)
            case RetryScheduled(task=task, attempt=attempt, due=due):
                flow.of(task)
                self._put(flow, Wait(workflow, task, "timer", due, attempt=attempt))
            case TaskBranched(task=task, branch=branch):
                flow.of(task)
                self._create(flow, branch)
                self._put(flow, Wait(workflow, task, "dependency", missing=1, needs=(branch.id,)))
            case AskOpened(task=task, ask=ask):
                flow.of(task)
                self._put(flow, Wait(workflow, task, "ask", getattr(event, "due", None), ask=ask))
            case AskAnswered(task=task, ask=ask) | AskVoided(task=task, ask=ask):
                if flow.of(task).ask == ask:
                    self._settle(flow, task, at)
            case TaskHeld(task=task, role=role):
                flow.of(task)
                self._put(flow, Wait(workflow, task, "slot", None, role))
            case TaskAdded(spec=spec):
                self._create(flow, spec)
            case TaskEdited(task=task, spec=spec):
                if flow.of(task).kind != "timer" or any(need in flow.waits for need in spec.dependencies):
                    self._create(flow, spec)
            case TaskCompleted(task=task) | TaskExcused(task=task):
                self._close(flow, task)
                for waiting in self._waiting_for(flow, task):
                    self._met(flow, waiting, at)
            case TaskFailed(task=task) | TaskSkipped(task=task) | TaskCancelled(task=task):
                self._close(flow, task)
                for waiting in self._waiting_for(flow, task):
                    self._settle(flow, waiting.task, at)

    def _create(self, flow: Flow, spec: Task, needs: Iterable[str] | None = None) -> None:
        """`needs` are those of its dependencies that are open."""
        needs = tuple(
            dict.fromkeys(need for need in spec.dependencies if need in flow.waits) if needs is None else needs
        )
        if needs:
            wait = Wait(flow.name, spec.id, "dependency", None, spec.agent_role, missing=len(needs), needs=needs)
        else:
            wait = Wait(flow.name, spec.id, "slot", None, spec.agent_role)
        self._put(flow, wait)

    def _put(self, flow: Flow, wait: Wait) -> None:
        flow.add(wait)
        self.waits[flow.name, wait.task] = wait

    def _settle(self, flow: Flow, task: str, at: datetime) -> None:
        flow.of(task)
        self._put(flow, Wait(flow.name, task, "timer", at.timestamp()))

    def _close(self, flow: Flow, task: str) -> None:
        flow.of(task)
        del flow.waits[task]
        self.waits[flow.name, task] = None

    def _waiting_for(self, flow: Flow, task: str) -> list[Wait]:
        found = (flow.waits.get(name) for name in dict.fromkeys(flow.dependents.pop(task, ())))
        return [wait for wait in found if wait and wait.kind == "dependency"]

    def _met(self, flow: Flow, wait: Wait, at: datetime) -> None:
        assert wait.missing is not None
        if wait.missing > 1:
            wait.missing -= 1
            self.waits[flow.name, wait.task] = wait
        elif wait.role:
            self._put(flow, Wait(flow.name, wait.task, "slot", None, wait.role))
        else:
            self._settle(flow, wait.task, at)
