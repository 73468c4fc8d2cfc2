"""What a request leaves behind: its id on every line of the log that it leads to, its span, and a line of its own.

The id is the caller's `X-Request-Id` where that is one, and goes back in the answer; so does the `traceparent` of the
request's span, which goes on with the caller's trace. Acts of people and programs are logged at info, what is only
read at debug, and so is whoever is not let in: without a token nobody fills the disk.
"""

import re
from contextlib import nullcontext
from time import monotonic
from uuid import uuid4

import structlog
from aiohttp import web
from opentelemetry.trace import Span, SpanKind, StatusCode, use_span
from structlog.contextvars import bind_contextvars, clear_contextvars

from gateway.problems import Handler
from gateway.routes import API, route_of
from handlers.execute import trace_of
from ledger import trace

REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
READS = ("GET", "HEAD", "OPTIONS")
NOT_LET_IN = (401, 403)
GONE = 499
"""As nginx calls it: the client did not wait for the answer."""
ID = web.RequestKey("id", str)
TRACEPARENT = web.RequestKey("traceparent", str)
SPAN = web.RequestKey("span", Span)

log = structlog.get_logger(__name__)


@web.middleware
async def trail(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost: it sees the answer as the client does."""
    began, status = monotonic(), GONE
    given = request.headers.get("X-Request-Id", "")
    request[ID] = given if REQUEST_ID.fullmatch(given) else uuid4().hex
    clear_contextvars()  # requests of one connection share a context
    bind_contextvars(request_id=request[ID], **_named(request))
    span = _begin(request)
    try:
        with use_span(span, record_exception=False, set_status_on_exception=False) if span else nullcontext():
            response = await handler(request)
        status = response.status
        return response
    finally:
        if span:
            _end(span, status)
        quiet = request.method in READS or status in NOT_LET_IN
        tell = log.debug if quiet else log.info
        tell(
            "http.request", method=request.method, path=request.path[:200], status=status,
            actor=request.headers.get("X-Cairn-Actor", "http")[:100], ms=round((monotonic() - began) * 1000, 1),
        )  # fmt: skip
        clear_contextvars()


async def leave(request: web.Request, response: web.StreamResponse) -> None:
    """Right before an answer begins. A stream may go on for days: its span is that of its opening."""
    if (id := request.get(ID)) is not None:
        response.headers["X-Request-Id"] = id
    if (traceparent := request.get(TRACEPARENT)) is not None:
        response.headers["traceparent"] = traceparent
    if (span := request.get(SPAN)) is not None and not isinstance(response, web.Response):
        _end(span, response.status)


def _begin(request: web.Request) -> Span | None:
    """None for probes and scrapes: they come every few seconds, for ever."""
    given = trace_of(request.headers.get("traceparent"))
    route = route_of(request)
    if route is None or route.scope == "open" or not (trace.on() and route.path.startswith(API)):
        if given is not None:
            request[TRACEPARENT] = given
            bind_contextvars(trace_id=given.split("-")[1])
        return None
    about = {
        "http.request.method": request.method, "http.route": route.path, "url.path": request.path[:200],
        "url.scheme": request.scheme, "request_id": request[ID], **_named(request),
    }  # fmt: skip
    span = trace.begin(f"{request.method} {route.path}", given, kind=SpanKind.SERVER, about=about)
    request[SPAN], request[TRACEPARENT] = span, trace.traceparent(span)
    bind_contextvars(trace_id=request[TRACEPARENT].split("-")[1])
    return span


def _end(span: Span, status: int) -> None:
    if span.is_recording():
        span.set_attribute("http.response.status_code", status)
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()


def _named(request: web.Request) -> dict[str, str]:
    """What the path says the request is about."""
    found = {name: value[:100] for name in ("workflow", "task") if (value := request.match_info.get(name))}
    return found | ({"correlation_id": found["workflow"]} if "workflow" in found else {})
