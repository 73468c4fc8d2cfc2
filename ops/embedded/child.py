"""A server of ours as a child process.

It has its own process group (a Ctrl-C on the terminal is ours to answer, not its), it is signalled by the kernel when
we die (`PR_SET_PDEATHSIG`, so a `kill -9` of us leaves nothing behind for long), and it writes to a log file whose
tail is quoted when it fails. Linux only.

`Child.spawn` must run in the thread that lives as long as the process, the one of the event loop: the kernel sends the
death signal when the *thread* that forked ends.
"""

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from signal import Signals
from typing import NamedTuple

PR_SET_PDEATHSIG = 1
TAIL_LINES = 12
LOG_BYTES = 10 * 1024 * 1024
SPACE_BYTES = 128 * 1024 * 1024
POLL_SECONDS = 0.03
# Nothing of the caller's environment (PGDATA, LD_PRELOAD, a locale that is not installed) reaches a server.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}

Tell = Callable[[str], None]

_libc = ctypes.CDLL(None, use_errno=True)


class ServerFailed(Exception):
    """An embedded server does not run; the message says what, where, and what to do."""


class Step(NamedTuple):
    """One step of ending a process: a signal, and the seconds it gets before the next step."""

    signal: Signals
    patience_seconds: float


class Account(NamedTuple):
    """The user a server runs as, when that is not ourselves."""

    uid: int
    gid: int


class Child:
    """One server process at a time; `spawn` again after it exited."""

    def __init__(self, name: str, *, cwd: Path, log: Path, death_signal: Signals) -> None:
        self.name = name
        self.log = log
        self._cwd = cwd
        self._death_signal = death_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = self._heard = 0

    @property
    def pid(self) -> int | None:
        """Its process id, or None when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def spawn(
        self, argv: Sequence[str | Path], account: Account | None = None, environment: Mapping[str, str] = ENVIRONMENT
    ) -> None:
        """Starts `argv` in its own group. Raises `ServerFailed` when it cannot be executed."""
        parent, death_signal = os.getpid(), int(self._death_signal)

        def bind_to_parent() -> None:
            # Runs after setuid, which would clear the death signal.
            _libc.prctl(PR_SET_PDEATHSIG, death_signal)
            if os.getppid() != parent:  # we died between fork and prctl
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
                self.log.replace(self.log.with_suffix(".old"))
            with self.log.open("ab") as log:
                self._log_start = self._heard = log.tell()
                self._process = subprocess.Popen(
                    argv,
                    cwd=self._cwd,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    process_group=0,
                    user=account.uid if account else None,
                    group=account.gid if account else None,
                    extra_groups=[] if account else None,
                    preexec_fn=bind_to_parent,
                )
        except (OSError, subprocess.SubprocessError) as error:
            raise ServerFailed(f"{self.name} cannot be started: {error}\n  command: {argv[0]}") from error

    async def exited(self) -> int:
        """Waits until it ends; its exit code, negative for a signal. May be awaited by several at once."""
        process = self._process
        assert process is not None, "spawn first"
        while (code := process.poll()) is None:
            # poll() said None, so the process is not reaped and its id is still its own.
            handle, gone = os.pidfd_open(process.pid), asyncio.Event()
            asyncio.get_running_loop().add_reader(handle, gone.set)
            try:
                await gone.wait()
            finally:
                asyncio.get_running_loop().remove_reader(handle)
                os.close(handle)
        return code

    def has_said(self, text: bytes) -> bool:
        """Whether its log has had such a line since it was started, or since this was last asked."""
        if not self.log.exists():
            return False
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, self._heard))
            said = text in log.read()
            self._heard = log.tell()
        return said

    async def end(self, steps: Sequence[Step]) -> None:
        """Sends the signals one after the other until it is gone. Nothing to do when it does not run."""
        for step in steps:
            if self._process is None or self._process.poll() is not None:
                return
            if step.signal == Signals.SIGKILL:
                os.killpg(self._process.pid, step.signal)
            else:
                self._process.send_signal(step.signal)
            try:
                await asyncio.wait_for(self.exited(), step.patience_seconds)
            except TimeoutError:
                continue

    def failure(self, what: str) -> ServerFailed:
        """The error that says `what`, quotes the end of this run's log, and names the fix when the log tells it."""
        tail = ""
        if self.log.exists():
            with self.log.open("rb") as log:
                log.seek(max(self._log_start, self.log.stat().st_size - LOG_BYTES // 1000))
                tail = "\n".join(log.read().decode(errors="replace").splitlines()[-TAIL_LINES:])
        if "No space left on device" in tail or "no space left on device" in tail:
            what += f"\n{no_space(self._cwd)}"
        quoted = "".join(f"\n  | {line}" for line in tail.splitlines())
        return ServerFailed(f"{self.name} {what}\n  log: {self.log}{quoted}")


def no_space(path: Path) -> str:
    """What to tell a person whose disk under `path` is full."""
    free = shutil.disk_usage(path).free
    return (
        f"no space left on the disk of {path}: {free // 1024**2} MiB free, {SPACE_BYTES // 1024**2} MiB are needed."
        "\n  fix: free some space there, or set CAIRN_DATA_DIR to a folder on another disk"
    )


def require_space(path: Path) -> None:
    """Raises `ServerFailed` when the disk of `path` is too full to start a server on it."""
    if shutil.disk_usage(path).free < SPACE_BYTES:
        raise ServerFailed(no_space(path))


def left_behind(program: str, cwd: Path) -> list[int]:
    """Ids of the live processes called `program` that work in the folder `cwd`: what a killed parent left.

    Looks at the processes themselves: an id in a pid file may belong to somebody else by now.
    """
    found, folder = [], os.path.realpath(cwd)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "comm").read_text().strip() == program and os.readlink(entry / "cwd") == folder:
                found.append(int(entry.name))
        except OSError:  # it ended meanwhile, or it is another user's and so not ours
            continue
    return found


async def end_left_behind(program: str, cwd: Path, steps: Sequence[Step]) -> None:
    """Ends what a killed parent left running in `cwd`, gently first. Raises `ServerFailed` when it will not go."""
    for step in steps:
        for pid in left_behind(program, cwd):
            try:
                os.kill(pid, step.signal)
            except ProcessLookupError:
                continue
        deadline = asyncio.get_running_loop().time() + step.patience_seconds
        while left_behind(program, cwd):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(POLL_SECONDS)
        else:
            return
    raise ServerFailed(f"{program} of an earlier run still works in {cwd} (pids {left_behind(program, cwd)}): end it")
