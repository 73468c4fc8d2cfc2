"""`GET /metrics`: figures for Prometheus, of `projections.figures`.

What has happened is counted in the ledger (the view `metrics`), so a restart changes none of it; what is so now is
asked at the scrape, for all who scrape within a moment once. It is all or nothing: while Postgres does not answer the
scrape is a 503, which Prometheus shows as `up == 0`, and no figure of it goes stale unseen. While the view is being
built anew, the counters are left out: they would seem to begin at 0 and to count everything twice.
"""

import asyncio
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, product
from time import monotonic
from typing import ClassVar, get_args

from aiohttp import web
from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.utils import floatToGoString

from domain.outcome import SEVERITIES, FindingKind
from gateway import requests
from gateway.health import BEHIND_EVENTS, Orphans
from gateway.routes import Route, Routes
from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger
from ledger.ports import Bus
from ledger.postgres import Pool
from projections.figures import FIGURES, LEDGER, WORKFLOW_BOUNDS, Figure
from projections.metrics import Counted, Now, asked, counted

FRESH_SECONDS = 1.5
"""Whoever scrapes within this time of another gets the same answer."""
ANSWER_SECONDS = 3.0
OPEN_METRICS = "application/openmetrics-text"

Labels = tuple[str, ...]
Samples = dict[str, dict[Labels, float]]


