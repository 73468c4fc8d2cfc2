"""What may be asked of a workflow. Clocks and choices arrive in the command; `now` is seconds since the epoch, UTC."""

from typing import Any

import msgspec

from domain.outcome import Failure, Receipt, Result
from domain.plan import Budget, Edit, Plan, Task
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


class ReportAsked(Outcome, frozen=True, kw_only=True):
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


class RaiseBudget(Command, frozen=True, kw_only=True):
    """Adds to the limit of a scope that has one: `workflow`, `role/<role>` or `task/<id>`."""

    scope: str
    amount: Budget
    by: str
    because: str = ""


class Act(Command, frozen=True, kw_only=True):
    """What an operator does, and why. The same again, while it is so, leads to nothing."""

    by: str
    reason: str = ""


class Cancel(Act, frozen=True, kw_only=True):
    """Ends the workflow, or one `task` of it with its branches: what depends on that is skipped."""

    task: str | None = None


class Pause(Act, frozen=True, kw_only=True):
    """What is out goes on and may report, its tests included; nothing else is dispatched."""


class Resume(Act, frozen=True, kw_only=True):
    pass


class RetryNow(Act, frozen=True, kw_only=True):
    """The backoff is cut short."""

    task: str


class Skip(Act, frozen=True, kw_only=True):
    """The task is not done; what depends on it goes on without its result."""

    task: str


class EditTask(Act, frozen=True, kw_only=True):
    """`changes` are fields as a plan writes them; which, says `domain.acts.EDITABLE`."""

    task: str
    changes: dict[str, Any]


class AddTasks(Act, frozen=True, kw_only=True):
    """They may depend on each other, and on what is in the workflow already."""

    tasks: tuple[Task, ...]


class SplitTask(Act, frozen=True, kw_only=True):
    """The task waits for its parts, then is carried out; or, `replace`d by them, completes with them."""

    task: str
    parts: tuple[Task, ...]
    replace: bool = False


class Prioritise(Act, frozen=True, kw_only=True):
    task: str
    priority: int


class ExpireWorkflow(Command, frozen=True, kw_only=True):
    """The workflow took longer than its plan allows."""


class ExpireTask(Command, frozen=True, kw_only=True):
    """The task took longer than the plan allows, all attempts together."""

    task: str


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
    | Admit
    | Grant
    | ReportStarted
    | ReportCompleted
    | ReportFailed
    | ReportVerified
    | ReportAsked
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
    | ExpireAsk
    | Act
    | ExpireWorkflow
    | ExpireTask
    | Restore
)
