"""A view, page by page: which page is asked for, how new it has to be, and where the next one is."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated
from urllib.parse import urlencode

from aiohttp import web
from msgspec import Meta, Struct

from gateway.problems import AGAIN_SECONDS, Unacceptable
from gateway.requests import LARGEST_NUMBER, PAGE_ITEMS
from ledger.postgres import Connection
from projections.project import Projection

VIEW_SECONDS = 5.0
"""How long a reader waits for the view to reach a position."""

Position = Annotated[int, Meta(ge=0, le=LARGEST_NUMBER)]
Limit = Annotated[int, Meta(ge=1, le=PAGE_ITEMS, description="how many at most")]


class AtLeast(Struct, frozen=True, forbid_unknown_fields=True):
    at_least: Annotated[Position, Meta(description="waits until the view holds what was recorded at this position")] = 0


class Page(AtLeast, frozen=True, forbid_unknown_fields=True):
    limit: Limit = 50
    after: Annotated[Position, Meta(description="goes on after this: the `next` of the page before")] = 0


def link(request: web.Request, following: int | str | None) -> dict[str, str]:
    """The header that leads to the page `after` this one, with all else that was asked; none at the end."""
    if following is None:
        return {}
    return {"Link": f'<{request.path}?{urlencode({**request.query, "after": following})}>; rel="next"'}


@asynccontextmanager
async def reading(view: Projection, position: int) -> AsyncIterator[Connection]:
    """A connection that sees the view at `position` or beyond; Unacceptable (503) if that takes too long."""
    async with AsyncExitStack() as stack:
        try:
            connection = await stack.enter_async_context(view.reading(position, VIEW_SECONDS))
        except TimeoutError:
            behind = f"the {view.view.name} is at position {view.position}, not yet at {position}"
            again = {"Retry-After": str(AGAIN_SECONDS)}
            raise Unacceptable(503, "view_behind", f"{behind}: ask again", headers=again) from None
        yield connection
