"""What may be asked of a workflow. Clocks and choices arrive in the command; `now` is seconds since the epoch, UTC."""

import msgspec

from domain.outcome import Failure, Receipt, Result
from domain.plan import Edit, Plan


class Command(msgspec.Struct, frozen=True, kw_only=True):
    now: float


class StartWorkflow(Command, frozen=True, kw_only=True):
    workflow: str
    plan: Plan
    repository: str | None = None
    base: str | None = None
    lease_seconds: float = 30.0


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


class ReportAsked(Report, frozen=True, kw_only=True):
    """The agent asks a person and ends its run. `due_seconds` and `default` as `AskOpened` has them."""

    question: str
    options: tuple[str, ...] = ()
    due_seconds: float | None = None
    default: str | None = None


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
    """A person decides on exactly what was shown: `shown` is the sha256 that the ask carried.

    `role` goes with the choice `reassign`, `edit` with `edit`; `instructions` are handed to the next agent.
    """

    ask: str
    shown: str
    choice: str
    by: str
    because: str = ""
    instructions: str = ""
    role: str | None = None
    edit: Edit | None = None


class ExpireAsk(Command, frozen=True, kw_only=True):
    """Nobody has answered in time: the default is taken."""

    ask: str


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
    | ReportStarted
    | ReportCompleted
    | ReportFailed
    | ReportVerified
    | ReportAsked
    | Redispatch
    | ExpireLease
    | ExpireRun
    | Retry
    | Answer
    | ExpireAsk
    | Cancel
    | Restore
)
