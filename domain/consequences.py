"""What follows from what: dispatch, verify, accept, complete, fail. One object gathers the events of one decision.

The state it reads is the one before the decision; what the decision itself settled (a result, a number of tasks
closed, a lease token given out) is kept here until the events are folded.
"""

import hashlib
from collections.abc import Iterable
from typing import Any, assert_never

import msgspec

from domain import branches, policy
from domain.events import (
    AskKind,
    AskOpened,
    AttemptFailed,
    Debug,
    Purpose,
    RetryScheduled,
    TaskBranched,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskFailed,
    TaskReported,
    TaskRerouted,
    TaskSkipped,
    WorkflowCompleted,
    WorkflowEvent,
    WorkflowFailed,
)
from domain.outcome import Failure, Receipt, Result
from domain.plan import Task
from domain.state import CLOSED, Run, TaskState, Workflow, bases, is_lost, waiting

OFFER_SECONDS = 600.0
"""A dispatch that nobody started is offered again after this: its message may have been lost with the bus."""
VERIFIER_ROLE = "tester"
CHECKOUT_SECONDS = 60.0
"""What a tester may take besides its tests: each of them has a limit of its own, and one that reaches it is evidence."""
INPUT_BYTES = 262_144
"""The results of its dependencies that a dispatch carries whole; beyond it `data` stays in the ledger."""


