"""What follows a failure: one choice, made of the plan's words, the task's counters and nothing else.

`Consequences` enacts it. The choice knows neither events nor clocks: the same task and failure give the same answer.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from domain.failures import FailureType
from domain.outcome import Failure
from domain.plan import Retry as Backoff
from domain.plan import Route, Task
from domain.state import NOT_ITS_FAULT, TaskState

LOST_LIMIT = 5
"""Agents that may die on one task before it is given up; they do not count as its attempts."""
GROWTHS = 140
"""Times that a backoff grows at most: by the largest factor of a plan, 100, any more is beyond a float."""


class Retry(msgspec.Struct, frozen=True):
    """Another attempt, after `wait_seconds`."""

    wait_seconds: float


class Branch(msgspec.Struct, frozen=True):
    """Somebody of `role` mends what failed, in a branch under the task `under`: itself, or a branch that did not do."""

    role: str
    under: str


class Reroute(msgspec.Struct, frozen=True):
    """The attempts from the next one on, after `wait_seconds`, are for somebody of `role`."""

    role: str
    wait_seconds: float


class Ask(msgspec.Struct, frozen=True):
    """Nothing that the plan allows is left: a person says how it goes on."""


class Fail(msgspec.Struct, frozen=True):
    """The task is over."""


Choice = Retry | Branch | Reroute | Ask | Fail


def after_failure(task: TaskState, failure: Failure, line: Sequence[TaskState], salt: str) -> Choice:
    """What follows a failed attempt, which `task` counts already. `salt` names the task among all there are.

    `line` leads from the branch whose work has failed, if it was one's, up to the task itself.
    """
    route = route_of(task.spec, failure.type)
    match route.do:
        case "ask":
            return Ask()
        case "fail":
            return Fail()
        case "branch" if route.role and (under := _parent(task.spec, line)):
            return Branch(route.role, under)
    if (failure.type in NOT_ITS_FAULT or task.failures < task.spec.max_attempts) and task.lost < LOST_LIMIT:
        wait = backoff_seconds(route.retry or task.spec.retry, task.failures + task.lost, salt)
        return Reroute(route.role, wait) if route.do == "route" and route.role else Retry(wait)
    return Fail() if task.depth else Ask()  # a branch that is given up is its parent's matter


def after_refusal(task: TaskState, line: Sequence[TaskState]) -> Choice:
    """A person said no: that is nothing to try again, unless the plan routes it to somebody who mends the result."""
    route = route_of(task.spec, "refused")
    if route.do == "ask":
        return Ask()
    if route.do == "branch" and route.role and task.result and (under := _parent(task.spec, line)):
        return Branch(route.role, under)
    worked_on = task.result and not (
        task.spec.group and not task.begun
    )  # what is but its parts is no work to try again
    if route.do in ("retry", "route") and worked_on and task.attempt < task.spec.max_attempts:
        wait = (route.retry or task.spec.retry).initial_seconds
        return Reroute(route.role, wait) if route.role else Retry(wait)
    return Fail()


_BY_ITSELF: dict[FailureType, Route] = {"refused": Route("fail"), "budget": Route("ask")}


def route_of(spec: Task, failure: FailureType) -> Route:
    """What the plan says of a failure of this type: by itself, a person's refusal ends it, another attempt beyond the
    budget is for a person to allow, all else is tried again."""
    route = spec.failure_routing.get(failure) or _BY_ITSELF.get(failure) or Route("retry")
    return Route("branch", route) if isinstance(route, str) else route


def _parent(spec: Task, line: Sequence[TaskState]) -> str | None:
    """As deep as may be, then beside it, then further up: no task opens more branches than it may."""
    for one in line:
        if one.depth < spec.max_branch_depth and one.branches < spec.max_debug_attempts:
            return one.spec.id
    return None


def backoff_seconds(retry: Backoff, failures: int, salt: str) -> float:
    """Exponential, capped, spread by a jitter that comes from the names: the same history computes the same wait."""
    grown = min(failures - 1, GROWTHS)
    wait = min(retry.initial_seconds * retry.factor**grown, retry.max_seconds)
    spread = int.from_bytes(hashlib.sha256(f"{salt}/{failures}".encode()).digest()[:4]) / 2**32
    return min(wait * (1 + retry.jitter * (2 * spread - 1)), retry.max_seconds)
