"""A user's place to work in: a data directory, the commands called there as processes, what they say and leave behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from terminal import Typed, at_terminal

from ops.embedded.child import left_behind
from tests.cluster import fast_disk

CAIRN = [sys.executable, "-m", "cairn"]
WAIT_SECONDS = 60
CODER = """#!/bin/sh
case "$CAIRN_TASK" in *'"fail":true'*) echo "cannot do this" >&2; exit 3 ;; esac
test -z "$DATABASE_URL$NATS_URL$CAIRN_TOKEN" || { echo "secrets" >&2; exit 4; }
echo work >> work.txt
echo '{"summary": "worked"}'
"""


class Home:
    """A data directory with the environment of a user who works in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.environment = {
            "PATH": os.environ["PATH"], "CAIRN_DATA_DIR": str(self.data), "CAIRN_LISTEN": "127.0.0.1:0",
            "TERM": "xterm", "CAIRN_LOG_LEVEL": "warning",
        }  # fmt: skip

    def cairn(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CAIRN, *map(str, arguments)], cwd=self.folder, env=self.environment, text=True, capture_output=True,
            timeout=WAIT_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*CAIRN, *arguments], cwd=self.folder, env=self.environment | environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def plan(self, name: str, *tasks: dict[str, Any], **more: Any) -> str:
        rows = [{"agent_role": "coder", "max_attempts": 1, **task} for task in tasks]
        (self.folder / f"{name}.json").write_text(json.dumps({"id": name, "title": "A plan", "tasks": rows, **more}))
        return f"{name}.json"

    def runs(self) -> list[int]:
        """Ids of what works in the data directory."""
        return left_behind("postgres", self.data / "postgres") + left_behind("nats-server", self.data / "nats")

    def agents(self) -> list[int]:
        """Ids of the processes that were started in the folder by a command, and still live."""
        return left_behind(Path(sys.executable).name, self.folder)


def told(process: subprocess.Popen[str], text: str) -> list[str]:
    """What it wrote to stderr up to the line that holds `text`."""
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"ended without {text!r}: {lines}")


def ended(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    process.communicate(timeout=WAIT_SECONDS)
    return process.returncode


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def new_home() -> Home:
    folder = Path(tempfile.mkdtemp(prefix="cairn-cli-", dir=fast_disk()))
    folder.chmod(0o711)
    (folder / "agents").mkdir()
    (folder / "agents/coder.sh").write_text(CODER)
    (folder / "agents/coder.sh").chmod(0o755)
    return Home(folder)


def on_terminal(
    home: Home, arguments: list[str], answers: Sequence[tuple[str, Typed]], **environment: str
) -> tuple[int, str]:
    """Calls it at a terminal and types each answer once its prompt is seen; exit code and all that was shown."""
    return at_terminal([*CAIRN, *arguments], home.folder, home.environment | environment, answers)
