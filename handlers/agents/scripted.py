"""An agent that thinks nothing: it applies the patches of an example, so that the path can be seen without a model.

`<script>/<task>/<attempt>.patch` is applied to the worktree, `<attempt>.json` beside it is the result. An attempt
without a patch takes the one before it. Its name, and so the actor of every event it causes, begins with `scripted`.
"""

from pathlib import Path
from uuid import uuid4

import msgspec

from cairn.agent import Agent
from cairn.git import git
from cairn.task import Failed, Result, Task


def scripted(role: str, script: Path, *, capacity: int = 2) -> Agent:
    """`script` is the folder of the example's patches."""
    agent = Agent(role, name=f"scripted-{role}-{uuid4().hex[:6]}", capacity=capacity)

    @agent.task
    async def apply(task: Task) -> Result:
        patch = _patch(script, task)
        if task.path is None:
            raise Failed(f"{patch} needs a repository to be applied to, and the workflow has none")
        await git("-C", task.path, "apply", "--whitespace=nowarn", patch.absolute())
        told = patch.with_suffix(".json")
        return msgspec.json.decode(told.read_bytes(), type=Result) if told.exists() else Result(summary=patch.name)

    return agent


def _patch(script: Path, task: Task) -> Path:
    for attempt in range(task.attempt, 0, -1):
        if (patch := script / task.task / f"{attempt}.patch").exists():
            return patch
    raise Failed(f"there is no patch for task {task.task} in {script / task.task}")
