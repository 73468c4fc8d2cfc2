"""Parameters in Postgres' binary format, columns as arrays built whole: the driver's own ways cost more than an append."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import Any
from uuid import UUID

from psycopg import BaseConnection
from psycopg.abc import AdaptContext
from psycopg.adapt import Dumper
from psycopg.pq import Format

_HEADER = Struct(">iiIii")
_LENGTH = Struct(">i").pack
_LONG = Struct(">q").pack
_NULL = _LENGTH(-1)
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Column(bytes):
    """A finished value; its subclass says of what type, `element` what it is an array of."""

    oid = 17
    element = 0


class _Bytea(Column):
    oid, element = 1001, 17


class _Int(Column):
    oid, element = 1007, 23


class _Long(Column):
    oid, element = 1016, 20


class _Text(Column):
    oid, element = 1009, 25


class _Uuid(Column):
    oid, element = 2951, 2950


class _Bigint(Column):
    oid = 20


class _Instant(Column):
    oid = 1184


def number(value: int) -> Column:
    """A 64-bit one."""
    return _Bigint(_LONG(value))


def instant(value: datetime) -> Column:
    return _Instant(_LONG((value - _EPOCH) // _MICROSECOND))


def texts(values: Sequence[str | None]) -> Column:
    return _array(_Text, [None if value is None else value.encode() for value in values])


def byteas(values: Sequence[bytes]) -> Column:
    return _array(_Bytea, values)


def uuids(values: Sequence[UUID]) -> Column:
    return _array(_Uuid, [value.bytes for value in values])


def integers(values: Sequence[int]) -> Column:
    """32-bit ones."""
    return _array(_Int, [_LENGTH(value) for value in values])


def numbers(values: Sequence[int]) -> Column:
    """64-bit ones."""
    return _array(_Long, [_LONG(value) for value in values])


def register(connection: BaseConnection[Any]) -> None:
    """Lets a connection send these values as parameters."""
    for column in (Column, _Bytea, _Int, _Long, _Text, _Uuid, _Bigint, _Instant):
        connection.adapters.register_dumper(column, _ColumnDumper)


class _ColumnDumper(Dumper):
    """Its type is the value's; the driver must not take it for the dumper of all values of that type."""

    format = Format.BINARY

    def __init__(self, cls: type[Column], context: AdaptContext | None = None) -> None:
        super().__init__(cls, context)
        self.oid = cls.oid

    def dump(self, obj: Column) -> bytes:
        return obj


def _array(column: type[Column], values: Sequence[bytes | None]) -> Column:
    pieces = [_HEADER.pack(1, None in values, column.element, len(values), 1)]
    for value in values:
        if value is None:
            pieces.append(_NULL)
        else:
            pieces += (_LENGTH(len(value)), value)
    return column(b"".join(pieces))
