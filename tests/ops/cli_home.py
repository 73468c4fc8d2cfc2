"""A user's place to work in: a data directory, the commands called there as processes, what they say and leave behind."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ops.embedded.child import left_behind

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

    def plan(self, name: str, *tasks: dict[str, Any]) -> str:
        rows = [{"agent_role": "coder", "max_attempts": 1, **task} for task in tasks]
        (self.folder / f"{name}.json").write_text(json.dumps({"id": name, "title": "A plan", "tasks": rows}))
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
    folder = Path(tempfile.mkdtemp(prefix="cairn-cli-"))
    folder.chmod(0o711)
    (folder / "agents").mkdir()
    (folder / "agents/coder.sh").write_text(CODER)
    (folder / "agents/coder.sh").chmod(0o755)
    return Home(folder)


def on_terminal(
    home: Home, arguments: list[str], answers: list[tuple[str, str | Callable[[], str]]], **environment: str
) -> tuple[int, str]:
    """Calls with a terminal of 40 lines and types each answer once its prompt is seen; exit code and all that was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home.folder)
        os.execve(sys.executable, [*CAIRN, *arguments], home.environment | environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    shown, read_to, deadline = "", 0, time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                shown += os.read(terminal, 65_536).decode(errors="replace")
            except OSError:  # how a terminal says that its last process has gone
                break
        if answers and (at := shown.find(answers[0][0], read_to)) >= 0:
            read_to = at + len(answers[0][0])
            typed = answers.pop(0)[1]
            os.write(terminal, (typed() if callable(typed) else typed).encode())
    else:
        os.kill(pid, signal.SIGTERM)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def plain(shown: str) -> str:
    """Without colours and what moves the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
