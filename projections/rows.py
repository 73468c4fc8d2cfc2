"""Table rows as structs: a batch of rows goes to Postgres, and comes from there, as one JSON text.

One parameter a statement, whatever the number of rows and columns; `json_populate_recordset` and `json_agg` take the
columns by their names, which are the names of the struct's fields.
"""

import re
from collections.abc import Iterable
from typing import Any, LiteralString, TypeVar

import msgspec
from psycopg import AsyncConnection

Found = TypeVar("Found")

_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


async def load(connection: AsyncConnection[Any], decoder: msgspec.json.Decoder[Found], sql: LiteralString,
               **parameters: Any) -> Found | None:  # fmt: skip
    """What the statement finds: one row with one JSON text, or nothing."""
    found = await (await connection.execute(sql, parameters, prepare=True)).fetchone()
    return decoder.decode(found[0]) if found and found[0] is not None else None


async def store(connection: AsyncConnection[Any], sql: LiteralString, rows: Iterable[msgspec.Struct]) -> None:
    """Hands all rows to a statement as its parameter `rows`; does nothing when there is none."""
    if encoded := list(rows):
        await connection.execute(sql, {"rows": text(encoded)}, prepare=True)


def text(value: Any) -> str:
    """JSON that Postgres can take: it has no NUL in texts, and what an agent printed may hold some.

    What was read and is written again is the same text: the replacement stands as it is, not escaped.
    """
    encoded = msgspec.json.encode(value)
    if b"\\u0000" in encoded:
        encoded = _NUL.sub(b"\\1\xef\xbf\xbd", encoded)
    return encoded.decode()
