"""How far a task is, and the workflow: the share of what is done, by weight, of what it consists of. It never goes back.

A task that completed, or was excused, is done. One with parts (tasks that name it in `parent_id`) is as far as these,
each by its weight, and its own work counts as one part more (a group has none). A workflow consists of the tasks that
are part of no other. Branches count for nothing: they are part of the work of what they mend.
What is added or split makes the share smaller: the progress then stays where it was until the share has caught up.
"""

from collections.abc import Callable
from typing import Protocol


class Whole(Protocol):
    """A row with parts: a workflow, or a task. `parts` is the weight of all of them, `parts_done` what is done of it."""

    progress: float
    parts: float
    parts_done: float


class Part(Whole, Protocol):
    """A task: `own` is the weight of its own work among its parts."""

    weight: float
    own: float


def advance(task: Part, progress: float, above: Callable[[Part], Part | None], workflow: Whole) -> None:
    """`task` has come to `progress`; `above` finds the task that one is part of, None if it is of none."""
    part: Part | None = task
    while part is not None and progress > part.progress:
        step = part.weight * (progress - part.progress)
        part.progress = progress
        whole = above(part)
        known: Whole = workflow if whole is None else whole
        known.parts_done += step
        if whole is None:
            workflow.progress = max(workflow.progress, _share(workflow, 0.0))
            return
        part, progress = whole, _share(whole, whole.own)


def _share(whole: Whole, own: float) -> float:
    return min(whole.parts_done / (whole.parts + own), 1.0)
