"""A connection before there is a request that the gateway's own code sees: what cannot be read, and what never comes.

aiohttp answers for that itself, as text and with a traceback in the log. Here it becomes a problem document like any
other, and nothing of what a client does wrong is logged: whoever has no token could fill the disk with it.
"""

from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.problems import Unacceptable, answer, understood

REQUEST_SECONDS = 30.0
"""A connection over which no whole head of a request comes for so long is closed."""
CLIENTS_FAULTS = (HttpProcessingError, web.RequestPayloadError)


class Connection(web.RequestHandler):
    __slots__ = ()

    def log_exception(self, *args: Any, **more: Any) -> None:
        if not isinstance(more.get("exc_info"), CLIENTS_FAULTS):
            super().log_exception(*args, **more)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        if not isinstance(exc, CLIENTS_FAULTS) or request.writer.output_size > 0:
            return super().handle_error(request, status, exc, message)
        response = answer(Unacceptable(status, "malformed_request", " ".join((message or str(exc)).split())))
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """What aiohttp raises beside all middlewares, as for an `Expect` that nobody knows, arrives here."""
        wrong = understood(resp) if isinstance(resp, web.HTTPException) else None
        return await super().finish_response(request, answer(wrong) if wrong else resp, start_time)


class Runner(web.AppRunner):
    """Serves an application over such connections."""

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        super().__init__(app, access_log=None, shutdown_timeout=shutdown_timeout, keepalive_timeout=REQUEST_SECONDS)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory, **made._kwargs)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return Connection(self, loop=self._loop, **self._kwargs)
