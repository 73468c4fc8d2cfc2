"""A completed task's commit becomes the branch `ai/generated/<workflow>/<task>`.

Only what was accepted moves a branch, so an agent that comes too late cannot. Setting it again is harmless, so the
cursor is kept after the effect.
"""

import asyncio
from collections import OrderedDict
from typing import Protocol

import structlog

from domain.events import TaskCompleted, WorkflowRestored, WorkflowStarted
from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger

log = structlog.get_logger()

REMEMBERED_WORKFLOWS = 1000
AWAY_SECONDS = 0.5


class Cursor(Protocol):
    """Both raise LedgerUnavailable when nobody can tell."""

    async def load(self) -> int: ...

    async def save(self, position: int) -> None: ...


class Artifacts(Protocol):
    async def set_branch(self, repository: str, workflow: str, task: str, commit: str) -> str:
        """The branch's name. OSError or GitError-like errors of the adapter are its own to raise as `BranchStuck`."""
        ...


class BranchStuck(Exception):
    """The branch could not be set, for a reason that a person has to see; the work itself is safe in its commit."""


class Branches:
    def __init__(self, ledger: Ledger, artifacts: Artifacts, cursor: Cursor) -> None:
        self._ledger, self._artifacts, self._cursor = ledger, artifacts, cursor
        self._repositories: OrderedDict[str, str | None] = OrderedDict()

    async def run(self) -> None:
        while True:
            try:
                await self._follow()
            except LedgerUnavailable as away:
                log.warning("branches.wait", why=str(away))
                await asyncio.sleep(AWAY_SECONDS)

    async def _follow(self) -> None:
        async for batch in self._ledger.follow(await self._cursor.load()):
            moved = False
            for recorded in batch:
                match recorded.event:
                    case WorkflowStarted() | WorkflowRestored() as moved_to:
                        self._remember(moved_to.workflow, moved_to.repository)
                    case TaskCompleted(task=task, result=result) if result.commit:
                        await self._set(recorded.stream.removeprefix("workflow-"), task, result.commit)
                        moved = True
            if moved:
                await self._cursor.save(batch[-1].position)

    async def _set(self, workflow: str, task: str, commit: str) -> None:
        repository = await self._repository(workflow)
        if repository is None:
            return
        try:
            await self._artifacts.set_branch(repository, workflow, task, commit)
        except BranchStuck as stuck:
            log.warning("branch.stuck", workflow=workflow, task=task, commit=commit, why=str(stuck))

    async def _repository(self, workflow: str) -> str | None:
        if workflow not in self._repositories:
            for recorded in await self._ledger.read_stream(f"workflow-{workflow}"):
                if isinstance(event := recorded.event, WorkflowStarted | WorkflowRestored):
                    self._remember(workflow, event.repository)
        return self._repositories[workflow]

    def _remember(self, workflow: str, repository: str | None) -> None:
        self._repositories[workflow] = repository
        while len(self._repositories) > REMEMBERED_WORKFLOWS:
            self._repositories.popitem(last=False)
