"""A page of one workflow's tasks: of ten thousand the first fifty cost what fifty cost."""

import msgspec

from ledger.postgres import Connection
from projections.board import tell_waits
from projections.board_rows import AttemptRow, TaskKin, TaskRow, WorkflowRow
from projections.rows import load
from projections.sql import statements

SQL = statements("task_page")


class TaskPage(msgspec.Struct):
    """`tasks` in the plan's order, each followed by its branches; `attempts` are theirs, by age. The next page is that
    after the task `next`; None on the last."""

    workflow: WorkflowRow
    tasks: list[TaskRow]
    attempts: list[AttemptRow]
    next: str | None = None


class _Found(TaskPage):
    kin: list[TaskKin] = []
    known: bool = True


_PAGE = msgspec.json.Decoder(_Found)


async def task_page(connection: Connection, workflow: str, after: str | None, limit: int) -> TaskPage | None:
    """At most `limit` tasks after one of them, None if the board does not have the workflow, or not that task."""
    found = await load(connection, _PAGE, SQL["task_page"], workflow=workflow, after=after, limit=limit + 1)
    if found is None or not found.known:
        return None
    tasks = found.tasks[:limit]
    names = {task.task for task in tasks}
    attempts = [attempt for attempt in found.attempts if attempt.task in names]
    await tell_waits(connection, found.workflow, tasks, attempts, found.kin)
    return TaskPage(found.workflow, tasks, attempts, tasks[-1].task if len(found.tasks) > limit else None)
