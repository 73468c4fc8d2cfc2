"""The events: a page of them, one with its causes, or all as they happen."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from domain.errors import NotFound
from gateway import requests
from gateway.causes import causes_of
from gateway.event_pages import END, EventPages
from gateway.pages import Limit, Position, link
from gateway.problems import Unacceptable
from gateway.routes import API, JSON, NDJSON, SSE, Route, Routes
from gateway.sheets import CSV, sheet
from gateway.stream import CLIENTS, Stream
from ledger.announce import CloudEvent
from ledger.filters import Filter
from ledger.ledger import Ledger
from ledger.postgres import Pool
from ledger.recorded import Recorded

PAGES = (JSON, NDJSON, CSV)
STREAMS = (SSE, NDJSON)
COLUMNS = ("sequence", "time", "type", "subject", "actor", "data", "id", "correlationid", "causationid", "digest")


class Found(Filter, frozen=True, forbid_unknown_fields=True):
    after: Annotated[Position, Meta(description="goes on after this: the `next` of the page before")] | None = None
    limit: Limit = 100
    order: Literal["asc", "desc"] = "asc"


class Followed(Filter, frozen=True, forbid_unknown_fields=True):
    after: Annotated[Position, Meta(description="begins after this position; Last-Event-ID goes before")] = 0


class FoundEvents(Struct, frozen=True):
    """`next` is what the next page comes `after`; null on the last."""

    events: list[CloudEvent]
    next: int | None


class Explained(Struct, frozen=True):
    """`causes` are the event's own cause, the cause of that, and so on, as far as the ledger tells."""

    event: CloudEvent
    causes: list[CloudEvent]


class Events:
    """At most `most` follow at once. Call `close` to end that."""

    def __init__(self, ledger: Ledger, pool: Pool, most: int = CLIENTS) -> None:
        self._ledger = ledger
        self._pages = EventPages(ledger, pool)
        self.stream = Stream(ledger, self._pages, most)

    async def close(self, _: web.Application) -> None:
        self.stream.close()

    async def page(self, request: web.Request) -> web.Response:
        """JSON, NDJSON or CSV, as is accepted."""
        query, media = requests.query(request, Found), _accepted(request, PAGES)
        if query.order == "asc":
            found = await self._pages.forward(query, query.after or 0, query.limit)
        else:
            found = await self._pages.backward(query, END if query.after is None else query.after, query.limit)
        headers = {"Content-Type": media, "Vary": "Accept", **link(request, found.next)}
        return web.Response(body=self._written(found.events, found.next, media), headers=headers)

    async def one(self, request: web.Request) -> web.Response:
        requests.query(request)
        given = request.match_info["position"]
        position = int(given) if given.isascii() and given.isdigit() and len(given) < 20 else 0
        if not 0 < position <= (await self._ledger.head()).position:
            raise NotFound(f"there is no event {given[:40]!a}")
        (event,) = await self._ledger.pick([position])
        causes = [self.stream.encode(one) for one in await causes_of(self._ledger, self._pages, event)]
        body = b'{"event":%b,"causes":[%b]}' % (self.stream.encode(event), b",".join(causes))
        return web.Response(body=body, content_type=JSON)

    async def follow(self, request: web.Request) -> web.StreamResponse:
        query, media = requests.query(request, Followed), _accepted(request, STREAMS)
        after = requests.position(request, "Last-Event-ID", query.after)
        wanted = Filter(**{name: getattr(query, name) for name in Filter.__struct_fields__})
        return await self.stream.follow(request, wanted, after, media)

    def _written(self, found: Sequence[Recorded], following: int | None, media: str) -> bytes:
        events = [self.stream.encode(one) for one in found]
        if media == NDJSON:
            return b"".join(event + b"\n" for event in events)
        if media == JSON:
            return b'{"events":[%b],"next":%b}' % (b",".join(events), msgspec.json.encode(following))
        return sheet(COLUMNS, ([row.get(name) for name in COLUMNS] for row in map(_decode, events)))

    routes: ClassVar[Routes] = (
        Route("GET", f"{API}/events", page, "read", "What has happened.", FoundEvents, query=Found, media=PAGES),
        Route(
            "GET", f"{API}/events/stream", follow, "read", "What happens, as it happens.", CloudEvent,
            query=Followed, media=STREAMS, headers=("Last-Event-ID",),
        ),
        Route("GET", f"{API}/events/{{position}}", one, "read", "One event, and what led to it.", Explained),
    )  # fmt: skip


_decode = msgspec.json.Decoder(dict[str, Any]).decode


def _accepted(request: web.Request, media: Sequence[str]) -> str:
    """The first that is accepted of these forms; their own first, if anything is."""
    for one in request.headers.get("Accept", "*/*").split(","):
        kind = one.partition(";")[0].strip().lower()
        if kind in media:
            return kind
        if kind == "*/*" or kind in {f"{form.partition('/')[0]}/*" for form in media}:
            return next(form for form in media if kind == "*/*" or form.startswith(kind[:-1]))
    raise Unacceptable(406, "not_acceptable", f"events come as {', '.join(media[:-1])} or {media[-1]}")
