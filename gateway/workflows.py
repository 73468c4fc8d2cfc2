"""Workflows: started with a plan, listed, and one of them whole."""

import asyncio
import time
from typing import Annotated, ClassVar, Literal

from aiohttp import web
from msgspec import Meta, Raw, Struct
from structlog.contextvars import bind_contextvars

from domain.claims import Limits
from domain.commands import StartWorkflow
from domain.errors import NotFound
from domain.events import WorkflowStarted
from domain.usage import Prices
from domain.validate import parse
from gateway import requests
from gateway.commands import Accepted
from gateway.pages import AtLeast, Limit, Page, Position, link, reading
from gateway.routes import API, COMMAND, Route, Routes, json
from gateway.start import Starts
from handlers.execute import Executor, Order, trace_of
from handlers.slots import Slots
from ledger.ledger import Ledger
from projections.board import BoardDetail, WorkflowRow, workflow, workflows
from projections.project import Projection
from projections.task_page import TaskPage, task_page
from projections.used import Used, used

SMALL_BYTES = 65_536
Status = Literal["queued", "running", "paused", "waiting", "completed", "failed", "cancelled", "timed_out"]


class Submission(Struct, forbid_unknown_fields=True):
    """`plan` is read by `domain.validate`; `base` is a full commit id of `repository`, which agents can reach."""

    plan: Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/Plan"})]
    id: requests.Id | None = None
    repository: Annotated[str, Meta(min_length=1, max_length=4_096, pattern=r"^[^\x00-\x1f\x7f]+\Z")] | None = None
    base: Annotated[str, Meta(pattern=r"^([0-9a-f]{40}|[0-9a-f]{64})\Z")] | None = None

    def __post_init__(self) -> None:
        if self.base and not self.repository:
            raise ValueError("`base` is a commit of `repository`, which is missing")


class Which(Page, frozen=True, forbid_unknown_fields=True):
    after: Annotated[Position, Meta(description="goes on after this: the `next` of the page before")] = (
        requests.LARGEST_NUMBER
    )
    status: Status | None = None


class WhichTasks(AtLeast, frozen=True, forbid_unknown_fields=True):
    after: (
        Annotated[requests.Words, Meta(description="the task that the page before ended with: its `next`")] | None
    ) = None
    limit: Limit = 50


class WorkflowPage(Struct, frozen=True):
    """The newest first. `next` is what the next page comes `after`; null on the last."""

    workflows: list[WorkflowRow]
    next: int | None


class Detail(BoardDetail):
    """One workflow whole: tasks in the plan's order, each followed by its branches; attempts and asks by age; and what
    its attempts have used."""

    usage: Used


class Workflows:
    """`prices` are those of new workflows, `lease_seconds` what their agents are given."""

    def __init__(
        self,
        executor: Executor,
        ledger: Ledger,
        board: Projection,
        lease_seconds: float,
        prices: Prices | None,
        slots: Slots | None,
        max_queued: int,
    ) -> None:
        self._ledger, self._board = ledger, board
        self._lease_seconds, self._prices = lease_seconds, prices
        self._limits = slots.limits if slots else Limits()
        self._starts = Starts(executor, ledger, slots, max_queued)

    async def start(self, request: web.Request) -> web.Response:
        requests.query(request)
        asked = await requests.body(request, Submission)
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
                bind_contextvars(workflow=name, correlation_id=name, position=recorded[-1].position)
                return json(Accepted(name, recorded[-1].position), 201)
        raise requests.key_reused()

    async def page(self, request: web.Request) -> web.Response:
        query = requests.query(request, Which)
        limit, before, status = query.limit, query.after, query.status
        found: list[WorkflowRow] = []
        async with reading(self._board, query.at_least) as connection:
            while len(found) <= limit:
                chunk = await workflows(connection, requests.PAGE_ITEMS if status else limit + 1, before)
                found += [row for row in chunk if status in (None, row.status) or (status == "paused" and row.paused)]
                if not chunk or not status:
                    break
                before = chunk[-1].first
        following = found[limit - 1].first if len(found) > limit else None
        return json(WorkflowPage(found[:limit], following), headers=link(request, following))

    async def detail(self, request: web.Request) -> web.Response:
        query, name = requests.query(request, AtLeast), requests.workflow_of(request)
        if (found := await self._find(name, query.at_least)) is None:
            # Most likely it is being started: whoever was told so has to find it.
            found = await self._find(name, (await self._ledger.head()).position)
        if found is None:
            raise NotFound(f"there is no workflow {name}")
        return json(Detail(found.workflow, found.tasks, found.attempts, found.asks, used(found)))

    async def tasks(self, request: web.Request) -> web.Response:
        query, name = requests.query(request, WhichTasks), requests.workflow_of(request)
        async with reading(self._board, query.at_least) as connection:
            found = await task_page(connection, name, query.after, query.limit)
        if found is None:
            raise NotFound(f"there is no workflow {name}" + (f" with a task {query.after}" if query.after else ""))
        return json(found, headers=link(request, found.next))

    async def _find(self, name: str, at_least: int) -> BoardDetail | None:
        async with reading(self._board, at_least) as connection:
            return await workflow(connection, name)

    routes: ClassVar[Routes] = (
        Route(
            "POST", f"{API}/workflows", start, "operate",
            "Starts a plan: as `id`, or under its own id, with a number behind it if that is taken.",
            Accepted, body=Submission, status=201, headers=COMMAND,
        ),
        Route("GET", f"{API}/workflows", page, "read", "The workflows.", WorkflowPage, query=Which),
        Route(
            "GET", f"{API}/workflows/{{workflow}}/tasks", tasks, "read", "The tasks of a workflow, page by page.",
            TaskPage, query=WhichTasks,
        ),
        Route("GET", f"{API}/workflows/{{workflow}}", detail, "read", "One workflow whole.", Detail, query=AtLeast),
    )  # fmt: skip
