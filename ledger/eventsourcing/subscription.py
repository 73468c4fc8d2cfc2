"""Follows an application's events: the ledger's head is looked at, and what lies before it is read."""

from collections.abc import Iterator, Sequence
from threading import Event
from typing import TYPE_CHECKING

from eventsourcing.persistence import Notification, Subscription

if TYPE_CHECKING:
    from ledger.eventsourcing.recorders import LedgerApplicationRecorder

PAGE_EVENTS = 500
POLL_SECONDS = (0.01, 0.2)
"""Looked at again so soon after something was found, and ever less often while nothing is. One row, one round trip."""


class LedgerSubscription(Subscription["LedgerApplicationRecorder"]):
    """Positions follow the order of commits, so all up to the head that was seen is there: none can appear later."""

    def __init__(self, recorder: "LedgerApplicationRecorder", gt: int | None, topics: Sequence[str]) -> None:
        super().__init__(recorder, gt, topics)
        self._read_to = gt or 0
        self._page: Iterator[Notification] = iter(())
        self._stopped = Event()

    def stop(self) -> None:
        super().stop()
        self._stopped.set()

    def __next__(self) -> Notification:
        pause, longest = POLL_SECONDS
        while not self._stopped.is_set():
            for notification in self._page:
                return notification
            head = self._recorder.store.position()
            if head > self._read_to:
                self._read(head)
                pause = POLL_SECONDS[0]
            else:
                self._stopped.wait(pause)
                pause = min(2 * pause, longest)
        raise StopIteration

    def _read(self, head: int) -> None:
        page = self._recorder.select_notifications(
            self._read_to, PAGE_EVENTS, stop=head, topics=self._topics, inclusive_of_start=False
        )
        self._page = iter(page)
        self._read_to = page[-1].id if len(page) == PAGE_EVENTS else head
