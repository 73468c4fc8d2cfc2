"""How many requests this server has answered, by the pattern of the route, how long that took, and who follows."""

import asyncio
from time import perf_counter

from aiohttp import hdrs, web
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from gateway.problems import Handler
from gateway.routes import NDJSON, SSE
from projections.figures import FIGURES

UNMATCHED = "unmatched"
LEFT = "499"
FOLLOWED: web.RequestKey[bool] = web.RequestKey("followed", bool)


class Traffic:
    """Counts into `registry` what an application answers; `watch` it before anything else does."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counted, timed, following = (
            FIGURES[name]
            for name in ("cairn_http_requests_total", "cairn_http_request_duration_seconds", "cairn_stream_clients")
        )
        self._requests = Counter(counted.name, counted.about, counted.labels, registry=registry)
        self._seconds = Histogram(timed.name, timed.about, timed.labels, registry=registry, buckets=timed.bounds)
        self._clients = Gauge(following.name, following.about, registry=registry)

    def watch(self, app: web.Application) -> None:
        app.middlewares.insert(0, self._count)
        app.on_response_prepare.append(self._prepared)

    async def _prepared(self, request: web.Request, response: web.StreamResponse) -> None:
        if not isinstance(response, web.Response) and response.content_type in (SSE, NDJSON):
            request[FOLLOWED] = True
            self._clients.inc()

    @web.middleware
    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        begun, route, status = perf_counter(), _route(request), LEFT
        try:
            response = await handler(request)
            status = str(response.status)
            return response
        except asyncio.CancelledError:
            status = "200" if FOLLOWED in request else LEFT
            raise
        finally:
            method = request.method if request.method in hdrs.METH_ALL else "other"
            self._requests.labels(route, method, status).inc()
            if FOLLOWED in request:
                self._clients.dec()
            else:
                self._seconds.labels(route).observe(perf_counter() - begun)


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical
