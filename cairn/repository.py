"""A Git repository: ours (bare, one per data directory) or the user's own. Needs git 2.38 or later.

What is written: objects; refs under `refs/cairn/` and branches under `ai/generated/`; worktrees. Never the user's
branches, HEAD, index, working tree or configuration. Any number of processes may work on one repository at once.
"""

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from cairn.git import IDENTITY, GitError, MergeConflict, attempt, beginning, failure, git, identity
from cairn.workspace import Workspace, checkout, prune

# 2020-01-01: any fixed moment makes the same folder the same commit.
_IMPORT_SECONDS = 1577836800
_NOT_IMPORTED = (b".git", b"__pycache__")
_CHUNK_BYTES = 1 << 20
_BRANCHES = "refs/heads/ai/generated"
_NOT_REF_SAFE = re.compile(r"[^A-Za-z0-9_.-]|^\.|\.(?=\.|$|lock$)")


class Repository:
    """`path`: the folder it was created in or opened at. Commit ids are full hexadecimal ids."""

    def __init__(self, path: Path, git_dir: Path, common_dir: Path) -> None:
        self.path = path
        self._git_dir = git_dir
        self._common_dir = common_dir
        self._here = f"--git-dir={git_dir}"

    @classmethod
    async def create(cls, path: Path) -> Self:
        """Our bare repository at `path`, made if it is not there."""
        path.mkdir(parents=True, exist_ok=True)
        await git("init", "--bare", "--quiet", "--template=", "--initial-branch=main", path.absolute())
        return await cls.open(path)

    @classmethod
    async def open(cls, path: Path) -> Self:
        """The repository whose top folder (or Git directory) is `path`. GitError if it is none."""
        path = path.resolve()
        # A repository that merely contains `path` is not the one that was meant.
        ceiling = {"GIT_CEILING_DIRECTORIES": str(path.parent)}
        asked = ("rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir")
        code, out, err = await attempt("-C", path, *asked, env=ceiling)
        if code != 0:
            said = err.decode(errors="replace").strip()
            raise GitError(
                f"{path} is not the top folder of a Git repository ({said}). To make it one: git init {path}"
            )
        git_dir, *rest = os.fsdecode(out).removesuffix("\n").split("\n")
        if len(rest) != 1:
            raise GitError(f"{str(path)!r} has a line break in its name: give the repository another")
        (common_dir,) = rest
        return cls(path, Path(git_dir), Path(common_dir))

    async def import_folder(self, folder: Path | None, *, message: str, ref: str) -> str:
        """The id of a root commit that holds the files of `folder` (None: no files), which `ref` then names.

        Everything is taken as it is, ignored or not, except `.git` and `__pycache__`; the same files and message give
        the same id. `ref` lies under `refs/cairn/`. GitError for what is neither a file, a folder nor a symbolic link.
        """
        if not ref.startswith("refs/cairn/"):
            raise GitError(f"cannot import into {ref!r}: only refs under refs/cairn/ are written")
        options = ("--quiet", "--force", "--done", "--date-format=raw")
        out = await git(self._here, "fast-import", *options, stdin=_fast_import(folder, message, ref))
        await self._give_back()
        return out.decode().strip()

    async def head(self) -> str:
        """The commit the user's HEAD is at. GitError if there is no commit yet."""
        try:
            return await self.commit_of("HEAD")
        except GitError as error:
            raise GitError(f"{self.path} has no commit to start from: make a first commit there") from error

    async def commit_of(self, ref: str) -> str:
        """The id of the commit that a ref, branch, tag or abbreviated id names. GitError if it names none."""
        found = ("rev-parse", "--quiet", "--verify", "--end-of-options", f"{ref}^{{commit}}")
        code, out, _ = await attempt(self._here, *found)
        if code != 0:
            raise GitError(f"{ref!r} names no commit in {self.path}")
        return out.decode().strip()

    @asynccontextmanager
    async def workspace(self, *, bases: Sequence[str], folder: Path, marked: bool = False) -> AsyncIterator[Workspace]:
        """A worktree under `folder` of `bases[0]` with every further base merged into it, removed at the end.

        The same bases give the same starting commit. MergeConflict, before any file is written, if they do not merge;
        or, with `marked`, both versions in the file between git's marks, for an agent that is there to resolve them.
        """
        start = await self._start(bases, marked)
        try:
            async with checkout(self._common_dir, start, folder) as workspace:
                yield workspace
        finally:
            await self._give_back()

    async def prune(self) -> tuple[Path, ...]:
        """Remove what workspaces of processes that are no more (crashed, killed) have left; the paths removed."""
        return await asyncio.to_thread(prune, self._common_dir)

    async def changed_files(self, base: str, commit: str) -> tuple[str, ...]:
        """Paths that differ between two commits, sorted by git. Bytes that are no UTF-8 appear as `\\xNN`."""
        asked = ("diff-tree", "-r", "-z", "--name-only", "--end-of-options", base, commit)
        return _paths(await git(self._here, *asked))

    async def diff(self, base: str, commit: str, max_bytes: int) -> str:
        """The patch from one commit to another, in git's format; past `max_bytes` it ends in a line that says so."""
        options = ("-r", "-p", "-M", "--no-color", "--no-ext-diff", "--no-textconv", "--end-of-options")
        out, whole = await beginning(self._here, "diff-tree", *options, base, commit, max_bytes=max_bytes)
        return out.decode(errors="replace") + ("" if whole else f"\n... cut after {max_bytes} bytes ...\n")

    async def done_since(self, bases: Sequence[str], commit: str, max_bytes: int) -> str:
        """The patch from `bases`, merged as a workspace of them is, to a commit; see `diff`."""
        return await self.diff(await self._start(bases, marked=True), commit, max_bytes)

    async def keep(self, workflow: str, task: str, run: str, commit: str) -> str:
        """Make sure that an attempt's commit is never collected; the ref that holds it.

        The commit is in its name, so that it never moves: another agent that still works on this run does not take away
        what keeps the commit of the one who was believed.
        """
        ref = f"refs/cairn/{_ref_safe(workflow)}/{_ref_safe(task)}/{_ref_safe(run)}.{commit[:16]}"
        await self._set(ref, commit)
        return ref

    async def set_branch(self, workflow: str, task: str, commit: str) -> str:
        """Point the branch `ai/generated/<workflow>/<task>` at `commit`; the branch's name.

        GitError if it cannot be made because of another branch's name, or somebody has it checked out.
        """
        branch = f"ai/generated/{_ref_safe(workflow)}/{_ref_safe(task)}"
        ref = f"refs/heads/{branch}"
        where = await git(self._here, "for-each-ref", "--format=%(objectname) %(worktreepath)", ref)
        at, _, worktree = os.fsdecode(where).strip().partition(" ")
        if worktree and at != commit:
            raise GitError(
                f"branch {branch} is checked out in {worktree} and stays where it is: switch to another there"
            )
        await self._set(ref, commit)
        return branch

    async def set_branches(self, accepted: Mapping[tuple[str, str], str], *, spared: Iterable[str] = ()) -> None:
        """Make the branches under `ai/generated/` exactly these: workflow and task, and the commit they point at.

        Those of the workflows that are spared stay as they are.
        """
        wanted = {f"{_ref_safe(w)}/{_ref_safe(task)}": commit for (w, task), commit in accepted.items()}
        stay = {_ref_safe(workflow) for workflow in spared}
        listed = await git(self._here, "for-each-ref", "--format=%(refname:lstrip=4)", f"{_BRANCHES}/")
        gone = [it for it in os.fsdecode(listed).splitlines() if it not in wanted and it.partition("/")[0] not in stay]
        lines = [f"delete {_BRANCHES}/{name}\n" for name in gone]
        lines += [f"update {_BRANCHES}/{name} {commit}\n" for name, commit in wanted.items()]
        await git(self._here, "update-ref", "--no-deref", "--stdin", stdin=[line.encode() for line in lines])

    async def missing(self, commits: Iterable[str]) -> list[str]:
        """Those of these ids that are no commit here, or of which anything is missing."""
        asked = [f"{commit}\n".encode() for commit in commits]
        found = await git(self._here, "cat-file", "--batch-check=%(objecttype)", "--buffer", stdin=asked)
        kinds = found.decode().splitlines()
        return [name.decode().strip() for name, kind in zip(asked, kinds, strict=True) if kind != "commit"]

    async def take_over(self, other: Path) -> None:
        """Fetch all refs of another repository, as of one moment, with all they need; every object is hashed on the way.

        GitError if the other is damaged, or if something that a ref needs is missing here afterwards.
        """
        theirs = "--upload-pack=git -c safe.directory=* upload-pack"
        fetch = ("fetch", "--quiet", "--no-write-fetch-head", theirs, str(other), "+refs/*:refs/*")
        await git(self._here, "-c", "fetch.unpackLimit=1", *fetch)
        await git(self._here, "pack-refs", "--all")
        # Not the contents: what an agent wrote into a .gitmodules must not keep anybody from making a backup.
        await git(self._here, "fsck", "--connectivity-only", "--no-dangling", "--no-progress")

    async def _set(self, ref: str, commit: str) -> None:
        update = (self._here, "update-ref", "--no-deref", ref, commit)
        code, _, err = await attempt(*update)
        if taken := re.search(rb"'refs/(?:heads/)?(\S+)' exists; cannot create", err):
            other = os.fsdecode(taken[1])
            raise GitError(f"cannot create {ref} in {self.path}: {other} exists, and one cannot lie inside the other")
        if code != 0:
            raise failure(update, code, err)
        await self._give_back()

    async def _start(self, bases: Sequence[str], marked: bool) -> str:
        if not bases:
            raise GitError("a workspace needs at least one commit to start from")
        start, *others = [await self.commit_of(base) for base in bases]
        for other in others:
            start = await self._merge(start, other, marked)
        return start

    async def _merge(self, ours: str, theirs: str, marked: bool) -> str:
        code, out, err = await attempt(self._here, "merge-base", ours, theirs)
        if code == 1:
            raise GitError(f"{ours} and {theirs} cannot be merged: they share no history")
        if code != 0:
            raise failure(("merge-base", ours, theirs), code, err)
        if (ancestor := out.decode().strip()) in (ours, theirs):
            return theirs if ancestor == ours else ours
        merge = (self._here, "merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", ours, theirs)
        code, out, err = await attempt(*merge)
        if code == 1 and not marked:
            raise MergeConflict(ours, theirs, _paths(out)[1:])
        if code not in (0, 1):
            raise failure(merge, code, err)
        tree = _paths(out)[0]
        dates = await git(self._here, "rev-list", "--no-walk", "--no-commit-header", "--format=%ct", ours, theirs)
        who = identity(IDENTITY, seconds=max(map(int, dates.split())))
        commit_tree = ("commit-tree", tree, "-p", ours, "-p", theirs, "-m", f"Merge {theirs}")
        return (await git(self._here, *commit_tree, env=who)).decode().strip()

    async def _give_back(self) -> None:
        owner = self._common_dir.stat()
        if os.geteuid() == 0 != owner.st_uid:
            # What root wrote into a user's repository would lock that user out of it.
            await asyncio.to_thread(_chown, self._common_dir, owner.st_uid, owner.st_gid)


