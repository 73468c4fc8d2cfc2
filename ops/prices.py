"""The table by which costs are computed where agents say only tokens: `prices.json` beside this, or the operator's own.

A workflow keeps the table that it was started with, so its costs stay what they were when prices change.
"""

import re
from pathlib import Path

import msgspec

from domain.usage import Price, Prices, Usd
from ops.settings import SettingsInvalid

OURS = Path(__file__).with_name("prices.json")
DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    """US dollars per million tokens; what is not told of the cache costs as any other input."""

    input: Usd
    output: Usd
    cache_read: Usd | None = None
    cache_write: Usd | None = None

    def price(self) -> Price:
        read, written = (self.input if one is None else one for one in (self.cache_read, self.cache_write))
        return Price(self.input, self.output, read, written)


class _Table(msgspec.Struct, forbid_unknown_fields=True):
    date: str
    models: dict[str, _Row]

    def __post_init__(self) -> None:
        if not DAY.fullmatch(self.date):
            raise ValueError(f"`date` {self.date!r} is no day: write it as 2026-03-21")


def read(file: Path | None) -> Prices:
    """SettingsInvalid, with the place, for what is no table of prices."""
    file = file or OURS
    try:
        table = msgspec.json.decode(file.read_bytes(), type=_Table)
    except (OSError, ValueError) as error:
        raise SettingsInvalid(f"prices: {file} is no table of prices: {error}") from error
    return Prices(table.date, {name: row.price() for name, row in table.models.items()})
