"""The HTTP API: its routes, and what each of them does.

A command is answered after it is recorded, with the `position` that shows it: `at_least=<position>` makes a reader wait
for the view to be there. The same Idempotency-Key gets the same answer for as long as the ledger exists. Everything
that goes wrong is a problem document (`gateway/problems.py`).
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from urllib.parse import urlencode

import msgspec
from aiohttp import web
from msgspec.structs import asdict

from domain.claims import Limits
from domain.commands import Answer, RaiseBudget, StartWorkflow, WorkflowCommand
from domain.errors import NotFound
from domain.events import AskAnswered, BudgetRaised, WorkflowStarted
from domain.usage import Prices
from domain.validate import parse
from domain.validate import problems as problems_of
from gateway import queue, requests, stream
from gateway.access import access
from gateway.acts import Acts
from gateway.agents import Agents
from gateway.health import Orphans, checks
from gateway.metrics import Metrics
from gateway.problems import AGAIN_SECONDS, Unacceptable, places, problems
from gateway.start import Starts
from handlers.execute import Executor, Order, trace_of
from handlers.slots import Slots
from ledger.ledger import Ledger
from ledger.ports import Bus
from ledger.postgres import Pool
from ledger.recorded import Recorded
from projections.board import BoardDetail, BoardWorkflow, asks, workflow, workflows
from projections.project import Projection
from projections.used import used

API = "/api/v1"
SMALL_BYTES = 65_536
VIEW_SECONDS = 5.0
"""How long a reader waits for the view to reach a position."""
ASK_STATES = "open|answered|expired|voided|any"
STATUSES = "queued|running|paused|waiting|completed|failed|cancelled|timed_out"


def application(
    *,
    executor: Executor,
    ledger: Ledger,
    board: Projection,
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
    """The gateway of one tenant. `board` is projected elsewhere, `pool` is one of `ledger.postgres.pool` with `views`.

    `lease_seconds` is what agents of new workflows are given; `slots` say what is limited, None that nothing is, and at
    most `max_queued` workflows wait for their place; `hosts` are names besides this machine's own under which
    it may be asked. ValueError without a token.
    """
    app = web.Application(middlewares=[problems, access(token, hosts)], client_max_size=requests.BODY_BYTES)
    commands = _Commands(executor, ledger, lease_seconds, prices, slots, max_queued)
    views = _Views(ledger, board, pool)
    events = _Events(stream.Events(ledger))
    system = _System(ledger, bus, board, pool, version)
    app.add_routes(
        [
            web.post(f"{API}/workflows", commands.start),
            web.post(f"{API}/plans/validate", commands.validate),
            *Acts(commands.execute, commands.accepted).routes(f"{API}/workflows/{{workflow}}"),
            web.post(f"{API}/workflows/{{workflow}}/asks/{{ask}}/answer", commands.answer),
            web.post(f"{API}/workflows/{{workflow}}/budget", commands.raise_budget),
            *queue.routes(API, slots),
            web.get(f"{API}/workflows", views.page),
            web.get(f"{API}/workflows/{{workflow}}", views.detail),
            web.get(f"{API}/asks", views.asks),
            web.get(f"{API}/agents", agents.page),
            web.post(f"{API}/agents/{{agent}}/admit", agents.admit),
            web.post(f"{API}/agents/{{agent}}/drain", agents.drain),
            web.get(f"{API}/events", events.read, allow_head=False),
            web.get("/livez", system.live),
            web.get("/readyz", system.ready),
            web.get("/version", system.about),
            web.get("/metrics", Metrics(pool, version).read),
        ]
    )
    app.on_response_prepare.append(_protect)
    app.on_shutdown.append(events.close)
    return app


class _Commands:
    def __init__(
        self,
        executor: Executor,
        ledger: Ledger,
        lease_seconds: float,
        prices: Prices | None,
        slots: Slots | None,
        max_queued: int,
    ) -> None:
        self._executor, self._ledger, self._lease_seconds = executor, ledger, lease_seconds
        self._prices, self._limits = prices, slots.limits if slots else Limits()
        self._starts = Starts(executor, ledger, slots, max_queued)

    async def validate(self, request: web.Request) -> web.Response:
        """The body is the plan itself. 200 whatever is found: `{valid, errors: [{pointer, detail, hint}]}`."""
        requests.parameters(request)
        raw = await requests.raw_body(request)
        found = await asyncio.to_thread(problems_of, raw)
        return _json({"valid": not found, "errors": places(found)})

    async def start(self, request: web.Request) -> web.Response:
        requests.parameters(request)
        asked = await requests.body(request, requests.Submission)
        raw = bytes(asked.plan)
        # A plan of 16 MB takes seconds to judge: others are served meanwhile. For a small one a thread costs more.
        plan = parse(raw) if len(raw) < SMALL_BYTES else await asyncio.to_thread(parse, raw)
        command_id, actor = requests.command_id(request), requests.actor(request)
        trace = trace_of(request.headers.get("traceparent"))

        def order(name: str) -> Order:
            command = StartWorkflow(
                now=time.time(), workflow=name, plan=plan, repository=asked.repository, base=asked.base,
                lease_seconds=self._lease_seconds, prices=self._prices,
                queued=self._limits.max_workflows is not None, limited_roles=tuple(self._limits.role_slots),
            )  # fmt: skip
            return Order(command_id, command, actor, trace)

        recorded = await self._starts.start(command_id, asked.id, plan.id, order)
        match recorded[0].event:
            case WorkflowStarted(workflow=name, repository=asked.repository, base=asked.base) as started if (
                started.plan == plan and asked.id in (None, name)
            ):
                return _json({"workflow": name, "position": recorded[-1].position}, 201)
        raise requests.key_reused()

    async def raise_budget(self, request: web.Request) -> web.Response:
        requests.parameters(request)
        asked = await requests.body(request, requests.Raise)
        by = requests.actor(request)
        command = RaiseBudget(now=time.time(), scope=asked.scope, amount=asked.amount, by=by, because=asked.because)
        name, recorded = await self.execute(request, command)
        match recorded[0].event:
            case BudgetRaised(scope=asked.scope, amount=asked.amount) if recorded[0].stream == f"workflow-{name}":
                return await self.accepted(name, recorded)
        raise requests.key_reused()

    async def answer(self, request: web.Request) -> web.Response:
        requests.parameters(request)
        asked, ask = await requests.body(request, requests.Decision), request.match_info["ask"]
        command = Answer(
            now=time.time(), ask=ask, shown=asked.shown, choice=asked.choice, by=requests.actor(request),
            because=asked.because, instructions=asked.instructions, role=asked.role, edit=asked.edit,
        )  # fmt: skip
        name, recorded = await self.execute(request, command)
        match recorded[0].event:
            case AskAnswered(task=task) as said if recorded[0].stream == f"workflow-{name}" and said == AskAnswered(
                ask=ask, task=task, choice=asked.choice, by=command.by, because=asked.because,
                instructions=asked.instructions, role=asked.role, edit=asked.edit, at=said.at,
            ):  # fmt: skip
                return await self.accepted(name, recorded)
        raise requests.key_reused()

    async def execute(self, request: web.Request, command: WorkflowCommand) -> tuple[str, list[Recorded]]:
        name = requests.workflow_of(request)
        order = Order(
            requests.command_id(request), command, requests.actor(request), trace_of(request.headers.get("traceparent"))
        )
        return name, await self._executor.submit(name, order)

    async def accepted(self, name: str, recorded: Sequence[Recorded]) -> web.Response:
        """What is so already has no event of its own; a view at the ledger's end shows it."""
        position = recorded[-1].position if recorded else (await self._ledger.head()).position
        return _json({"workflow": name, "position": position})