def _fast_import(folder: Path | None, message: str, ref: str) -> Iterator[bytes]:
    """The import as input of `git fast-import`: one commit, then a question for its id."""
    text = message.replace("\0", "").encode(errors="replace")
    yield (
        f"commit {ref}\nmark :1\ncommitter {IDENTITY} {_IMPORT_SECONDS} +0000\ndata {len(text)}\n".encode()
        + text
        + b"\n"
    )
    if folder is not None:
        try:
            yield from _files(os.fsencode(folder), b"")
        except OSError as error:
            raise GitError(f"cannot import {folder}: {error}") from error
    yield b"get-mark :1\ndone\n"


def _files(folder: bytes, prefix: bytes) -> Iterator[bytes]:
    with os.scandir(folder) as scan:
        entries = list(scan)
    for entry in entries:
        if entry.name.lower() in _NOT_IMPORTED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, prefix + entry.name + b"/")
            continue
        status = entry.stat(follow_symlinks=False)
        quoted = (prefix + entry.name).replace(b"\\", b"\\\\").replace(b'"', b'\\"').replace(b"\n", b"\\n")
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(entry.path)
            yield b'M 120000 inline "%b"\ndata %d\n%b\n' % (quoted, len(target), target)
        elif stat.S_ISREG(status.st_mode):
            mode = b"100755" if status.st_mode & 0o100 else b"100644"
            yield b'M %b inline "%b"\ndata %d\n' % (mode, quoted, status.st_size)
            yield from _content(entry.path, status.st_size)
            yield b"\n"
        else:
            raise GitError(f"cannot import {os.fsdecode(entry.path)}: neither a file, a folder nor a symbolic link")


def _content(path: bytes, size: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while size:
            chunk = file.read(min(size, _CHUNK_BYTES))
            if not chunk:
                raise GitError(f"cannot import {os.fsdecode(path)}: it shrank while it was read")
            size -= len(chunk)
            yield chunk


def _paths(out: bytes) -> tuple[str, ...]:
    return tuple(path.decode(errors="backslashreplace") for path in out.split(b"\0") if path)


def _ref_safe(name: str) -> str:
    """Any text as one component of a ref's name; different texts stay different."""
    return _NOT_REF_SAFE.sub(lambda bad: "".join(f"%{byte:02x}" for byte in bad[0].encode()), name)


def _chown(folder: Path, uid: int, gid: int) -> None:
    # By descriptor and without following links: the owner may be rearranging the folder meanwhile.
    for _, folders, files, parent in os.fwalk(folder):
        for name in (*folders, *files):
            try:
                status = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if status.st_uid == 0 and (stat.S_ISDIR(status.st_mode) or status.st_nlink == 1):
                    os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                continue  # another process has just removed it
