"""Bringing a backup back, into a fresh data directory only: what is there is never written over."""

import asyncio
import shutil
import tarfile
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import msgspec
import psycopg

from cairn.repository import Repository
from ledger.names import schema_of
from ops.backup import programs, wal
from ops.backup.finish import MARKER, Begun, Brought, finish
from ops.backup.manifest import BackupBroken, Manifest, check, read
from ops.backup.take import COPIED, LOG, copy_tree, require_room, tree_bytes
from ops.embedded import LAYOUT, prepare
from ops.embedded.child import ServerFailed, Tell
from ops.embedded.postgres import Postgres
from ops.settings import Settings, child_environment


async def restore(
    settings: Settings, folder: Path, tell: Tell, *, archive: Path | None = None, until: datetime | None = None
) -> list[Brought]:
    """Checks the backup whole, unpacks it and finishes it; with `archive` the ledger goes on to the moment `until`.

    BackupBroken, ServerFailed; whatever was unpacked by then is no system yet, and `cairn up` refuses it.
    """
    folder, data_dir = folder.absolute(), settings.data_dir.resolve()
    manifest = read(folder)
    _fits(settings, manifest, archive)
    tell(f"checking {len(manifest.files)} files of {folder}")
    await asyncio.to_thread(check, folder, manifest)
    await _fresh(settings, data_dir, manifest, tree_bytes(archive) if archive else 0)
    begun = Begun(uuid4(), manifest.taken_at, manifest.data_dir, manifest.tenants)
    prepare(data_dir)
    (data_dir / MARKER).write_bytes(msgspec.json.encode(begun))
    await _repositories(folder, archive, data_dir, tell)
    if archive is not None:  # before the backup's: of a segment that both have, this is the one that was written last
        copy_tree(archive / wal.ARCHIVE, data_dir / wal.ARCHIVE)
    for name in COPIED:
        copy_tree(folder / name, data_dir / name)
    tell("unpacking Postgres")
    if settings.database_url:
        await _load(settings, settings.database_url, folder, data_dir)
    else:
        server = Postgres(data_dir, tell)
        new = data_dir / "postgres.new"
        await asyncio.to_thread(_unpack, folder / "postgres", new)
        wal.place(archive / wal.SEGMENTS if archive else None, new, until.isoformat() if until else None)
        server.adopt(new)
    return await finish(settings, tell)


def _fits(settings: Settings, manifest: Manifest, archive: Path | None) -> None:
    if manifest.layout != LAYOUT:
        raise BackupBroken(f"it has layout {manifest.layout}, this Cairn knows {LAYOUT}: use Cairn {manifest.version}")
    if manifest.postgres == "base" and settings.database_url:
        raise ServerFailed(
            "this backup holds an embedded Postgres, and DATABASE_URL names another one\n  fix: unset DATABASE_URL"
        )
    if manifest.postgres == "dump" and not settings.database_url:
        raise ServerFailed(
            "this backup holds a dump of a Postgres of yours\n  fix: set DATABASE_URL to the database to restore it to"
        )
    if manifest.postgres == "dump" and settings.tenant != (held := manifest.tenants[0].name):
        raise ServerFailed(
            f"this backup holds the ledger of the tenant {held}, and the setting says {settings.tenant}"
            f"\n  fix: set CAIRN_TENANT to {held}"
        )
    if manifest.postgres == "dump" and archive is not None:
        raise ServerFailed(
            "your own Postgres is recovered by its own means\n  fix: recover it, then: cairn restore --finish"
        )


async def _fresh(settings: Settings, data_dir: Path, manifest: Manifest, more_bytes: int) -> None:
    if data_dir.exists() and any(data_dir.iterdir()):
        raise ServerFailed(
            f"{data_dir} is not empty, and a restore writes over nothing"
            "\n  fix: cairn restore --data-dir, with a folder that does not exist; or move this one away"
        )
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_room(data_dir, manifest.size_bytes + more_bytes)
    if settings.database_url:
        schema = schema_of(manifest.tenants[0].name)
        async with await psycopg.AsyncConnection.connect(settings.database_url) as connection:
            row = await (await connection.execute("SELECT to_regnamespace(%s)", (schema,))).fetchone()
        if row and row[0]:
            raise ServerFailed(
                f"the schema {schema} is there already at DATABASE_URL, and a restore writes over nothing"
                "\n  fix: set DATABASE_URL to a database without it"
            )


async def _repositories(folder: Path, archive: Path | None, data_dir: Path, tell: Tell) -> None:
    sources = [folder / "repositories"] + ([archive / wal.REPOSITORIES] if archive else [])
    for source in (path for parent in sources for path in sorted(parent.glob("*.git"))):
        tell(f"Git: {source.name}")
        await (await Repository.create(data_dir / source.name)).take_over(source)


async def _load(settings: Settings, url: str, folder: Path, data_dir: Path) -> None:
    """All of the dump or nothing."""
    [dump] = (folder / "postgres").glob("*.dump")
    options = ("--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges")
    log = data_dir / LOG / "restore.log"
    await programs.run("pg_restore", url, *options, dump, log=log, environment=child_environment(settings))


def _unpack(archives: Path, cluster: Path) -> None:
    shutil.rmtree(cluster, ignore_errors=True)
    for name, into in (("base", cluster), ("pg_wal", cluster / "pg_wal")):
        with tarfile.open(archives / f"{name}.tar.gz") as tar:
            tar.extraction_filter = lambda member, _: member  # what the manifest vouches for; older 3.11 has no filters
            tar.extractall(into)
