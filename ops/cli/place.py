"""Which system a command talks to: options that most commands have."""

import os
import pwd
import sys
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from cairn.config import Connection
    from cairn.sync import SyncClient
    from ops.settings import Settings


DEBUG: ContextVar[bool] = ContextVar("debug", default=False)
"""Whether this call is to tell all it does (`--debug`)."""


@Parameter(name="*")
@dataclass(frozen=True)
class Place:
    """The data directory decides: a running system leaves its address there."""

    data_dir: Path | None = None
    """Where the system keeps everything (CAIRN_DATA_DIR)."""

    def settings(self, **flags: Any) -> "Settings":
        """Raises SettingsInvalid."""
        from ops.settings import read

        level = {"log_level": "debug"} if DEBUG.get() else {}
        return read({"data_dir": self.data_dir, **level, **flags})

    def connection(self) -> "Connection":
        """Raises Stop when nothing is up."""
        from cairn.config import connection
        from ops.cli.stop import UNREACHABLE, Stop

        folder = self.settings().data_dir
        try:
            return connection(folder)
        except ConnectionError:
            fix = "cairn up" + (f" --data-dir {self.data_dir}" if self.data_dir else "")
            raise Stop(UNREACHABLE, f"nothing is up in {folder}", fix=fix) from None

    def client(self) -> "SyncClient":
        """Who asks is the user of this process. Raises Stop when nothing is up."""
        from cairn.sync import SyncClient

        return SyncClient(self.connection(), actor=user())


HERE = Place()


def user() -> str:
    """The name of this process' user, as events will give it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


def terminal(settings: "Settings") -> bool:
    """Whether there is a person to talk to, who sees what is drawn and can type."""
    from ops.settings import child_environment

    return sys.stdin.isatty() and sys.stderr.isatty() and not child_environment(settings).get("CI")
