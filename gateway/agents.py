"""What the HTTP API says of agents: who is there, who may come, who is to take no more."""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct
from msgspec.structs import asdict

from gateway import requests
from gateway.problems import Unacceptable
from handlers.identity import NAME, ROLE, Capabilities, Permissions, Speaker, permissions, user
from handlers.registry import Registry
from ledger.postgres import Pool
from projections.agents import agents

Admit = Callable[[str, Permissions], Awaitable[str]]
"""Makes a user of NATS who may do this and no more; the URL that it connects to. TimeoutError when NATS does not."""


class Admission(Struct, forbid_unknown_fields=True):
    role: Annotated[str, Meta(pattern=rf"^{ROLE}\Z")]
    capabilities: Capabilities = ()


class Draining(Struct, forbid_unknown_fields=True):
    reason: requests.Words = ""


class Agents:
    """`told` is called with the name of an agent that was drained."""

    def __init__(
        self, tenant: str, registry: Registry, pool: Pool, admit: Admit, told: Callable[[str], Awaitable[None]]
    ) -> None:
        self._tenant, self._registry, self._pool, self._admit, self._told = tenant, registry, pool, admit, told

    async def page(self, request: web.Request) -> web.Response:
        """All that have not left."""
        query = requests.parameters(request, "limit")
        limit = requests.number(query, "limit", requests.PAGE_ITEMS, requests.PAGE_ITEMS, least=1)
        async with self._pool.connection() as connection:
            found = await agents(connection, limit)
        return _json({"agents": [asdict(one) for one in found]})

    async def admit(self, request: web.Request) -> web.Response:
        """Who asks with the token of the system may let agents in. 409 when the name is another role's."""
        requests.parameters(request)
        asked, name = await requests.body(request, Admission), _named(request)
        who = Speaker(asked.role, name)
        await self._registry.claim(who)
        may = permissions(self._tenant, who, asked.capabilities)
        try:
            url = await self._admit(user(self._tenant, name), may)
        except TimeoutError:
            raise Unacceptable(
                503, "nats_away", "NATS does not let anybody in just now", headers={"Retry-After": "1"}
            ) from None
        return _json({"agent": name, "nats_url": url, "user": user(self._tenant, name), "permissions": may})

    async def drain(self, request: web.Request) -> web.Response:
        requests.parameters(request)
        asked, name = await requests.body(request, Draining), _named(request)
        await self._registry.drain(name, requests.command_id(request), requests.actor(request), asked.reason)
        await self._told(name)
        return _json({"agent": name})


def _named(request: web.Request) -> str:
    name = request.match_info["agent"]
    if not re.fullmatch(NAME, name):
        raise Unacceptable(404, "not_found", f"there is no agent {name[:70]!a}: names are of a-z, 0-9, _ and -")
    return name


def _json(body: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), content_type="application/json")
