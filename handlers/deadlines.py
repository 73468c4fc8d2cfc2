"""What time brings: leases that lapse, runs that take too long, backoffs that end, offers and asks that nobody answers.

The rows come from a view that may lag; firing is a command, decided like any other, and its id is made of what fires,
so any number of these loops fire each deadline once.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import Literal, Protocol, assert_never
from uuid import UUID, uuid5

import structlog

from domain.commands import ExpireAsk, ExpireLease, ExpireRun, ExpireTask, ExpireWorkflow, Redispatch, Retry
from domain.errors import Refused
from handlers.execute import Executor, Order
from ledger.errors import LedgerUnavailable, WrongVersion

log = structlog.get_logger(__name__)
_level = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""The longest wait; the view's changes ring the bell sooner."""
AGAIN_SECONDS = 0.05
"""The view has to catch up with what was just fired before it is asked again; a busy one rings for every batch."""
AWAY_SECONDS = 0.5
FIRING = UUID("6f1f6a52-6f0c-5a0e-9a53-0a3c9c1f8a11")
"""The namespace of the ids of commands that a clock gives."""

Kind = Literal["offer", "lease", "timeout", "retry", "limit", "ask"]


class Due(Protocol):
    """A deadline that has passed."""

    @property
    def workflow(self) -> str: ...

    @property
    def task(self) -> str:
        """Of a limit of a whole workflow it is ''."""
        ...

    @property
    def kind(self) -> Kind: ...

    @property
    def due(self) -> float: ...

    @property
    def token(self) -> int | None:
        """The lease that it is about, if it is about one."""
        ...

    @property
    def attempt(self) -> int | None: ...

    @property
    def ask(self) -> str | None: ...


class Timers(Protocol):
    async def due(self, now: float, unanswered: Collection[str] = ()) -> Sequence[Due]:
        """What has fallen due at `now` (seconds since the epoch), leases that are still held by heartbeats left out, and
        offers to the `unanswered` roles ("": to all).

        LedgerUnavailable when nobody can tell.
        """
        ...

    async def next_due(self, unanswered: Collection[str] = ()) -> float | None: ...


class Deadlines:
    def __init__(
        self,
        timers: Timers,
        executor: Executor,
        now: Callable[[], float] = time.time,
        unanswered: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`unanswered`: the roles that are handed nothing just now, so that their offers are not made again."""
        self._timers, self._executor, self._now, self._unanswered = timers, executor, now, unanswered
        self.bell = asyncio.Event()
        """Ring it when the view has changed."""

    async def run(self) -> None:
        while True:
            self.bell.clear()
            try:
                fired = await self.fire()
                pause = AGAIN_SECONDS if fired else await self._until_next()
            except (LedgerUnavailable, WrongVersion) as away:
                log.warning("deadlines.waits", why=str(away))
                pause = AWAY_SECONDS
            await asyncio.sleep(min(pause, AGAIN_SECONDS))
            await self._wait(pause - AGAIN_SECONDS)

    async def fire(self) -> int:
        """Fires all that is due; how many there were."""
        now = self._now()
        due = await self._timers.due(now, self._unanswered())
        orders = [(one, _order(one, now)) for one in due]
        for one, order in orders if _level.isEnabledFor(logging.DEBUG) else ():
            log.debug(
                "deadlines.fired", kind=one.kind, workflow=one.workflow, correlation_id=one.workflow, task=one.task,
                attempt=one.attempt, ask=one.ask, due=one.due, causation_id=str(order.id),
            )  # fmt: skip
        answers = [self._executor.submit(one.workflow, order) for one, order in orders]
        for answer in await asyncio.gather(*answers, return_exceptions=True):
            if isinstance(answer, BaseException) and not isinstance(answer, Refused):
                raise answer
        return len(due)

    async def _until_next(self) -> float:
        soonest = await self._timers.next_due(self._unanswered())
        return POLL_SECONDS if soonest is None else min(max(soonest - self._now(), 0.0), POLL_SECONDS)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.bell.wait()
        except TimeoutError:
            return


def _order(due: Due, now: float) -> Order:
    command: Redispatch | ExpireLease | ExpireRun | Retry | ExpireTask | ExpireWorkflow | ExpireAsk
    about: float | str | None = due.token
    token = due.token or 0
    match due.kind:
        case "offer":
            command = Redispatch(now=now, task=due.task, token=token)
        case "lease":
            command = ExpireLease(now=now, task=due.task, token=token)
        case "timeout":
            command = ExpireRun(now=now, task=due.task, token=token)
        case "retry":
            command = Retry(now=now, task=due.task, attempt=due.attempt or 0)
            about = f"{due.attempt} at {due.due!r}"  # one that a person kept from beginning may be waited for again
        case "limit":
            command = ExpireTask(now=now, task=due.task) if due.task else ExpireWorkflow(now=now)
            about = due.due
        case "ask":
            assert due.ask is not None
            command, about = ExpireAsk(now=now, ask=due.ask), due.ask
        case _:
            assert_never(due.kind)
    name = f"{due.workflow}/{due.task}/{due.kind}/{about}"
    return Order(uuid5(FIRING, name), command, f"clock/{due.kind}")
