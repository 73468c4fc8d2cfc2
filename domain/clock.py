"""Time that counts towards a limit. It stands still while something is in the way: a person who is asked, a pause."""

from collections.abc import Callable

import msgspec

from domain.events import (
    AskAnswered,
    AskExpired,
    AskOpened,
    AskVoided,
    Event,
    WorkflowAdmitted,
    WorkflowPaused,
    WorkflowRestored,
    WorkflowResumed,
    WorkflowStarted,
)


class Clock(msgspec.Struct):
    """`spent` seconds were counted until it stood still the last time, `since` is when it began to count again.

    Times are seconds since the epoch; `halts` counts what is in the way.
    """

    seconds: float | None = None
    spent: float = 0.0
    since: float | None = None
    halts: int = 0

    @property
    def due(self) -> float | None:
        """When the time will be over; None while it stands still, or if there is no limit."""
        return None if self.seconds is None or self.since is None else self.since + self.seconds - self.spent

    def halt(self, at: float) -> None:
        if self.since is not None:
            self.spent += max(at - self.since, 0.0)
        self.since, self.halts = None, self.halts + 1

    def go(self, at: float) -> None:
        self.halts = max(self.halts - 1, 0)
        if not self.halts:
            self.since = at

    def begin(self, at: float) -> None:
        """The whole time from now on."""
        self.spent, self.since = 0.0, None if self.halts else at

    def again(self, at: float) -> None:
        """The whole time anew, if any of it was counted: one that waits for its place has not begun."""
        if self.since is not None or self.halts:
            self.begin(at)


_MOVES: dict[type[Event], Callable[[Clock, float], None]] = {
    WorkflowStarted: Clock.begin,
    WorkflowAdmitted: Clock.begin,
    WorkflowRestored: Clock.again,
    AskOpened: Clock.halt,
    WorkflowPaused: Clock.halt,
    AskAnswered: Clock.go,
    AskExpired: Clock.go,
    AskVoided: Clock.go,
    WorkflowResumed: Clock.go,
}


def tick(clock: Clock, event: Event) -> bool:
    """What an event does to its workflow's clock; whether it did anything."""
    move = _MOVES.get(type(event))
    if move is None or (isinstance(event, WorkflowStarted) and event.queued):
        return False
    move(clock, event.at)  # type: ignore[attr-defined]  # all of the table have it
    return True
