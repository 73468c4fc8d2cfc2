"""What may be asked of a workflow. Clocks and choices arrive in the command; `now` is seconds since the epoch, UTC."""

import msgspec

from domain.outcome import Failure, Receipt, Result
from domain.plan import Plan


class Command(msgspec.Struct, frozen=True, kw_only=True):
    now: float


class StartWorkflow(Command, frozen=True, kw_only=True):
    workflow: str
    plan: Plan
    repository: str | None = None
    base: str | None = None
    lease_seconds: float = 30.0
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


class ReportCompleted(Report, frozen=True, kw_only=True):
    result: Result


class ReportFailed(Report, frozen=True, kw_only=True):
    failure: Failure


class ReportVerified(Report, frozen=True, kw_only=True):
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
    | Redispatch
    | ExpireLease
    | ExpireRun
    | Retry
    | Answer
    | Cancel
    | Restore
)