class Consequences:
    def __init__(self, state: Workflow, now: float) -> None:
        self.state, self.now = state, now
        self.events: list[WorkflowEvent] = []
        self._tokens = state.tokens
        self._asks = len(state.asks)
        self._open = state.open
        self._failed = state.failed
        self._results: dict[str, tuple[Result, tuple[str, ...]]] = {}
        self._closed: set[str] = set()

    def ready(self, tasks: Iterable[TaskState]) -> None:
        """All that can begin at once, the most urgent first."""
        for task in sorted(tasks, key=lambda task: -task.spec.priority):
            if "before_dispatch" in task.spec.approval:
                self._ask(task, "before_dispatch", {"dependencies": self._inputs(task)})
            else:
                self.dispatch(task)

    def dispatch(self, task: TaskState) -> None:
        attempt = task.attempt + 1
        self._offer(task, f"{task.spec.id}/{attempt}", attempt, self._bases(task))

    def _offer(
        self, task: TaskState, run: str, attempt: int, start: tuple[str, ...], debug: Debug | None = None
    ) -> None:
        spec = task.spec
        self._tokens += 1
        self.events.append(
            TaskDispatched(
                workflow=self.state.id, task=spec.id, run=run, attempt=attempt, role=spec.agent_role,
                token=self._tokens, due=self.now + OFFER_SECONDS, lease_seconds=self.state.lease_seconds,
                timeout_seconds=seconds_allowed(spec, "work"), title=spec.title, description=spec.description,
                inputs=spec.inputs, files=spec.files, repository=self.state.repository, bases=start,
                dependencies=self._inputs(task), debug=debug or branches.told_again(self.state, task),
                previous=task.failure if attempt > 1 else None,
                capabilities=tuple(sorted(set(spec.capabilities))),
            )
        )  # fmt: skip

    def verify(self, task: TaskState, result: Result, worker: str, run: str = "") -> None:
        """Has the task's tests run on the commit of its result, by a tester and never by the `worker` who wrote it."""
        spec = task.spec
        self._tokens += 1
        self._results[spec.id] = (result, ())
        self.events.append(
            TaskDispatched(
                workflow=self.state.id, task=spec.id, run=run or f"{spec.id}/verify.{task.checks + 1}",
                attempt=max(task.attempt, 1), role=VERIFIER_ROLE, token=self._tokens, due=self.now + OFFER_SECONDS,
                lease_seconds=self.state.lease_seconds,
                timeout_seconds=seconds_allowed(spec, "verify"),
                purpose="verify", title=spec.title, repository=self.state.repository,
                bases=(result.commit,) if result.commit else self._bases(task), tests=spec.acceptance_criteria.tests,
                worker=worker,
            )
        )  # fmt: skip

    def offer_again(self, task: TaskState, run: Run) -> None:
        """The same run under a new token; whoever holds the old one comes too late."""
        if run.purpose == "verify" and task.result:
            self.verify(task, task.result, task.agent, run.id)
        else:
            self._offer(task, run.id, task.attempt, self._bases(task))

    def accept(
        self, task: TaskState, result: Result, work: str, agent: str, receipts: tuple[Receipt, ...] = ()
    ) -> None:
        """The evidence is there; a person may have to agree before it counts."""
        if "before_completion" in task.spec.approval:
            self._ask(task, "before_completion", {"result": result, "receipts": receipts})
        else:
            self.complete(task, result, work, agent)

    def complete(self, task: TaskState, result: Result, work: str, agent: str) -> None:
        spec = task.spec
        self.events.append(TaskCompleted(task=spec.id, run=work, agent=agent, result=result))
        self._close(task)
        self._results[spec.id] = (result, (result.commit,) if result.commit else self._bases(task))
        if task.depth:
            self._mended(waiting(self.state, task), spec.id, result, agent)
            return
        freed = (self.state.tasks[name] for name in self.state.dependents.get(spec.id, ()))
        self.ready([task for task in freed if task.missing == 1])
        self._finish()

    def _mended(self, parent: TaskState, branch: str, result: Result, agent: str) -> None:
        mended = result if result.commit else msgspec.structs.replace(result, commit=self._tip(parent))
        if parent.spec.acceptance_criteria.tests:
            self.events.append(TaskReported(task=parent.spec.id, run=branch, agent=agent, result=mended))
            self.verify(parent, mended, agent)
        else:
            if "before_completion" in parent.spec.approval:
                self.events.append(TaskReported(task=parent.spec.id, run=branch, agent=agent, result=mended))
            self.accept(parent, mended, branch, agent)

    def attempt_failed(
        self, task: TaskState, run: Run, failure: Failure, agent: str | None, receipts: tuple[Receipt, ...] = ()
    ) -> None:
        self.events.append(
            AttemptFailed(task=task.spec.id, run=run.id, attempt=task.attempt, failure=failure, agent=agent)
        )
        lost = is_lost(failure, None if receipts else run)
        after = msgspec.structs.replace(
            task, lost=task.lost + lost, failures=task.failures + (not lost), receipts=receipts
        )
        if lost and run.purpose == "verify" and not receipts and task.result and after.lost < policy.LOST_LIMIT:
            self.verify(task, task.result, task.agent)
        else:
            self._after_failure(after, failure)

    def _after_failure(self, task: TaskState, failure: Failure) -> None:
        choice = policy.after_failure(task, failure, branches.line(self.state, task), f"{self.state.id}/{task.spec.id}")
        self._enact(choice, task, failure)

    def refused(self, task: TaskState, failure: Failure) -> None:
        self._enact(policy.after_refusal(task, branches.line(self.state, task)), task, failure)

    def _enact(self, choice: policy.Choice, task: TaskState, failure: Failure) -> None:
        match choice:
            case policy.Retry(wait_seconds=wait):
                self._again(task, wait)
            case policy.Reroute(role=role, wait_seconds=wait):
                if role != task.spec.agent_role:
                    self.events.append(TaskRerouted(task=task.spec.id, role=role))
                self._again(task, wait)
            case policy.Branch(role=role, under=under):
                self._branch(task, role, self.state.tasks[under], failure)
            case policy.Ask():
                self.exhausted(task, failure)
            case policy.Fail():
                self.fail(task, failure)
            case _:
                assert_never(choice)

    def _again(self, task: TaskState, wait_seconds: float) -> None:
        due = self.now + wait_seconds
        self.events.append(RetryScheduled(task=task.spec.id, attempt=task.attempt + 1, due=due))

    def exhausted(self, task: TaskState, failure: Failure) -> None:
        """Nothing that the plan allows is left."""
        self.fail(task, failure)

    def _branch(self, task: TaskState, role: str, under: TaskState, failure: Failure) -> None:
        spec, depth = branches.branch(task, role, under, failure), under.depth + 1
        debug = branches.told(self.state, task, failure)
        self.events.append(TaskBranched(task=task.spec.id, branch=spec, depth=depth, debug=debug))
        self._open += 1
        start = (debug.commit,) if debug.commit else self._bases(task)
        self._offer(TaskState(spec, depth=depth), f"{spec.id}/1", 1, start, debug)

    def fail(self, task: TaskState, failure: Failure) -> None:
        spec = task.spec
        self.events.append(TaskFailed(task=spec.id, failure=failure))
        self._close(task)
        if task.depth:
            parent = waiting(self.state, task)
            why = parent.failure or failure
            then = self.refused if why.type == "refused" else self._after_failure
            then(parent, why)
            return
        self._failed += 1
        self._skip_dependents(spec.id)
        self._finish()

    def _close(self, task: TaskState) -> None:
        """Whatever ended it, what was still to mend it is ended with it."""
        self._open -= 1
        self._closed.add(task.spec.id)
        for branch in branches.below(self.state, task) if task.branches else ():
            if branch.spec.id not in self._closed:
                self._open -= 1
                self._closed.add(branch.spec.id)
                self.events.append(TaskCancelled(task=branch.spec.id))

    def _skip_dependents(self, name: str) -> None:
        skipped, front = set[str](), [name]
        while front:
            because = front.pop()
            for dependent in self.state.dependents.get(because, ()):
                if dependent not in skipped and self.state.tasks[dependent].status not in CLOSED:
                    skipped.add(dependent)
                    front.append(dependent)
                    self.events.append(TaskSkipped(task=dependent, because=because))
        self._open -= len(skipped)

    def _finish(self) -> None:
        if self._open or self.state.status != "running":
            return
        if self._failed:
            tasks = self.state.tasks
            failed = [it.task for it in self.events if isinstance(it, TaskFailed) and not tasks[it.task].depth]
            failed += [name for name, task in tasks.items() if task.status == "failed" and not task.depth]
            self.events.append(WorkflowFailed(workflow=self.state.id, reason=f"failed: {', '.join(failed)}"))
        else:
            self.events.append(WorkflowCompleted(workflow=self.state.id))

    def _ask(self, task: TaskState, kind: AskKind, about: dict[str, Any]) -> None:
        spec = task.spec
        content = msgspec.to_builtins({"task": spec.id, "title": spec.title, "description": spec.description, **about})
        encoded = msgspec.json.encode(content, order="sorted")
        shown = hashlib.sha256(encoded).hexdigest()
        self._asks += 1
        self.events.append(AskOpened(ask=f"ask-{self._asks}", task=spec.id, kind=kind, shown=shown, content=content))

    def _inputs(self, task: TaskState) -> dict[str, Result]:
        """What its dependencies found out, whole as long as it is small."""
        found: dict[str, Result] = {}
        room = INPUT_BYTES
        for need in task.spec.dependencies:
            result = self._results[need][0] if need in self._results else self.state.tasks[need].result
            if result is not None:
                for shown in (result, msgspec.structs.replace(result, files=()), Result(commit=result.commit)):
                    if (size := len(msgspec.json.encode(shown))) <= room:
                        break
                found[need] = shown
                room -= size
        return found

    def _bases(self, task: TaskState) -> tuple[str, ...]:
        if task.depth or not any(need in self._results for need in task.spec.dependencies):
            return bases(self.state, task)
        needs = (
            self._results[need][1] if need in self._results else self.state.tasks[need].tips
            for need in task.spec.dependencies
        )
        return tuple(dict.fromkeys(tip for tips in needs for tip in tips))

    def _tip(self, task: TaskState) -> str | None:
        result = self._results[task.spec.id][0] if task.spec.id in self._results else task.result
        return result.commit if result else None


def seconds_allowed(spec: Task, purpose: Purpose) -> float:
    """How long a run may take, the making of its work tree included."""
    if purpose == "work":
        return spec.timeout_seconds
    return CHECKOUT_SECONDS + sum(test.timeout_seconds for test in spec.acceptance_criteria.tests)
