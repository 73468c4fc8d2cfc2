"""The streams last worked on, as they stand: what commands are decided on without reading anything."""

from collections import OrderedDict
from typing import Any

from ledger.recorded import Recorded

CACHED_TASKS = 30_000
"""Of the workflows last worked on; some 2 KB each. A state that is not kept is read again for each of its commands."""


class Case:
    """What a stream is in memory: its state, the version and the trace of its last event, the version of its snapshot."""

    __slots__ = ("kept", "state", "trace", "version")

    def __init__(self, state: Any, last: Recorded | None = None, kept: int = 0) -> None:
        self.state, self.kept = state, kept
        self.version, self.trace = (last.version, last.traceparent) if last else (0, None)


class Cases:
    """The streams last worked on: as many as are worth CACHED_TASKS together, and the last one in any case."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Case, int]] = OrderedDict()
        self.tasks = 0

    def get(self, stream: str) -> Case | None:
        kept = self._kept.get(stream)
        return kept[0] if kept else None

    def keep(self, stream: str, case: Case, size: int) -> None:
        self.drop(stream)
        self._kept[stream] = case, size
        self.tasks += size
        while self.tasks > CACHED_TASKS and len(self._kept) > 1:
            self.drop(next(iter(self._kept)))

    def drop(self, stream: str) -> None:
        if kept := self._kept.pop(stream, None):
            self.tasks -= kept[1]
