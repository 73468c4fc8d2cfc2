"""What runs for as long as the system does: started in order, ended in the reverse, and what becomes of one that fails.

A fault of one component takes no other with it. One that `restarts` is begun anew, ever more slowly while it goes on
failing, and readiness names it with its reason until it has held for a while; after MOST_FAILURES in a row the
process ends with that reason. Some faults end the process at once, whoever meets them: a ledger that contradicts
itself, tables or events of a newer program, a server of ours that is beyond help. Going on would make things worse, and
trying again changes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

import structlog

from ledger.cancel import end
from ledger.errors import BrokenChain, LedgerClosed, UnknownEvent
from ops.embedded import ServerFailed
from projections.standing import Outdated

ENDING = (BrokenChain, LedgerClosed, UnknownEvent, Outdated, ServerFailed)
BACKOFF_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)
HELD_SECONDS = 30.0
"""One that ran for so long has got over what was wrong."""
MOST_FAILURES = 10

log = structlog.get_logger(__name__)


class Component(NamedTuple):
    """`run` goes on until it is cancelled. It is called again after a fault, if the policy is `restarts`: what it keeps
    in memory has to allow that, or is made anew by `run` itself."""

    name: str
    run: Callable[[], Awaitable[None]]
    policy: Literal["restarts", "ends"] = "restarts"


class Failed(Exception):
    """Component `name` has failed for good; its fault is the cause."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(f"{name} failed: {type(error).__name__}: {error}")


class Components:
    """`start` each after what it needs; `failed` is to be waited for beside whatever else ends the system."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}
        """Why those that failed lately did, by name."""
        self._tasks: list[asyncio.Task[None]] = []
        self._fatal: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def start(self, *components: Component) -> None:
        self._tasks += [asyncio.create_task(self._keep(one), name=one.name) for one in components]

    async def failed(self) -> None:
        """Raises what ends the process, once there is something: a fault of ENDING as it is, any other as Failed."""
        raise await asyncio.shield(self._fatal)

    async def stop(self) -> None:
        """The last that was started is the first to end."""
        while self._tasks:
            await end([self._tasks.pop()])

    async def _keep(self, component: Component) -> None:
        now, failures = asyncio.get_running_loop().time, 0
        while True:
            began = now()
            holding = asyncio.get_running_loop().call_later(HELD_SECONDS, self.faults.pop, component.name, None)
            try:
                return await component.run()
            except Exception as error:
                fault = _first(error)
                failures = failures + 1 if now() - began < HELD_SECONDS else 1
                self.faults[component.name] = f"{type(fault).__name__}: {fault}"
                if isinstance(fault, ENDING):
                    return self._end(fault)
                if component.policy == "ends" or failures >= MOST_FAILURES:
                    return self._end(Failed(component.name, fault), fault)
                pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1]
                log.exception("component.failed", component=component.name, failures=failures, again_seconds=pause)
            finally:
                holding.cancel()
            await asyncio.sleep(pause)

    def _end(self, error: Exception, cause: BaseException | None = None) -> None:
        if cause is not None:
            error.__cause__ = cause
        if not self._fatal.done():
            self._fatal.set_result(error)


def _first(error: BaseException) -> BaseException:
    """Of a group, what was raised first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
