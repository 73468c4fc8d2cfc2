"""What the events of a tenant say about Git: where each workflow's repository is, which commits it is about."""

from collections import defaultdict
from collections.abc import Iterable
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


class Named:
    """Folds events; `running` holds the workflows that have not ended, each with the path of its repository now.

    `before` is where the data directory lay when these events were recorded, empty if it did not move.
    """

    def __init__(self, data_dir: Path, before: str) -> None:
        self.running: dict[str, str | None] = {}
        self._data_dir, self._before = data_dir, before
        self._place: dict[str, str | None] = {}
        self.commits: defaultdict[str, set[str]] = defaultdict(set)
        self.accepted: defaultdict[str, dict[tuple[str, str], str]] = defaultdict(dict)
        """By repository: the commits named, and of completed tasks (workflow, task) the one that was accepted."""

    def fold(self, recorded: Recorded) -> None:
        workflow = recorded.stream.removeprefix("workflow-")
        match recorded.event:
            case WorkflowStarted(repository=repository, base=base):
                self.running[workflow] = self._place[workflow] = self._now(repository)
                self._commit(workflow, base)
            case WorkflowRestored(repository=repository):
                self.running[workflow] = self._place[workflow] = self._now(repository)
            case TaskReported(result=result):
                self._commit(workflow, result.commit)
            case TaskCompleted(task=task, result=result):
                self._commit(workflow, result.commit)
                place = self._place[workflow]
                if result.commit and place:
                    self.accepted[place][workflow, task] = result.commit
            case WorkflowCompleted() | WorkflowFailed() | WorkflowCancelled():
                self.running.pop(workflow, None)

    async def missing(self) -> list[str]:
        """Commits that are in no repository of the data directory and should be in one."""
        found: list[str] = []
        for place, commits in self.commits.items():
            if Path(place).parent == self._data_dir:
                repository = await Repository.create(Path(place))
                found += await repository.missing(sorted(commits))
        return found

    def _commit(self, workflow: str, commit: str | None) -> None:
        place = self._place[workflow]
        if place and commit:
            self.commits[place].add(commit)

    def _now(self, repository: str | None) -> str | None:
        if repository is None:
            return None
        path = Path(repository)
        here = self._data_dir / path.name
        moved = self._before and path.parent == Path(self._before)
        return str(here) if moved or (here.is_dir() and not path.exists()) else repository


async def set_branches(data_dir: Path, named: Iterable[Named]) -> None:
    """Our branches in the repositories of the data directory become what was accepted; those of users stay."""
    accepted: defaultdict[str, dict[tuple[str, str], str]] = defaultdict(dict)
    for one in named:
        for place, commits in one.accepted.items():
            accepted[place] |= commits
    for path in data_dir.glob("*.git"):
        repository = await Repository.open(path)
        wanted = accepted[str(path)]
        gone = set(await repository.missing(sorted(set(wanted.values()))))
        await repository.set_branches({task: commit for task, commit in wanted.items() if commit not in gone})
