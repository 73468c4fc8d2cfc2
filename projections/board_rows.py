"""The rows of the board's tables, named and typed as in `board.sql`.

What has its default value is not sent to Postgres: the statements that store rows begin from a row of the defaults.
What queries return, a `...Row`, is written with every field.
"""

from datetime import datetime
from typing import Any, Literal

import msgspec

from domain.events import AskKind, Purpose
from domain.outcome import Failure, Receipt
from domain.plan import Edit
from domain.state import AskState, TaskStatus
from domain.usage import Usage

WorkflowStatus = Literal["queued", "running", "waiting", "completed", "failed", "cancelled", "timed_out"]
Outcome = Literal["reported", "asked", "completed", "passed", "failed", "cancelled"]


class BoardWorkflow(msgspec.Struct, omit_defaults=True, gc=False):
    """`tasks`, `completed` and `failed` count the plan's tasks, `asks` the open ones; `first`, `last` are positions.

    `progress` is what `projections.progress` makes of `parts` and `parts_done`: 0 to 1, and never less than before.
    `lacking` are the kinds of agents that a query found something to wait for in vain.
    """

    workflow: str
    title: str
    objective: str
    status: WorkflowStatus
    tasks: int
    lease_seconds: float
    started_at: datetime
    first: int
    last: int
    repository: str | None = None
    base: str | None = None
    completed: int = 0
    failed: int = 0
    branches: int = 0
    asks: int = 0
    ended_at: datetime | None = None
    reason: str | None = None
    paused: bool = False
    progress: float = 0.0
    parts: float = 0.0
    parts_done: float = 0.0
    lacking: tuple[str, ...] = ()


class BoardTask(msgspec.Struct, omit_defaults=True, gc=False):
    """`retry_due` is in seconds since the epoch; `waiting_on` one sentence: what an open task
    that a query returned waits for. `progress` as that of a workflow, where `own` is the weight of its own work among
    its parts."""

    workflow: str
    task: str
    title: str
    role: str
    ordinal: int
    created: int
    updated: int
    dependencies: tuple[str, ...] = ()
    parent: str | None = None
    depth: int = 0
    branch_reason: str | None = None
    priority: int = 0
    capabilities: tuple[str, ...] = ()
    status: TaskStatus = "pending"
    attempt: int = 0
    agent: str | None = None
    run: str | None = None
    ask: str | None = None
    summary: str = ""
    commit: str | None = None
    files: tuple[str, ...] = ()
    failure: Failure | None = None
    receipts: tuple[Receipt, ...] = ()
    retry_due: float | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    weight: float = 1.0
    progress: float = 0.0
    own: float = 1.0
    parts: float = 0.0
    parts_done: float = 0.0
    waiting_on: str | None = None


class TaskKin(msgspec.Struct, gc=False):
    """What is to be known of a task to say whether others wait for it."""

    task: str
    status: TaskStatus
    parent: str | None
    depth: int


class StoredTask(BoardTask, omit_defaults=True, gc=False):
    """As it is written. `steps` are the statuses between the last batch's and `status`; None if there are none."""

    steps: tuple[TaskStatus, ...] | None = None


class BoardAttempt(msgspec.Struct, omit_defaults=True, gc=False):
    """One run. `outcome`: reported (not proven yet), asked (a person), completed, passed, failed, cancelled; None: open."""

    workflow: str
    task: str
    run: str
    attempt: int
    purpose: Purpose
    role: str
    dispatched_at: datetime
    dispatched: int
    agent: str | None = None
    outcome: Outcome | None = None
    failure: Failure | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    timeout_at: float | None = None
    usage: Usage | None = None


class BoardAsk(msgspec.Struct, omit_defaults=True, gc=False):
    """`shown` is the sha256 of `content`, `opened` a position, `due` in seconds since the epoch. `choice` is what was
    answered, or the default that was taken when it expired; voided ones have none."""

    workflow: str
    ask: str
    task: str
    kind: AskKind
    shown: str
    content: dict[str, Any]
    opened_at: datetime
    opened: int
    question: str = ""
    options: tuple[str, ...] = ()
    default: str | None = None
    who: tuple[str, ...] = ()
    due: float | None = None
    state: AskState = "open"
    closed_at: datetime | None = None
    choice: str | None = None
    answered_by: str | None = None
    because: str | None = None
    instructions: str | None = None
    role: str | None = None
    edit: Edit | None = None

    @property
    def open(self) -> bool:
        return self.state == "open"


class WorkflowRow(BoardWorkflow, omit_defaults=False): ...


class TaskRow(BoardTask, omit_defaults=False): ...


class UsageRow(Usage, frozen=True, omit_defaults=False, kw_only=True): ...


class AttemptRow(BoardAttempt, omit_defaults=False):
    usage: UsageRow | None = None


class AskRow(BoardAsk, omit_defaults=False): ...


class BoardDetail(msgspec.Struct):
    """One workflow whole: tasks in the plan's order, each followed by its branches; attempts and asks by age."""

    workflow: WorkflowRow
    tasks: list[TaskRow]
    attempts: list[AttemptRow]
    asks: list[AskRow]


class Entry(msgspec.Struct, gc=False):
    """A task with what its events may change. `moved`: its status is no longer the one that is stored."""

    task: StoredTask
    attempts: list[BoardAttempt] = []
    ask: BoardAsk | None = None
    moved: bool = False
