"""What follows from what: dispatch, verify, accept, complete, fail. One object gathers the events of one decision.
It is long because each of these can lead to every other.

The state it reads is the one before the decision; what the decision itself settled (a result, a number of tasks
closed, a lease token given out) is kept here until the events are folded.

It is long because each consequence leads to others: one object has to see all that its decision has settled.
"""

from collections import deque
from collections.abc import Iterable
from typing import Any, assert_never

import msgspec

from domain import asks, branches, policy
from domain.budget import Books, book
from domain.commands import ReportAsked
from domain.events import (
    AskVoided,
    AttemptFailed,
    Debug,
    Purpose,
    RetryScheduled,
    TaskAsked,
    TaskBranched,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskExcused,
    TaskFailed,
    TaskHeld,
    TaskQueued,
    TaskReported,
    TaskRerouted,
    TaskSkipped,
    WorkflowCompleted,
    WorkflowEvent,
    WorkflowFailed,
)
from domain.outcome import Failure, Receipt, Result
from domain.plan import Task
from domain.state import (
    CLOSED,
    OFFER_SECONDS,
    TRANSITIONS,
    Run,
    TaskState,
    TaskStatus,
    Workflow,
    bases,
    is_lost,
    next_run,
    root,
    waiting,
)
from domain.usage import Spent, Usage, usage

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
        self._failed, self._dropped = state.failed, state.dropped
        self._results: dict[str, tuple[Result | None, tuple[str, ...]]] = {}
        self._passed: dict[str, int] = {}  # dependencies that a task has got rid of in this decision
        self._ready: deque[TaskState] | None = None
        self._closed: set[str] = set()
        self._books, self._booked = state.books and state.books.copy(), 0

    @property
    def books(self) -> Books | None:
        """As they stand after the events so far; None where nothing has a budget."""
        if self._books is not None:
            for event in self.events[self._booked :]:
                book(self._books, event)
            self._booked = len(self.events)
        return self._books

    def begin(self) -> None:
        """All that waits for nothing else."""
        self.ready([task for task in self.state.tasks.values() if not task.missing])

    def ready(self, tasks: Iterable[TaskState]) -> None:
        """All that can begin at once, the most urgent first. What that completes by itself frees others, in turn."""
        freed = sorted(tasks, key=lambda task: -task.spec.priority)
        if self._ready is not None:
            self._ready += freed
            return
        self._ready = deque(freed)
        while self._ready:
            self.dispatch(self._ready.popleft())
        self._ready = None

    def dispatch(self, task: TaskState) -> None:
        """The next attempt, if need be when a person has agreed to exactly this, and when it has its slot."""
        if "before_dispatch" in task.spec.approval and (draft := self.approval(task)).shown != task.approved:
            self._ask(task, draft)
        elif self.state.paused:
            self._hold(task)
        elif task.spec.group and not task.begun:
            self._gather(task)
        elif not self.queues(task):
            self.grant(task)

    def grant(self, task: TaskState) -> None:
        """It has what it needs; a pause that came meanwhile takes it from it again."""
        if self.state.paused:
            self._hold(task)
        else:
            self._offer(task, next_run(task), task.attempt + 1, self._bases(task))

    def approval(self, task: TaskState) -> asks.Draft:
        """What a person agrees to before it is dispatched. How urgent it is may change without asking anew."""
        spec = msgspec.structs.replace(task.spec, priority=0)
        about = {"task": spec, "bases": self._bases(task), "dependencies": self._inputs(task)}
        return asks.approval("before_dispatch", about, self.state.approvals)

    def _hold(self, task: TaskState) -> None:
        self.events.append(TaskHeld(task=task.spec.id, role=task.spec.agent_role, at=self.now))

    def queues(self, task: TaskState) -> bool:
        """Whether the next attempt has to wait for its slot; if so it claims it, under the priority the task has now."""
        spec, run = task.spec, next_run(task)
        if queues := bool(spec.resources) or spec.agent_role in self.state.limited_roles:
            self.events.append(TaskQueued(spec.id, run, spec.agent_role, spec.resources, spec.priority, self.now))
        return queues

    def _gather(self, task: TaskState) -> None:
        """What a group waited for is its result; that the parts fit together its tests have to show."""
        result, run = Result("its parts are done"), self._parts(task)
        tests = task.spec.acceptance_criteria.tests
        if tests or "before_completion" in task.spec.approval:
            self.events.append(TaskReported(task=task.spec.id, run=run, agent="", result=result))
        if tests:
            self.verify(task, result, "")
        else:
            self.accept(task, result, run, "")

    def _parts(self, task: TaskState) -> str:
        """What stands for a run where there was none: a group's result is what its parts have done. After a first one,
        of more parts or when a person had it done again, something was dispatched or asked: their number names it."""
        name = f"{task.spec.id}/parts"
        return f"{name}.{self._tokens + self._asks}" if task.made else name

    def _offer(
        self, task: TaskState, run: str, attempt: int, start: tuple[str, ...], debug: Debug | None = None
    ) -> None:
        spec, seconds, budget = task.spec, seconds_allowed(task.spec, "work"), None
        if books := self.books:
            held = books.holds.get(spec.id)
            again = held is not None and held.run == run
            if not again and books.short(spec.id):
                self.ask_budget(task, "nothing is left of the budget")
                return
            budget = books.granted(spec.id, held.granted if held and again else books.share(spec.id, seconds))
            seconds = min(seconds, (budget and budget.seconds) or seconds)
        self._tokens += 1
        self.events.append(
            TaskDispatched(
                workflow=self.state.id, task=spec.id, run=run, attempt=attempt, role=spec.agent_role,
                token=self._tokens, due=self.now + OFFER_SECONDS, lease_seconds=self.state.lease_seconds,
                timeout_seconds=seconds, budget=budget, title=spec.title, description=spec.description,
                inputs=spec.inputs, files=spec.files, repository=self.state.repository, bases=start,
                dependencies=self._inputs(task), debug=debug or branches.told_again(self.state, task),
                previous=task.failure if attempt > 1 else None, notes=self._notes(task), expires=self._expires(task),
                answers=task.answers,
                capabilities=tuple(sorted(set(spec.capabilities))) if spec.capabilities else (),
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
                worker=worker, expires=self._expires(task),
            )
        )  # fmt: skip

    def offer_again(self, task: TaskState, run: Run) -> None:
        """The same run under a new token; whoever holds the old one comes too late."""
        if run.purpose == "verify" and task.result:
            self.verify(task, task.result, task.agent, run.id)
        else:
            self._offer(task, run.id, task.attempt, self._bases(task))

    def accept(
        self,
        task: TaskState,
        result: Result,
        work: str,
        agent: str,
        receipts: tuple[Receipt, ...] = (),
        used: Usage | None = None,
    ) -> None:
        """The evidence is there; a person may have to agree before it counts. `used` is that of a run that ends so."""
        if "before_completion" in task.spec.approval:
            about = {"task": task.spec, "bases": self._bases(task), "result": result, "receipts": receipts}
            self._ask(task, asks.approval("before_completion", about, self.state.approvals))
        else:
            self.complete(task, result, work, agent, used)

    def complete(
        self,
        task: TaskState,
        result: Result,
        work: str,
        agent: str,
        used: Usage | None = None,
        waived_by: str = "",
    ) -> None:
        spec = task.spec
        self.events.append(
            TaskCompleted(task=spec.id, run=work, agent=agent, result=result, usage=used, waived_by=waived_by)
        )
        self._close(task)
        self._results[spec.id] = (result, (result.commit,) if result.commit else self._bases(task))
        if task.depth:
            self._mended(waiting(self.state, task), spec.id, result, agent)
            return
        self._free(spec.id)

    def resume(self, held: Iterable[TaskState]) -> None:
        """Dispatches what was held, the most urgent first."""
        for task in sorted(held, key=lambda task: -task.spec.priority):
            self.dispatch(task)

    def _free(self, name: str) -> None:
        """What depends on the task that has passed, and on nothing else any more, is ready."""
        freed = []
        for dependent in self.state.dependents.get(name, ()):
            self._passed[dependent] = self._passed.get(dependent, 0) + 1
            task = self.state.tasks[dependent]
            if task.missing == self._passed[dependent] and task.status not in CLOSED:
                freed.append(task)
        self.ready(freed)
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
        self,
        task: TaskState,
        run: Run,
        failure: Failure,
        agent: str | None,
        receipts: tuple[Receipt, ...] = (),
        spent: Spent | None = None,
        ended: bool = False,
    ) -> None:
        """With `receipts` the run has ended before, and what failed is the work that it has tested; so has one of work
        that is `ended`."""
        used = None if receipts or ended else self.used(run, spent)
        self.events.append(
            AttemptFailed(task=task.spec.id, run=run.id, attempt=task.attempt, failure=failure, agent=agent, usage=used)
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
        """Nothing that the plan allows is left: a person decides, or the plan's default where nobody is asked."""
        plan = self.state.escalation
        if failure.type == "budget" and self.books:
            self.ask_budget(task, failure.message)
        elif plan.due_seconds:
            self._ask(task, asks.escalation(task, failure, self._bases(task), plan))
        elif task.result and asks.taken(task, plan) == "accept":
            self.complete(task, task.result, task.made, task.agent, waived_by="the plan")
        else:
            self.fail(task, failure)

    def ask_budget(self, task: TaskState, why: str) -> None:
        """A person adds to the budget, by exactly what is shown, or the task fails."""
        assert self.books is not None
        name = task.spec.id
        about = {"task": task.spec, "why": why, "budget": self.books.of(name), "raise": self.books.proposal(name)}
        self._ask(task, asks.budget(why, about, self.state.escalation))

    def _branch(self, task: TaskState, role: str, under: TaskState, failure: Failure) -> None:
        spec, depth = branches.branch(task, role, under, failure), under.depth + 1
        debug = branches.told(self.state, task, failure)
        self.events.append(TaskBranched(task=task.spec.id, branch=spec, depth=depth, debug=debug))
        self._open += 1
        opened = TaskState(spec, depth=depth)
        if self.state.paused:
            self._hold(opened)
        elif not self.queues(opened):
            start = (debug.commit,) if debug.commit else self._bases(task)
            self._offer(opened, next_run(opened), 1, start, debug)

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
        self._count_closed(task)
        self._end_branches(task)

    def so_far(self, run: Run | None) -> Usage | None:
        """Of a run that is ended from outside; one that nobody has begun took no time."""
        if run is None:
            return None
        return self.used(run) if run.agent else Usage(seconds=0.0)

    def expire(self, task: TaskState) -> None:
        """Its time is over, all attempts together: nothing that the plan allows is left."""
        failure = Failure("timeout", f"task {task.spec.id} took longer than {task.spec.total_seconds:g} s in all")
        self._settle(task, "clock", failure.message)
        if run := task.run:
            lost = AttemptFailed(
                task=task.spec.id,
                run=run.id,
                attempt=task.attempt,
                failure=failure,
                agent=run.agent,
                usage=self.so_far(run),
            )
            self.events.append(lost)
        plan = self.state.escalation
        if "completed" in TRANSITIONS[task.status] or asks.taken(task, plan) == "fail":
            self.exhausted(task, failure)
        else:  # it is accepted when the clock looks at the ask, if nobody is to be asked
            self._ask(task, asks.escalation(task, failure, self._bases(task), plan))

    def cancel(self, task: TaskState, by: str, reason: str) -> None:
        self._settle(task, by, reason)
        self.events.append(TaskCancelled(task=task.spec.id, by=by, reason=reason, usage=self.so_far(task.run)))
        self._close(task)
        self._dropped += 1
        self._skip_dependents(task.spec.id)
        self._finish()

    def excuse(self, task: TaskState, by: str, reason: str) -> None:
        self._settle(task, by, reason)
        self.events.append(TaskExcused(task=task.spec.id, by=by, reason=reason, usage=self.so_far(task.run)))
        self._close(task)
        self._results[task.spec.id] = None, self._bases(task)
        self._free(task.spec.id)

    def _settle(self, task: TaskState, by: str, reason: str) -> None:
        """Nobody mends it any more, and nobody is asked about it."""
        self._end_branches(task, by, reason)
        self.void(task, reason or f"by {by}")

    def _end_branches(self, task: TaskState, by: str = "", reason: str = "") -> None:
        """What is still to mend it is ended with it, and nobody is asked about that any more."""
        for branch in branches.below(self.state, task) if task.branches else ():
            if branch.spec.id not in self._closed:  # this decision may have closed it already
                self._count_closed(branch)
                self.cancel_too(branch, by, reason, f"{task.spec.id} is over")

    def cancel_too(self, task: TaskState, by: str, reason: str, why: str) -> None:
        """It ends with something larger, and what people are asked about it is void for the reason `why`."""
        self.void(task, why)
        self.events.append(TaskCancelled(task=task.spec.id, by=by, reason=reason, usage=self.so_far(task.run)))

    def _count_closed(self, task: TaskState) -> None:
        self._open -= 1
        self._closed.add(task.spec.id)

    def void(self, task: TaskState, why: str) -> None:
        """Nobody is asked about it any more."""
        if task.ask:
            self.events.append(AskVoided(ask=task.ask, task=task.spec.id, why=why, at=self.now))

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
        if (
            self._open
            or self.state.status != "running"
            or isinstance(self.events[-1], WorkflowCompleted | WorkflowFailed)
        ):
            return
        if self._failed or self._dropped:
            named = {"failed": self._ended("failed", TaskFailed), "cancelled": self._ended("cancelled", TaskCancelled)}
            reasons = [f"{status}: {', '.join(names)}" for status, names in named.items() if names]
            self.events.append(WorkflowFailed(workflow=self.state.id, reason="; ".join(reasons)))
        else:
            self.events.append(WorkflowCompleted(workflow=self.state.id))

    def _ended(self, status: TaskStatus, kind: type[TaskFailed | TaskCancelled]) -> list[str]:
        """The tasks of the plan that ended like this, those of this decision first."""
        tasks = self.state.tasks
        now = [it.task for it in self.events if isinstance(it, kind) and not tasks[it.task].depth]
        return now + [name for name, task in tasks.items() if task.status == status and not task.depth]

    def question(self, task: TaskState, run: Run, asked: ReportAsked) -> None:
        """An agent asks a person, which ends its run."""
        before = sum(ask.task == task.spec.id and ask.kind == "question" for ask in self.state.asks.values())
        if before < asks.QUESTIONS:
            used = self.used(run, asked.spent)
            self.events.append(TaskAsked(task=task.spec.id, run=run.id, agent=asked.agent, usage=used))
            self._ask(task, asks.question(task, asked))
        else:
            failure = Failure("agent_error", f"asked again after {before} questions, which is all a task may ask")
            self.attempt_failed(task, run, failure, asked.agent, spent=asked.spent)

    def _ask(self, task: TaskState, draft: asks.Draft) -> None:
        self._asks += 1
        self.events.append(draft.opened(f"ask-{self._asks}", task.spec.id, self.now))

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

    def _expires(self, task: TaskState) -> float | None:
        """When its time is over. Who has it done again after that, a person, gives it all of the time anew. A branch has
        the time of the task that it mends."""
        task = root(self.state, task)
        if task.spec.total_seconds is None or task.expires is not None:
            return task.expires
        return self.now + (task.left if task.left is not None and task.left > 0 else task.spec.total_seconds)

    def _tip(self, task: TaskState) -> str | None:
        result = self._results[task.spec.id][0] if task.spec.id in self._results else task.result
        return result.commit if result else None

    def _notes(self, task: TaskState) -> dict[str, Any]:
        """A branch reads its parent's notes too; what it writes is its own."""
        parent = self.state.tasks[task.spec.parent_id] if task.depth and task.spec.parent_id else None
        return {**self._notes(parent), **task.notes} if parent else task.notes

    def used(self, run: Run, spent: Spent | None = None) -> Usage:
        """What a run has used that ends now, or that goes on: what its agent says now, or has said before."""
        known = spent or (run.usage and run.usage.told)
        return usage(known, self.now - run.began, self.state.prices)


def seconds_allowed(spec: Task, purpose: Purpose) -> float:
    """How long a run may take, the making of its work tree included."""
    if purpose == "work":
        return spec.timeout_seconds
    return CHECKOUT_SECONDS + sum(test.timeout_seconds for test in spec.acceptance_criteria.tests)
