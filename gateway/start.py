"""Starts a plan under a name of its own: the plan's id, or `<id>-2`, `<id>-3`, ... if it is taken.

Whether a name is taken is for the ledger to say; what is kept here only saves asking for names known to be taken.
"""

from collections import OrderedDict
from collections.abc import Callable

from domain.errors import Conflict
from handlers.execute import Executor, Order
from ledger.ledger import Ledger
from ledger.recorded import Recorded

KEPT_PLANS = 1_000
LONGEST_NAME = 63


class Starts:
    def __init__(self, executor: Executor, ledger: Ledger) -> None:
        self._executor, self._ledger = executor, ledger
        self._last: OrderedDict[str, int] = OrderedDict()
        """Of each plan id the last number that was tried."""

    async def start(self, plan_id: str, order: Callable[[str], Order]) -> list[Recorded]:
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
