"""What lies between two backups: WAL as it is written, and the repositories, for restores to any moment after a backup."""

import asyncio
import signal
import time
from contextlib import suppress
from pathlib import Path

import psycopg

from ops.backup import programs
from ops.backup.take import take_repositories
from ops.embedded.child import ENVIRONMENT, ServerFailed, Tell

FETCH_SECONDS = 5.0
QUICK_SECONDS, QUICK_DEATHS = 15.0, 3
SLOT = "cairn_wal"
"""Keeps WAL in Postgres until it is archived, over restarts of the archive, up to `max_slot_wal_keep_size`."""
SEGMENTS = "wal"
REPOSITORIES = "repositories"
RECOVERY = {
    # All segments lie in pg_wal already; a restore_command has to be named, and what it does not find is looked for there.
    "restore_command": "false",
    "recovery_target_timeline": "latest",
    "recovery_target_action": "promote",
    "hot_standby": "off",  # nobody is answered before it is over
}


async def archive(data_dir: Path, database_url: str, folder: Path, tell: Tell) -> None:
    """Archives into `folder` until SIGINT or SIGTERM, also over restarts of Postgres and of itself."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    folder = folder.absolute()
    (folder / SEGMENTS).mkdir(mode=0o700, parents=True, exist_ok=True)
    log = folder / "log"
    slot = (f"--slot={SLOT}", "--create-slot", "--if-not-exists")
    await programs.run("pg_receivewal", database_url, *slot, log=log, environment=ENVIRONMENT)
    tell(
        f"archiving into {folder} until Ctrl-C; a backup that is taken from now on can be restored to any later moment"
    )
    deaths = 0
    while not stop.is_set():
        began = time.monotonic()
        failure = await _receive(data_dir, database_url, folder, stop)
        # A restart of Postgres ends it once. What ends it at once, again and again, is a hole in the archive.
        deaths = deaths + 1 if time.monotonic() - began < QUICK_SECONDS and await _answers(database_url) else 0
        if deaths == QUICK_DEATHS and not stop.is_set():
            raise failure
    await take_repositories(data_dir, folder / REPOSITORIES, lambda _: None)


async def _receive(data_dir: Path, url: str, folder: Path, stop: asyncio.Event) -> ServerFailed:
    """Returns when it has ended, or `stop` is set."""
    how = (f"--slot={SLOT}", "--synchronous", "--status-interval=1", "--no-loop")
    where = ("--directory", folder / SEGMENTS)
    async with programs.running(
        "pg_receivewal", url, *how, *where, log=folder / "log", environment=ENVIRONMENT
    ) as child:
        while child.pid is not None and not stop.is_set():
            await take_repositories(data_dir, folder / REPOSITORIES, lambda _: None)
            with suppress(TimeoutError):
                async with asyncio.timeout(FETCH_SECONDS):
                    await stop.wait()
    return child.failure("ended: what follows is not in this archive; remove it, and begin another and a new backup")


async def _answers(url: str) -> bool:
    try:
        await (await psycopg.AsyncConnection.connect(url, connect_timeout=5)).close()
    except psycopg.OperationalError:
        return False
    return True


def place(segments: Path, cluster: Path, until: str | None) -> None:
    """Makes an unpacked base backup go on with archived WAL at its first start, to a moment or as far as there is any."""
    for segment in sorted(segments.iterdir()):
        # The last one is still being written; as far as it goes it is good.
        into = cluster / "pg_wal" / segment.name.removesuffix(".partial")
        into.write_bytes(segment.read_bytes())
    settings = RECOVERY | ({"recovery_target_time": until} if until else {})
    with (cluster / "postgresql.auto.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
    (cluster / "recovery.signal").touch()
