"""What lies between two backups: WAL as it is written, and the repositories, for restores to any moment after a backup."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

from ops.backup import programs
from ops.backup.take import take_repositories
from ops.embedded.child import ENVIRONMENT, Tell

FETCH_SECONDS = 5.0
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
    place = ("--directory", folder / SEGMENTS, "--synchronous")
    log = folder / "log"
    async with programs.running("pg_receivewal", database_url, *place, log=log, environment=ENVIRONMENT) as child:
        tell(f"archiving into {folder} until Ctrl-C; `cairn backup` now is what a restore begins with")
        while not stop.is_set() and child.pid is not None:
            await take_repositories(data_dir, folder / REPOSITORIES, lambda _: None)
            with suppress(TimeoutError):
                async with asyncio.timeout(FETCH_SECONDS):
                    await stop.wait()
        if not stop.is_set():
            raise child.failure(f"ended (exit code {await child.exited()})")
    await take_repositories(data_dir, folder / REPOSITORIES, lambda _: None)


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
