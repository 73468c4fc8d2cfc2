"""Pausing and resuming of a role or of all, and the queue as it stands."""

import time
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from domain.claims import TENANT, PauseDispatch, ResumeDispatch
from domain.queue import Queue
from gateway import requests
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


def routes(api: str, slots: Slots | None) -> list[web.RouteDef]:
    if slots is None:
        return []
    commands = _Commands(slots)
    return [
        web.post(f"{api}/pause", commands.pause),
        web.post(f"{api}/resume", commands.resume),
        web.get(f"{api}/queue", commands.show),
    ]


class _Commands:
    def __init__(self, slots: Slots) -> None:
        self._slots = slots

    async def pause(self, request: web.Request) -> web.Response:
        requests.parameters(request)
        asked = await requests.body(request, Halt)
        by = requests.actor(request)
        return await self._do(
            request, PauseDispatch(now=time.time(), by=by, role=asked.role or TENANT, reason=asked.reason)
        )

    async def resume(self, request: web.Request) -> web.Response:
        requests.parameters(request)
        asked = await requests.body(request, Go)
        by, role = requests.actor(request), asked.role or TENANT
        return await self._do(
            request, ResumeDispatch(now=time.time(), by=by, role=role, reason=asked.reason, rate=asked.rate)
        )

    async def _do(self, request: web.Request, command: PauseDispatch | ResumeDispatch) -> web.Response:
        recorded = await self._slots.dispatch(requests.command_id(request), command.by, command)
        if recorded and not _is_of(recorded[0], command):
            raise requests.key_reused()
        return _json({"position": recorded[-1].position if recorded else None, **shown(await self._slots.queue())})

    async def show(self, request: web.Request) -> web.Response:
        """What is paused, what is handed out at which rate, and the claims: those that are granted first, then in turn."""
        requests.parameters(request)
        return _json(shown(await self._slots.queue()))


def shown(queue: Queue) -> dict[str, object]:
    standing = sorted(queue.claims.values(), key=lambda one: (not one.granted, one.turn))
    return {
        "paused": [{"role": role or None, "by": it.by, "reason": it.reason} for role, it in queue.paused.items()],
        "rates": [{"role": role or None, "rate": it.rate, "since": it.since} for role, it in queue.ramps.items()],
        "granted": sum(one.granted for one in standing),
        "waiting": sum(not one.granted for one in standing),
        "claims": [{**msgspec.to_builtins(one.claim), "granted": one.granted} for one in standing[:SHOWN_CLAIMS]],
    }


def _is_of(recorded: Recorded, command: PauseDispatch | ResumeDispatch) -> bool:
    kind = "paused" if isinstance(command, PauseDispatch) else "resumed"
    of = getattr(recorded.event, "role", TENANT)
    return recorded.type == f"{'role' if command.role else 'tenant'}.{kind}" and of == command.role


def _json(body: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
