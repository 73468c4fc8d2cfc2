"""The newest events, kept in memory for everyone in this process who follows.

It grows at its end only, and only by what follows on it: the next position, and a digest that continues the chain.
Whatever does not fit (a gap, another history) is refused; `wanted` then tells how far Postgres has to be read.
"""

import asyncio
from collections.abc import Sequence

from ledger.recorded import Recorded

KEPT_EVENTS = 8_192
KEPT_BYTES = 16 * 1024 * 1024


class Tail:
    """`last` is the position of the newest event known, `digest` that up to it. It is empty until `start`ed."""

    def __init__(self) -> None:
        self.last = 0
        self.digest = b""
        self.wanted = 0
        self.foreign = 0
        """How many events came from elsewhere than this process's own writer."""
        self.behind = asyncio.Event()
        self._events: list[Recorded] = []
        self._bytes = 0
        self._grown = asyncio.Event()

    @property
    def started(self) -> bool:
        return bool(self.digest)

    def start(self, position: int, digest: bytes) -> None:
        """Begins after a position of the ledger whose digest is known to be right."""
        self.last, self.digest = position, digest
        self._events, self._bytes = [], 0
        self._notify()

    def wrote(self, events: Sequence[Recorded]) -> None:
        """This process's own writer has committed these."""
        self._take(events, trusted=True)

    def offer(self, events: Sequence[Recorded], *, trusted: bool) -> int:
        """Takes what is new of contiguous events; answers with how many that were. Each untrusted one has to prove by
        its digest that it continues this history; of trusted ones the first, as what is here may have come from others."""
        taken = self._take(events, trusted)
        self.foreign += taken
        return taken

    def _take(self, events: Sequence[Recorded], trusted: bool) -> int:
        if not events or not self.started or events[-1].position <= self.last:
            return 0
        new = events[max(0, self.last + 1 - events[0].position) :]
        if new[0].position != self.last + 1:
            self.want(events[-1].position)
            return 0
        taken = 0
        for recorded in new:
            if not (trusted and taken) and not recorded.continues(self.digest):
                self.want(recorded.position)
                break
            self._events.append(recorded)
            self._bytes += len(recorded.state)
            self.last, self.digest = recorded.position, recorded.digest
            taken += 1
        self._trim()
        self._notify()
        return taken

    def want(self, position: int) -> None:
        """Somebody has seen that the ledger goes at least this far."""
        if position > self.last:
            self.wanted = max(self.wanted, position)
            self.behind.set()

    def since(self, after: int, limit: int) -> list[Recorded] | None:
        """At most `limit` events after a position, or None if they begin before what is kept here."""
        if not self.started or after < self.last - len(self._events):
            return None
        start = len(self._events) - (self.last - after)
        return self._events[start : start + limit]

    async def grown(self, after: int) -> None:
        """Returns when there is something after the position."""
        while self.last <= after or not self.started:
            await self._grown.wait()

    def _notify(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    def _trim(self) -> None:
        while len(self._events) > 2 * KEPT_EVENTS or (self._bytes > KEPT_BYTES and len(self._events) > 1):
            # A slow follower reads Postgres: what is kept for the others does not grow with its delay.
            del self._events[: -min(KEPT_EVENTS, max(1, len(self._events) // 2))]
            self._bytes = sum(len(recorded.state) for recorded in self._events)
