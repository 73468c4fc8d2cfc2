"""How good the work was, over HTTP."""

from typing import Annotated, ClassVar

from aiohttp import web
from msgspec import Meta, Struct

from gateway import requests
from gateway.pages import reading
from gateway.routes import API, Route, Routes
from gateway.sums import MEDIA, Days, page
from projections.project import Projection
from projections.quality import Standard, place, quality

By = Annotated[
    str,
    Meta(
        pattern=r"^((workflow|role|day)(,(workflow|role|day))*)?\Z",
        description="what to add up by: any of workflow, role, day, commas between them",
    ),
]


class Which(Days, frozen=True, forbid_unknown_fields=True):
    by: By = "role"


class QualityPage(Struct, frozen=True):
    """In the order of day, workflow, role. `next` is what the next page comes `after`; null on the last."""

    quality: list[Standard]
    next: str | None


class Qualities:
    def __init__(self, view: Projection) -> None:
        self._view = view

    async def read(self, request: web.Request) -> web.Response:
        query = requests.query(request, Which)
        async with reading(self._view, query.at_least) as connection:
            found = await quality(connection, query.by.split(","), **query.asked())  # type: ignore[arg-type]
        rows = found[: query.limit]
        return page(request, rows, place(rows[-1]) if len(found) > len(rows) else None, QualityPage)

    routes: ClassVar[Routes] = (
        Route(
            "GET", f"{API}/quality", read, "read", "How good the work was: pass rates, findings, coverage, retries.",
            QualityPage, query=Which, media=MEDIA,
        ),
    )  # fmt: skip
