"""A person at a terminal of 40 lines: sees what a program shows, and types."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

WAIT_SECONDS = 90.0
Typed = str | Callable[[], str]


def at_terminal(
    argv: Sequence[str], folder: Path, environment: Mapping[str, str], answers: Sequence[tuple[str, Typed]] = ()
) -> tuple[int, str]:
    """Runs it in the folder and types each answer once its prompt is seen; exit code and all that was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(argv[0], [*argv], {**environment, "TERM": "xterm"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    shown, read_to, waiting = "", 0, list(answers)
    deadline = time.monotonic() + WAIT_SECONDS
    try:
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    shown += os.read(terminal, 65_536).decode(errors="replace")
                except OSError:  # how a terminal says that its last process has gone
                    break
            if waiting and (at := shown.find(waiting[0][0], read_to)) >= 0:
                read_to = at + len(waiting[0][0])
                typed = waiting.pop(0)[1]
                os.write(terminal, (typed() if callable(typed) else typed).encode())
        else:
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(terminal)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert not waiting, f"never asked {waiting}:\n{plain(shown)}"
    return code, shown


def plain(shown: str) -> str:
    """Without colours and what moves the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
