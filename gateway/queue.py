"""Pausing and resuming of a role or of all, and the queue as it stands."""

import time
from typing import Annotated, Any, ClassVar

from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import asdict

from domain.claims import TENANT, Claim, PauseDispatch, ResumeDispatch
from domain.queue import Queue
from gateway import requests
from gateway.routes import API, COMMAND, Route, Routes, json
from handlers.slots import Slots
from ledger.recorded import Recorded

MOST_A_MINUTE = 1_000_000
SHOWN_CLAIMS = 1_000


class Halt(Struct, forbid_unknown_fields=True):
    """Of `role`, or of the whole tenant if there is none."""

    role: requests.Id | None = None
    reason: requests.Words = ""


class Go(Halt, forbid_unknown_fields=True):
    """`rate` is dispatches a minute; without one all that waits is handed out at once."""

    rate: Annotated[float, Meta(gt=0, le=MOST_A_MINUTE)] | None = None


class PausedRole(Struct, frozen=True):
    """`role` is null for all of them."""

    role: str | None
    by: str
    reason: str


class RoleRate(Struct, frozen=True):
    """Dispatches a minute, since a time in seconds since the epoch; `role` is null for all of them."""

    role: str | None
    rate: float
    since: float


class StandingClaim(Claim, frozen=True, kw_only=True):
    granted: bool


class Standing(Struct, frozen=True, kw_only=True):
    """What is paused, what is handed out at which rate, and the claims: those that are granted first, then in turn."""

    paused: list[PausedRole]
    rates: list[RoleRate]
    granted: int
    waiting: int
    claims: list[StandingClaim]


class Changed(Standing, frozen=True, kw_only=True):
    """`position` is null if it was so already."""

    position: int | None


class Line:
    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    async def pause(self, request: web.Request) -> web.Response:
        requests.query(request)
        asked = await requests.body(request, Halt)
        by = requests.actor(request)
        return await self._do(
            request, PauseDispatch(now=time.time(), by=by, role=asked.role or TENANT, reason=asked.reason)
        )

    async def resume(self, request: web.Request) -> web.Response:
        requests.query(request)
        asked = await requests.body(request, Go)
        by, role = requests.actor(request), asked.role or TENANT
        return await self._do(
            request, ResumeDispatch(now=time.time(), by=by, role=role, reason=asked.reason, rate=asked.rate)
        )

    async def _do(self, request: web.Request, command: PauseDispatch | ResumeDispatch) -> web.Response:
        recorded = await self._slots.dispatch(requests.command_id(request), command.by, command)
        if recorded and not _is_of(recorded[0], command):
            raise requests.key_reused()
        return json(Changed(position=recorded[-1].position if recorded else None, **shown(await self._slots.queue())))

    async def show(self, request: web.Request) -> web.Response:
        requests.query(request)
        return json(Standing(**shown(await self._slots.queue())))

    routes: ClassVar[Routes] = (
        Route(
            "POST", f"{API}/pause", pause, "operate", "Nothing new is handed out to a role, or to anybody.",
            Changed, body=Halt, headers=COMMAND,
        ),
        Route(
            "POST", f"{API}/resume", resume, "operate", "Work is handed out again, at a rate if one is given.",
            Changed, body=Go, headers=COMMAND,
        ),
        Route("GET", f"{API}/queue", show, "read", "The queue as it stands.", Standing),
    )  # fmt: skip


def shown(queue: Queue) -> dict[str, Any]:
    """The fields of a Standing."""
    standing = sorted(queue.claims.values(), key=lambda one: (not one.granted, one.turn))
    return {
        "paused": [PausedRole(role or None, it.by, it.reason) for role, it in queue.paused.items()],
        "rates": [RoleRate(role or None, it.rate, it.since) for role, it in queue.ramps.items()],
        "granted": sum(one.granted for one in standing),
        "waiting": sum(not one.granted for one in standing),
        "claims": [StandingClaim(**asdict(one.claim), granted=one.granted) for one in standing[:SHOWN_CLAIMS]],
    }


def _is_of(recorded: Recorded, command: PauseDispatch | ResumeDispatch) -> bool:
    kind = "paused" if isinstance(command, PauseDispatch) else "resumed"
    of = getattr(recorded.event, "role", TENANT)
    return recorded.type == f"{'role' if command.role else 'tenant'}.{kind}" and of == command.role
