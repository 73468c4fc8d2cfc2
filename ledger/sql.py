"""The statements of `queries.sql`, by name."""

import re
from pathlib import Path
from typing import LiteralString, cast

from ledger import timed

_BLOCKS = re.compile(r"^-- (\w+): .*\n(?:-- .*\n)*((?:.+\n)+)", re.MULTILINE)
_TEXT = (Path(__file__).parent / "queries.sql").read_text(encoding="utf-8")

SQL: dict[str, LiteralString] = cast(dict[str, LiteralString], dict(_BLOCKS.findall(_TEXT)))
timed.name(SQL, "ledger")
