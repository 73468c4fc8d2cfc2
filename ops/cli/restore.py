"""`cairn restore`."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.stop import USAGE, Stop
from ops.cli.text import plural, say

if TYPE_CHECKING:
    from ops.backup.finish import Brought


def command(
    folder: Path | None = None,
    /,
    *,
    wal: Path | None = None,
    until: str | None = None,
    finish: bool = False,
    output: Document = "text",
    place: Place = HERE,
) -> None:
    """Bring a backup back into a fresh data directory; `cairn up` then goes on from there, in a new epoch.

    Parameters
    ----------
    folder
        The backup.
    wal
        What `cairn backup --wal` has archived: go on after the backup as far as it goes, or until --until.
    until
        The moment to go on to, with its time zone, as 2026-11-21T14:30:00+00:00.
    finish
        Nothing is unpacked: what was recovered here by other means (your own Postgres, a snapshot of the disk), or left
        by a restore that was interrupted, is verified and made the present.
    """
    if finish == (folder is not None):
        raise Stop(USAGE, "name a backup, or --finish, and not both", fix="cairn restore --help")
    if wal is None and until is not None:
        raise Stop(
            USAGE, "--until needs --wal", "a backup alone holds one moment", "cairn restore DIR --wal WAL --until TIME"
        )
    settings, moment = place.settings(), _moment(until)

    async def brought() -> "list[Brought]":
        from ops.backup import finish as finishing
        from ops.backup.restore import restore

        if folder is None:
            return await finishing.finish(settings, say)
        return await restore(settings, folder, say, archive=wal, until=moment)

    back = asyncio.run(brought())
    if output == "json":
        document(back)
        return
    for one in back:
        going = plural(one.workflows, "workflow goes", "workflows go")
        print(f"{one.tenant}: position {one.position}, epoch {one.epoch}, digest {one.digest}; {going} on")
    say(f"it is in {settings.data_dir}; start it: cairn up")


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError as error:
        raise Stop(USAGE, f"--until {text}: {error}", fix="--until 2026-11-21T14:30:00+00:00") from None
    if moment is not None and moment.tzinfo is None:
        raise Stop(USAGE, f"--until {text} has no time zone", fix=f"--until {text}+00:00")
    return moment
