"""The words of the queue: what is claimed under which limits, what is asked of it, and what has happened."""

import msgspec

from domain.commands import Command
from domain.events import (
    AskOpened,
    AttemptFailed,
    Event,
    TaskAsked,
    TaskCancelled,
    TaskCompleted,
    TaskExcused,
    TaskFailed,
    TaskHeld,
    TaskReported,
    TaskSkipped,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowTimedOut,
)

TENANT = ""
"""Where a role is named: all of them."""
WORKFLOWS = "workflows"
"""The need of a workflow: a place among those that run at once."""

ENDS_RUN: tuple[type[Event], ...] = (
    TaskReported, TaskAsked, TaskCompleted, AttemptFailed, TaskFailed, TaskCancelled, TaskSkipped, TaskExcused, TaskHeld, AskOpened,
)  # fmt: skip
"""After these an attempt's work is over, or will not begin: what it holds is free."""
ENDS_WORKFLOW: tuple[type[Event], ...] = (
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowCancelled,
    WorkflowTimedOut,
)


class Claim(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What somebody needs in order to begin: a workflow its place; the run of a task its resources, a slot of its role.

    `id` is the workflow, or `<workflow>/<run>`.
    """

    id: str
    workflow: str
    task: str = ""
    run: str = ""
    role: str = ""
    resources: tuple[str, ...] = ()
    priority: int = 0

    @property
    def needs(self) -> tuple[str, ...]:
        return (f"role:{self.role}", *(f"resource:{name}" for name in self.resources)) if self.task else (WORKFLOWS,)


class ClaimQueued(Event, frozen=True, tag="claim.queued"):
    claim: Claim


class ClaimGranted(Event, frozen=True, tag="claim.granted"):
    """All that it needs is its own until `claim.freed`."""

    claim: str
    workflow: str
    task: str = ""
    run: str = ""


class ClaimFreed(Event, frozen=True, tag="claim.freed"):
    """It holds nothing, and waits for nothing, any more."""

    claim: str


class TenantPaused(Event, frozen=True, tag="tenant.paused"):
    """Nothing is newly handed out to anybody; what runs goes on."""

    by: str
    reason: str = ""


class TenantResumed(Event, frozen=True, tag="tenant.resumed"):
    """From `at` on work is handed out again; with a `rate`, no more than so many dispatches a minute since then."""

    at: float
    by: str
    reason: str = ""
    rate: float | None = None


class RolePaused(Event, frozen=True, tag="role.paused"):
    """Nothing is newly handed out to agents of this role; what runs goes on."""

    role: str
    by: str
    reason: str = ""


class RoleResumed(Event, frozen=True, tag="role.resumed"):
    """As `tenant.resumed`, of one role."""

    role: str
    at: float
    by: str
    reason: str = ""
    rate: float | None = None


QueueEvent = (
    ClaimQueued | ClaimGranted | ClaimFreed | TenantPaused | TenantResumed | RolePaused | RoleResumed
)  # fmt: skip
"""Everything a `queue-<tenant>` stream can hold."""


class Limits(msgspec.Struct, frozen=True):
    """How many at once; what is not limited is None, or no role of `role_slots`."""

    max_workflows: int | None = None
    role_slots: dict[str, int] = {}

    def of(self, need: str) -> int | None:
        if need == WORKFLOWS:
            return self.max_workflows
        kind, _, name = need.partition(":")
        return 1 if kind == "resource" else self.role_slots.get(name)


class QueueCommand(Command, frozen=True, kw_only=True):
    limits: Limits = Limits()


class PlaceClaim(QueueCommand, frozen=True, kw_only=True):
    claim: Claim


class FreeClaim(QueueCommand, frozen=True, kw_only=True):
    """Its holder has ended, or does not want it any more."""

    claim: str


class Regrant(QueueCommand, frozen=True, kw_only=True):
    """The limits may be others than before."""


class PauseDispatch(QueueCommand, frozen=True, kw_only=True):
    """Of a role, or of the whole tenant."""

    by: str
    role: str = TENANT
    reason: str = ""


class ResumeDispatch(QueueCommand, frozen=True, kw_only=True):
    """`rate`: dispatches a minute, None for all at once."""

    by: str
    role: str = TENANT
    reason: str = ""
    rate: float | None = None
