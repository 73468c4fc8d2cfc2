"""The statements of a `.sql` file by name: each stands under a line `-- name: its purpose`."""

import re
from pathlib import Path
from typing import LiteralString, cast

from ledger import timed

_BLOCKS = re.compile(r"^-- (\w+): .*\n(?:-- .*\n)*((?:(?!--).*\n)+)", re.MULTILINE)


def statements(name: str) -> dict[str, LiteralString]:
    """What the file `name`.sql of this folder holds."""
    text = (Path(__file__).parent / f"{name}.sql").read_text(encoding="utf-8")
    found = cast(dict[str, LiteralString], {block: sql.strip() for block, sql in _BLOCKS.findall(text)})
    timed.name(found, name)
    return found
