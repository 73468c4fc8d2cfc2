"""The HTTP API, put together: each resource is a file of its own beside this one.

A command is answered after it is recorded, with the `position` that shows it: `at_least=<position>` makes a reader wait
for the view to be there. The same Idempotency-Key gets the same answer for as long as the ledger exists. Everything
that goes wrong is a problem document (`gateway/problems.py`).
"""

from collections.abc import Collection, Sequence

from aiohttp import web

from domain.usage import Prices
from gateway import requests
from gateway.access import access
from gateway.acts import Acts
from gateway.agents import Agents
from gateway.asks import Asks
from gateway.budget import Budgets
from gateway.commands import Commands
from gateway.events import Events
from gateway.health import Health
from gateway.metrics import Metrics
from gateway.plans import Plans
from gateway.problems import problems
from gateway.quality import Qualities
from gateway.queue import Line
from gateway.routes import Resource, Route, serve
from gateway.spend import Spends
from gateway.workflows import Workflows
from handlers.execute import Executor
from handlers.slots import Slots
from ledger.ledger import Ledger
from ledger.ports import Bus
from ledger.postgres import Pool
from projections.project import Projection

RESOURCES: tuple[type[Resource], ...] = (
    Workflows, Plans, Acts, Budgets, Asks, Line, Agents, Spends, Qualities, Events, Health, Metrics,
)  # fmt: skip
ROUTES: tuple[Route, ...] = tuple(route for resource in RESOURCES for route in resource.routes)
"""All there are, as they are described to others."""


def application(
    *,
    executor: Executor,
    ledger: Ledger,
    board: Projection,
    views: Sequence[Projection] = (),
    pool: Pool,
    bus: Bus,
    agents: Agents,
    token: str,
    version: str,
    lease_seconds: float = 30.0,
    prices: Prices | None = None,
    slots: Slots | None = None,
    max_queued: int = 1_000,
    hosts: Collection[str] = (),
) -> web.Application:
    """The gateway of one tenant. `board` is projected elsewhere, `pool` is one of `ledger.postgres.pool` with `views`;
    `views` are all that are projected: readiness tells of them, and there are routes of those that have any.

    `lease_seconds` is what agents of new workflows are given; `slots` say what is limited, None that nothing is, and at
    most `max_queued` workflows wait for their place; `hosts` are names besides this machine's own under which
    it may be asked. ValueError without a token.
    """
    app = web.Application(middlewares=[problems, access(token, hosts)], client_max_size=requests.BODY_BYTES)
    commands, events = Commands(executor, ledger), Events(ledger)
    of = {view.view.name: view for view in views}
    serve(
        app,
        Workflows(executor, ledger, board, lease_seconds, prices, slots, max_queued),
        Plans(),
        Acts(commands),
        Budgets(commands),
        Asks(commands, board),
        *([Line(slots)] if slots else []),
        agents,
        *([Spends(of["spend"])] if "spend" in of else []),
        *([Qualities(of["quality"])] if "quality" in of else []),
        events,
        Health(ledger, bus, views or (board,), pool, version),
        Metrics(pool, version),
    )
    app.on_response_prepare.append(_protect)
    app.on_shutdown.append(events.close)
    return app


async def _protect(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
