"""How good the work was: what each event adds to the sums of `quality.sql`, and what it takes to know whose work it was."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from domain.events import (
    AttemptFailed,
    RetryScheduled,
    TaskBranched,
    TaskCompleted,
    TaskDispatched,
    TaskFailed,
    TaskReported,
    TaskVerified,
)
from domain.outcome import Result
from domain.state import NOT_ITS_FAULT

COUNTS = (
    TaskDispatched | TaskReported | TaskVerified | TaskCompleted | TaskFailed | AttemptFailed | RetryScheduled
    | TaskBranched
)  # fmt: skip


class Worked(msgspec.Struct, gc=False):
    """A task or a branch: `role` is that of its last attempt, `run` the one that is out, `judged` the role whose work
    its tests run on. `spoiled`: an attempt has failed, and not by the fault of what surrounds it."""

    workflow: str
    task: str
    role: str
    run: str | None = None
    judged: str = ""
    spoiled: bool = False


class Key(NamedTuple):
    workflow: str
    role: str
    day: str


class Counts(msgspec.Struct):
    """`verified` runs of tests, of which `passed` did; tasks of the plan that were `accepted`, of these at the `first`
    attempt, and that were `failed`; `covered` receipts that tell a coverage, their sum, and the last with its position."""

    verified: int = 0
    passed: int = 0
    accepted: int = 0
    first: int = 0
    failed: int = 0
    retries: int = 0
    branches: int = 0
    covered: int = 0
    coverage_sum: float = 0.0
    coverage_last: float | None = None
    coverage_at: int | None = None


class Quality:
    """Folds events into the rows of the tasks that it is given, and counts what they add."""

    def __init__(self, tasks: dict[tuple[str, str], Worked]) -> None:
        self._tasks = tasks
        self.touched: set[tuple[str, str]] = set()
        self.counts: Mapping[Key, Counts] = defaultdict(Counts)
        self.findings: Counter[tuple[Key, str, str]] = Counter()

    def fold(self, workflow: str, event: COUNTS, day: str, position: int) -> None:
        task = self._task(workflow, event.task)
        if isinstance(event, TaskDispatched) and event.purpose == "work":
            task = task or self._tasks.setdefault((workflow, event.task), Worked(workflow, event.task, event.role))
            task.role, task.run = event.role, event.run
            self.touched.add((workflow, event.task))
        if task is None:  # a group, of which nobody has done any work yet
            return
        here = self.counts[Key(workflow, task.role, day)]
        match event:
            case TaskReported(run=run, result=result):
                maker = self._task(workflow, run)  # a branch, that has done it for its parent
                task.judged = maker.role if maker else task.role
                self._ended(task, run, result, day)
            case TaskCompleted(run=run, result=result):
                self._ended(task, run, result, day)
                if "." not in event.task:
                    here.accepted += 1
                    here.first += not task.spoiled and not event.waived_by
            case TaskFailed() if "." not in event.task:
                here.failed += 1
            case AttemptFailed(run=run, failure=failure):
                task.run = None if task.run == run else task.run
                task.spoiled = task.spoiled or failure.type not in NOT_ITS_FAULT
            case TaskVerified(passed=passed, receipts=receipts):
                judged = self.counts[Key(workflow, task.judged or task.role, day)]
                judged.verified += 1
                judged.passed += passed
                for receipt in receipts:
                    if receipt.coverage is not None:
                        judged.covered += 1
                        judged.coverage_sum = round(judged.coverage_sum + receipt.coverage, 2)
                        judged.coverage_last, judged.coverage_at = receipt.coverage, position
            case RetryScheduled(by=""):
                here.retries += 1
            case TaskBranched():
                here.branches += 1

    def _ended(self, task: Worked, run: str, result: Result, day: str) -> None:
        """A result is told once by its run, and again when it counts."""
        if task.run == run:
            task.run = None
            for one in result.findings:
                self.findings[Key(task.workflow, task.role, day), one.kind, one.severity] += 1

    def _task(self, workflow: str, name: str) -> Worked | None:
        if task := self._tasks.get((workflow, name)):
            self.touched.add((workflow, name))
        return task
