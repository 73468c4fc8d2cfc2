"""What a task waits for, in one sentence. An open task waits on exactly one thing, and that thing will come."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from domain.state import CLOSED, PASSED
from projections.board_rows import BoardAttempt, BoardTask, TaskKin


def waiting_on(
    task: BoardTask, tasks: Iterable[BoardTask | TaskKin], attempt: BoardAttempt | None, *, paused: bool = False
) -> str | None:
    """`tasks` are all of the workflow, or those it can wait for and all branches; the workflow may be `paused`, `attempt`
    is the one that `task.run` names. None for a task that is closed.

    The same as its row in `waits` (`projections.recovery`) would say at the board's position.
    """
    match task.status:
        case "pending":
            status = {other.task: other.status for other in tasks}
            missing = [need for need in task.dependencies if status[need] not in PASSED]
            if not missing:
                return "its workflow, which is paused" if paused else f"a slot of role {task.role}"
            if CLOSED.isdisjoint(status[need] for need in missing):
                return f"dependency {', '.join(missing)}"
        case "queued":
            return f"a slot of role {task.role}"
        case "dispatched":
            return f"an agent of role {task.role}"
        case "running" if attempt:
            return f"lease of {_holder(attempt)}"
        case "verifying" if attempt:
            if attempt.agent is None:
                return f"tests by a {attempt.role} other than {task.agent}"
            return f"tests by {_holder(attempt)}"
        case "retrying" if task.retry_due is not None:
            return f"retry at {_clock(task.retry_due)}"
        case "branched":
            above = {other.task: other for other in tasks}
            branch = [other.task for other in tasks if other.status not in CLOSED and _mends(other, above) == task.task]
            if branch:
                return f"branch {', '.join(branch)}"
        case "waiting" if task.ask:
            return f"a person: {task.ask}"
    return None if task.status in CLOSED else "a timer that is due: what follows is being decided"


def _mends(branch: BoardTask | TaskKin, tasks: Mapping[str, BoardTask | TaskKin]) -> str | None:
    """The task that waits for a branch: the nearest above it that is not over."""
    parent = branch.parent if branch.depth else None
    while parent and tasks[parent].depth and tasks[parent].status in CLOSED:
        parent = tasks[parent].parent
    return parent


def _holder(attempt: BoardAttempt) -> str:
    return f"{attempt.agent} until {_clock(attempt.timeout_at)} at the latest"


def _clock(seconds: float | None) -> str:
    return f"{datetime.fromtimestamp(seconds or 0, UTC):%Y-%m-%dT%H:%M:%SZ}"
