"""Ends tasks for certain."""

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any

AGAIN_SECONDS = 1.0


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancels them until they have ended; what they raise stays with them.

    Once is not enough: on Python 3.11 `asyncio.wait_for`, in which the driver waits for Postgres, loses a cancellation
    that arrives together with the answer, and whoever waited goes on as if nobody had asked it to stop.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=AGAIN_SECONDS)


async def until_one_ends(*jobs: Coroutine[Any, Any, None]) -> None:
    """Runs them at once; when one ends, or we are cancelled, the others are ended. Raises what the first one raised."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)
    for task in done:
        task.result()
