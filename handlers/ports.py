"""What the handlers ask of the world: the interfaces belong to their callers, the adapters live in `gateway/`."""

from pathlib import Path
from typing import Protocol

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """How much one command in a sandbox may use. Sizes in MiB or bytes as named, time in seconds."""

    wall_seconds: float = 300
    memory_mb: int = 1024
    pids: int = 256
    output_bytes: int = 65_536
    file_mb: int = 256


class Execution(msgspec.Struct, frozen=True):
    """What a sandbox saw: the raw material of a receipt.

    `exit_code` is None when the command was killed for time; `output` is capped, `output_bytes` and
    `output_sha256` are of everything it printed; `isolation` says in words what it ran under, `runtime` which image or
    interpreters, by their digests.
    """

    exit_code: int | None
    timed_out: bool
    duration_seconds: float
    output: str
    output_bytes: int
    output_sha256: str
    isolation: str
    runtime: str


class Sandbox(Protocol):
    """Runs one shell command in a folder, confined. Implementations: docker, bubblewrap, process."""

    isolation: str

    async def run(self, cmd: str, *, cwd: Path, limits: Limits) -> Execution:
        """Runs `cmd` with /bin/sh in `cwd`. Raises nothing for what the command does; SandboxBroken if it cannot."""
        ...


class SandboxBroken(Exception):
    """The sandbox itself failed (engine away, no disk): not the command's fault, the run may be tried again."""
