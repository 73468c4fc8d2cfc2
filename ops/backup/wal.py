"""What lies between two backups, for restores to any moment after the first: WAL as it is written, and every few seconds
what events and WAL refer to and do not hold: the segments of archived partitions, and the repositories.

A segment has its name before the transaction commits that drops its partition. So one that is copied before WAL is
received is there before its drop is; and of one that comes while WAL is received, the drop may be here up to FETCH_SECONDS
before the file. Whoever loses the data directory just then goes back to the moment before the drop: what the file holds
is in the backup and the WAL.
"""

import asyncio
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path

import psycopg

from ops.backup import programs
from ops.backup.manifest import durable, sync
from ops.backup.take import take_repositories
from ops.embedded.child import ENVIRONMENT, ServerFailed, Tell

FETCH_SECONDS = 5.0
QUICK_SECONDS, QUICK_DEATHS = 15.0, 3
SLOT = "cairn_wal"
"""Keeps WAL in Postgres until it is archived, over restarts of the archive, up to `max_slot_wal_keep_size`."""
SEGMENTS = "wal"
REPOSITORIES = "repositories"
ARCHIVE = "archive"
"""Of the ledger: a folder of the data directory, and one of the same name here."""
RECOVERY = {
    # All segments lie in pg_wal already; a restore_command has to be named, and what it does not find is looked for there.
    "restore_command": "false",
    "recovery_target_timeline": "latest",
    "recovery_target_action": "promote",
    "hot_standby": "off",  # nobody is answered before it is over
}


async def archive(data_dir: Path, database_url: str, folder: Path, tell: Tell) -> None:
    """Archives into `folder` until SIGINT or SIGTERM, also over restarts of Postgres and of itself."""
    folder = folder.absolute()
    for name in (SEGMENTS, ARCHIVE):
        (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    sync(folder)
    # Those of years may take longer than a slot can keep WAL: the first time there is no slot yet.
    await take_segments(data_dir, folder, tell)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    log = folder / "log"
    slot = (f"--slot={SLOT}", "--create-slot", "--if-not-exists")
    await programs.run("pg_receivewal", database_url, *slot, log=log, environment=ENVIRONMENT)
    tell(
        f"archiving into {folder} until Ctrl-C; a backup that is taken from now on can be restored to any later moment"
    )
    deaths = 0
    while not stop.is_set():
        began = time.monotonic()
        failure = await _receive(data_dir, database_url, folder, stop, tell)
        # A restart of Postgres ends it once. What ends it at once, again and again, is a hole in the archive.
        deaths = deaths + 1 if time.monotonic() - began < QUICK_SECONDS and await _answers(database_url) else 0
        if deaths == QUICK_DEATHS and not stop.is_set():
            raise failure
    await _fetch(data_dir, folder, tell)


async def _receive(data_dir: Path, url: str, folder: Path, stop: asyncio.Event, tell: Tell) -> ServerFailed:
    """Returns when it has ended, or `stop` is set."""
    await take_segments(data_dir, folder, tell)  # those that were written while no WAL was received
    how = (f"--slot={SLOT}", "--synchronous", "--status-interval=1", "--no-loop")
    where = ("--directory", folder / SEGMENTS)
    async with programs.running(
        "pg_receivewal", url, *how, *where, log=folder / "log", environment=ENVIRONMENT
    ) as child:
        while child.pid is not None and not stop.is_set():
            await _fetch(data_dir, folder, tell)
            with suppress(TimeoutError):
                async with asyncio.timeout(FETCH_SECONDS):
                    await stop.wait()
    return child.failure("ended: what follows is not in this archive; remove it, and begin another and a new backup")


async def _fetch(data_dir: Path, folder: Path, tell: Tell) -> None:
    await take_segments(data_dir, folder, tell)
    await take_repositories(data_dir, folder / REPOSITORIES, lambda _: None)


async def take_segments(data_dir: Path, folder: Path, tell: Tell) -> None:
    """Copies those of the data directory that are not in the WAL archive `folder` as they are."""
    for source in sorted((data_dir / ARCHIVE).glob("*.segment")):
        target, wanted = folder / ARCHIVE / source.name, source.stat()
        # One that an interrupted `cairn archive` has left is written anew, by a newer SQLite in other bytes.
        found = target.stat() if target.exists() else None
        if found and found.st_size == wanted.st_size and found.st_mtime_ns >= wanted.st_mtime_ns:
            continue
        await asyncio.to_thread(_copy, source, target, folder / f"{ARCHIVE}.new")
        tell(f"copied {source.name}")


def _copy(source: Path, target: Path, new: Path) -> None:
    with source.open("rb") as file, durable(target, new) as out:
        shutil.copyfileobj(file, out)


async def _answers(url: str) -> bool:
    try:
        await (await psycopg.AsyncConnection.connect(url, connect_timeout=5)).close()
    except psycopg.OperationalError:
        return False
    return True


def place(segments: Path | None, cluster: Path, until: str | None) -> None:
    """Makes an unpacked base backup go on with archived WAL at its first start, to a moment or as far as there is any.

    Without any it goes as far as its own: Postgres takes up a recovery that was interrupted only where it was told to
    recover, and not where it finds a `backup_label` alone.
    """
    for segment in sorted(segments.iterdir()) if segments else ():
        # The last one is still being written; as far as it goes it is good.
        into = cluster / "pg_wal" / segment.name.removesuffix(".partial")
        into.write_bytes(segment.read_bytes())
    settings = RECOVERY | ({"recovery_target_time": until} if until else {})
    with (cluster / "postgresql.auto.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    (cluster / "recovery.signal").touch()
