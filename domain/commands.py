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


class Report(Command, frozen=True, kw_only=True):
    """What an agent says of a run. `token` is the lease it was given; only the current one is believed.

    `agent` and `role` are who the bus says it is; without a `role` nobody has vouched for it.
    """

    task: str
    run: str
    token: int
    agent: str
    role: str | None = None


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


class Join(Command, frozen=True, kw_only=True):
    """An agent is there, and takes work of its role."""

    agent: str
    role: str
    capacity: int = 1
    capabilities: tuple[str, ...] = ()
    version: str = ""


class Miss(Command, frozen=True, kw_only=True):
    """Nothing was heard of an agent since `heard_at`, for longer than it promised."""

    heard_at: float


class Hear(Command, frozen=True, kw_only=True):
    """An agent was heard of."""


class Drain(Command, frozen=True, kw_only=True):
    by: str
    reason: str = ""


class Leave(Command, frozen=True, kw_only=True):
    """An agent says goodbye."""


AgentCommand = Join | Miss | Hear | Drain | Leave

WorkflowCommand = (
    StartWorkflow
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
