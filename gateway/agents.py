"""What the HTTP API says of agents: who is there, who may come, who is to take no more."""

import re
from collections.abc import Awaitable, Callable
from typing import Annotated, ClassVar

from aiohttp import web
from msgspec import Meta, Struct

from gateway import requests
from gateway.pages import Limit
from gateway.problems import Unacceptable
from gateway.routes import API, COMMAND, Route, Routes, json
from handlers.identity import NAME, ROLE, Capabilities, Permissions, Speaker, permissions, user
from handlers.registry import Registry
from ledger.postgres import Pool
from projections.agents import AgentDetail, agents

Admit = Callable[[str, Permissions], Awaitable[str]]
"""Makes a user of NATS who may do this and no more; the URL that it connects to. TimeoutError when NATS does not."""


class Admission(Struct, forbid_unknown_fields=True):
    role: Annotated[str, Meta(pattern=rf"^{ROLE}\Z")]
    capabilities: Capabilities = ()


class Draining(Struct, forbid_unknown_fields=True):
    reason: requests.Words = ""


class Which(Struct, frozen=True, forbid_unknown_fields=True):
    limit: Limit = requests.PAGE_ITEMS


class AgentPage(Struct, frozen=True):
    """All that have not left, those that are there first."""

    agents: list[AgentDetail]


class Admitted(Struct, frozen=True):
    """Where the agent connects to, as which user of NATS, and the subjects that it may use."""

    agent: str
    nats_url: str
    user: str
    permissions: Permissions


class Named(Struct, frozen=True):
    agent: str


class Agents:
    """`told` is called with the name of an agent that was drained."""

    def __init__(
        self, tenant: str, registry: Registry, pool: Pool, admit: Admit, told: Callable[[str], Awaitable[None]]
    ) -> None:
        self._tenant, self._registry, self._pool, self._admit, self._told = tenant, registry, pool, admit, told

    async def page(self, request: web.Request) -> web.Response:
        query = requests.query(request, Which)
        async with self._pool.connection() as connection:
            return json(AgentPage(await agents(connection, query.limit)))

    async def admit(self, request: web.Request) -> web.Response:
        """Who asks with the token of the system may let agents in. 409 when the name is another role's."""
        requests.query(request)
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
        return json(Admitted(name, url, user(self._tenant, name), may))

    async def drain(self, request: web.Request) -> web.Response:
        requests.query(request)
        asked, name = await requests.body(request, Draining), _named(request)
        await self._registry.drain(name, requests.command_id(request), requests.actor(request), asked.reason)
        await self._told(name)
        return json(Named(name))

    routes: ClassVar[Routes] = (
        Route("GET", f"{API}/agents", page, "read", "Who works here.", AgentPage, query=Which),
        Route(
            "POST", f"{API}/agents/{{agent}}/admit", admit, "admin",
            "Lets an agent in: it gets a user of NATS that may do what its role needs.", Admitted, body=Admission,
        ),
        Route(
            "POST", f"{API}/agents/{{agent}}/drain", drain, "operate",
            "The agent takes no more work; what it has begun goes on.", Named, body=Draining, headers=COMMAND,
        ),
    )  # fmt: skip


def _named(request: web.Request) -> str:
    name = request.match_info["agent"]
    if not re.fullmatch(NAME, name):
        raise Unacceptable(404, "not_found", f"there is no agent {name[:70]!a}: names are of a-z, 0-9, _ and -")
    return name
