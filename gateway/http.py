"""The HTTP API, put together: each resource is a file of its own beside this one.

A command is answered after it is recorded, with the `position` that shows it: `at_least=<position>` makes a reader wait
for the view to be there. The same Idempotency-Key gets the same answer for as long as the ledger exists. Everything
that goes wrong is a problem document (`gateway/problems.py`).
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType

from aiohttp import web

from domain.usage import Prices
from gateway import requests
from gateway.access import access
from gateway.acts import Acts
from gateway.agents import Agents
from gateway.asks import Asks
from gateway.budget import Budgets
from gateway.commands import Commands
from gateway.docs import Docs
from gateway.events import Events
from gateway.health import Health, Orphans
from gateway.metrics import Metrics
from gateway.plans import Plans
from gateway.problems import problems
from gateway.quality import Qualities
from gateway.queue import Line
from gateway.routes import Resource, Route, serve
from gateway.search import Searches
from gateway.spend import Spends
from gateway.stream import CLIENTS
from gateway.timeline import Timelines
from gateway.traffic import Traffic
from gateway.trail import leave, trail
from gateway.workflows import Workflows
from handlers.execute import Executor
from handlers.slots import Slots
from ledger.ledger import Ledger
from ledger.ports import Bus
from ledger.postgres import Pool
from projections.project import Projection

RESOURCES: tuple[type[Resource], ...] = (
    Workflows, Timelines, Plans, Acts, Budgets, Asks, Line, Agents, Spends, Qualities, Events, Searches, Health, Metrics,
    Docs,
)  # fmt: skip
ROUTES: tuple[Route, ...] = tuple(route for resource in RESOURCES for route in resource.routes)
"""All there are, as they are described to others."""


def application(
    *,
    executor: Executor,
    ledger: Ledger,
    views: Mapping[str, Projection],
    pool: Pool,
    bus: Bus,
    agents: Agents,
    token: str,
    version: str,
    lease_seconds: float = 30.0,
    prices: Prices | None = None,
    slots: Slots | None = None,
    max_queued: int = 1_000,
    sla_seconds: int = 120,
    max_streams: int = CLIENTS,
    hosts: Collection[str] = (),
    faults: Mapping[str, str] = MappingProxyType({}),
    log_lines: Mapping[str, int] = MappingProxyType({}),
) -> web.Application:
    """The gateway of one tenant. `views`, by their names, are projected elsewhere; `pool` is one of
    `ledger.postgres.pool` with `views`.

    `lease_seconds` is what agents of new workflows are given; `slots` say what is limited, None that nothing is, at most
    `max_queued` workflows wait for their place, and at most `max_streams` clients follow the events; in `sla_seconds`
    workflows are to complete; `hosts` are names besides this machine's own under which it may be asked; `faults` says
    at any time which parts of the system failed lately, and why, `log_lines` how many the log has by level. ValueError
    without a token.
    """
    orphans = Orphans(pool)
    metrics = Metrics(ledger, bus, pool, orphans, version, sla_seconds, log_lines)
    app = web.Application(middlewares=[trail, problems, access(token, hosts)], client_max_size=requests.BODY_BYTES)
    Traffic(metrics.registry).watch(app)
    board, commands, events = views["board"], Commands(executor, ledger), Events(ledger, pool, max_streams)
    serve(
        app,
        Workflows(executor, ledger, board, lease_seconds, prices, slots, max_queued),
        Timelines(ledger, views["timeline"]),
        Plans(),
        Acts(commands),
        Budgets(commands),
        Asks(commands, board),
        *([Line(slots)] if slots else []),
        agents,
        Spends(views["spend"]),
        Qualities(views["quality"]),
        events,
        Searches(views["search"]),
        Health(ledger, bus, tuple(views.values()), orphans, version, faults),
        metrics,
        Docs(ROUTES),
    )
    app.on_response_prepare.append(_protect)
    app.on_response_prepare.append(leave)
    app.on_shutdown.append(events.close)
    return app


async def _protect(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
