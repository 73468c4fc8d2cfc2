"""Starts a plan, under a name of its own if it is given none: the plan's id, or `<id>-2`, `<id>-3`, ... if it is taken.

At most so many workflows run and wait; beyond that a plan is refused before anything of it is recorded. Each server
counts what it is just starting; several that start at the same moment may together take a few more.

Whether a name is taken is for the ledger to say; what is kept here only saves asking for names known to be taken.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import UUID

from domain.errors import Conflict, Full
from handlers.execute import Executor, Order
from handlers.slots import Slots
from ledger.ledger import Ledger
from ledger.recorded import Recorded

KEPT_PLANS = 1_000
LONGEST_NAME = 63


class Starts:
    def __init__(self, executor: Executor, ledger: Ledger, slots: Slots | None, max_queued: int) -> None:
        self._executor, self._ledger = executor, ledger
        self._slots, self._max_queued = slots, max_queued
        self._starting = 0
        self._last: OrderedDict[str, int] = OrderedDict()
        """Of each plan id the last number that was tried."""

    async def start(self, id: UUID, name: str | None, plan_id: str, order: Callable[[str], Order]) -> list[Recorded]:
        """What was recorded when `order(name)`, whose command is `id`, was executed. Full if there is no room."""
        async with self._room(id):
            recorded = await (self._executor.submit(name, order(name)) if name else self._named(plan_id, order))
            if self._slots is not None:
                await self._slots.claim(recorded[0])
            return recorded

    @asynccontextmanager
    async def _room(self, id: UUID) -> AsyncIterator[None]:
        most = self._slots.limits.max_workflows if self._slots else None
        self._starting += 1
        try:
            if self._slots is not None and most is not None:
                taken = self._starting - 1 + await self._slots.workflows()
                if taken >= most + self._max_queued and not await self._ledger.find_command(id):
                    raise Full(f"{most} workflows run at once and {taken - most} wait: there is room for no more")
            yield
        finally:
            self._starting -= 1

    async def _named(self, plan_id: str, order: Callable[[str], Order]) -> list[Recorded]:
        """Executes `order(name)` for the first name that is free. An order that was executed before, under whatever
        name, gets its first answer: the ledger knows it by its id."""
        if plan_id not in self._last:
            try:
                return await self._executor.submit(plan_id, order(plan_id))
            except Conflict:
                free = await self._free(plan_id)
                self._last[plan_id] = max(self._last.get(plan_id, 0), free - 1)
        while True:
            name = numbered(plan_id, self._next(plan_id))
            try:
                return await self._executor.submit(name, order(name))
            except Conflict:
                continue

    def _next(self, plan_id: str) -> int:
        self._last[plan_id] = number = self._last.get(plan_id, 1) + 1
        self._last.move_to_end(plan_id)
        while len(self._last) > KEPT_PLANS:
            self._last.popitem(last=False)
        return number

    async def _free(self, plan_id: str) -> int:
        """A number that is free while the one before it is not, found in few questions; number 1 is taken."""
        taken, step = 1, 1
        while await self._exists(numbered(plan_id, taken + step)):
            taken, step = taken + step, step * 2
        free = taken + step
        while free - taken > 1:
            middle = (taken + free) // 2
            if await self._exists(numbered(plan_id, middle)):
                taken = middle
            else:
                free = middle
        return free

    async def _exists(self, name: str) -> bool:
        return bool(await self._ledger.read_stream(f"workflow-{name}", limit=1))


def numbered(plan_id: str, number: int) -> str:
    """The `number`-th run's name, cut to what an id may be long."""
    suffix = f"-{number}"
    return plan_id[: LONGEST_NAME - len(suffix)] + suffix
