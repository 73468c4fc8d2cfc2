"""A segment: the events of one partition in one file that never changes, written to be read in decades.

It is an SQLite database. `segment` has one row: first and last position, the digest before the first event, the digest
of the last. `blocks` has the events, BLOCK_EVENTS to a row, as the zlib-compressed MessagePack array of arrays that hold
the fields of an event in the order of `Recorded` (ids as 16 bytes, time as the timestamp extension). `keys` tells in
which blocks an id or a stream may be found: the key of an id is its first 8 bytes, that of a stream the first 8 bytes of
the sha256 of its name, each as a signed big-endian integer.

Nothing here waits for Postgres; all of it blocks, so call it in a thread.
"""

import os
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import file_digest, sha256
from itertools import islice, takewhile
from pathlib import Path
from uuid import UUID

import msgspec
from msgspec.structs import astuple

from ledger.errors import BrokenChain, SegmentUnreadable
from ledger.recorded import Recorded

BLOCK_EVENTS = 1_000
CACHE_KIB = 262_144
_TABLES = """
CREATE TABLE segment (first INTEGER NOT NULL, last INTEGER NOT NULL, previous BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE blocks (first INTEGER PRIMARY KEY, events BLOB NOT NULL);
CREATE TABLE keys (key INTEGER, block INTEGER, PRIMARY KEY (key, block)) WITHOUT ROWID;
"""
_FROM = """
SELECT events FROM blocks WHERE first >= coalesce((SELECT max(first) FROM blocks WHERE first <= ?), 0) ORDER BY first
"""
_BLOCK = "SELECT events FROM blocks WHERE first <= ? ORDER BY first DESC LIMIT 1"
_OF = "SELECT events FROM keys JOIN blocks ON first = block WHERE key = ? ORDER BY block"

_Fields = tuple[
    int, str, int, str, UUID, datetime, str | None, str | None, str, str | None, bytes, bytes
]  # as in Recorded
_encode = msgspec.msgpack.Encoder(uuid_format="bytes").encode
_decode = msgspec.msgpack.Decoder(list[_Fields]).decode


class Writing:
    """A segment on its way to `path`. It is there, whole and on the disk, after `finish`; before that it is not."""

    def __init__(self, path: Path, first: int, previous: bytes) -> None:
        self._path, self._part = path, path.with_suffix(".part")
        self._part.unlink(missing_ok=True)
        self._previous, self._digest = previous, previous
        self._first = self._next = first
        self._db = sqlite3.connect(self._part, isolation_level=None, check_same_thread=False)
        # The file is nothing until it is finished: what a crash leaves of it is thrown away.
        self._db.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-{CACHE_KIB}")
        self._db.executescript(_TABLES)
        self._db.execute("BEGIN")

    def add(self, events: Sequence[Recorded]) -> None:
        """The next events, BLOCK_EVENTS of them unless they are the last. BrokenChain if they do not follow."""
        for recorded in events:
            if recorded.position != self._next or not recorded.continues(self._digest):
                raise BrokenChain(self._next, "it is missing, or its digest is not that of what it holds")
            self._next, self._digest = recorded.position + 1, recorded.digest
        first = events[0].position
        block = zlib.compress(_encode([astuple(recorded) for recorded in events]))
        self._db.execute("INSERT INTO blocks VALUES (?, ?)", (first, block))
        self._db.executemany("INSERT INTO keys VALUES (?, ?)", ((key, first) for key in sorted(_keys_of(events))))

    def finish(self) -> None:
        """The file has its name, and is on the disk under it."""
        row = (self._first, self._next - 1, self._previous, self._digest)
        self._db.execute("INSERT INTO segment VALUES (?, ?, ?, ?)", row)
        self._db.execute("COMMIT")
        self._db.close()
        with self._part.open("rb") as file:
            os.fsync(file.fileno())
            # What is read back and compared is to come from the disk, as far as one can ask for that.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self._part.replace(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def give_up(self) -> None:
        """Leaves nothing behind."""
        self._db.close()
        self._part.unlink(missing_ok=True)