class _Views:
    def __init__(self, ledger: Ledger, board: Projection, pool: Pool) -> None:
        self._ledger, self._board, self._pool = ledger, board, pool

    async def page(self, request: web.Request) -> web.Response:
        """The newest first; `after` is the `next` of the page before."""
        query = requests.parameters(request, "limit", "after", "status", "at_least")
        limit = requests.number(query, "limit", 50, requests.PAGE_ITEMS, least=1)
        before = requests.number(query, "after", requests.LARGEST_NUMBER)
        status = requests.matching(query, "status", STATUSES, f"one of {STATUSES.replace('|', ', ')}")
        await self._reached(requests.number(query, "at_least", 0))
        found: list[BoardWorkflow] = []
        async with self._pool.connection() as connection:
            while len(found) <= limit:
                chunk = await workflows(connection, requests.PAGE_ITEMS if status else limit + 1, before)
                found += [row for row in chunk if status in (None, row.status) or (status == "paused" and row.paused)]
                if not chunk or not status:
                    break
                before = chunk[-1].first
        following = found[limit - 1].first if len(found) > limit else None
        headers = _link(f"{API}/workflows", query, following)
        return _json({"workflows": [asdict(row) for row in found[:limit]], "next": following}, headers=headers)

    async def asks(self, request: web.Request) -> web.Response:
        """In the order they were opened, those that are open if no state is given; `after` as for workflows."""
        query = requests.parameters(request, "limit", "after", "state", "workflow", "at_least")
        limit = requests.number(query, "limit", 50, requests.PAGE_ITEMS, least=1)
        after = requests.number(query, "after", 0)
        words = f"one of {ASK_STATES.replace('|', ', ')}"
        state = requests.matching(query, "state", ASK_STATES, words) or "open"
        name = requests.matching(query, "workflow", r"[a-z0-9][a-z0-9_-]{0,62}", "the id of a workflow")
        await self._reached(requests.number(query, "at_least", 0))
        async with self._pool.connection() as connection:
            found = await asks(connection, state=state, workflow=name, limit=limit + 1, after=after)
        following = found[limit - 1].opened if len(found) > limit else None
        headers = _link(f"{API}/asks", query, following)
        return _json({"asks": [asdict(row) for row in found[:limit]], "next": following}, headers=headers)

    async def detail(self, request: web.Request) -> web.Response:
        query = requests.parameters(request, "at_least")
        name = requests.workflow_of(request)
        await self._reached(requests.number(query, "at_least", 0))
        if (detail := await self._find(name)) is None:
            # Most likely it is being started: whoever was told so has to find it.
            await self._reached((await self._ledger.head()).position)
            detail = await self._find(name)
        if detail is None:
            raise NotFound(f"there is no workflow {name}")
        rows = {  # with every field, default or not
            "tasks": [asdict(row) for row in detail.tasks],
            "attempts": [asdict(row) | {"usage": row.usage and asdict(row.usage)} for row in detail.attempts],
            "asks": [asdict(row) for row in detail.asks],
            "usage": used(detail),
        }
        return _json({"workflow": asdict(detail.workflow), **rows})

    async def _find(self, name: str) -> BoardDetail | None:
        async with self._pool.connection() as connection:
            return await workflow(connection, name)

    async def _reached(self, position: int) -> None:
        try:
            await self._board.reached(position, VIEW_SECONDS)
        except TimeoutError:
            behind = f"the board is at position {self._board.position}, not yet at {position}"
            again = {"Retry-After": str(AGAIN_SECONDS)}
            raise Unacceptable(503, "view_behind", f"{behind}: ask again", headers=again) from None


