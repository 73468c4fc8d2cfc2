"""The system that `run` works with: the one that is up, or one of its own."""

import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from cairn.calls import ENDED, CairnError
from cairn.config import connection
from cairn.sync import SyncClient
from ops.cli.children import Child
from ops.cli.place import user
from ops.cli.stop import CONFLICT, FAILED, Stop
from ops.cli.text import say
from ops.embedded import prepare
from ops.settings import Settings

START_SECONDS = 180.0
"""A first start makes a database, and one after a crash recovers it."""
LOOK_SECONDS = 0.05


class System:
    """`client` speaks to it. Left with `stays` set, what was started here goes on; else it is stopped."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._up: Child | None = None
        self._agents: Child | None = None
        self._begun = datetime.now(UTC)
        self.stays = False

    def __enter__(self) -> Self:
        try:
            joined = self._join()
            if joined is None:
                joined = self._start()
        except BaseException:
            self._end()
            raise
        self.client = joined
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.stays:
            self._end()

    @property
    def own(self) -> bool:
        """Whether it was started here."""
        return self._up is not None

    @property
    def pid(self) -> int | None:
        """Of the system's process, if it runs on this machine."""
        return self._told().pid

    @property
    def artifacts(self) -> Path:
        """The bare repository of the data directory."""
        return Path(self._told().repository or self._settings.artifacts)

    def play(self, roles: list[str], script: Path) -> None:
        """Starts the scripted agents of these roles; they end with the system, or before."""
        arguments = [word for role in roles for word in ("--role", role)]
        until = ["--until", str(self.pid)] if self.pid else []
        self._agents = Child(self._settings, "scripted", "agent", *arguments, "--scripted", str(script), *until)

    def joined(self, workflow: str) -> list[str]:
        """Other workflows that are not done and were started on a system of our own since it is up."""
        rows = self.client.workflows(1_000) if self.own else []
        return [
            row["workflow"]
            for row in rows
            if row["workflow"] != workflow
            and row["status"] not in ENDED
            and datetime.fromisoformat(row["started_at"]) > self._begun
        ]

    def lost(self) -> Stop | None:
        """Why what was started here does not run any more, if it does not."""
        for child, what in ((self._up, "the system"), (self._agents, "the scripted agents")):
            if child is not None and child.code is not None:
                why = f"{what} ended with exit code {child.code}; the end of {child.log}:\n{child.said()}"
                return Stop(FAILED, f"{what} went away", why, "cairn doctor")
        return None

    def _join(self) -> SyncClient | None:
        """None if nothing is up here. CairnError if another place, or token, was named and it is not to be had there."""
        try:
            where = connection(self._settings.data_dir)
        except ConnectionError:
            return None
        client = SyncClient(where, actor=user())
        try:
            client.workflows(1)
        except CairnError:
            told = self._told()
            if (where.url, where.token) != (told.url, told.token):
                raise
            return None  # what was up here was killed, and somebody else may listen on its port since
        return client

    def _start(self) -> SyncClient:
        folder = self._settings.data_dir
        first = "" if (folder / "layout").exists() else ", for the first time here: that takes some seconds"
        say(f"starting the system in {folder}{first}")
        prepare(folder.resolve())
        child = self._up = Child(self._settings, "up", "up")
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if child.code == CONFLICT:
                self._up = None  # another one was faster, and may not be ready yet
                if joined := self._join():
                    return joined
            elif child.code is not None:
                self._up = None
                raise Stop(
                    FAILED, "the system did not start", f"the end of {child.log}:\n{child.said()}", "cairn doctor"
                )
            elif self._told().pid == child.pid and (joined := self._join()):
                return joined
            time.sleep(LOOK_SECONDS)
        raise Stop(FAILED, f"the system was not ready after {START_SECONDS:g} s", f"see {child.log}", "cairn doctor")

    def _told(self) -> "_Up":
        try:
            return msgspec.json.decode((self._settings.data_dir / "up.json").read_bytes(), type=_Up)
        except (FileNotFoundError, msgspec.DecodeError):
            return _Up()

    def _end(self) -> None:
        for child in (self._agents, self._up):
            if child is not None:
                child.end()
        self._agents = self._up = None


class _Up(msgspec.Struct):
    """What is read of `up.json`."""

    pid: int | None = None
    url: str = ""
    token: str = ""
    repository: str = ""
