"""Taking a backup, of a system that may be at work meanwhile."""

import asyncio
import os
import shutil
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import psycopg
from psycopg import sql

from cairn.repository import Repository
from ledger.names import schema_of, tenants_of, views_of
from ledger.postgres import Connection
from ledger.rows import head_of
from ledger.sql import SQL
from ops.backup import programs
from ops.backup.manifest import FORMAT, Manifest, Tenant, contents, write
from ops.embedded import LAYOUT
from ops.embedded.child import ENVIRONMENT, ServerFailed, Tell
from ops.settings import Settings, child_environment

LOG = "log"
COPIED = ("archive", "agents/outbox")
"""Folders of the data directory that are taken as they are: what is in them is written once, or at its end only."""
SCHEMA_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class WHERE relnamespace::regnamespace::text = ANY(%s)
"""


async def take(settings: Settings, database_url: str, folder: Path, tell: Tell) -> Manifest:
    """A backup in `folder`, which must not exist or be empty; `database_url` answers, whoever started it.

    ServerFailed, GitError, OSError, psycopg.Error: there is no backup then, and no manifest.
    """
    folder, data_dir = folder.absolute(), settings.data_dir.resolve()
    size = await _size(settings, data_dir)
    _make(folder, size)
    taken_at = time.time()
    tell(f"Postgres: {size / 1024**2:.0f} MiB at most")
    (folder / "postgres").mkdir()
    if settings.database_url:
        tenants = await _dump(settings, settings.database_url, folder)
    else:
        tenants = await _base(database_url, folder)
    await take_repositories(data_dir, folder / "repositories", tell)
    for name in COPIED:
        copy_tree(data_dir / name, folder / name)
    for file in {Path(origin) for origin in settings.origins.values() if origin.startswith("/")}:
        shutil.copyfile(file, folder / "cairn.toml")
    (folder / LOG).unlink(missing_ok=True)
    files = await asyncio.to_thread(contents, folder)
    kind = "dump" if settings.database_url else "base"
    manifest = Manifest(FORMAT, version("cairn"), LAYOUT, taken_at, kind, str(data_dir), size, tenants, files)  # type: ignore[arg-type]
    write(folder, manifest)
    return manifest


async def take_repositories(data_dir: Path, into: Path, tell: Tell) -> None:
    """The repositories of the data directory; those that are there already get what is new."""
    for source in sorted(data_dir.glob("*.git")):
        tell(f"Git: {source.name}")
        await (await Repository.create(into / source.name)).take_over(source)


def copy_tree(source: Path, target: Path) -> None:
    """All files below a folder, if there is one; a file that goes meanwhile is left out, one that is there stays."""
    for parent, _, names in os.walk(source):
        into = target / Path(parent).relative_to(source)
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in names:
            if not (into / name).exists():
                with suppress(FileNotFoundError):
                    shutil.copyfile(Path(parent) / name, into / name)


async def heads(connection: Connection, only: str | None) -> list[Tenant]:
    """Where the ledgers of a database stand: all that are there, or the one of a tenant."""
    tenants = []
    found = await (await connection.execute(SQL["ledgers"])).fetchall()
    for name in tenants_of(schema for (schema,) in found):
        if only in (None, name):
            await connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema_of(name))))
            head, _ = await head_of(connection)
            tenants.append(Tenant(name, head.position, head.epoch, head.digest.hex()))
    return tenants


async def _base(url: str, folder: Path) -> list[Tenant]:
    """The heads are read before: what is restored ends where the base backup ended, and not before them."""
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        tenants = await heads(connection, None)
    options = ("--format=tar", "--compress=gzip:1", "--wal-method=stream", "--checkpoint=fast", "--label=cairn")
    place = ("--pgdata", folder / "postgres")
    await programs.run("pg_basebackup", url, *place, *options, log=folder / LOG, environment=ENVIRONMENT)
    return tenants


async def _dump(settings: Settings, url: str, folder: Path) -> list[Tenant]:
    """Heads and dump are of one snapshot."""
    async with await psycopg.AsyncConnection.connect(url) as connection:
        await connection.set_isolation_level(psycopg.IsolationLevel.REPEATABLE_READ)
        row = await (await connection.execute("SELECT pg_export_snapshot()")).fetchone()
        assert row is not None
        tenants = await heads(connection, settings.tenant)
        if not tenants:
            raise ServerFailed(f"there is no ledger of the tenant {settings.tenant} at DATABASE_URL\n  fix: cairn up")
        options = ("--format=custom", "--no-owner", "--no-privileges", "--no-unlogged-table-data")
        schemas = [f"--schema={name}" for name in (schema_of(settings.tenant), views_of(settings.tenant))]
        what = (f"--snapshot={row[0]}", *schemas)
        place = ("--file", folder / "postgres" / f"{settings.tenant}.dump")
        environment = child_environment(settings)
        await programs.run("pg_dump", url, *what, *place, *options, log=folder / LOG, environment=environment)
    return tenants


async def _size(settings: Settings, data_dir: Path) -> int:
    """Bytes of all that is taken, before it is compressed."""
    schemas = [schema_of(settings.tenant), views_of(settings.tenant)]
    folders = [*data_dir.glob("*.git"), *(data_dir / name for name in COPIED)]
    size = 0
    if settings.database_url:
        async with await psycopg.AsyncConnection.connect(settings.database_url) as connection:
            row = await (await connection.execute(SCHEMA_BYTES, (schemas,))).fetchone()
            size = row[0] if row else 0
    else:
        folders.append(data_dir / "postgres")
    return size + sum(tree_bytes(folder) for folder in folders)


def tree_bytes(folder: Path) -> int:
    """What the files below a folder take together; those that go meanwhile do not count."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                size += (Path(parent) / name).lstat().st_size
    return size


def _make(folder: Path, size: int) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ServerFailed(f"{folder} is there already and not empty\n  fix: name a folder that does not exist")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    require_room(folder, size)


def require_room(folder: Path, size: int) -> None:
    """ServerFailed unless the disk of the folder has room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ServerFailed(
            f"{folder} has {free // 1024**2} MiB free, {size // 1024**2} MiB are needed\n  fix: name a folder on another disk"
        )
