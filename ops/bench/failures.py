"""`cairn bench failures`: many workflows at once whose agents fail at random: nothing is lost, nothing stands still.

Every fifth run fails, by a hash of its name and so the same ones in each measurement: half of them with a failure that
is tried again, half with one that the plan sends down a branch, whose runs fail as well. Tasks form chains of ten.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from cairn.client import Client
from cairn.config import connection
from ops.bench.tasks import chains, system
from ops.bench.usage import memory_mb

WORKFLOWS, TASKS, CHAIN = 100, 100, 10
SHARE = 0.2
"""Of the runs, fail."""
ENDS = ("workflow.completed", "workflow.failed")
WATCH_SECONDS = 0.5
SHOWN_SECONDS = 60.0
"""The board shows an end a little after its event is there."""


async def main(workflows: int | None, tasks: int | None, show: Callable[[dict[str, Any]], None]) -> int:
    """1 if a task was left open at the end, else 0."""
    workflows, tasks = workflows or WORKFLOWS, tasks or TASKS
    async with system(SHARE) as (folder, server, _), Client(connection(folder)) as client:
        plans = [_plan(f"w{n}", tasks) for n in range(workflows)]
        begun = time.perf_counter()
        memory: list[int] = []
        watching = asyncio.create_task(_watch(server.pid, memory))
        seen = await _ended(client, plans)
        seconds = time.perf_counter() - begun
        watching.cancel()
        statuses = Counter([(await client.wait(plan["id"], SHOWN_SECONDS))["workflow"]["status"] for plan in plans])
        orphans = (await client.ready()).get("orphans")
        half = len(memory) // 2
    show(
        {
            "bench": "failures", "workflows": workflows, "tasks": workflows * tasks, "seconds": round(seconds, 1),
            "tasks_per_s": round(workflows * tasks / seconds), "failed_runs": seen["task.attempt_failed"],
            "retries": seen["task.retry_scheduled"], "branches": seen["task.branched"], "ended": dict(statuses),
            "stuck": statuses["running"], "orphans": orphans,
            "memory_mb": {"first_half": max(memory[:half]), "second_half": max(memory[half:])},
        }
    )  # fmt: skip
    return int(bool(statuses["running"] or orphans))


def _plan(name: str, tasks: int) -> dict[str, Any]:
    plan = chains(name, tasks, CHAIN)
    for task in plan["tasks"]:
        task |= {
            "max_attempts": 6, "retry": {"initial_seconds": 0.05}, "max_debug_attempts": 3, "max_branch_depth": 3,
            "failure_routing": {"test_failure": "coder"},
        }  # fmt: skip
    return {**plan, "escalation": {"due_seconds": 0}}


async def _watch(pid: int, memory: list[int]) -> None:
    while True:
        memory.append(memory_mb(pid))
        await asyncio.sleep(WATCH_SECONDS)


async def _ended(client: Client, plans: list[dict[str, Any]]) -> Counter[str]:
    """Submits them all at once and counts what happens until each has ended."""
    missing = {plan["id"] for plan in plans}
    seen = Counter[str]()

    async def count() -> None:
        async for event in client.events(0, follow=True):
            kind = event["type"].removeprefix("cairn.").removesuffix(".v1")
            seen[kind] += 1
            if kind in ENDS:
                missing.discard(event["data"]["workflow"])
                if not missing:
                    return

    counting = asyncio.create_task(count())
    await asyncio.gather(*(client.submit(plan) for plan in plans))
    await counting
    return seen
