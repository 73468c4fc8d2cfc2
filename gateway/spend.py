"""What was spent, over HTTP."""

from typing import Annotated, ClassVar

from aiohttp import web
from msgspec import Meta, Struct

from gateway import requests
from gateway.pages import reading
from gateway.routes import API, Route, Routes
from gateway.sums import MEDIA, Days, Text, page
from projections.project import Projection
from projections.spend import Spend, place, spend

By = Annotated[
    str,
    Meta(
        pattern=r"^((workflow|role|model|day)(,(workflow|role|model|day))*)?\Z",
        description="what to add up by: any of workflow, role, model, day, commas between them",
    ),
]


class Which(Days, frozen=True, forbid_unknown_fields=True):
    by: By = "workflow"
    model: Text | None = None


class SpendPage(Struct, frozen=True):
    """In the order of day, workflow, role, model. `next` is what the next page comes `after`; null on the last."""

    spend: list[Spend]
    next: str | None


class Spends:
    def __init__(self, view: Projection) -> None:
        self._view = view

    async def read(self, request: web.Request) -> web.Response:
        query = requests.query(request, Which)
        async with reading(self._view, query.at_least) as connection:
            found = await spend(connection, query.by.split(","), **query.asked(), model=query.model)  # type: ignore[arg-type]
        rows = found[: query.limit]
        return page(request, rows, place(rows[-1]) if len(found) > len(rows) else None, SpendPage)

    routes: ClassVar[Routes] = (
        Route(
            "GET", f"{API}/spend", read, "read", "What was spent: tokens, money, time, and what accepted tasks cost.",
            SpendPage, query=Which, media=MEDIA,
        ),
    )  # fmt: skip
