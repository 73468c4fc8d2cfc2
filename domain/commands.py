"""What may be asked of a workflow. Clocks and choices arrive in the command; `now` is seconds since the epoch, UTC."""

from typing import Any

import msgspec

from domain.outcome import Failure, Receipt, Result
from domain.plan import Budget, Plan
from domain.usage import Prices, Spent


class Command(msgspec.Struct, frozen=True, kw_only=True):
    now: float


class StartWorkflow(Command, frozen=True, kw_only=True):
    workflow: str
    plan: Plan
    repository: str | None = None
    base: str | None = None
    lease_seconds: float = 30.0
    prices: Prices | None = None
    queued: bool = False
    limited_roles: tuple[str, ...] = ()


class Admit(Command, frozen=True, kw_only=True):
    """The workflow has its place among those that run at once."""


class Grant(Command, frozen=True, kw_only=True):
    """The run that waits for a slot has all it needs."""

    task: str
    run: str


class Report(Command, frozen=True, kw_only=True):
    """What an agent says of a run. `token` is the lease it was given; only the current one is believed."""

    task: str
    run: str
    token: int
    agent: str


class ReportStarted(Report, frozen=True, kw_only=True):
    pass


class ReportNoted(Report, frozen=True, kw_only=True):
    key: str
    value: Any


class ReportReserve(Report, frozen=True, kw_only=True):
    """May a call use so much? One that does not say how much takes all that its run still holds."""

    call: str
    tokens: int | None = None
    usd: float | None = None


class ReportSettle(Report, frozen=True, kw_only=True):
    call: str
    spent: Spent


class ReportUsage(Report, frozen=True, kw_only=True):
    """What a run has used as far as is known now, also of one that has ended."""

    spent: Spent
    why: str = ""


class Outcome(Report, frozen=True, kw_only=True):
    """What ends a run. `spent` is None if the agent does not say it."""

    spent: Spent | None = None


class ReportCompleted(Outcome, frozen=True, kw_only=True):
    result: Result


class ReportFailed(Outcome, frozen=True, kw_only=True):
    failure: Failure


class ReportVerified(Outcome, frozen=True, kw_only=True):
    receipts: tuple[Receipt, ...]


class Redispatch(Command, frozen=True, kw_only=True):
    """Nobody has started the run in time: offer it again."""

    task: str
    token: int


class ExpireLease(Command, frozen=True, kw_only=True):
    """The agent's heartbeats stopped."""

    task: str
    token: int


class ExpireRun(Command, frozen=True, kw_only=True):
    """The run took longer than the plan allows."""

    task: str
    token: int


class Retry(Command, frozen=True, kw_only=True):
    """The backoff before `attempt` is over."""

    task: str
    attempt: int


class Answer(Command, frozen=True, kw_only=True):
    """A person decides on exactly what was shown: `shown` is the sha256 that the ask carried."""

    ask: str
    shown: str
    approved: bool
    by: str
    because: str = ""


class RaiseBudget(Command, frozen=True, kw_only=True):
    """Adds to the limit of a scope that has one: `workflow`, `role/<role>` or `task/<id>`."""

    scope: str
    amount: Budget
    by: str
    because: str = ""


class Cancel(Command, frozen=True, kw_only=True):
    by: str
    reason: str = ""


class Restore(Command, frozen=True, kw_only=True):
    """The ledger was brought back from a backup. `skipped` tokens are never given out: more than the life that is given
    up can have used since, and another number each time, so that no two lives give out the same."""

    skipped: int
    repository: str | None = None


WorkflowCommand = (
    StartWorkflow
    | Admit
    | Grant
    | ReportStarted
    | ReportCompleted
    | ReportFailed
    | ReportVerified
    | ReportNoted
    | ReportReserve
    | ReportSettle
    | ReportUsage
    | Redispatch
    | ExpireLease
    | ExpireRun
    | Retry
    | Answer
    | RaiseBudget
    | Cancel
    | Restore
)
