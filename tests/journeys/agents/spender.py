"""An agent that calls a model over and over, `together` calls at once and `calls` in all, each of at most `tokens`:
`spender.py ROLE NAME [CAPACITY]`. It writes what it has learned into its scratchpad, and says what it has used. It begins
once the file `after` exists, if its task names one, and hears of `late` tokens only when it is done."""

import asyncio
import os
import sys
from pathlib import Path

from cairn import Agent, Result, Task

agent = Agent(sys.argv[1], name=sys.argv[2], capacity=int(sys.argv[3]) if len(sys.argv) > 3 else 1)


@agent.task
async def work(task: Task) -> Result:
    asked = task.inputs
    room = asyncio.Semaphore(asked.get("together", 1))

    async def call() -> None:
        async with room, task.call(tokens=asked["tokens"]) as one:
            await asyncio.sleep(0)
            one.used(input=asked["tokens"] - 10, output=10, model="claude-sonnet-4-5")

    while asked.get("after") and not Path(asked["after"]).exists():
        await asyncio.sleep(0.02)
    before = task.notes.get("attempts", [])
    await task.note("attempts", [*before, task.run])
    if task.attempt == 1 and asked.get("dies"):
        Path(asked["dies"]).touch()
        os._exit(3)
    async with asyncio.TaskGroup() as group:
        for _ in range(asked["calls"]):
            group.create_task(call())
    if late := asked.get("late"):
        asyncio.get_running_loop().call_later(0.5, lambda: task.used(input=late, output=0, model="claude-sonnet-4-5"))
    return Result(summary="enough", data=task.notes)


agent.run()
