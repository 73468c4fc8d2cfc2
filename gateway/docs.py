"""What we speak, described by itself: OpenAPI, AsyncAPI, and a page for people that needs no script and no other server."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec
from aiohttp import web

from gateway import asyncapi, manual, openapi, requests
from gateway.routes import JSON, Route, Routes

HTML = "text/html"


class Docs:
    """Of this table of routes, which these are in."""

    def __init__(self, table: Sequence[Route]) -> None:
        self._table = table
        self._made: dict[str, bytes] = {}

    async def openapi(self, request: web.Request) -> web.Response:
        return self._answer(request, JSON, lambda: msgspec.json.encode(openapi.document(self._table)))

    async def asyncapi(self, request: web.Request) -> web.Response:
        return self._answer(request, JSON, lambda: msgspec.json.encode(asyncapi.document()))

    async def page(self, request: web.Request) -> web.Response:
        made = self._answer(
            request, HTML, lambda: manual.page(openapi.document(self._table), asyncapi.document()).encode()
        )
        made.headers["Content-Security-Policy"] = manual.POLICY
        return made

    def _answer(self, request: web.Request, media: str, make: Callable[[], bytes]) -> web.Response:
        requests.query(request)
        if request.path not in self._made:
            self._made[request.path] = make()
        return web.Response(
            body=self._made[request.path], content_type=media, charset="utf-8" if media == HTML else None
        )

    routes: ClassVar[Routes] = (
        Route("GET", "/openapi.json", openapi, "open", "The HTTP API as OpenAPI 3.1.", dict[str, Any]),
        Route("GET", "/asyncapi.json", asyncapi, "open", "What goes over NATS as AsyncAPI 3.0.", dict[str, Any]),
        Route("GET", "/docs", page, "open", "All of it as a page for people.", str, media=(HTML,)),
    )
