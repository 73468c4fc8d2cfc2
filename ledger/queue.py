"""Appends that wait to be written, in order."""

import asyncio
from collections import deque
from collections.abc import Iterable
from uuid import UUID

from ledger.errors import LedgerClosed
from ledger.group import Pending

GROUP_EVENTS = 1_000
GROUP_BYTES = 8 * 1024 * 1024
QUEUED_EVENTS = 20_000


class Queue:
    """`events`: how many are in the appends that wait."""

    def __init__(self) -> None:
        self.events = 0
        self.closed = False
        self._waiting: deque[Pending] = deque()
        self._room = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    async def put(self, pending: Pending) -> None:
        """Waits while very many are there. LedgerClosed: nothing is taken any more."""
        while self.events >= QUEUED_EVENTS and not self.closed:
            self._room.clear()
            await self._room.wait()
        if self.closed:
            raise LedgerClosed("The ledger is closed: nothing was written.")
        self._waiting.append(pending)
        self.events += len(pending.rows)

    def take(self, under_way: Iterable[Pending]) -> list[Pending]:
        """The next group. What repeats a command of another, also of one that is under way, waits until that one can be
        found: they might be judged together, and in two partitions no index would tell."""
        taken: list[Pending] = []
        ids: set[UUID] = {id_ for pending in under_way for id_ in pending.commands}
        events = size = 0
        while self._waiting and events < GROUP_EVENTS and size < GROUP_BYTES:
            pending = self._waiting[0]
            if not ids.isdisjoint(pending.commands):
                break
            self._waiting.popleft()
            self.events -= len(pending.rows)
            if pending.future.done():  # its caller was cancelled before anything was sent
                continue
            ids.update(pending.commands)
            events += len(pending.rows)
            size += pending.size
            taken.append(pending)
        if self.events < QUEUED_EVENTS:
            self._room.set()
        return taken

    def close(self) -> None:
        self.closed = True
        self._room.set()

    def refuse(self) -> None:
        """Tells whoever still waits that it was not written."""
        for pending in self._waiting:
            pending.fail(LedgerClosed("The ledger was closed: nothing of this was written."))
