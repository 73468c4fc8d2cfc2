"""Any program as an agent: `cairn agent --role R --exec 'cmd'`.

The task is JSON on standard input (and in CAIRN_TASK while it is small enough for an environment variable); the working
directory is the run's worktree; the result is what the program changed there. A last line of standard output that is a
JSON object is taken as `{"summary", "data"}`. An exit code other than 0 fails the attempt, with the end of standard
error as its reason.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from cairn.agent import Agent
from cairn.task import Failed, Result, Task

KEPT_BYTES = 1024 * 1024
"""The end of standard output and of standard error that is kept; a result has to fit into it."""
VARIABLE_BYTES = 100_000
STOP_SECONDS = 5.0


def program(
    role: str, cmd: str, *, environment: Mapping[str, str], name: str | None = None, capacity: int = 1
) -> Agent:
    """`environment` is what the program inherits."""
    agent = Agent(role, name=name, capacity=capacity)

    @agent.task
    async def run(task: Task) -> Result:
        if task.path is not None:
            return await _run(cmd, task, task.path, environment)
        with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
            return await _run(cmd, task, Path(folder), environment)

    return agent


async def _run(cmd: str, task: Task, folder: Path, environment: Mapping[str, str]) -> Result:
    given = task.to_json()
    env = {**environment, "CAIRN_TASK": given.decode()} if len(given) < VARIABLE_BYTES else dict(environment)
    process = await asyncio.create_subprocess_shell(
        cmd, cwd=folder, env=env, start_new_session=True,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin and process.stdout and process.stderr
    try:
        out, err, _, code = await asyncio.gather(
            _end_of(process.stdout), _end_of(process.stderr), _feed(process.stdin, given), process.wait()
        )
    finally:
        await _end(process)
    said = err.decode(errors="replace").strip()
    if code != 0:
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise Failed(f"`{cmd}` {how}: {said.splitlines()[-1] if said else 'no word on standard error'}", detail=said)
    return _result(out)


async def _feed(stdin: asyncio.StreamWriter, given: bytes) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):  # a program need not read its task
        stdin.write(given)
        await stdin.drain()
        stdin.close()


async def _end_of(stream: asyncio.StreamReader) -> bytes:
    kept = b""
    while piece := await stream.read(65_536):
        kept = (kept + piece)[-KEPT_BYTES:]
    return kept


async def _end(process: asyncio.subprocess.Process) -> None:
    """Nothing the program started outlives the run."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if process.returncode is not None and number == signal.SIGKILL:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS if process.returncode is None else 0.01):
                await process.wait()


def _result(out: bytes) -> Result:
    lines = out.rstrip().splitlines()
    last = lines[-1].strip() if lines else b""
    if len(last) >= KEPT_BYTES - 1:
        raise Failed(f"the last line of output is longer than {KEPT_BYTES} bytes", type="invalid_result")
    if not last.startswith(b"{"):
        return Result(summary=last.decode(errors="replace")[:500])
    try:
        told: dict[str, Any] = msgspec.json.decode(last, type=dict[str, Any])
        return msgspec.convert({key: told[key] for key in ("summary", "data") if key in told}, Result)
    except msgspec.MsgspecError as error:
        raise Failed(f"the last line of output is no JSON result: {error}", type="invalid_result") from error
