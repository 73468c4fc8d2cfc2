"""`cairn backup`."""

import asyncio
from pathlib import Path

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.servers import servers
from ops.cli.stop import USAGE, Stop
from ops.cli.text import plural, say


def command(folder: Path, /, *, wal: bool = False, output: Document = "text", place: Place = HERE) -> None:
    """Take a backup of the ledger, the repositories, agents' outboxes and the configuration, while all of it is at work.

    Parameters
    ----------
    folder
        Where to: a folder that does not exist yet, or is empty. Readable only by you; it holds everything.
    wal
        Not a backup, but what happens after one: archive it in this folder until Ctrl-C, for `cairn restore --until`.
    """
    from ops.backup import take
    from ops.backup.wal import archive

    settings = place.settings()

    async def taken() -> None:
        if wal and settings.database_url:
            fix = "archive the WAL of your own Postgres by its own means; see docs/backup.md"
            raise Stop(USAGE, "--wal is for the embedded Postgres, and DATABASE_URL names another one", fix=fix)
        async with servers(settings, bus=False) as known:
            if wal:
                await archive(settings.data_dir.resolve(), known.database_url, folder, say)
                return
            manifest = await take.take(settings, known.database_url, folder, say)
        if output == "json":
            document(manifest)
            return
        size = sum(content.size for content in manifest.files)
        print(f"{folder}: {plural(len(manifest.files), 'file')}, {size / 1024**2:.1f} MiB")
        for tenant in manifest.tenants:
            print(f"{tenant.name}: position {tenant.position}, epoch {tenant.epoch}, digest {tenant.digest}")

    asyncio.run(taken())
