"""An index of all events by what `ledger.filters` can ask for: a bitmap for each term and block of positions.

It is lazy: an append costs nothing for it, and whoever asks reads what it does not hold yet in the ledger. Any
combination of terms is found by intersecting bitmaps, in the order of positions and as far as a page needs, be they
rare or common. Different terms may share a number: what is found here is to be compared with the event.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

import psycopg

from ledger import arrays
from ledger.filters import Filter, terms_of
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.project import View
from projections.sql import statements

BLOCK_EVENTS = 4_096
SPAN_EVENTS = 128
"""So many events in a row share one entry of when they were recorded."""
FIRST_BLOCKS, MOST_BLOCKS = 16, 512
"""Blocks that are looked at together: few at first, as a page is soon full where what is wanted is common."""

SQL = statements("event_index")
_BEGINNING, _END = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_SPANS = BLOCK_EVENTS // SPAN_EVENTS
_ALL = (1 << BLOCK_EVENTS) - 1
_SPAN_BITS = (1 << SPAN_EVENTS) - 1


class EventIndex(View):
    """The view. It keeps nothing in memory."""

    name = "event_index"
    version = 1
    sql = SQL
    pace_seconds = 1.0

    def forget(self) -> None:
        pass

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        found: dict[int, dict[int, int]] = {}
        spans: dict[int, tuple[datetime, datetime]] = {}
        for recorded in batch:
            block, offset = divmod(recorded.position, BLOCK_EVENTS)
            terms, bit = found.setdefault(block, {}), 1 << offset
            for term in terms_of(recorded):
                number = _number(term)
                terms[number] = terms.get(number, 0) | bit
            span, at = recorded.position // SPAN_EVENTS, recorded.recorded_at
            earliest, latest = spans.get(span, (at, at))
            spans[span] = min(earliest, at), max(latest, at)
        if batch[0].position % BLOCK_EVENTS:
            await _add_stored(connection, min(found), found[min(found)])
        rows = [_Row.of(term, block, bits) for block, terms in found.items() for term, bits in terms.items()]
        columns = {
            "terms": arrays.numbers([row.term for row in rows]),
            "blocks": arrays.integers([row.block for row in rows]),
            "skipped": arrays.integers([row.skipped for row in rows]),
            "bits": arrays.byteas([row.bits for row in rows]),
        }
        await connection.execute(SQL["store_terms"], columns, prepare=True)
        types = arrays.texts(sorted({recorded.type for recorded in batch}))
        await connection.execute(SQL["store_types"], {"types": types}, prepare=True)
        times = list(zip(*spans.values(), strict=True))
        between = {"spans": arrays.numbers([*spans]), "earliest": [*times[0]], "latest": [*times[1]]}
        await connection.execute(SQL["store_spans"], between, prepare=True)


async def held(connection: Connection) -> int:
    """Up to which position the index holds everything, until the transaction ends that this is asked in; 0 if there is
    none."""
    try:
        async with connection.transaction():
            await connection.execute(SQL["hold"])
            asked = {"name": EventIndex.name, "version": EventIndex.version}
            row = await (await connection.execute(SQL["held"], asked)).fetchone()
    except psycopg.errors.UndefinedTable:
        return 0
    return row[0] if row else 0


async def positions(
    connection: Connection, wanted: Filter, after: int, to: int, *, descending: bool = False
) -> AsyncIterator[list[int]]:
    """Where events may be that are wanted, after a position, up to and with `to`, in lists, in order or in the opposite."""
    known = [row[0] for row in await (await connection.execute(SQL["types"])).fetchall()] if wanted.type else []
    groups = [[_number(term) for term in group] for group in wanted.groups(known)]
    timed = wanted.since is not None or wanted.to is not None
    if after >= to or not all(groups):
        return
    first, last, count = (after + 1) // BLOCK_EVENTS, to // BLOCK_EVENTS, FIRST_BLOCKS
    while first <= last:
        low, high = (max(first, last - count + 1), last) if descending else (first, min(last, first + count - 1))
        blocks = await _spans(connection, wanted, low, high) if timed else dict.fromkeys(range(low, high + 1), -1)
        if groups:
            having = await _blocks(connection, groups, low, high)
            blocks = {block: bits & having[block] for block, bits in blocks.items() if block in having}
        for block in sorted(blocks, reverse=descending):
            found = [at for at in _set(blocks[block] & _ALL, block * BLOCK_EVENTS) if after < at <= to]
            if found:
                yield found[::-1] if descending else found
        first, last = (first, low - 1) if descending else (high + 1, last)
        count = min(4 * count, MOST_BLOCKS)


async def _blocks(connection: Connection, groups: Sequence[Sequence[int]], low: int, high: int) -> dict[int, int]:
    """Of each block the events that have a term out of each group."""
    asked = {"terms": arrays.numbers([term for group in groups for term in group]), "first": low, "last": high}
    rows = await connection.execute(SQL["terms"], asked, prepare=True, binary=True)
    stored: dict[int, dict[int, int]] = {}
    for block, term, skipped, bits in await rows.fetchall():
        stored.setdefault(block, {})[term] = int.from_bytes(bits, "little") << (8 * skipped)
    found: dict[int, int] = {}
    for block, terms in stored.items():
        both = -1
        for group in groups:
            any_of = 0
            for term in group:
                any_of |= terms.get(term, 0)
            both &= any_of
        if both:
            found[block] = both
    return found


async def _spans(connection: Connection, wanted: Filter, low: int, high: int) -> dict[int, int]:
    """Of each block all events of the spans in which something was recorded in the time that is wanted."""
    asked = {
        "first": low * _SPANS, "last": (high + 1) * _SPANS - 1,
        "since": wanted.since or _BEGINNING, "to": wanted.to or _END,
    }  # fmt: skip
    rows = await connection.execute(SQL["spans"], asked, prepare=True, binary=True)
    found: dict[int, int] = {}
    for (span,) in await rows.fetchall():
        block, at = divmod(span, _SPANS)
        found[block] = found.get(block, 0) | _SPAN_BITS << (at * SPAN_EVENTS)
    return found


async def _add_stored(connection: Connection, block: int, terms: dict[int, int]) -> None:
    asked = {"terms": arrays.numbers([*terms]), "block": block}
    rows = await connection.execute(SQL["load_terms"], asked, prepare=True, binary=True)
    for term, skipped, bits in await rows.fetchall():
        terms[term] |= int.from_bytes(bits, "little") << (8 * skipped)


class _Row(NamedTuple):
    term: int
    block: int
    skipped: int
    bits: bytes

    @classmethod
    def of(cls, term: int, block: int, bits: int) -> "_Row":
        skipped = ((bits & -bits).bit_length() - 1) // 8
        left = bits >> (8 * skipped)
        return cls(term, block, skipped, left.to_bytes((left.bit_length() + 7) // 8, "little"))


def _set(bits: int, first: int) -> Iterable[int]:
    return (at for at, bit in enumerate(f"{bits:b}"[::-1], first) if bit == "1")


@lru_cache(100_000)
def _number(term: str) -> int:
    return int.from_bytes(sha256(term.encode()).digest()[:8], "big", signed=True)