class Metrics:
    """Reads `ledger`, `bus` and the views by `pool`; `lines` of the log were written, by level. `registry` is where other
    figures of this process are counted."""

    def __init__(
        self,
        ledger: Ledger,
        bus: Bus,
        pool: Pool,
        orphans: Orphans,
        version: str,
        sla_seconds: int,
        lines: Mapping[str, int],
    ) -> None:
        # When a counter was made says nothing of one that is older than this process.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._ledger, self._pool, self._orphans = ledger, pool, orphans
        self._bus, self._lines = bus, lines
        self._version, self._sla_seconds = version, sla_seconds
        self._bounds = [*WORKFLOW_BOUNDS]
        if sla_seconds not in self._bounds:
            insort(self._bounds, sla_seconds)
        self._turn = asyncio.Lock()
        self._read_at = -FRESH_SECONDS
        self._served = 0
        self._found: tuple[Counted, Now, int] | None = None
        self._letters: dict[Labels, float] = {}
        self._failed: Exception | None = None
        self._bodies: dict[str, bytes] = {}

    async def read(self, request: web.Request) -> web.Response:
        """The text format of Prometheus, or OpenMetrics where that is accepted. 503 while nobody can count."""
        requests.query(request)
        encoded, content_type = choose_encoder(request.headers.get("Accept", ""))
        async with self._turn:
            if monotonic() >= self._read_at + FRESH_SECONDS:
                await self._read()
            if self._failed is not None:
                raise self._failed
            if content_type not in self._bodies:
                self._bodies[content_type] = encoded(self.registry)
            body = self._bodies[content_type]
        return web.Response(body=body, headers={"Content-Type": content_type})

    routes: ClassVar[Routes] = (
        Route("GET", "/metrics", read, "read", "Figures for Prometheus.", str, media=("text/plain", OPEN_METRICS)),
    )

    async def _read(self) -> None:
        self._bodies.clear()
        self._found = self._failed = None
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                orphans = await self._orphans.count()
                async with self._pool.connection() as connection:
                    found = await counted(connection, self._bounds), await asked(connection)
            if orphans is None:
                raise LedgerUnavailable("nobody could count the orphans in time")
            self._found = *found, orphans
            self._letters = await self._dead_letters()
        except TimeoutError:
            self._failed = LedgerUnavailable(f"Postgres did not answer within {ANSWER_SECONDS:g} s")
        except Exception as failed:
            self._failed = failed
            raise
        finally:
            self._read_at = monotonic()

    async def _dead_letters(self) -> dict[Labels, float]:
        """As the stream's last sequence tells, which never falls: it outlives the letters."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await self._bus.api(f"STREAM.INFO.{self._ledger.tenant.upper()}_DEAD")
        except (ConnectionError, TimeoutError):
            return {}
        return {(): found["state"]["last_seq"]} if "state" in found else {}

    def collect(self) -> Iterator[Metric]:
        """What was found last, as the library asks for it."""
        if self._found is None:
            return
        past, now, orphans = self._found
        samples = self._of_now(now) | {"cairn_orphans": {(): float(orphans)}}
        position = past.position or 0
        if position >= self._served and now.position - position <= BEHIND_EVENTS:
            self._served = position
            samples |= self._of_past(past)
        for figure in FIGURES.values():
            if figure.name not in samples:
                continue
            found = {(value,): 0.0 for value in figure.values} | samples[figure.name]
            if figure.kind == "histogram":
                bounds = self._bounds if figure.name == "cairn_workflow_duration_seconds" else figure.bounds
                yield _histogram(figure, found, bounds)
            else:
                yield _family(figure, found)

    def _of_past(self, past: Counted) -> Samples:
        found: Samples = {name: {} for name in LEDGER}
        for name, figure in LEDGER.items():
            if figure.kind == "counter" and figure.labels in ((), ("role",)):
                found[name] = {(role,): 0.0 for role in past.roles} if figure.labels else {(): 0.0}
        found["cairn_findings_total"] = dict.fromkeys(product(get_args(FindingKind), SEVERITIES), 0.0)
        for row in past.rows:
            scale = FIGURES[row.name].scale if FIGURES[row.name].kind != "histogram" or row.labels[-1] == "sum" else 1
            found[row.name][row.labels] = int(row.value) * scale
        within = self._bounds.index(self._sla_seconds)
        for outcome, index, number in past.ended:
            bound = f"{self._bounds[index]:g}" if index < len(self._bounds) else "+Inf"
            found["cairn_workflow_duration_seconds"][outcome, bound] = number
            if outcome == "completed" and index <= within:
                found["cairn_workflows_within_sla_total"][()] += number
        return found

    def _of_now(self, now: Now) -> Samples:
        relay = self._ledger.relay
        return {
            "cairn_build_info": {(self._version,): 1},
            "cairn_sla_target_seconds": {(): self._sla_seconds},
            "cairn_dead_letters_total": self._letters,
            "cairn_log_lines_total": {(level,): number for level, number in self._lines.items()},
            "cairn_relay_backlog_events": {(): relay.lag} if relay else {},
            "cairn_ledger_position": {(): now.position},
            "cairn_projection_lag_events": _by({view.name: max(now.position - view.position, 0) for view in now.views}),
            "cairn_projection_halted": _by({view.name: int(view.halted) for view in now.views}),
            "cairn_workflows_open": _by(now.workflows),
            "cairn_waits": _by(now.waits),
            "cairn_queue_depth": _by(now.queue),
            "cairn_oldest_wait_seconds": _by(
                {kind: max(now.at - since / 1e6, 0) for kind, since in now.oldest.items() if since is not None}
            ),
            "cairn_asks_pending": _by(now.asks),
            "cairn_agents": {(one.role, one.status): one.number for one in now.agents},
            "cairn_agent_silent_seconds": _by(_longest((one.role, one.silent) for one in now.agents)),
            "cairn_budget_used_ratio": {(): now.budget[0]},
            "cairn_budget_workflows": {("80",): now.budget[1], ("100",): now.budget[2]},
        }


def _by(values: dict[str, int] | dict[str, float]) -> dict[Labels, float]:
    return {(name,): value for name, value in values.items()}


def _longest(silent: Iterable[tuple[str, float]]) -> dict[str, float]:
    found: dict[str, float] = {}
    for role, seconds in silent:
        found[role] = max(seconds, found.get(role, 0.0))
    return found


def _family(figure: Figure, found: dict[Labels, float]) -> Metric:
    kind = CounterMetricFamily if figure.kind == "counter" else GaugeMetricFamily
    family = kind(figure.name, figure.about, labels=figure.labels)
    for labels, value in found.items():
        family.add_metric(labels, value)
    return family


def _histogram(figure: Figure, found: dict[Labels, float], bounds: Sequence[float]) -> Metric:
    """Rows count one bucket each: Prometheus has each bucket hold those before it."""
    family = HistogramMetricFamily(figure.name, figure.about, labels=figure.labels)
    for labels in dict.fromkeys(key[:-1] for key in found):
        numbers = [found.get((*labels, f"{bound:g}"), 0.0) for bound in bounds]
        numbers.append(found.get((*labels, "+Inf"), 0.0))
        buckets = zip([*map(floatToGoString, bounds), "+Inf"], accumulate(numbers), strict=True)
        family.add_metric(labels, list(buckets), found.get((*labels, "sum"), 0.0))
    return family
