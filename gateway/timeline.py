"""The timeline of one workflow: what a Gantt chart of it is drawn from."""

from typing import Annotated, ClassVar

from aiohttp import web
from msgspec import Meta, Struct

from domain.errors import NotFound
from gateway import requests
from gateway.pages import Page, Position, link, reading
from gateway.routes import API, Route, Routes, json
from ledger.ledger import Ledger
from projections.project import Projection
from projections.timeline import Chart, Lane, TimelinePage, timeline


class Which(Page, frozen=True, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=requests.PAGE_ITEMS, description="how many tasks at most")] = 500
    after: Annotated[
        Position, Meta(description="goes on after the task of this number: the `next` of the page before")
    ] = 0


class Timeline(Struct, frozen=True):
    """Tasks in the order in which they were created. `next` is what the next page comes `after`; null on the last."""

    workflow: Chart
    tasks: list[Lane]
    next: int | None


class Timelines:
    """`view` is that of the name `timeline`."""

    def __init__(self, ledger: Ledger, view: Projection) -> None:
        self._ledger, self._view = ledger, view

    async def read(self, request: web.Request) -> web.Response:
        query, name = requests.query(request, Which), requests.workflow_of(request)
        if (found := await self._find(name, query, query.at_least)) is None:
            # Most likely it is being started: whoever was told so has to find it.
            found = await self._find(name, query, (await self._ledger.head()).position)
        if found is None:
            raise NotFound(f"there is no workflow {name}")
        tasks = found.tasks[: query.limit]
        following = tasks[-1].number if len(found.tasks) > query.limit else None
        return json(Timeline(found.workflow, tasks, following), headers=link(request, following))

    async def _find(self, name: str, query: Which, at_least: int) -> TimelinePage | None:
        async with reading(self._view, at_least) as connection:
            return await timeline(connection, name, limit=query.limit + 1, after=query.after)

    routes: ClassVar[Routes] = (
        Route(
            "GET", f"{API}/workflows/{{workflow}}/timeline", read, "read",
            "What its tasks waited on from when to when, their attempts and asks, and its pauses.",
            Timeline, query=Which,
        ),
    )  # fmt: skip
