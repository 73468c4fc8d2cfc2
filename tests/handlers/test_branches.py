"""What was accepted becomes a branch, over crashes, and whatever is wrong with one repository."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from clockwork import Clockwork, clockwork

from cairn.bus import Bus
from cairn.git import GitError
from cairn.repository import Repository
from domain.plan import Task
from handlers.branches import Branches
from ops.adapters import Cursor, Refs

SECONDS = 20.0


@pytest.fixture
async def works(postgres_url: str, tenant: str, bus: Bus) -> AsyncIterator[Clockwork]:
    async with clockwork(postgres_url, tenant, bus) as works:
        yield works


class Watched:
    """The real artifacts; it counts, and may fall over."""

    def __init__(self, crash_at: int = 0) -> None:
        self.set: list[str] = []
        self._crash_at = crash_at

    async def set_branch(self, repository: str, workflow: str, task: str, commit: str) -> str:
        self.set.append(task)  # before the effect, for which the tests wait
        name = await Refs().set_branch(repository, workflow, task, commit)
        if len(self.set) == self._crash_at:
            raise KeyboardInterrupt
        return name


@asynccontextmanager
async def running(branches: Branches) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(branches.run())
    try:
        yield task
        assert not task.done(), "it has ended"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def repository(folder: Path) -> tuple[Repository, str]:
    place = await Repository.create(folder)
    return place, await place.import_folder(None, message="first", ref="refs/cairn/start/w")


async def branch(place: Repository, name: str, commit: str) -> None:
    """Until the branch is at the commit."""
    async with asyncio.timeout(SECONDS):
        while True:
            with suppress(GitError):
                if await place.commit_of(f"refs/heads/ai/generated/{name}") == commit:
                    return
            await asyncio.sleep(0.02)


async def test_a_completed_task_is_a_branch(works: Clockwork, tmp_path: Path) -> None:
    place, commit = await repository(tmp_path / "a.git")
    cursor = Cursor(works.pool, "branches")
    async with running(Branches(works.ledger, Refs(), cursor)):
        await works.start(Task("a"), Task("b"), repository=str(place.path), base=commit)
        await works.start(Task("a"), workflow="none")
        await works.complete("a", "a/1", 1, commit)
        await works.complete("a", "a/1", 1, commit, workflow="none")
        await branch(place, "w/a", commit)
        with pytest.raises(GitError):
            await place.commit_of("refs/heads/ai/generated/w/b")


async def test_after_a_crash_it_goes_on_where_it_was_and_what_it_does_again_is_harmless(
    works: Clockwork, tmp_path: Path
) -> None:
    place, commit = await repository(tmp_path / "a.git")
    await works.start(*(Task(f"t{number}") for number in range(4)), repository=str(place.path), base=commit)
    cursor, first = Cursor(works.pool, "branches"), Watched()
    async with running(Branches(works.ledger, first, cursor)):
        await works.complete("t0", "t0/1", 1, commit)
        await branch(place, "w/t0", commit)
        async with asyncio.timeout(SECONDS):
            while not await cursor.load():
                await asyncio.sleep(0.02)
    for number in (1, 2):
        await works.complete(f"t{number}", f"t{number}/1", number + 1, commit)

    class Crashing(Watched):
        async def set_branch(self, *what: Any) -> str:
            await super().set_branch(*what)
            raise RuntimeError("a crash after the effect")

    with pytest.raises(RuntimeError, match="after the effect"):
        await asyncio.wait_for(Branches(works.ledger, Crashing(), cursor).run(), SECONDS)
    last = Watched()
    async with running(Branches(works.ledger, last, cursor)):
        await works.complete("t3", "t3/1", 4, commit)
        await branch(place, "w/t3", commit)
    assert first.set == ["t0"] and last.set == ["t1", "t2", "t3"]


async def test_a_branch_that_cannot_be_set_stops_no_other(works: Clockwork, tmp_path: Path) -> None:
    place, commit = await repository(tmp_path / "a.git")
    gone = str(tmp_path / "never" / "was.git")
    file = tmp_path / "file"
    file.write_text("no repository")
    async with running(Branches(works.ledger, Refs(), Cursor(works.pool, "branches"))):
        await works.start(Task("a"), Task("b"), Task("c"), repository=str(place.path), base=commit)
        for name, where in (("gone", gone), ("file", str(file)), ("nul", "a\0b")):
            await works.start(Task("a"), workflow=name, repository=where, base=commit)
            await works.complete("a", "a/1", 1, commit, workflow=name)
        await works.complete("a", "a/1", 1, "f" * 40)
        await works.complete("b", "b/1", 2, "--upload-pack=x\0")
        await works.complete("c", "c/1", 3, commit)
        await branch(place, "w/c", commit)
