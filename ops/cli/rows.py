"""Rows on stdout: a table for people, JSON, JSON lines or CSV for programs."""

import csv
import sys
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from ops.cli.text import line

Output = Annotated[
    Literal["table", "json", "jsonl", "csv"], Parameter(name=["--output", "-o"], help="The form of what is printed.")
]
Document = Annotated[Literal["text", "json"], Parameter(name=["--output", "-o"], help="The form of what is printed.")]


def document(value: Any) -> None:
    """One JSON document, indented."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def json_line(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def emit(rows: Iterable[dict[str, Any]], output: str, shown: Sequence[str], cells: Any = None) -> None:
    """`shown` are the columns of the table and of CSV; JSON has everything. `cells` makes a table's row from a row."""
    match output:
        case "json":
            document(list(rows))
        case "jsonl":
            for row in rows:
                print(json_line(row), flush=True)
        case "csv":
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(shown)
            writer.writerows([_flat(row.get(name)) for name in shown] for row in rows)
        case _:
            body = [[line(str(cell)) for cell in (cells(row) if cells else _values(row, shown))] for row in rows]
            print("\n".join(table([name.upper().replace("_", " ") for name in shown], body)))


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Lines of columns as wide as their widest cell, two spaces apart."""
    widths = [max(len(row[n]) for row in (head, *body)) for n in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *body)
    ]


def _values(row: dict[str, Any], shown: Sequence[str]) -> list[str]:
    return [str(_flat(row.get(name))) for name in shown]


def _flat(value: Any) -> Any:
    """A cell: lists and objects as JSON, nothing as nothing; a text that a spreadsheet would run is quoted."""
    if value is None:
        return ""
    if isinstance(value, dict | list | tuple):
        return msgspec.json.encode(value).decode()
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@", "-") else value
