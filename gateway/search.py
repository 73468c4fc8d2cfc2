"""Full text over workflows, tasks, asks and agents."""

from typing import Annotated, ClassVar

from aiohttp import web
from msgspec import Meta, Struct

from gateway import requests
from gateway.pages import AtLeast, link, reading
from gateway.problems import BadPlace, Unacceptable
from gateway.routes import API, Route, Routes, json
from projections.project import Projection
from projections.search import CURSOR_PATTERN, FIRST, BadQuery, Cursor, Hit, parse, search
from projections.search_query import LONGEST_QUERY

MOST_HITS = 100


class Which(AtLeast, frozen=True, forbid_unknown_fields=True, kw_only=True):
    q: Annotated[
        str,
        Meta(
            max_length=LONGEST_QUERY,
            examples=["rsi"],
            description='words, a "phrase", a prefix*, field:value (workflow, task, role, agent, status, type, failure), and '
            f"-before what must not be there; at most {LONGEST_QUERY} characters",
        ),
    ]
    limit: Annotated[int, Meta(ge=1, le=MOST_HITS, description="how many at most")] = 20
    after: (
        Annotated[
            str, Meta(pattern=rf"^{CURSOR_PATTERN}\Z", description="goes on after this: the `next` of the page before")
        ]
        | None
    ) = None


class Hits(Struct, frozen=True):
    """The best of the newest that match. `next` is what the next page comes `after`; null on the last. A page may have
    fewer than were asked for, and yet not be the last."""

    hits: list[Hit]
    next: str | None


class Searches:
    """`view` is that of the name `search`."""

    def __init__(self, view: Projection) -> None:
        self._view = view

    async def find(self, request: web.Request) -> web.Response:
        asked = requests.query(request, Which)
        try:
            query = parse(asked.q)
        except BadQuery as error:
            raise _bad("q", str(error)) from None
        try:
            after = Cursor.read(asked.after) if asked.after else FIRST
        except ValueError as error:
            raise _bad("after", str(error)) from None
        async with reading(self._view, asked.at_least) as connection:
            hits, following = await search(connection, query, limit=asked.limit, after=after)
        last = str(following) if following else None
        return json(Hits(hits, last), headers=link(request, last))

    routes: ClassVar[Routes] = (
        Route("GET", f"{API}/search", find, "read", "What was said, planned, asked, or went wrong.", Hits, query=Which),
    )


def _bad(parameter: str, detail: str) -> Unacceptable:
    return Unacceptable(422, "invalid_parameter", f"{parameter}: {detail}", [BadPlace(detail, parameter=parameter)])
