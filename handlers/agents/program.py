"""Any program as an agent: `cairn agent --role R --exec 'cmd'`.

The task is JSON on standard input (and in CAIRN_TASK while it is small enough for an environment variable); the working
directory is the run's worktree; the result is what the program changed there. A last line of standard output that is a
JSON object is taken as `{"summary", "data", "findings", "usage"}`, where findings are `[{"kind", "severity", "message",
"path", "line"}]`; as `{"ask": {"question", "options", "due_seconds", "default"}}` it asks a person, and the program runs
again with what they said among the task's `answers`. The file that CAIRN_NOTES names holds the task's scratchpad, a JSON
object; what the program has changed there is noted, however it ends. TRACEPARENT holds the trace that the run belongs
to, for programs that send spans of their own. An exit code other than 0 fails the attempt, with the end of standard
error as its reason. Whatever ends the agent, kill -9 as well, ends the program and what it started.
"""

import asyncio
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import msgspec

from cairn.agent import Agent
from cairn.task import Asked, Failed, Result, Task, Usage

KEPT_BYTES = 1024 * 1024
"""The end of standard output and of standard error that is kept; a result has to fit into it."""
VARIABLE_BYTES = 100_000
GUARDED = 'exec 3<&0; (read _ <&3; kill -9 0) >/dev/null 2>&1 & exec 3<&-; exec /bin/sh -c "$0" <"$1"'
"""Standard input is a pipe that only the agent could write to: it ends when the agent does, and with it the whole group."""
LINGER_SECONDS = 1.0
"""A process that left the group may hold the pipes open; its output is not waited for."""


def program(
    role: str, cmd: str, *, environment: Mapping[str, str], name: str | None = None, capacity: int = 1,
    capabilities: Sequence[str] = (),
) -> Agent:  # fmt: skip
    """`environment` is what the program inherits."""
    agent = Agent(role, name=name, capacity=capacity, capabilities=capabilities)

    @agent.task
    async def run(task: Task) -> Result:
        if task.path is not None:
            return await _run(cmd, task, task.path, environment)
        with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
            return await _run(cmd, task, Path(folder), environment)

    return agent


async def _run(cmd: str, task: Task, folder: Path, environment: Mapping[str, str]) -> Result:
    with tempfile.NamedTemporaryFile(prefix="cairn-notes-", suffix=".json") as notes:
        notes.write(msgspec.json.encode(task.notes))
        notes.flush()
        try:
            result = await _ran(cmd, task, folder, {**environment, "CAIRN_NOTES": notes.name})
        except BaseException:
            with suppress(Failed):
                _note(task, Path(notes.name))
            raise
        _note(task, Path(notes.name))
        return result


async def _ran(cmd: str, task: Task, folder: Path, env: dict[str, str]) -> Result:
    given = task.to_json()
    if len(given) < VARIABLE_BYTES:
        env["CAIRN_TASK"] = given.decode()
    if task.traceparent is not None:
        env["TRACEPARENT"] = task.traceparent
    guard, held = os.pipe()
    with tempfile.TemporaryFile() as stdin, os.fdopen(held, "wb"):
        stdin.write(given)
        stdin.flush()
        # Not asyncio's own subprocess: one that is cancelled while it starts can wait for ever (Python 3.11).
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", GUARDED, cmd, f"/proc/self/fd/{stdin.fileno()}"], cwd=folder, env=env,
                pass_fds=[stdin.fileno()], start_new_session=True,
                stdin=guard, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        finally:
            os.close(guard)
        out, err = _Tail(process.stdout), _Tail(process.stderr)
        try:
            await out.open()
            await err.open()
            await _exited(process)
        finally:
            _kill_group(process)
            code = process.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(LINGER_SECONDS):
                    await asyncio.gather(out.ended, err.ended)
            out.close()
            err.close()
    said = err.kept.decode(errors="replace").strip()
    if code != 0:
        with suppress(Failed, Asked):
            _result(task, out.kept)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise Failed(f"`{cmd}` {how}: {said.splitlines()[-1] if said else 'no word on standard error'}", detail=said)
    return _result(task, out.kept)


class _Question(msgspec.Struct, forbid_unknown_fields=True):
    question: str
    options: tuple[str, ...] = ()
    due_seconds: float | None = None
    default: str | None = None


class _Tail(asyncio.Protocol):
    """The end of what a program writes into a pipe."""

    def __init__(self, pipe: IO[bytes] | None) -> None:
        self._pipe, self.kept = pipe, b""
        self.ended = asyncio.get_running_loop().create_future()
        self._transport: asyncio.BaseTransport | None = None

    async def open(self) -> None:
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: self, self._pipe)

    def data_received(self, data: bytes) -> None:
        self.kept = (self.kept + data)[-KEPT_BYTES:]

    def connection_lost(self, _: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def _exited(process: subprocess.Popen[bytes]) -> None:
    handle, gone = os.pidfd_open(process.pid), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, gone.set)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Nothing the program started outlives the run, unless it went to a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _note(task: Task, file: Path) -> None:
    """Raises Failed for what is no scratchpad, and notes nothing then."""
    try:
        noted = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
        for key, value in noted.items():
            if key not in task.notes or task.notes[key] != value:
                task.jot(key, value)
    except (OSError, ValueError, RecursionError) as error:
        raise Failed(f"the file in CAIRN_NOTES is no scratchpad: {error}", type="invalid_result") from error


def _result(task: Task, out: bytes) -> Result:
    lines = out.rstrip().splitlines()
    last = lines[-1].strip() if lines else b""
    if len(last) >= KEPT_BYTES - 1:
        raise Failed(f"the last line of output is longer than {KEPT_BYTES} bytes", type="invalid_result")
    if not last.startswith(b"{"):
        return Result(summary=last.decode(errors="replace")[:500])
    try:
        told: dict[str, Any] = msgspec.json.decode(last, type=dict[str, Any])
        if told.get("usage") is not None:
            task.spend(msgspec.convert(told["usage"], Usage))
        if "ask" in told:
            asked = msgspec.convert(told["ask"], _Question)
            raise Asked(asked.question, asked.options, due_seconds=asked.due_seconds, default=asked.default)
        return msgspec.convert({key: told[key] for key in ("summary", "data", "findings") if key in told}, Result)
    except (ValueError, RecursionError) as error:
        raise Failed(f"the last line of output is no JSON result: {error}", type="invalid_result") from error
