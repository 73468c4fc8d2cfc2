"""A worker that freezes in the middle of its work: `zombie.py ROLE NAME FOLDER`.

It works until FOLDER/freeze exists, says so in FOLDER/frozen, and then does nothing at all, not even beat, until
FOLDER/wake exists; then it reports what it has done as if nothing had happened.
"""

import asyncio
import sys
import time
from pathlib import Path

from cairn import Agent, Result, Task

agent, folder = Agent(sys.argv[1], name=sys.argv[2]), Path(sys.argv[3])


@agent.task
async def work(task: Task) -> Result:
    while not (folder / "freeze").exists():
        await asyncio.sleep(0.01)
    (folder / "frozen").touch()
    while not (folder / "wake").exists():
        time.sleep(0.01)  # noqa: ASYNC251 - its event loop has to stand still
    return Result(summary=f"{task.task} by {agent.name}, too late")


agent.run()
