"""Runs one command in a cage: starts it, hashes what it prints, ends it in time. Shared by bubblewrap and process."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from gateway.sandbox.capture import Capture
from gateway.sandbox.tenant import Tenant
from gateway.sandbox.view import HOME, HOSTNAME, environment, runtime
from handlers.ports import Execution, Limits, SandboxBroken

# The cage kills all it holds within a poll or two; a machine that swaps may need seconds for it.
END_SECONDS = 10.0
# After everything is dead the pipe holds at most its buffer, unless something escaped and keeps it open.
DRAIN_SECONDS = 2.0
CHUNK_BYTES = 65_536


async def run_caged(
    cmd: str,
    *,
    cwd: Path,
    limits: Limits,
    tenant: Tenant,
    isolation: str,
    walls: Sequence[str] = (),
    readable: list[str] | None = None,
    home: str = HOME,
) -> Execution:
    """Runs `cmd` by `cage.py`, which `walls` starts; `readable` asks it for namespaces of its own.

    Raises SandboxBroken when the cage did not come as far as starting the command.
    """
    order = {
        "cmd": cmd,
        "cwd": str(cwd),
        "env": environment(home),
        "hostname": HOSTNAME,
        "memory_mb": limits.memory_mb,
        "pids": limits.pids,
        "file_mb": limits.file_mb,
        "uid": tenant.uid if tenant.own else None,
        "gid": tenant.gid if tenant.own else None,
        "readable": readable,
    }
    started = time.monotonic()
    capture = Capture(limits.output_bytes)
    timed_out = False
    said = bytearray()
    async with _cage(walls, capture) as control:
        try:
            async with asyncio.timeout(limits.wall_seconds):
                await _converse(control, order, said)
        except TimeoutError:
            timed_out = True
    first, _, last = bytes(said).partition(b"\n")
    output = capture.text
    if first != b"started" and not timed_out:
        raise SandboxBroken(f"{isolation}: the sandbox did not start: {output.strip()[-500:] or 'it said nothing'}")
    if last and not timed_out:
        report = json.loads(last)
    else:
        # Where both run under one uid the command can kill its supervisor; elsewhere the kernel may have, for memory.
        report = {"exit_code": 128 + signal.SIGKILL, "note": "" if timed_out else "killed: its supervisor was killed"}
    return Execution(
        exit_code=None if timed_out else report["exit_code"],
        timed_out=timed_out,
        duration_seconds=time.monotonic() - started,
        output=noted(output, report["note"]),
        output_bytes=capture.total,
        output_sha256=capture.sha256,
        isolation=isolation,
        runtime=runtime(),
    )


def noted(output: str, note: str) -> str:
    """The output with a last line of the sandbox's own, which counts neither in the bytes nor in the hash."""
    return f"{output}\n[sandbox] {note}" if note else output


async def _converse(control: socket.socket, order: dict[str, Any], said: bytearray) -> None:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):  # it died: what it said until then tells
        await loop.sock_sendall(control, msgspec.json.encode(order) + b"\n")
        while piece := await loop.sock_recv(control, CHUNK_BYTES):
            said += piece


@asynccontextmanager
async def _cage(walls: Sequence[str], capture: Capture) -> AsyncIterator[socket.socket]:
    """The control socket of a started cage; on the way out the cage is ended, with all it holds."""
    script = (Path(__file__).parent / "cage.py").read_text()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    reading, writing = os.pipe()
    printed = os.fdopen(reading, "rb", buffering=0)
    reader = asyncio.StreamReader()
    try:
        process = await asyncio.create_subprocess_exec(
            *walls, sys.executable, "-I", "-S", "-c", script,
            stdin=theirs.fileno(), stdout=writing, stderr=writing, env=environment(), cwd="/", start_new_session=True,
        )  # fmt: skip
        pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), printed
        )
    except (OSError, asyncio.CancelledError) as error:
        ours.close()
        printed.close()
        if isinstance(error, OSError):
            raise SandboxBroken(f"cannot start {(*walls, sys.executable)[0]}: {error}") from error
        raise
    finally:
        theirs.close()
        os.close(writing)
    drained = asyncio.create_task(_drain(reader, capture))
    try:
        yield ours
    finally:
        ours.close()
        try:
            async with asyncio.timeout(END_SECONDS):
                await process.wait()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await drained
        except TimeoutError:
            pass  # an escaped process keeps the pipe open: what it says is no longer ours
        finally:
            pipe.close()


async def _drain(reader: asyncio.StreamReader, capture: Capture) -> None:
    while chunk := await reader.read(CHUNK_BYTES):
        capture.feed(chunk)
