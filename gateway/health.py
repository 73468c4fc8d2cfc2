"""Whether the system can work, found out by asking: Postgres, NATS, and how far views and relay are behind.

An orphan, a task that nothing will move any more, is a fault of ours, but no reason to send work elsewhere: it is
counted, and `ready` does not depend on it. Nor does it on a view that is halted, which is named: commands are decided,
agents work and all other views go on without it. All but `recovery`: what began after its position has no deadline, no
lease runs out there and no retry begins, so that with it halted nobody should be sent here.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

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

ANSWER_SECONDS = 2.0
COUNTED_SECONDS = 5.0
BEHIND_EVENTS = 10_000
"""A view or a relay further behind than this is catching up, not working."""


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
    def __init__(self, ledger: Ledger, bus: Bus, views: Sequence[Projection], pool: Pool, version: str) -> None:
        self._ledger, self._bus, self._views = ledger, bus, views
        self._about, self._orphans = About(version, ledger.tenant), Orphans(pool)

    async def live(self, _: web.Request) -> web.Response:
        return json(Live())

    async def ready(self, request: web.Request) -> web.Response:
        """200 if work can be done, else 503."""
        query = requests.query(request, Asked)
        found, orphans = await asyncio.gather(checks(self._ledger, self._bus, self._views), self._orphans.count())
        ready = all(check.ok for check in found.values() if check.needed)
        halted = [name for name, check in found.items() if check.halted is not None]
        shown = found if query.verbose else msgspec.UNSET
        return json(Readiness(ready, orphans, halted, shown), 200 if ready else 503)

    async def about(self, _: web.Request) -> web.Response:
        return json(self._about)

    routes: ClassVar[Routes] = (
        Route("GET", "/livez", live, "open", "Whether the program answers.", Live),
        Route("GET", "/readyz", ready, "open", "Whether work can be done.", Readiness, query=Asked, also=(503,)),
        Route("GET", "/version", about, "open", "What runs here.", About),
    )


async def checks(ledger: Ledger, bus: Bus, views: Sequence[Projection]) -> dict[str, Check]:
    """The state of each part, as of now; never raises, never takes longer than two seconds."""
    (postgres, head), nats, unpublished = await asyncio.gather(_postgres(ledger), _nats(bus), _unpublished(ledger))
    if head is not None and unpublished is not None:
        relayed: int | None = head - unpublished
    else:
        relayed = ledger.relay.last if ledger.relay else None
    of_views = {projection.view.name: _view(head, projection) for projection in views}
    return {"postgres": postgres, "nats": nats, "relay": _lag(head, relayed), **of_views}


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
            async with asyncio.timeout(ANSWER_SECONDS), self._pool.connection() as connection:
                return (await standing(connection)).orphans
        except (psycopg.OperationalError, psycopg.errors.UndefinedTable, TimeoutError):
            return None


async def _postgres(ledger: Ledger) -> tuple[Check, int | None]:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            head = (await ledger.head()).position
    except (LedgerError, TimeoutError):
        return Check(False, "does not answer"), None
    return Check(True, f"answers, the ledger is at position {head}"), head


async def _nats(bus: Bus) -> Check:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer: dict[str, Any] = await bus.api("INFO")
    except (ConnectionError, TimeoutError):
        return Check(False, "does not answer, or not as JetStream")
    if error := answer.get("error"):
        return Check(False, f"JetStream refuses: {error.get('description')}")
    return Check(True, "answers, JetStream is on")


async def _unpublished(ledger: Ledger) -> int | None:
    """Asked of Postgres and JetStream, for it may be another process that relays; None while nobody can tell."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return None if ledger.relay is None else await ledger.relay.measure()
    except (LedgerError, Refusal, ConnectionError, TimeoutError):
        return None


def _view(head: int | None, projection: Projection) -> Check:
    halted, needed = projection.halted, projection.view.name == Recovery.name
    if halted is None:
        return _lag(head, projection.position)
    behind = None if head is None else max(0, head - projection.position)
    return Check(False, f"halted: {halted.reason}", behind, halted.position, needed)


def _lag(head: int | None, position: int | None) -> Check:
    if head is None or position is None:
        return Check(False, "unknown")
    behind = max(0, head - position)
    return Check(behind <= BEHIND_EVENTS, f"at position {min(position, head)}", behind)
