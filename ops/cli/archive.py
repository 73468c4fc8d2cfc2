"""`cairn archive`."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cyclopts import App

from ops.cli.place import HERE, Place
from ops.cli.rows import Output, emit
from ops.cli.servers import servers
from ops.cli.stop import CONFLICT, NOT_FOUND, OK, USAGE, Stop
from ops.cli.text import say

if TYPE_CHECKING:
    from ledger.archive import Partition
    from ledger.postgres import Connection
    from ops.settings import Settings

SHOWN = ("first", "last", "where", "bytes", "archived_at", "sha256")
"""The table and CSV show these columns; JSON the digests as well."""
MONTH = re.compile(r"([1-9]\d{3})-(0[1-9]|1[0-2])")

command = App(
    name="archive",
    help="Move closed parts of the ledger into compressed files; they stay readable.",
    help_format="plaintext",
    version_flags=(),
)


@command.default
def move(
    *, before: str, dry_run: bool = False, tenant: str | None = None, output: Output = "table", place: Place = HERE
) -> int:
    """Move closed partitions out of Postgres, oldest first, into `archive` in the data directory.

    Each file is written, read back and compared with the chain of digests before its partition is dropped. Works on the
    system that is up, which goes on meanwhile, or on what a stopped one left. What was moved is listed.

    Parameters
    ----------
    before
        A month as 2026-01 (UTC), or a position: only partitions all of whose events lie before it.
    dry_run
        Only list what would be moved.
    tenant
        Whose ledger (CAIRN_TENANT).
    """
    until, settings = _until(before), place.settings(tenant=tenant)
    rows = asyncio.run(_move(settings, until, dry_run))
    if not rows:
        say(f"nothing to move: no closed partition of {settings.tenant} lies wholly before {before}")
    emit(rows, output, SHOWN)
    return OK


@command.command
def ls(*, tenant: str | None = None, output: Output = "table", place: Place = HERE) -> int:
    """Every partition, and where its events are: in Postgres, or in a file.

    Parameters
    ----------
    tenant
        Whose ledger (CAIRN_TENANT).
    """
    emit(asyncio.run(_list(place.settings(tenant=tenant))), output, SHOWN)
    return OK


def _until(before: str) -> int | datetime:
    if before.isdecimal():
        return int(before)
    if month := MONTH.fullmatch(before):
        return datetime(int(month[1]), int(month[2]), 1, tzinfo=UTC)
    raise Stop(USAGE, f"--before {before!r} is neither a month nor a position", fix="cairn archive --before 2026-01")


async def _move(settings: "Settings", until: int | datetime, dry_run: bool) -> list[dict[str, Any]]:
    from ledger.archive import Partition
    from ledger.errors import ArchiveBusy
    from ledger.retire import closed, lock, retire

    async with _connected(settings) as connection:
        try:
            await lock(connection, settings.tenant)
        except ArchiveBusy as busy:
            raise Stop(CONFLICT, str(busy)) from None
        rows = []
        for partition in await closed(connection, until):
            if dry_run:
                moved = Partition(*partition, None, None, None, None, None)
            else:
                moved = await retire(connection, settings.tenant, settings.archive, partition)
                say(f"positions {moved.first:,} to {moved.last:,} are in {settings.archive / str(moved.segment)}")
            rows.append(_row(settings, moved))
        return rows


async def _list(settings: "Settings") -> list[dict[str, Any]]:
    from ledger.history import partitions

    async with _connected(settings) as connection:
        return [_row(settings, partition) for partition in await partitions(connection)]


@asynccontextmanager
async def _connected(settings: "Settings") -> AsyncIterator["Connection"]:
    from ledger.postgres import connect

    async with servers(settings, bus=False) as here, await connect(here.database_url, settings.tenant) as connection:
        if await (await connection.execute("SELECT to_regclass('partitions')")).fetchone() == (None,):
            why = "there is none, or one of an older version of Cairn"
            raise Stop(NOT_FOUND, f"no ledger of tenant {settings.tenant} with partitions", why, "cairn up")
        yield connection


def _row(settings: "Settings", partition: "Partition") -> dict[str, Any]:
    """A file that is not there has no size."""
    file = settings.archive / partition.segment if partition.segment else None
    return {
        "first": partition.first,
        "last": partition.last,
        "where": partition.segment or "Postgres",
        "bytes": file.stat().st_size if file and file.exists() else None,
        "archived_at": partition.archived_at.isoformat() if partition.archived_at else None,
        "sha256": partition.sha256.hex() if partition.sha256 else None,
        "previous": partition.previous.hex() if partition.previous else None,
        "digest": partition.digest.hex() if partition.digest else None,
    }
