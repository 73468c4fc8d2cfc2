"""The uid a sandboxed command runs as, and its claim on the work folder.

A normal user's commands run as that user. Root's never do: RLIMIT_NPROC does not bind root, and root owns every secret.
They get a uid of their own, from the range systemd keeps free for such use, and the work folder is theirs meanwhile.
"""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import NamedTuple

from handlers.ports import SandboxBroken

# https://systemd.io/UIDS-GIDS: "dynamic service users"; no distribution assigns from it.
FIRST_UID, LAST_UID = 61184, 65519


class Tenant(NamedTuple):
    """Who runs the command; `own` when the uid is of this run alone and must be switched to."""

    uid: int
    gid: int
    own: bool


@asynccontextmanager
async def tenancy(folder: Path) -> AsyncIterator[Tenant]:
    """The tenant of one run; all in `folder` that it may write belongs to it inside the block, to the caller after.

    A file with several hard links is not handed over: its other names may lie outside the folder.
    Raises SandboxBroken when the folder is missing or cannot be handed over.
    """
    if not folder.is_dir():
        raise SandboxBroken(f"the work folder {folder} does not exist: check the worktree out first")
    caller, group = os.geteuid(), os.getegid()
    if caller != 0:
        yield Tenant(caller, group, own=False)
        return
    with closing(_leased_uid()) as lease:
        uid = int(lease.getsockname()[1:].rpartition(b"-")[2])
        await _handed(folder, uid)
        try:
            yield Tenant(uid, uid, own=True)
        finally:
            await _handed(folder, caller)


async def _handed(folder: Path, heir: int) -> None:
    try:
        await asyncio.to_thread(_give, folder, heir)
    except RecursionError:
        raise SandboxBroken(f"cannot hand {folder} to uid {heir}: its folders are nested too deep") from None
    except OSError as error:
        raise SandboxBroken(f"cannot hand {folder} to uid {heir}: {error}; use a local file system") from error


def _leased_uid() -> socket.socket:
    """A socket bound to an abstract name that says the uid: one holder per machine, free again when the holder dies."""
    inhabited = _inhabited()
    for uid in range(FIRST_UID, LAST_UID + 1):
        lease = socket.socket(socket.AF_UNIX)
        try:
            lease.bind(f"\0cairn-sandbox-uid-{uid}")
        except OSError:
            lease.close()
            continue
        if uid not in inhabited:
            return lease
        lease.close()
    raise SandboxBroken(f"every uid from {FIRST_UID} to {LAST_UID} is in use: end what runs under them")


def _inhabited() -> set[int]:
    """The uids that have processes now: what an earlier server left running must not meet the next tenant."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            found.add(os.stat(f"/proc/{name}").st_uid)
        except FileNotFoundError:
            continue  # it ended since it was listed
    return found


def _give(folder: Path, heir: int) -> None:
    """Makes all in `folder` the heir's that is a tenant's, also one's whose server died, or ours alone."""
    ours, group = os.geteuid(), os.getegid() if heir == os.geteuid() else heir
    for _, folders, files, here in os.fwalk(folder, follow_symlinks=False):
        for name in (".", *folders, *files):
            entry = os.stat(name, dir_fd=here, follow_symlinks=False)
            linked = entry.st_nlink > 1 and not stat.S_ISDIR(entry.st_mode)
            lent = FIRST_UID <= entry.st_uid <= LAST_UID
            if lent or (entry.st_uid == ours != heir and not linked):
                os.chown(name, heir, group, dir_fd=here, follow_symlinks=False)
