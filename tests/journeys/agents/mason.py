"""An agent that lays one stone on what it finds, whoever's it is: `mason.py ROLE NAME`. Its result says what it was told.

It hands in a result of the declared shape only where it was told what was wrong with the one before, and lays more
stones only where a person has told it how many.
"""

import sys
import time

from cairn import Agent, Result, Task

agent = Agent(sys.argv[1], name=sys.argv[2])


@agent.task
async def lay(task: Task) -> Result:
    assert task.path is not None
    stones = task.path / "stones.txt"
    found = stones.read_text() if stones.exists() else ""
    count = int(task.answers[-1].instructions) if task.answers else 1
    stones.write_text(found + f"{task.task}\n" * count)
    (task.path / "when.txt").write_text(f"{int(time.time()) + 4}\n")
    told = {
        "found": found.split(),
        "diff": task.diff,
        "previous": task.previous.message if task.previous else None,
        "of": task.debug.parent if task.debug else None,
        "printed": [receipt.output for receipt in task.debug.receipts] if task.debug else [],
        "needs": {name: result.data for name, result in task.dependencies.items()},
    }
    return Result(
        summary="one more stone", data={"told": told, "stones": len(found.split()) + 1 if task.previous else "some"}
    )


agent.run()
