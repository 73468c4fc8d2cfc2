"""A worker that does as it is told: `worker.py ROLE NAME [CAPACITY]`. It writes a file named as the task, and its
inputs say how long it takes (`seconds`)."""

import asyncio
import sys

from cairn import Agent, Result, Task

agent = Agent(sys.argv[1], name=sys.argv[2], capacity=int(sys.argv[3]) if len(sys.argv) > 3 else 1)


@agent.task
async def work(task: Task) -> Result:
    await asyncio.sleep(task.inputs.get("seconds", 0))
    if task.path is not None:
        (task.path / f"{task.task}.txt").write_text(f"{task.run} by {agent.name}\n")
    return Result(summary=f"{task.task} by {agent.name}")


agent.run()
