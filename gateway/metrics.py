"""`GET /metrics`: figures for Prometheus. They are counted in Postgres at each scrape, so a restart changes none.

Names are `cairn_<thing>_<unit>`; a label never holds an id.
"""

from typing import ClassVar, get_args

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, Info
from prometheus_client.exposition import choose_encoder

from gateway import requests
from gateway.routes import Route, Routes
from ledger.postgres import Pool
from projections.recovery import standing
from projections.recovery_fold import Kind

OPEN_METRICS = "application/openmetrics-text"


class Metrics:
    def __init__(self, pool: Pool, version: str) -> None:
        self._pool, self._registry = pool, CollectorRegistry()
        Info("cairn_build", "The program that runs here.", registry=self._registry).info({"version": version})
        self._orphans = Gauge(
            "cairn_orphans",
            "Open tasks that wait on nothing, or on what will not come: always 0.",
            registry=self._registry,
        )
        self._waits = Gauge("cairn_waits", "Open tasks by what they wait on.", ["kind"], registry=self._registry)

    async def read(self, request: web.Request) -> web.Response:
        """The text format of Prometheus, or OpenMetrics where that is accepted. 503 while nobody can count."""
        requests.query(request)
        async with self._pool.connection() as connection:
            found = await standing(connection)
        self._orphans.set(found.orphans)
        for kind in get_args(Kind):
            self._waits.labels(kind).set(found.waits.get(kind, 0))
        encoded, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encoded(self._registry), headers={"Content-Type": content_type})

    routes: ClassVar[Routes] = (
        Route("GET", "/metrics", read, "read", "Figures for Prometheus.", str, media=("text/plain", OPEN_METRICS)),
    )
