"""The tables refuse what the rules would never lead to, also when it is written by hand, as the application's role."""

from collections.abc import AsyncIterator
from typing import Any, get_args

import psycopg
import pytest
from psycopg.errors import CheckViolation, RestrictViolation
from stage import opened

from domain.state import TRANSITIONS, TaskStatus
from ledger.postgres import Connection
from projections.board import WORKFLOW_STEPS, Board
from projections.board_rows import Outcome, WorkflowStatus
from projections.project import Projection

WORKFLOW = """
INSERT INTO board_workflows (workflow, title, objective, status, tasks, completed, failed, branches, asks,
                             lease_seconds, started_at, first, last)
VALUES (%(name)s, '', '', %(status)s, 1, 0, 0, 0, 0, 30, now(), %(first)s, 1)
"""
TASK = """
INSERT INTO board_tasks (workflow, task, title, role, status, attempt, dependencies, depth, priority, ordinal, summary,
                         files, receipts, created, updated, steps)
VALUES ('w', %(name)s, '', 'coder', %(status)s, 0, '{}', 0, 0, 0, '', '{}', '[]', 1, 1, %(steps)s)
"""
ATTEMPT = """
INSERT INTO board_attempts (workflow, task, run, attempt, purpose, role, outcome, dispatched_at, dispatched)
VALUES ('w', 'a', %(run)s, 1, %(purpose)s, 'coder', %(outcome)s, now(), 1)
"""
MOVE = "UPDATE board_tasks SET status = %(status)s WHERE task = %(name)s"
MOVE_BY = "UPDATE board_tasks SET status = %(status)s, steps = %(steps)s WHERE task = %(name)s"


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Connection]:
    async with opened(postgres_url) as (_, connections), connections.connection() as connection:
        await Projection(connections, Board()).install()
        yield connection


def way_to(status: TaskStatus) -> list[TaskStatus]:
    """From pending, both included."""
    ways: list[list[TaskStatus]] = [["pending"]]
    for way in ways:
        if way[-1] == status:
            return way
        ways += [[*way, follows] for follows in sorted(TRANSITIONS[way[-1]]) if follows not in way]
    raise AssertionError(f"nothing leads to {status}")


async def tried(connection: Connection, statement: Any, **values: Any) -> type[Exception] | None:
    """What refused it. Either way nothing stays changed."""
    try:
        async with connection.transaction(force_rollback=True):
            await connection.execute(statement, values)
    except psycopg.errors.IntegrityError as error:
        return type(error)
    return None


@pytest.mark.parametrize("was", get_args(TaskStatus))
async def test_a_task_takes_the_steps_of_the_table_and_no_others(connection: Connection, was: TaskStatus) -> None:
    _, *steps = way_to(was)
    await connection.execute(TASK, {"name": "a", "status": was, "steps": steps[:-1] or None})
    for becomes in get_args(TaskStatus):
        right = None if becomes == was or becomes in TRANSITIONS[was] else RestrictViolation
        assert await tried(connection, MOVE, name="a", status=becomes) is right, f"{was} -> {becomes}"


async def test_the_statuses_of_a_batch_are_judged_one_by_one(connection: Connection) -> None:
    await connection.execute(TASK, {"name": "a", "status": "dispatched", "steps": None})
    right = [["running"], ["running", "verifying"], ["running", "retrying", "dispatched", "running"]]
    wrong = [[], ["running", "completed"], ["completed"], ["running", "pending", "waiting"]]
    for steps in right:
        assert await tried(connection, MOVE_BY, name="a", status="completed", steps=steps) is None, steps
    for steps in wrong:
        assert await tried(connection, MOVE_BY, name="a", status="completed", steps=steps) is RestrictViolation, steps
    back = ["running", "completed", "running", "retrying"]
    assert await tried(connection, MOVE_BY, name="a", status="dispatched", steps=back) is RestrictViolation


async def test_the_steps_of_an_earlier_batch_excuse_nothing(connection: Connection) -> None:
    await connection.execute(TASK, {"name": "a", "status": "running", "steps": ["dispatched"]})
    await connection.execute(MOVE_BY, {"name": "a", "status": "dispatched", "steps": ["retrying"]})
    assert await (await connection.execute("SELECT steps FROM board_tasks")).fetchall() == [(None,)]
    assert await tried(connection, MOVE, name="a", status="retrying") is RestrictViolation


@pytest.mark.parametrize("was", get_args(WorkflowStatus))
async def test_a_workflow_takes_the_steps_of_the_table_and_no_others(
    connection: Connection, was: WorkflowStatus
) -> None:
    await connection.execute(WORKFLOW, {"name": "w", "status": was, "first": 1})
    meant: dict[str, Any] = {status: status for status in get_args(WorkflowStatus)} | {"waiting": "running"}
    for becomes in get_args(WorkflowStatus):
        legal = meant[was] == meant[becomes] or meant[becomes] in WORKFLOW_STEPS[meant[was]]
        found = await tried(connection, "UPDATE board_workflows SET status = %(status)s", status=becomes)
        assert found is (None if legal else RestrictViolation), f"{was} -> {becomes}"


async def test_what_is_no_status_is_written_nowhere(connection: Connection) -> None:
    assert await tried(connection, WORKFLOW, name="w", status="done", first=1) is CheckViolation
    for status in ("done", "failed"):
        assert await tried(connection, TASK, name="a", status=status, steps=None) is RestrictViolation
    await connection.execute(WORKFLOW, {"name": "w", "status": "running", "first": 1})
    await connection.execute(TASK, {"name": "a", "status": "pending", "steps": None})
    assert await tried(connection, "UPDATE board_workflows SET status = 'unknown'") is RestrictViolation
    assert await tried(connection, MOVE, name="a", status="dispached") is RestrictViolation
    for trigger in ("refuse_insert", "refuse_update"):
        await connection.execute(f"DROP TRIGGER {trigger} ON board_tasks")
    assert await tried(connection, MOVE, name="a", status="dispached") is CheckViolation
    for outcome in (None, *get_args(Outcome)):
        assert await tried(connection, ATTEMPT, run="a/1", purpose="work", outcome=outcome) is None
    assert await tried(connection, ATTEMPT, run="a/1", purpose="work", outcome="good") is CheckViolation
    assert await tried(connection, ATTEMPT, run="a/1", purpose="play", outcome=None) is CheckViolation
