"""A Postgres cluster as `initdb` leaves it, made once per process and copied: seconds of work that most tests are not about.

A start from nothing is what `ops/test_embedded.py` is about, and what everyone who is not given a cluster does.
"""

import asyncio
import atexit
import functools
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ops.embedded import Embedded


def with_cluster(data_dir: Path) -> Path:
    """A data directory that is not there yet, or is empty, with a cluster in which nothing has been stored."""
    data_dir.mkdir(mode=0o711, exist_ok=True)
    subprocess.run(["cp", "-a", _made(), data_dir / "postgres"], check=True)
    return data_dir


@functools.cache
def _made() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="cairn-cluster-"))
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
