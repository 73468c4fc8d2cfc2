"""What this process has just committed, for its relay: it need not be read again. What is too much waits in Postgres."""

from collections.abc import Sequence
from itertools import accumulate, takewhile

from ledger.recorded import Recorded

HANDED_EVENTS = 8_192
HANDED_BYTES = 32 * 1024 * 1024


class Handed:
    """A run of events without a gap; `first` is the position of its first, 0 if there are none."""

    def __init__(self) -> None:
        self._events: list[Recorded] = []
        self._bytes = 0

    @property
    def first(self) -> int:
        return self._events[0].position if self._events else 0

    def add(self, events: Sequence[Recorded]) -> None:
        """The newest. If there are too many now, nobody fetches them: all are let go."""
        if self._events and self._events[-1].position + 1 != events[0].position:
            self._drop(len(self._events))
        self._events += events
        self._bytes += _bytes(events)
        if len(self._events) > HANDED_EVENTS or self._bytes > HANDED_BYTES:
            self._drop(len(self._events))

    def after(self, position: int, limit: int, size: int) -> list[Recorded]:
        """What comes after a position, if it is here: at most `limit` events, as many as `size` bytes of state hold and
        at least one. What comes before is let go."""
        self.forget(position)
        if self.first != position + 1:
            return []
        sizes = accumulate(len(recorded.state) for recorded in self._events[:limit])
        return self._events[: max(1, sum(1 for _ in takewhile(size.__ge__, sizes)))]

    def forget(self, position: int) -> None:
        """Lets go what lies up to and with a position."""
        if self._events and self.first <= position:
            self._drop(position + 1 - self.first)

    def _drop(self, count: int) -> None:
        self._bytes -= _bytes(self._events[:count])
        del self._events[:count]


def _bytes(events: Sequence[Recorded]) -> int:
    return sum(len(recorded.state) for recorded in events)
