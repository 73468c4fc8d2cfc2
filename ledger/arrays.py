"""Columns as binary Postgres arrays, built whole: the driver's own lists cost more than all the rest of an append."""

from collections.abc import Sequence
from struct import Struct
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = Struct(">iiIii")
_LENGTH = Struct(">i").pack
_NULL = _LENGTH(-1)
_TYPES = {"bytea": (17, 1001), "int4": (23, 1007), "text": (25, 1009), "uuid": (2950, 2951)}


class Column(bytes):
    """One finished array; its subclass says of what."""


class _Bytea(Column): ...


class _Int(Column): ...


class _Text(Column): ...


class _Uuid(Column): ...


_COLUMNS: dict[str, type[Column]] = {"bytea": _Bytea, "int4": _Int, "text": _Text, "uuid": _Uuid}


def texts(values: Sequence[str | None]) -> Column:
    return _Text(_array("text", [None if value is None else value.encode() for value in values]))


def byteas(values: Sequence[bytes]) -> Column:
    return _Bytea(_array("bytea", values))


def uuids(values: Sequence[UUID]) -> Column:
    return _Uuid(_array("uuid", [value.bytes for value in values]))


def integers(values: Sequence[int]) -> Column:
    """32-bit ones."""
    return _Int(_array("int4", [_LENGTH(value) for value in values]))


def register(connection: AsyncConnection[Any]) -> None:
    """Lets a connection send these columns as parameters."""
    for name, column in _COLUMNS.items():
        # _oid: the driver takes the type from the class, one per array type.
        dumper = type(f"{name}ArrayDumper", (_ColumnDumper,), {"oid": _TYPES[name][1]})
        connection.adapters.register_dumper(column, dumper)


class _ColumnDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Column) -> bytes:
        return obj


def _array(name: str, values: Sequence[bytes | None]) -> bytes:
    pieces = [_HEADER.pack(1, None in values, _TYPES[name][0], len(values), 1)]
    for value in values:
        if value is None:
            pieces.append(_NULL)
        else:
            pieces += (_LENGTH(len(value)), value)
    return b"".join(pieces)
