"""The servers Cairn brings along: Postgres and NATS, for whichever of DATABASE_URL and NATS_URL is not set.

    async with embedded(settings) as servers, asyncio.TaskGroup() as group:
        group.create_task(servers.watch())
        ...servers.database_url, servers.nats_url

A data directory is used by one Cairn at a time (`data_dir/lock`, released by the kernel whatever happens to us) and
says in `data_dir/layout` which version of its shape it has.
"""

import asyncio
import contextlib
import fcntl
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TextIO

from ops.embedded.child import ServerFailed, Tell, require_space
from ops.embedded.nats import Nats
from ops.embedded.postgres import Postgres
from ops.settings import Settings

__all__ = ["LAYOUT", "MARKER", "AlreadyRunning", "Embedded", "ServerFailed", "embedded"]

LAYOUT = 1
MARKER = "restoring.json"
"""In a data directory whose restore has not come to its end."""
QUICK_SECONDS = 30.0
QUICK_DEATHS = 5
BACKOFF_SECONDS = 0.2


class AlreadyRunning(ServerFailed):
    """Another Cairn uses the data directory; `pid` is its process id (0 when unknown)."""

    def __init__(self, data_dir: Path, pid: int) -> None:
        super().__init__(
            f"another Cairn (process {pid or 'unknown'}) uses {data_dir}."
            "\n  fix: use that one, stop it, or set CAIRN_DATA_DIR to another folder"
        )
        self.pid = pid


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Embedded:
    """Both servers' URLs, whether they are ours or the user's. `start`, then `watch` for ever, then `stop`.

    The data directory is locked in any case: what else lies in it, as `up.json`, is one system's too."""

    def __init__(
        self, data_dir: Path, *, database_url: str | None = None, nats_url: str | None = None, tell: Tell = _to_stderr
    ) -> None:
        self.data_dir = data_dir = data_dir.resolve()
        self.postgres = None if database_url else Postgres(data_dir, tell)
        self.nats = None if nats_url else Nats(data_dir, tell)
        self._database_url, self._nats_url = database_url, nats_url
        self._servers = [server for server in (self.postgres, self.nats) if server]
        self._lock: TextIO | None = None
        self._stopping = False
        self._tell = tell

    @property
    def database_url(self) -> str:
        """A libpq URL; the same at every start of this data directory."""
        return self._database_url or (self.postgres.url if self.postgres else "")

    @property
    def nats_url(self) -> str:
        """nats://user:password@host:port, known once started; the same at the next start unless the port is taken."""
        return self._nats_url or (self.nats.url if self.nats else "")

    async def start(self) -> None:
        """Starts what is not the user's own. Raises `AlreadyRunning` or `ServerFailed`; then call `stop` too."""
        self._stopping = False
        prepare(self.data_dir)
        self._lock = _lock(self.data_dir)
        starts = [asyncio.ensure_future(_start(server)) for server in self._servers]
        try:
            await asyncio.gather(*starts)
        finally:
            # gather leaves the other one running when one fails: it must not spawn after we stopped.
            # Once: a second time would break off the ending of what it has started.
            for start in starts:
                if not start.cancelling():
                    start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)

    async def admit(self, user: str, permissions: dict[str, list[str]]) -> str:
        """The URL under which a user of NATS may do this and no more. Where NATS is yours, its URL: whom it lets in, and
        what they may do, is said there."""
        return await self.nats.admit(user, permissions) if self.nats else self.nats_url

    async def watch(self) -> None:
        """Starts a server again that died, until cancelled. Raises `ServerFailed` after five quick deaths of one."""
        async with asyncio.TaskGroup() as group:
            for server in self._servers:
                group.create_task(self._keep(server))
            if self.nats:
                group.create_task(self._relieve(self.nats))

    async def stop(self) -> None:
        """Stops what `start` started, NATS before Postgres, and frees the data directory. May be called at any time."""
        self._stopping = True
        if self._lock is None:  # what runs in the directory is then another Cairn's
            return
        for server in reversed(self._servers):
            await server.stop()
        self._lock.close()
        self._lock = None

    async def _relieve(self, nats: Nats) -> None:
        while True:
            await nats.disk_freed()
            self._tell("the disk was full and has room again: NATS is started anew")
            await nats.stop()  # and whoever keeps it starts it
            await asyncio.sleep(BACKOFF_SECONDS)

    async def _keep(self, server: Postgres | Nats) -> None:
        now = asyncio.get_running_loop().time
        deaths, started = 0, now()
        while True:
            code = await server.child.exited()
            if self._stopping:
                return
            deaths = deaths + 1 if now() - started < QUICK_SECONDS else 1
            if deaths > QUICK_DEATHS:
                raise server.child.failure(f"died {deaths} times in a row (last exit code {code}); giving up")
            self._tell(f"{server.name} died (exit code {code}), starting it again")
            await asyncio.sleep(BACKOFF_SECONDS * 2 ** (deaths - 1))
            try:
                await _start(server)
            except ServerFailed as failure:
                if deaths == QUICK_DEATHS:
                    raise
                self._tell(str(failure))
                await server.stop()
            started = now()


