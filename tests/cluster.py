"""Where the servers of tests keep their data, and a cluster to begin with: what most tests are not about, made cheap.

A cluster as `initdb` leaves it is made once per process and copied. A start from nothing is what `ops/test_embedded.py`
is about, and what everyone who is not given a cluster does; that file also keeps its data on the disk.
"""

import asyncio
import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ops.embedded import Embedded

MEMORY = Path("/dev/shm")
MEMORY_BYTES = 8 * 1024**3


def fast_disk() -> Path | None:
    """A disk in memory, if there is one with room on which programs may lie: a sync costs nothing there, and a process
    that is killed loses nothing there either. None for the usual place."""
    if not os.access(MEMORY, os.R_OK | os.W_OK | os.X_OK):
        return None
    disk = os.statvfs(MEMORY)
    fits = disk.f_bavail * disk.f_frsize >= MEMORY_BYTES and not disk.f_flag & os.ST_NOEXEC
    return MEMORY if fits else None


def with_cluster(data_dir: Path) -> Path:
    """A data directory that is not there yet, or is empty, with a cluster in which nothing has been stored."""
    data_dir.mkdir(mode=0o711, exist_ok=True)
    subprocess.run(["cp", "-a", _made(), data_dir / "postgres"], check=True)
    return data_dir


@functools.cache
def _made() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cairn-cluster-", dir=fast_disk()))
    folder.chmod(0o711)
    atexit.register(shutil.rmtree, folder)
    with ThreadPoolExecutor(1) as beside:  # a loop may be running in this thread
        beside.submit(asyncio.run, _started_once(folder)).result()
    return folder / "postgres"


async def _started_once(folder: Path) -> None:
    servers = Embedded(folder, nats_url="nats://unused")
    try:
        await servers.start()
    finally:
        await servers.stop()
