"""The files of the archive, one for each partition moved there, as they are read.

`partitions` in Postgres says which positions are in which file, and its sha256: a file is compared with that the first
time a process reads it. Who asks has asked the table before: a partition leaves it in the very transaction that makes
its segment known, so whatever was missed there is found here.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ledger.errors import SegmentUnreadable
from ledger.recorded import Recorded
from ledger.segment import Segment, digest_of

T = TypeVar("T")


class Partition(NamedTuple):
    """A range of positions; with a `segment`, the file that holds them."""

    first: int
    last: int
    segment: str | None
    sha256: bytes | None
    previous: bytes | None
    digest: bytes | None
    archived_at: datetime | None


class Archive:
    """`folder` has the files; without it SegmentUnreadable is raised by whoever needs one of them. All of it blocks, so
    call it in a thread. `partitions` is always all of them, in order."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._checked: set[tuple[object, ...]] = set()

    def stream(
        self, partitions: Iterable[Partition], stream: str, known: Sequence[Any], after: int, limit: int
    ) -> list[Recorded]:
        """At most `limit` archived events of a stream after a version, in order. `known` is what the statement
        `archived_stream` answers."""
        version, first, last = known
        events: list[Recorded] = []
        wanted = max(0, min(limit, version - after))
        for partition in partitions:
            if partition.segment and partition.first <= last and partition.last >= first and len(events) < wanted:
                left, behind = wanted - len(events), after + len(events)
                events += self.ask(partition, partial(Segment.stream, stream=stream, after=behind, limit=left))
        if [event.version for event in events] != list(range(after + 1, after + wanted + 1)):
            raise SegmentUnreadable(f"the archive does not hold versions {after + 1} to {after + wanted} of {stream}")
        return events

    def those(
        self, partitions: Iterable[Partition], wanted: Callable[[Recorded], bool], after: int, to: int, limit: int
    ) -> list[Recorded]:
        """At most `limit` of the archived events that are wanted, after a position, up to and with `to`, in order."""
        events: list[Recorded] = []
        for partition in partitions:
            if partition.segment and partition.last > after and partition.first <= to and len(events) < limit:
                left = limit - len(events)
                events += self.ask(partition, partial(Segment.those, wanted=wanted, after=after, to=to, limit=left))
        return events

    def ask(self, partition: Partition, question: Callable[[Segment], T]) -> T:
        """SegmentUnreadable if the file is not there, or is not as it was written."""
        if self._folder is None:
            raise SegmentUnreadable(
                f"positions {partition.first} to {partition.last} are in the archive, in {partition.segment}:"
                " open the ledger with the folder of its archive; for an application of `eventsourcing`, set"
                " CAIRN_DATA_DIR to the data directory in which `archive` is"
            )
        path = self._folder / str(partition.segment)
        with Segment(path) as segment:
            stat = path.stat()
            version = (path, stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if version not in self._checked:
                if (found := digest_of(path)) != partition.sha256:
                    raise SegmentUnreadable(f"{path} is not the file that was written: its sha256 is {found.hex()}")
                self._checked.add(version)
            return question(segment)


def joined(older: Sequence[Recorded], events: Iterable[Recorded], limit: int) -> list[Recorded]:
    """What the archive has, and what the table had before it was asked; some may be in both."""
    return [*older, *(one for one in events if not older or one.position > older[-1].position)][:limit]
