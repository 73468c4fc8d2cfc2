"""`cairn doctor`."""

import asyncio

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.stop import FAILED, OK
from ops.cli.text import line

MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def command(*, output: Document = "text", place: Place = HERE) -> int:
    """Look at everything Cairn needs here; nothing is changed. Exit code 1 if something fails."""
    from ops.doctor import examine

    found = asyncio.run(examine(place.settings()))
    if output == "json":
        document(found)
    else:
        width = max(len(one.what) for one in found)
        for one in found:
            print(f"{MARKS[one.status]}  {one.what:<{width}}  {line(one.detail)}")
            if one.fix:
                print(f"      {'':<{width}}  fix: {line(one.fix)}")
    return FAILED if any(one.status == "fail" for one in found) else OK
