"""An agent that misbehaves as the task's input `does` says: `odd.py ROLE NAME [CAPACITY]`. An attempt after the first is done well
if the input `then_well` is set."""

import asyncio
import os
import sys
import time
from typing import Any

from cairn import Agent, Task

agent = Agent(sys.argv[1], name=sys.argv[2], capacity=int(sys.argv[3]) if len(sys.argv) > 3 else 1)


@agent.task
async def work(task: Task) -> Any:
    does = "well" if task.inputs.get("then_well") and task.attempt > 1 else task.inputs["does"]
    match does:
        case "well":
            assert task.path is not None
            (task.path / f"{task.task}.txt").write_text("done\n")
            return "done"
        case "lie":
            return {"summary": "done, and all tests pass", "data": {"tests": "passed", "exit_code": 0}}
        case "hang":
            await asyncio.sleep(3600)
        case "block":
            time.sleep(3600)  # noqa: ASYNC251 - it has to stand still
        case "huge":
            return {"summary": "much", "data": "x" * 5_000_000}
        case "large":
            return {"data": "x" * 60_000}
        case "deep":
            deep: list[Any] = []
            for _ in range(800):
                deep = [deep]
            return {"data": deep}
        case "list":
            return ["not", "a", "result"]
        case "nothing json knows":
            return {"data": object()}
        case "raise":
            raise RuntimeError("no idea \0 \ud800 how")
        case "vanish":
            os._exit(3)
    return None


agent.run()
