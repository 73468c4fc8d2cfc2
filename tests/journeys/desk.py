"""A person at work: a system that may be up, and the command line in front of it, called as they would call it."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from terminal import at_terminal, plain

from tests.cluster import with_cluster

from .stage import Json, System, data_folder, kept, processes

WAIT_SECONDS = 90.0
CAIRN = (sys.executable, "-P", "-m", "cairn")


class Desk(System):
    """Commands are called in `at`, a folder of the person's own, which is no part of the data directory."""

    def __init__(self, folder: Path, at: Path, **environment: str) -> None:
        super().__init__(folder, **environment)
        self.at = at
        self._environment.pop("CI", None)

    def cairn(self, *arguments: str | Path, expect: int | None = 0, stdin: str | None = None) -> "Said":
        """Calls it without a terminal and waits. `expect` is the exit code it must have (None: any)."""
        done = subprocess.run(
            [*CAIRN, *map(str, arguments)], cwd=self.at, env=self._environment, capture_output=True, text=True,
            timeout=WAIT_SECONDS, input=stdin or "",
        )  # fmt: skip
        assert expect in (None, done.returncode), f"cairn {arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
        return Said(done.returncode, done.stdout, done.stderr)

    def begin(self, name: str, *argv: str | Path) -> subprocess.Popen[bytes]:
        """Starts a program that goes on, as an agent; `<name>.log` in the data directory has what it says."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = self._agents[name] = subprocess.Popen(
                [*map(str, argv)], cwd=self.at, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                process_group=0,
            )  # fmt: skip
        return process

    def begin_cairn(self, name: str, *arguments: str | Path) -> subprocess.Popen[bytes]:
        return self.begin(name, *CAIRN, *arguments)

    def call(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        """Calls it without a terminal and does not wait."""
        return subprocess.Popen(
            [*CAIRN, *map(str, arguments)], cwd=self.at, env=self._environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ended(self, name: str, number: signal.Signals | None = None) -> int:
        """The exit code of a program that was begun, once it has ended: by itself, or by a signal."""
        process = self._agents.pop(name)
        if number is not None:
            process.send_signal(number)
        return process.wait(WAIT_SECONDS)

    def log(self, name: str) -> str:
        """What a program that was begun has said until now."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def at_terminal(self, arguments: Sequence[str | Path], typed: Sequence[tuple[str, str]]) -> tuple[int, str]:
        """Calls it on a terminal and types each answer when its prompt is seen: exit code, and what was shown."""
        code, shown = at_terminal([*CAIRN, *map(str, arguments)], self.at, self._environment, typed)
        return code, plain(shown)

    @property
    def artifacts(self) -> Path:
        """The repository of the data directory."""
        return self.folder / "artifacts.git"

    def left(self) -> list[int]:
        """Processes of this data directory that still live."""
        return processes(self.folder)

    def plan(self, name: str, *tasks: Json, **more: Any) -> Path:
        """Writes a plan beside the person; its file."""
        file = self.at / f"{name}.json"
        file.write_text(json.dumps({"id": name, "tasks": tasks, **more}))
        return file

    def program(self, name: str, text: str) -> Path:
        """Writes an executable file beside the person."""
        file = self.at / name
        file.write_text(text)
        file.chmod(0o755)
        return file

    def events(self, *filters: str) -> list[Json]:
        return [json.loads(line) for line in self.cairn("events", *filters, "-o", "jsonl").out.splitlines()]

    def show(self, workflow: str) -> Json:
        found: Json = json.loads(self.cairn("show", workflow, "-o", "json").out)
        return found


class Said:
    """Exit code, what was data (stdout), and the rest (stderr)."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@contextmanager
def desk(*, up: bool = True, **environment: str) -> Iterator[Desk]:
    """A person with a fresh data directory; at the end nothing may be left running."""
    with data_folder() as folder, tempfile.TemporaryDirectory(prefix="cairn-person-") as at:
        one = Desk(folder, Path(at), **environment)
        with kept(one):
            if up:
                with_cluster(folder)
                one.start()
            yield one


def kinds(events: Sequence[Json]) -> list[str]:
    """`cairn.task.dispatched.v1` is `task.dispatched`."""
    return [event["type"].removeprefix("cairn.").removesuffix(".v1") for event in events]


def git(repository: Path, *words: str) -> str:
    """What git says, as any user would call it."""
    done = subprocess.run(["git", "-C", repository, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {words}: {done.stderr}"
    return done.stdout
