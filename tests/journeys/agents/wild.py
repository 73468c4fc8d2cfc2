"""An agent that nobody can rely on: `wild.py ROLE NAME CAPACITY SEED`. What it does to a run is a matter of the run's
name and of the seed: most succeed, others ask, fail in every way there is, hang, return no result, or end the agent."""

import asyncio
import os
import sys
from random import Random

from cairn import Agent, Failed, Result, Task

agent = Agent(sys.argv[1], name=sys.argv[2], capacity=int(sys.argv[3]))
seed = sys.argv[4]
CLASSES = ("test_failure", "implementation_bug", "missing_dependency", "spec_mismatch", "merge_conflict", "sandbox")


@agent.task
async def work(task: Task) -> object:
    random = Random(f"{seed}/{task.workflow}/{task.run}/{task.token}")
    await asyncio.sleep(random.choice([0, 0, 0, 0.02, 0.1]))
    luck = random.random()
    if luck < 0.05:
        answer = await task.ask("Which way?", ["left", "right"] if luck < 0.03 else (), due_seconds=2.0, default="left")
        return Result(summary=answer.choice)
    if luck < 0.70:
        return Result(summary=f"{task.run} by {agent.name}", data={"lucky": luck})
    if luck < 0.85:
        raise Failed("bad luck", type=random.choice(CLASSES))
    if luck < 0.90:
        raise ZeroDivisionError(task.run)
    if luck < 0.94:
        return object()  # no result
    if luck < 0.995:
        await asyncio.sleep(60)  # longer than it may
    os._exit(9)


agent.run()
