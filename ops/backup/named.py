"""What the events of a tenant say about Git: where each workflow's repository is, which commits it is about."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from cairn.repository import Repository
from domain.events import (
    TaskCompleted,
    TaskReported,
    WorkflowCancelled,
    WorkflowCompleted,
    WorkflowFailed,
    WorkflowRestored,
    WorkflowStarted,
)
from ledger.recorded import Recorded

STREAM = "workflow-"


class Named:
    """Folds events; `running` holds the workflows that have not ended, each with the path of its repository now.

    `before` is where the data directory lay when these events were recorded, empty if it did not move.
    """

    def __init__(self, data_dir: Path, before: str) -> None:
        self.running: dict[str, str | None] = {}
        self._data_dir, self._before = data_dir, before
        self._place: dict[str, str | None] = {}
        self._commits: defaultdict[str, set[str]] = defaultdict(set)
        self._accepted: defaultdict[str, dict[str, str]] = defaultdict(dict)

    def fold(self, recorded: Recorded) -> None:
        if not recorded.stream.startswith(STREAM):
            return
        workflow = recorded.stream.removeprefix(STREAM)
        match recorded.event:
            case WorkflowStarted(repository=repository, base=base):
                self.running[workflow] = self._place[workflow] = self._now(repository)
                if base:
                    self._commits[workflow].add(base)
            case WorkflowRestored(repository=repository):
                self.running[workflow] = self._place[workflow] = self._now(repository)
            case TaskReported(result=result) if result.commit:
                self._commits[workflow].add(result.commit)
            case TaskCompleted(task=task, result=result) if result.commit:
                self._commits[workflow].add(result.commit)
                self._accepted[workflow][task] = result.commit
            case WorkflowCompleted() | WorkflowFailed() | WorkflowCancelled():
                self.running.pop(workflow, None)

    def here(self, repository: Path) -> list[str]:
        """The workflows whose repository it is. One that had ended before the data directory came here names the place
        where that was then."""
        return [workflow for workflow, place in self._place.items() if place == str(repository)]

    def commits(self, repository: Path) -> set[str]:
        """All that events name in it: where work began, what was reported, what was accepted."""
        return {commit for workflow in self.here(repository) for commit in self._commits[workflow]}

    def accepted(self, repository: Path) -> dict[tuple[str, str], str]:
        """Of completed tasks (workflow, task) the commit."""
        here = self.here(repository)
        return {(workflow, task): at for workflow in here for task, at in self._accepted[workflow].items()}

    @property
    def workflows(self) -> set[str]:
        return set(self._place)

    def _now(self, repository: str | None) -> str | None:
        if repository is None:
            return None
        path = Path(repository)
        here = self._data_dir / path.name
        moved = self._before and path.parent == Path(self._before)
        return str(here) if moved or (here.is_dir() and not path.exists()) else repository


async def settle(data_dir: Path, named: Sequence[Named]) -> list[str]:
    """Our branches in the repositories of the data directory become what was accepted there; answers with the commits
    that events name and that are missing."""
    missing: list[str] = []
    for path in sorted(data_dir.glob("*.git")):
        repository = await Repository.open(path)
        gone = await repository.missing(sorted(set().union(*(one.commits(path) for one in named))))
        accepted = {task: at for one in named for task, at in one.accepted(path).items() if at not in gone}
        elsewhere = [workflow for one in named for workflow in one.workflows.difference(one.here(path))]
        await repository.set_branches(accepted, spared=elsewhere)
        missing += gone
    return missing
