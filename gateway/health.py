"""Whether the system can work, found out by asking: Postgres, NATS, and how far views and relay are behind.

An orphan, a task that nothing will move any more, is a fault of ours, but no reason to send work elsewhere: it is
counted, and `ready` does not depend on it. Nor does it on a view that is halted, which is named: commands are decided,
agents work and all other views go on without it; nor on how far behind a view is that lets events gather. All but
`recovery`: what began after its position has no deadline, no lease runs out there and no retry begins, so that with it
halted nobody should be sent here.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Generic, TypeVar

import msgspec
import psycopg
from aiohttp import web
from msgspec import Meta

from gateway import requests
from gateway.routes import Route, Routes, json
from ledger.errors import LedgerError
from ledger.ledger import Ledger
from ledger.ports import Bus
from ledger.postgres import Pool
from ledger.stream import Refusal
from projections.project import Projection
from projections.recovery import Recovery, standing

ANSWER_SECONDS = 0.5
"""A probe is answered within a second of what it is about, also where a server does not refuse but stays silent."""
SILENT_SECONDS = 2.0
COUNTED_SECONDS = 5.0
BEHIND_EVENTS = 10_000
"""A view or a relay further behind than this is catching up, not working."""


T = TypeVar("T")


class Check(msgspec.Struct, frozen=True, omit_defaults=True):
    """`behind` counts events; None where there is nothing to count, or nobody knows. `halted` is the position that a
    view cannot go beyond; with `needed` false the system works without it."""

    ok: bool
    detail: str
    behind: int | None = None
    halted: int | None = None
    needed: bool = True


class Live(msgspec.Struct, frozen=True):
    live: bool = True


class Readiness(msgspec.Struct, frozen=True):
    """`orphans` is null if nobody can tell; `halted` names views that cannot go on; `checks` are there if it was asked
    `verbose`ly."""

    ready: bool
    orphans: int | None
    halted: list[str]
    checks: dict[str, Check] | msgspec.UnsetType = msgspec.UNSET


class About(msgspec.Struct, frozen=True):
    version: str
    tenant: str
    name: str = "cairn"
    api: tuple[str, ...] = ("v1",)


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    verbose: Annotated[bool, Meta(description="says what of it cannot")] = False


class Health:
    def __init__(
        self,
        ledger: Ledger,
        bus: Bus,
        views: Sequence[Projection],
        orphans: "Orphans",
        version: str,
        faults: Mapping[str, str],
    ) -> None:
        self._ledger, self._views, self._faults = ledger, views, faults
        silent: tuple[Check, int | None] = Check(False, "does not answer"), None
        self._postgres = Question(partial(_postgres, ledger), silent)
        self._nats = Question(partial(_nats, bus), Check(False, "does not answer"))
        self._unpublished = Question(partial(_unpublished, ledger), None)
        self._about, self._orphans = About(version, ledger.tenant), Question(orphans.count, None)

    async def live(self, _: web.Request) -> web.Response:
        return json(Live())

    async def ready(self, request: web.Request) -> web.Response:
        """200 if work can be done, else 503."""
        query = requests.query(request, Asked)
        found, orphans = await asyncio.gather(self._checks(), self._orphans.answer())
        ready = all(check.ok for check in found.values() if check.needed)
        halted = [name for name, check in found.items() if check.halted is not None]
        shown = found if query.verbose else msgspec.UNSET
        return json(Readiness(ready, orphans, halted, shown), 200 if ready else 503)

    async def about(self, _: web.Request) -> web.Response:
        return json(self._about)

    async def _checks(self) -> dict[str, Check]:
        """The state of each part, as of now."""
        asked = self._postgres.answer(), self._nats.answer(), self._unpublished.answer()
        (postgres, head), nats, unpublished = await asyncio.gather(*asked)
        if head is not None and unpublished is not None:
            relayed: int | None = head - unpublished
        else:
            relayed = self._ledger.relay.last if self._ledger.relay else None
        of_views = {projection.view.name: _view(head, projection) for projection in self._views}
        faults = {name: Check(False, f"failed, and is begun again: {why}") for name, why in self._faults.items()}
        return {"postgres": postgres, "nats": nats, "relay": _lag(head, relayed), **of_views, **faults}

    routes: ClassVar[Routes] = (
        Route("GET", "/livez", live, "open", "Whether the program answers.", Live),
        Route("GET", "/readyz", ready, "open", "Whether work can be done.", Readiness, query=Asked, also=(503,)),
        Route("GET", "/version", about, "open", "What runs here.", About),
    )


class Question(Generic[T]):
    """Asked of a server that may be silent: nobody waits longer than ANSWER_SECONDS, and who comes next joins.

    To break off what waits for Postgres takes as long as Postgres is silent, so that is left to end by itself.
    """

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, T]], silence: T) -> None:
        self._ask, self._silence = ask, silence
        self._asking: asyncio.Task[T] | None = None

    async def answer(self) -> T:
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        asking = self._asking
        await asyncio.wait([asking], timeout=ANSWER_SECONDS)
        return asking.result() if asking.done() else self._silence


class Orphans:
    """Counts them, once in a while: probes come often, from anybody, and the count looks at every open task."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self._turn = pool, asyncio.Lock()
        self._count: int | None = None
        self._counted = -COUNTED_SECONDS

    async def count(self) -> int | None:
        """How many open tasks wait on what will not come; None while nobody can tell."""
        async with self._turn:
            if time.monotonic() >= self._counted + COUNTED_SECONDS:
                self._count = await self._ask()
                self._counted = time.monotonic()
            return self._count

    async def _ask(self) -> int | None:
        try:
            async with asyncio.timeout(SILENT_SECONDS), self._pool.connection() as connection:
                return (await standing(connection)).orphans
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable, TimeoutError):
            return None


async def _postgres(ledger: Ledger) -> tuple[Check, int | None]:
    try:
        async with asyncio.timeout(SILENT_SECONDS):
            head = (await ledger.head()).position
    except (LedgerError, TimeoutError):
        return Check(False, "does not answer"), None
    return Check(True, f"answers, the ledger is at position {head}"), head


async def _nats(bus: Bus) -> Check:
    try:
        async with asyncio.timeout(SILENT_SECONDS):
            answer: dict[str, Any] = await bus.api("INFO")
    except (ConnectionError, TimeoutError):
        return Check(False, "does not answer, or not as JetStream")
    if error := answer.get("error"):
        return Check(False, f"JetStream refuses: {error.get('description')}")
    return Check(True, "answers, JetStream is on")


async def _unpublished(ledger: Ledger) -> int | None:
    """Asked of Postgres and JetStream, for it may be another process that relays; None while nobody can tell."""
    try:
        async with asyncio.timeout(SILENT_SECONDS):
            return None if ledger.relay is None else await ledger.relay.measure()
    except (LedgerError, Refusal, ConnectionError, TimeoutError):
        return None


def _view(head: int | None, projection: Projection) -> Check:
    halted, needed = projection.halted, projection.view.name == Recovery.name
    if halted is None:
        return msgspec.structs.replace(_lag(head, projection.position), needed=not projection.lazy)
    behind = None if head is None else max(0, head - projection.position)
    return Check(False, f"halted: {halted.reason}", behind, halted.position, needed)


def _lag(head: int | None, position: int | None) -> Check:
    if head is None or position is None:
        return Check(False, "unknown")
    behind = max(0, head - position)
    return Check(behind <= BEHIND_EVENTS, f"at position {min(position, head)}", behind)
