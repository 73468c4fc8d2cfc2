"""How many requests this server has answered, by the pattern of the route, and how long that took."""

import asyncio
from time import perf_counter

from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware
from prometheus_client import CollectorRegistry, Counter, Histogram

from gateway.problems import Handler
from projections.figures import FIGURES

UNMATCHED = "unmatched"
LEFT = "499"


def traffic(registry: CollectorRegistry) -> Middleware:
    """Counts into this registry what all that it wraps has answered."""
    counted, timed = FIGURES["cairn_http_requests_total"], FIGURES["cairn_http_request_duration_seconds"]
    requests = Counter(counted.name, counted.about, counted.labels, registry=registry)
    seconds = Histogram(timed.name, timed.about, timed.labels, registry=registry, buckets=timed.bounds)

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        begun, route = perf_counter(), _route(request)
        method = request.method if request.method in hdrs.METH_ALL else "other"
        try:
            response = await handler(request)
        except asyncio.CancelledError:
            requests.labels(route, method, LEFT).inc()
            raise
        requests.labels(route, method, str(response.status)).inc()
        if isinstance(response, web.Response):
            seconds.labels(route).observe(perf_counter() - begun)
        return response

    return count


def _route(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return UNMATCHED if resource is None else resource.canonical