class _Events:
    def __init__(self, events: stream.Events) -> None:
        self._events = events

    async def close(self, _: web.Application) -> None:
        self._events.close()

    async def read(self, request: web.Request) -> web.StreamResponse:
        """NDJSON, a page or `follow`ing; server-sent events, which always follow, if they are what is accepted."""
        query = requests.parameters(request, "after", "limit", "workflow", "type", "follow")
        content_type = _accepted_type(request)
        limit = requests.number(query, "limit", requests.PAGE_ITEMS, requests.PAGE_ITEMS, least=1)
        wanted = stream.Wanted(
            requests.number(query, "after", 0),
            requests.matching(query, "workflow", r"[a-z0-9][a-z0-9_-]{0,62}", "the id of a workflow"),
            requests.matching(query, "type", r"[a-z_.*]{1,64}", "a type of event or a pattern as task.*"),
        )
        if content_type == stream.SSE:
            seen = requests.number(request.headers, "Last-Event-ID", wanted.after)
            return await self._events.follow(request, wanted._replace(after=seen), content_type)
        if requests.flag(query, "follow"):
            return await self._events.follow(request, wanted, content_type)
        found, following = await self._events.page(wanted, limit)
        lines = [self._events.encode(recorded) + b"\n" for recorded in found]
        headers = {"Content-Type": content_type, **_link(request.path, query, following)}
        return web.Response(body=b"".join(lines), headers=headers)


class _System:
    def __init__(self, ledger: Ledger, bus: Bus, board: Projection, pool: Pool, version: str) -> None:
        self._ledger, self._bus, self._board, self._version = ledger, bus, board, version
        self._orphans = Orphans(pool)

    async def live(self, _: web.Request) -> web.Response:
        return _json({"live": True})

    async def ready(self, request: web.Request) -> web.Response:
        """200 if work can be done, else 503; `?verbose` says what of it cannot. `orphans` is null if nobody can tell."""
        query = requests.parameters(request, "verbose")
        found, orphans = await asyncio.gather(checks(self._ledger, self._bus, self._board), self._orphans.count())
        ready = all(check.ok for check in found.values())
        verbose = {"checks": found} if requests.flag(query, "verbose") else {}
        return _json({"ready": ready, "orphans": orphans, **verbose}, 200 if ready else 503)

    async def about(self, _: web.Request) -> web.Response:
        return _json({"name": "cairn", "version": self._version, "tenant": self._ledger.tenant, "api": ["v1"]})


def _json(body: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    encoded = msgspec.json.encode(body)
    return web.Response(body=encoded, status=status, content_type="application/json", headers=headers)


def _link(path: str, query: object, following: int | None) -> dict[str, str]:
    if following is None:
        return {}
    return {"Link": f'<{path}?{urlencode({**dict(query), "after": following})}>; rel="next"'}  # type: ignore[call-overload]


def _accepted_type(request: web.Request) -> str:
    accepted = [one.partition(";")[0].strip().lower() for one in request.headers.get("Accept", "*/*").split(",")]
    for one in accepted:
        if one in (stream.NDJSON, stream.SSE):
            return one
    if "*/*" in accepted or "application/*" in accepted:
        return stream.NDJSON
    raise Unacceptable(406, "not_acceptable", f"events come as {stream.NDJSON} or {stream.SSE}")


async def _protect(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["X-Content-Type-Options"] = "nosniff"
