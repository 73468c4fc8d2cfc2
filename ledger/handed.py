"""What this process has just committed, for its relay: it need not be read again. What is too much waits in Postgres."""

from collections.abc import Sequence

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

    def after(self, position: int, limit: int) -> list[Recorded]:
        """What comes after a position, if it is here; what comes before is let go."""
        self.forget(position)
        return self._events[:limit] if self.first == position + 1 else []

    def forget(self, position: int) -> None:
        """Lets go what lies up to and with a position."""
        if self._events and self.first <= position:
            self._drop(position + 1 - self.first)

    def _drop(self, count: int) -> None:
        self._bytes -= _bytes(self._events[:count])
        del self._events[:count]


def _bytes(events: Sequence[Recorded]) -> int:
    return sum(len(recorded.state) for recorded in events)
