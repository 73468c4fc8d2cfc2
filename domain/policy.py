"""What follows a failure: one choice, made of the plan's words, the task's counters and nothing else.

`Consequences` enacts it. The choice knows neither events nor clocks: the same task and failure give the same answer.
"""

import hashlib

import msgspec

from domain.outcome import Failure
from domain.plan import Retry as Backoff
from domain.state import NOT_ITS_FAULT, TaskState

LOST_LIMIT = 5
"""Agents that may die on one task before it is given up; they do not count as its attempts."""
GROWTHS = 140
"""Times that a backoff grows at most: by the largest factor of a plan, 100, any more is beyond a float."""


class Retry(msgspec.Struct, frozen=True):
    """Another attempt, after `wait_seconds`."""

    wait_seconds: float


class Branch(msgspec.Struct, frozen=True):
    """Somebody of `role` mends what failed; the task waits for it."""

    role: str


class Ask(msgspec.Struct, frozen=True):
    """Nothing that the plan allows is left: a person says how it goes on."""


class Fail(msgspec.Struct, frozen=True):
    """The task is over."""


Choice = Retry | Branch | Ask | Fail


def after_failure(task: TaskState, failure: Failure, salt: str) -> Choice:
    """What follows a failed attempt, which `task` counts already. `salt` names the task among all there are."""
    spec = task.spec
    role = spec.failure_routing.get(failure.type)
    if role and _may_branch(task):
        return Branch(role)
    left = failure.type in NOT_ITS_FAULT or task.failures < spec.max_attempts
    if left and task.lost < LOST_LIMIT:
        return Retry(backoff_seconds(spec.retry, task.failures + task.lost, salt))
    return _given_up(task)


def after_refusal(task: TaskState) -> Choice:
    """A person said no: that is nothing to try again, unless the plan routes it to somebody."""
    role = task.spec.failure_routing.get("refused")
    return Branch(role) if role and task.result and _may_branch(task) else Fail()


def _may_branch(task: TaskState) -> bool:
    return task.branches < task.spec.max_debug_attempts and task.depth < task.spec.max_branch_depth


def _given_up(task: TaskState) -> Choice:
    """A branch that is given up is its parent's matter, which may have another way left."""
    return Fail() if task.depth else Ask()


def backoff_seconds(retry: Backoff, failures: int, salt: str) -> float:
    """Exponential, capped, spread by a jitter that comes from the names: the same history computes the same wait."""
    grown = min(failures - 1, GROWTHS)
    wait = min(retry.initial_seconds * retry.factor**grown, retry.max_seconds)
    spread = int.from_bytes(hashlib.sha256(f"{salt}/{failures}".encode()).digest()[:4]) / 2**32
    return min(wait * (1 + retry.jitter * (2 * spread - 1)), retry.max_seconds)