class Segment:
    """Reads a finished one, within `with Segment(path) as segment`. SegmentUnreadable if the file is not what it was."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> "Segment":
        with _named(self._path):
            self._path.stat()  # SQLite would say less about a file that is not there
            self._db = sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def __iter__(self) -> Iterator[Recorded]:
        return self._blocks("SELECT events FROM blocks ORDER BY first")

    def events(self, after: int, limit: int) -> list[Recorded]:
        """At most `limit` after a position, in order."""
        return list(islice((one for one in self._blocks(_FROM, after + 1) if one.position > after), limit))

    def pick(self, positions: Sequence[int]) -> list[Recorded]:
        """Those at these positions, which ascend."""
        found: list[Recorded] = []
        wanted = set(positions)
        for position in positions:
            if not found or position > found[-1].position:  # else it came with the block of one before it
                found += [one for one in self._blocks(_BLOCK, position) if one.position in wanted]
        return found

    def those(self, wanted: Callable[[Recorded], bool], after: int, to: int, limit: int) -> list[Recorded]:
        """At most `limit` that are wanted, after a position, up to and with `to`, in order."""
        between = takewhile(lambda one: one.position <= to, self._blocks(_FROM, after + 1))
        return list(islice((one for one in between if one.position > after and wanted(one)), limit))

    def stream(self, stream: str, after: int, limit: int) -> list[Recorded]:
        """At most `limit` of a stream after a version, in order."""
        held = self._blocks(_OF, _stream_key(stream))
        return list(islice((one for one in held if one.stream == stream and one.version > after), limit))

    def find(self, ids: Iterable[UUID]) -> list[Recorded]:
        """The events of these ids that it holds."""
        return [event for id_ in ids for event in self._blocks(_OF, _key(id_.bytes)) if event.id == id_]

    def check(self, first: int, last: int, previous: bytes, digest: bytes) -> None:
        """BrokenChain or SegmentUnreadable unless it holds exactly these positions, every digest continues the one
        before, and every event can be found by its id and by its stream."""
        position, known = first - 1, previous
        keys = 0
        with _named(self._path):
            for block, packed in self._db.execute("SELECT first, events FROM blocks ORDER BY first"):
                events = [Recorded(*fields) for fields in _decode(zlib.decompress(packed))]
                for recorded in events:
                    position += 1
                    if recorded.position != position or not recorded.continues(known):
                        raise BrokenChain(position, f"{self._path} does not hold it as it was recorded")
                    known = recorded.digest
                wanted = _keys_of(events)
                found = sum(
                    self._db.execute("SELECT count(*) FROM keys WHERE (key, block) = (?, ?)", (key, block)).fetchone()[
                        0
                    ]
                    for key in wanted
                )
                if found != len(wanted):
                    raise SegmentUnreadable(f"{self._path}: its index lacks events of block {block}: {_MEND}")
                keys += found
            (all_keys,) = self._db.execute("SELECT count(*) FROM keys").fetchone()
            row = self._db.execute("SELECT first, last, previous, digest FROM segment").fetchone()
        if (position, known) != (last, digest) or row != (first, last, previous, digest) or keys != all_keys:
            raise SegmentUnreadable(f"{self._path} goes from {row} to position {position}, not {last}: {_MEND}")

    def _blocks(self, query: str, *parameters: int) -> Iterator[Recorded]:
        with _named(self._path):
            for (packed,) in self._db.execute(query, parameters):
                for fields in _decode(zlib.decompress(packed)):
                    yield Recorded(*fields)


def digest_of(path: Path) -> bytes:
    """The sha256 of a file. SegmentUnreadable if it is not there."""
    with _named(path), path.open("rb") as file:
        return file_digest(file, "sha256").digest()


_MEND = "restore it from a copy of the archive folder"


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise SegmentUnreadable(f"{path} is missing: {_MEND}, or name the right folder") from error
    except (OSError, sqlite3.Error, zlib.error, msgspec.DecodeError) as error:
        raise SegmentUnreadable(f"{path} is damaged ({error}): {_MEND}") from error


def _keys_of(events: Sequence[Recorded]) -> set[int]:
    return {_key(recorded.id.bytes) for recorded in events} | {
        _stream_key(stream) for stream in {recorded.stream for recorded in events}
    }


def _stream_key(stream: str) -> int:
    return _key(sha256(stream.encode()).digest())


def _key(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big", signed=True)
