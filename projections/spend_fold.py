"""What the runs of each task have used, and whose that is: the rows of `spend.sql`, and how events change them.

A task of the plan is kept with the runs of its branches. Its `shares` are made of nothing but these, so whatever changes
of a run, late numbers and corrections too, is taken away and put down where it belongs.
"""

from collections import defaultdict
from decimal import Decimal
from typing import NamedTuple

import msgspec

from domain.events import (
    AttemptFailed,
    CallSettled,
    TaskAsked,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskExcused,
    TaskReported,
    TaskVerified,
    UsageCorrected,
)
from domain.usage import Usage

ENDS_RUN = TaskReported | TaskAsked | TaskVerified | TaskCompleted | AttemptFailed | TaskCancelled | TaskExcused
COUNTS = TaskDispatched | CallSettled | UsageCorrected | ENDS_RUN
"""What changes a task's row."""
MODEL_CHARACTERS = 100
"""Of a model's name, which is an agent's word."""
NOTHING = Decimal(0)


class Key(NamedTuple):
    """`model` is empty where nobody says it; `day`, UTC, that on which the run ended, or the task was accepted."""

    workflow: str
    role: str
    model: str
    day: str


class Sums(msgspec.Struct):
    """`runs` counts those of tests too, `attempts` does not: tokens and money are those of attempts. Of what is unknown
    it counts the attempts; `calls` is what these have used in calls that were settled, at least. `accepted` are tasks,
    and the sums after it those of all attempts at them and at their branches."""

    runs: int = 0
    attempts: int = 0
    seconds: Decimal = NOTHING
    test_seconds: Decimal = NOTHING
    input_total: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    tokens_unknown: int = 0
    cost_reported: Decimal = NOTHING
    cost_computed: Decimal = NOTHING
    cost_unknown: int = 0
    calls_tokens: int = 0
    calls_usd: Decimal = NOTHING
    accepted: int = 0
    accepted_attempts: int = 0
    accepted_seconds: Decimal = NOTHING
    accepted_cost: Decimal = NOTHING
    accepted_unknown: int = 0

    def add(self, more: "Sums", times: int = 1) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + times * getattr(more, name))

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__struct_fields__)


class SpentRun(msgspec.Struct, omit_defaults=True, gc=False):
    """`day` is None while it is out; `work` is False of a run of tests; `calls_tokens` and `calls_usd` are those of its
    settled calls."""

    run: str
    role: str
    work: bool = True
    day: str | None = None
    usage: Usage | None = None
    calls_tokens: int = 0
    calls_usd: float = 0.0


class SpentTask(msgspec.Struct, gc=False):
    """A task of the plan and its branches. `accepted` is the day on which it was completed by somebody's work."""

    workflow: str
    task: str
    role: str = ""
    accepted: str | None = None
    runs: list[SpentRun] = []

    def fold(self, event: COUNTS, day: str) -> None:
        match event:
            case TaskDispatched(task=name, run=id, role=role, purpose=purpose):
                if self._run(id) is None:
                    self.runs.append(SpentRun(id, role, purpose == "work"))
                if purpose == "work" and (name == self.task or not self.role):
                    self.role = role
            case CallSettled(run=id, tokens=tokens, usd=usd):
                if run := self._run(id):
                    run.calls_tokens += tokens or 0
                    run.calls_usd = round(run.calls_usd + (usd or 0.0), 9)
            case UsageCorrected(run=id, now=now):
                if run := self._run(id):
                    run.usage = now
            case (
                TaskReported(run=id, usage=usage)
                | TaskAsked(run=id, usage=usage)
                | TaskVerified(run=id, usage=usage)
                | TaskCompleted(run=id, usage=usage)
                | AttemptFailed(run=id, usage=usage)
            ):
                _end(self._run(id), usage, day)
            case TaskCancelled(task=name, usage=usage) | TaskExcused(task=name, usage=usage):
                out = (run for run in self.runs if run.day is None and run.run.partition("/")[0] == name)
                _end(next(out, None), usage, day)
        if isinstance(event, TaskCompleted) and event.task == self.task and any(run.work for run in self.runs):
            self.accepted = day

    def shares(self) -> dict[Key, Sums]:
        """What it is of the sums of each key."""
        found: dict[Key, Sums] = defaultdict(Sums)
        for run in self.runs:
            if run.day is not None:
                sums = used(run)
                model = (run.usage and run.work and run.usage.model) or ""
                found[Key(self.workflow, run.role, named(model), run.day)].add(sums)
                if self.accepted:
                    found[Key(self.workflow, self.role, "", self.accepted)].add(
                        Sums(
                            accepted_attempts=sums.attempts,
                            accepted_seconds=sums.seconds + sums.test_seconds,
                            accepted_cost=sums.cost_reported + sums.cost_computed,
                            accepted_unknown=sums.cost_unknown,
                        )
                    )
        if self.accepted:
            found[Key(self.workflow, self.role, "", self.accepted)].accepted += 1
        return found

    def _run(self, id: str) -> SpentRun | None:
        return next((run for run in reversed(self.runs) if run.run == id), None)


def root(task: str) -> str:
    """The task of the plan that a branch mends, directly or not; a task of the plan itself."""
    return task.partition(".")[0]


def used(run: SpentRun) -> Sums:
    """Of one that has ended."""
    told = run.usage or Usage(seconds=0.0)
    if not run.work:
        return Sums(runs=1, test_seconds=exact(told.seconds, 3))
    cost = NOTHING if told.cost_usd is None else exact(told.cost_usd)
    return Sums(
        runs=1,
        attempts=1,
        seconds=exact(told.seconds, 3),
        input_total=told.input_total or 0,
        cache_read=told.cache_read or 0,
        cache_write=told.cache_write or 0,
        output=told.output or 0,
        tokens_unknown=int(told.tokens is None),
        cost_reported=cost if told.cost_source == "reported" else NOTHING,
        cost_computed=cost if told.cost_source == "computed" else NOTHING,
        cost_unknown=int(told.cost_usd is None),
        calls_tokens=run.calls_tokens if told.tokens is None else 0,
        calls_usd=exact(run.calls_usd) if told.cost_usd is None else NOTHING,
    )


def exact(number: float, digits: int = 9) -> Decimal:
    """Sums of these are the same in whatever order they are made."""
    return Decimal(f"{number:.{digits}f}")


def named(model: str) -> str:
    """As Postgres can take it, which has no NUL in texts, and an index, whose keys are short."""
    return model[:MODEL_CHARACTERS].replace("\0", "\ufffd")


def _end(run: SpentRun | None, usage: Usage | None, day: str) -> None:
    """What ends it first says what it has used; what a branch has done for its parent was no run of the parent."""
    if run is not None and run.day is None:
        run.day, run.usage = day, usage or run.usage