@contextlib.asynccontextmanager
async def embedded(settings: Settings, tell: Tell = _to_stderr) -> AsyncIterator[Embedded]:
    """The servers `settings` asks for, running; stopped at the end, also when the start fails or is cancelled."""
    if (settings.data_dir / MARKER).exists():
        raise ServerFailed(
            f"a backup is being restored to {settings.data_dir}, and is not finished"
            f"\n  fix: cairn restore --finish --data-dir {settings.data_dir}"
        )
    servers = Embedded(settings.data_dir, database_url=settings.database_url, nats_url=settings.nats_url, tell=tell)
    try:
        await servers.start()
        yield servers
    finally:
        await servers.stop()


async def _start(server: Postgres | Nats) -> None:
    try:
        await server.start()
    except OSError as error:
        raise ServerFailed(f"{server.name} cannot be started: {error}") from error


def prepare(data_dir: Path) -> None:
    """Makes the data directory, or checks that this Cairn understands it. Raises `ServerFailed`."""
    file = data_dir / "layout"
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(data_dir, os.W_OK | os.X_OK):
            raise PermissionError(f"it belongs to uid {data_dir.stat().st_uid} and is not writable")
        if os.geteuid() == 0 == data_dir.stat().st_uid:
            # Root's Postgres runs as another user, who has to pass through; what is private inside has its own mode.
            data_dir.chmod(data_dir.stat().st_mode | 0o011)
        require_space(data_dir)
        if not file.exists():
            file.write_text(f"{LAYOUT}\n")
        found, owner = file.read_text().strip(), file.stat().st_uid
    except OSError as error:
        raise ServerFailed(
            f"the data directory {data_dir} cannot be used: {error}"
            "\n  fix: make it writable for this user, or set CAIRN_DATA_DIR to another folder"
        ) from error
    if owner != os.geteuid():
        # Root could go on, and leave files behind that their owner can never read again.
        raise ServerFailed(
            f"{data_dir} belongs to the user {owner}, this Cairn runs as {os.geteuid()}."
            "\n  fix: run it as that user, or set CAIRN_DATA_DIR to another folder"
        )
    if found != str(LAYOUT):
        raise ServerFailed(
            f"{data_dir} has layout {found!r}, this Cairn knows layout {LAYOUT}: it was made by another version."
            "\n  fix: upgrade Cairn, or set CAIRN_DATA_DIR to another folder"
        )


def _lock(data_dir: Path) -> TextIO:
    lock = (data_dir / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        pid = lock.read().strip()
        lock.close()
        raise AlreadyRunning(data_dir, int(pid) if pid.isdigit() else 0) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock
