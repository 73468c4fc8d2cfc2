"""Rows as CSV, for spreadsheets: a text that one would run as a formula is quoted."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

CSV = "text/csv"


def sheet(columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> bytes:
    """A line of the columns' names, and one for each row; objects and lists as JSON, nothing as nothing."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows(map(_cell, row) for row in rows)
    return out.getvalue().encode()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@", "-", "\t", "\r") else value
