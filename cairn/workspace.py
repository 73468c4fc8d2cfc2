"""A workspace: a Git worktree that one attempt has to itself, gone when the attempt is over.

Each has a file under `cairn/worktrees/` in the repository's Git directory, which holds the worktree's path and is
locked (flock) by the process that uses it. The kernel drops the lock when that process ends, however it ends: a file
that can be locked belongs to nobody, and `prune` removes its worktree. Nothing else is ever pruned.
"""

import asyncio
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

from cairn.git import GitError, git, identity

# Left by whatever ran the tests; two branches that both hold it would conflict.
_NEVER_COMMITTED = ":(exclude,glob)**/__pycache__/**"
_TRAILER_KEY = re.compile(r"[A-Za-z0-9-]+")
# Git stops looking for trailers at such a line: an author's message could hide ours, or pass its own off as ours.
_DIVIDER = re.compile(r"^(---\s|# -+ >8 -+)", re.MULTILINE)


class Workspace:
    """A worktree with a detached HEAD. `path`: its folder. `base`: the commit it started from."""

    def __init__(self, path: Path, base: str, git_dir: Path) -> None:
        self.path = path
        self.base = base
        self._tip = base
        # Named outright: what a program did to the folder's own `.git` does not matter then.
        self._here = ("-C", str(path), f"--git-dir={git_dir}", f"--work-tree={path}")

    async def commit(self, message: str, *, author: str, trailers: Mapping[str, str]) -> str | None:
        """Commit every change since the last call as one commit, and give its id; None if nothing changed.

        `author`: "Name <email>". Ignored files and `__pycache__` are left out. Commits that somebody else made in the
        folder are folded into this one. GitError for a repository inside the workspace, whose files git would not take.
        """
        text = _with_trailers(message, trailers)
        await git(*self._here, "add", "--all", "--", _NEVER_COMMITTED)
        changes = (await git(*self._here, "diff-index", "--cached", "--raw", "-z", self._tip)).split(b"\0")
        if len(changes) < 2:
            return None
        for change, path in zip(changes[::2], changes[1::2], strict=False):
            if re.match(rb":(?!160000)\d+ 160000", change):
                inner = self.path / os.fsdecode(path)
                await git(*self._here, "update-index", "--force-remove", "--", os.fsdecode(path))
                raise GitError(
                    f"{inner} is a Git repository of its own, so its files cannot be committed: remove {inner}/.git"
                )
        tree = (await git(*self._here, "write-tree")).decode().strip()
        commit_tree = ("commit-tree", tree, "-p", self._tip, "-F", "-")
        commit = (await git(*self._here, *commit_tree, env=identity(author), stdin=[text])).decode().strip()
        await git(*self._here, "update-ref", "--no-deref", "HEAD", commit)
        self._tip = commit
        return commit

    async def apply(self, patch: Path) -> None:
        """Apply a patch file to the folder, whole or not at all. GitError if it does not fit."""
        await git(*self._here, "apply", "--whitespace=nowarn", patch.absolute())


@asynccontextmanager
async def checkout(common_dir: Path, commit: str, folder: Path) -> AsyncIterator[Workspace]:
    """A workspace of `commit` under `folder`, in the repository whose shared Git directory is `common_dir`."""
    path = folder.absolute() / uuid4().hex
    folder.mkdir(parents=True, exist_ok=True)
    claims = common_dir / "cairn" / "worktrees"
    claims.mkdir(parents=True, exist_ok=True)
    claim, unlocked = claims / path.name, claims / f".{path.name}"
    with unlocked.open("xb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(os.fsencode(path))
        file.flush()
        unlocked.rename(claim)
        try:
            await git(f"--git-dir={common_dir}", "worktree", "add", "--quiet", "--detach", path, commit)
            yield Workspace(path, commit, common_dir / "worktrees" / path.name)
        finally:
            await asyncio.to_thread(_remove, common_dir, path)
            claim.unlink()


def prune(common_dir: Path) -> tuple[Path, ...]:
    """Remove the worktrees of processes that are no more; their paths. GitError, after all others, for what stays."""
    removed, stuck = [], []
    for claim in (common_dir / "cairn" / "worktrees").glob("[!.]*"):
        try:
            file = claim.open("rb")
        except FileNotFoundError:
            continue  # its owner has just finished
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            path = Path(os.fsdecode(file.read()))
            try:
                _remove(common_dir, path)
            except GitError as error:
                stuck.append(str(error))
                continue
            claim.unlink(missing_ok=True)
            removed.append(path)
    if stuck:
        raise GitError("\n".join(stuck))
    return tuple(removed)


def _remove(common_dir: Path, path: Path) -> None:
    # Not `git worktree remove`: it refuses when a program has damaged the folder's `.git`.
    for folder in (path, common_dir / "worktrees" / path.name):
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            pass
        except (OSError, RecursionError):  # closed to us, or nested deeper than Python follows
            _remove_by_force(folder)


def _remove_by_force(folder: Path) -> None:
    # Programs that go down any depth; `find` enters a folder only after it has opened it to us.
    unlock = ("find", folder, "-type", "d", "!", "-perm", "-u=rwx", "-execdir", "chmod", "u+rwx", "{}", ";")
    for command in (unlock, ("rm", "-rf", folder)):
        done = subprocess.run(command, env={"PATH": os.defpath, "LC_ALL": "C"}, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace")[:500].strip()
        raise GitError(f"cannot remove the worktree {folder}: {said}. Remove it by hand.")


def _with_trailers(message: str, trailers: Mapping[str, str]) -> bytes:
    for key in trailers:
        if not _TRAILER_KEY.fullmatch(key):
            raise GitError(f"{key!r} cannot be a trailer's name: letters, digits and '-' only")
    said = _DIVIDER.sub(r" \1", message.replace("\0", "").strip() + "\n") if message.strip() else "(no message)\n"
    lines = "".join(f"{key}: {' '.join(value.split())}\n" for key, value in trailers.items())
    return f"{said}\n{lines}".encode(errors="replace")
