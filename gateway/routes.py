"""Routes are data: what can be asked for, by whom, with which words, and what is answered.

A resource is a class whose `routes` name its own functions; `serve` binds them to one of its instances. Who may ask
(`gateway/access.py`), the methods of a path and the description of the whole API are read from the same table.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import msgspec
from aiohttp import web

API = "/api/v1"
JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"

Scope = Literal["open", "read", "operate", "admin"]
"""Whom a route is for: anybody, or a token of this scope; one that may operate may read, `admin` may do all."""
COMMAND = ("Idempotency-Key", "X-Cairn-Actor", "traceparent")
"""The headers of a request that records something."""


class Route(NamedTuple):
    """`path` as aiohttp writes it: `/api/v1/workflows/{workflow}`. `query` and `body` are what the
    request is read as; `answers` is the answer's body (with SSE and NDJSON: each event), in any of `media`. The same body
    may come with the statuses `also`. `headers` are those that are read, besides what every request has."""

    method: str
    path: str
    handle: Callable[..., Awaitable[web.StreamResponse]]
    scope: Scope
    summary: str
    answers: Any
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    status: int = 200
    media: tuple[str, ...] = (JSON,)
    headers: tuple[str, ...] = ()
    also: tuple[int, ...] = ()

    @property
    def template(self) -> str:
        """The path as OpenAPI writes it: of `{path:.+}` only the name."""
        return re.sub(r"{(\w+):[^}]*}", r"{\1}", self.path)

    @property
    def endless(self) -> bool:
        """Whether its answer may be a stream: what has no end has no HEAD either."""
        return SSE in self.media


Routes = tuple[Route, ...]


class Resource(Protocol):
    routes: ClassVar[Routes]


TABLE: web.AppKey[dict[tuple[str, str], Route]] = web.AppKey("table", dict)


def serve(app: web.Application, *resources: Resource) -> None:
    """Adds the routes of these. ValueError when one is there already."""
    table = app.setdefault(TABLE, {})
    for resource in resources:
        for route in resource.routes:
            if (route.method, route.template) in table:
                raise ValueError(f"{route.method} {route.template} is there twice")
            table[route.method, route.template] = route
            handle = route.handle.__get__(resource)
            if route.method == "GET":
                app.router.add_get(route.path, handle, allow_head=not route.endless)
            else:
                app.router.add_route(route.method, route.path, handle)


def route_of(request: web.Request) -> Route | None:
    """The route that a request has come to; None if there is none such."""
    resource = request.match_info.route.resource
    method = "GET" if request.method == "HEAD" else request.method
    return None if resource is None else request.app[TABLE].get((method, resource.canonical))


def json(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=status, content_type=JSON, headers=headers)
