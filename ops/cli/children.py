"""Processes that a command starts: `cairn up` in the background, and the agents of an example."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

from ops.settings import Settings, child_environment

DRAIN_SECONDS = 40.0
TAIL_LINES = 15


class Child:
    """`cairn <arguments>` in a process group of its own (Ctrl-C on the terminal is ours to answer), logging to a file."""

    def __init__(self, settings: Settings, name: str, *arguments: str) -> None:
        self.log = settings.data_dir / "log" / f"{name}.log"
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(
                # -P: a folder `cairn` where the user works is not ours.
                [sys.executable, "-P", "-m", "cairn", *arguments],
                env=child_environment(settings),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code once it has ended."""
        return self._process.poll()

    def said(self) -> str:
        """The end of what it wrote to its log."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-TAIL_LINES:])

    def end(self) -> None:
        """Asks it to stop, and waits until it has; what does not drain in time is killed with all of its group."""
        if self.code is not None:
            return
        self._process.terminate()
        try:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(DRAIN_SECONDS)
        finally:  # a second Ctrl-C does not wait
            if self.code is None:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
