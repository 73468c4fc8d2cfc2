"""The `git` binary, run the same way on every machine.

Nothing of the user's environment but PATH, nor of the global configuration, reaches it: no hooks, no signing, no
prompts, no pager, no automatic collection, no identity but the one the caller gives. The configuration inside a
repository is still read (filters and line endings belong to its content, and PATH finds the filters' programs), with
what else could run a program or stop for a person switched off.
"""

import asyncio
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from subprocess import PIPE, Popen
from typing import TypeVar

from cairn.config import search_path

T = TypeVar("T")

IDENTITY = "Cairn <cairn@localhost>"

_PINNED = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.quotePath=false",
    "core.safecrlf=false",
    "core.filesRefLockTimeout=5000",
    "core.packedRefsTimeout=5000",
    "commit.gpgsign=false",
    "gc.auto=0",
    "i18n.commitEncoding=utf-8",
    "submodule.recurse=false",
    "safe.directory=*",
)
# Git waits for a ref's lock by itself (the timeouts above), but gives up at once on these.
_CONTENDED = re.compile(
    rb"\.lock': File exists|could not lock config|failed to read .*commondir|could not create directory of"
)
_PAUSES_SECONDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)


class GitError(Exception):
    """Git could not do what was asked. The message says what, where and, if git said so, why."""


class MergeConflict(GitError):
    """Two commits change the same lines. `files`: the paths in conflict, relative to the top of the tree."""

    def __init__(self, ours: str, theirs: str, files: tuple[str, ...]) -> None:
        super().__init__(f"{theirs} does not merge into {ours}: conflict in {', '.join(map(repr, files))}")
        self.files = files


async def git(*args: str | Path, env: Mapping[str, str] | None = None, stdin: Iterable[bytes] = ()) -> bytes:
    """Run one git command and give its standard output; wait out the locks of other processes.

    A command with `stdin`, which can be read only once, is not tried again. GitError if git is absent or exits with
    anything but 0.
    """
    for pause in (*_PAUSES_SECONDS, None):
        code, out, err = await attempt(*args, env=env, stdin=stdin)
        if code == 0:
            return out
        if pause is None or stdin or not _CONTENDED.search(err):
            break
        await asyncio.sleep(pause)
    raise failure(args, code, err)


async def attempt(
    *args: str | Path, env: Mapping[str, str] | None = None, stdin: Iterable[bytes] = ()
) -> tuple[int, bytes, bytes]:
    """Run one git command once: exit code, standard output, standard error. GitError only if git is absent."""

    def talk(process: Popen[bytes]) -> tuple[int, bytes, bytes]:
        assert process.stdin
        try:
            for chunk in stdin:
                process.stdin.write(chunk)
            process.stdin.flush()
        except BrokenPipeError:
            pass  # git ended before its input did; its exit code and its words say why
        out, err = process.communicate()
        return process.returncode, out, err

    return await _run(args, env, talk)


async def beginning(*args: str | Path, max_bytes: int) -> tuple[bytes, bool]:
    """The first `max_bytes` of a command's standard output, and whether that is all of it. The rest is never made."""

    def talk(process: Popen[bytes]) -> tuple[bytes, bool]:
        assert process.stdout
        out = process.stdout.read(max_bytes + 1)
        if len(out) > max_bytes:
            process.terminate()
            return out[:max_bytes], False
        _, err = process.communicate()
        if process.returncode:
            raise failure(args, process.returncode, err)
        return out, True

    return await _run(args, None, talk)


def failure(args: Iterable[str | Path], code: int, err: bytes) -> GitError:
    said = err.decode(errors="replace").strip() or "nothing"
    return GitError(f"`git {' '.join(map(str, args))}` failed with exit code {code}, saying: {said}")


def identity(who: str, *, seconds: int | None = None) -> dict[str, str]:
    """The environment that makes `who` ("Name <email>", or a bare name) author and committer, at a Unix time or now."""
    name, _, email = who.partition("<")
    email = email.rstrip("> ") or IDENTITY.partition("<")[2].rstrip(">")
    date = {} if seconds is None else {"DATE": f"@{seconds} +0000"}
    values = {"NAME": name.strip(), "EMAIL": email} | date
    return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in values.items()}


async def _run(args: Iterable[str | Path], env: Mapping[str, str] | None, talk: Callable[[Popen[bytes]], T]) -> T:
    # A thread, not asyncio's subprocess: cancelled while it connects the pipes, that one (3.11) never returns.
    binary = _binary()
    pinned = [word for setting in _PINNED for word in ("-c", setting)]
    environment = {
        "PATH": search_path(),
        "LC_ALL": "C",
        "TZ": "UTC",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        # For a `~` in the repository's own configuration; what git looks for there by itself, it must not find.
        "HOME": os.path.expanduser("~"),
        "XDG_CONFIG_HOME": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        **identity(IDENTITY),
        **(env or {}),
    }
    # A group of its own: Ctrl-C is for us, and we finish what was begun.
    process = Popen([binary, *pinned, *args], stdin=PIPE, stdout=PIPE, stderr=PIPE, env=environment, process_group=0)

    def talk_to_the_end() -> T:
        with process:
            try:
                return talk(process)
            finally:
                # SIGTERM, not SIGKILL: git then takes its lock files with it. Nothing happens to one that has ended.
                process.terminate()

    talking = asyncio.get_running_loop().run_in_executor(None, talk_to_the_end)
    try:
        return await asyncio.shield(talking)
    except asyncio.CancelledError:
        process.terminate()
        await asyncio.gather(talking, return_exceptions=True)
        raise


@cache
def _binary() -> Path:
    found = shutil.which("git")
    if found is None:
        raise GitError("git is not installed, or not on PATH. Install it, for example: apt install git")
    return Path(found).absolute()
