"""The events: a page of them, or all as they happen."""

from typing import Annotated, ClassVar

from aiohttp import web
from msgspec import Meta, Struct

from gateway import requests
from gateway.pages import Limit, Position, link
from gateway.problems import Unacceptable
from gateway.routes import API, NDJSON, SSE, Route, Routes
from gateway.stream import Stream, Wanted
from ledger.announce import CloudEvent
from ledger.ledger import Ledger

Pattern = Annotated[str, Meta(pattern=r"^[a-z_.*]{1,64}\Z", description="a type of event or a pattern as task.*")]


class Which(Struct, frozen=True, forbid_unknown_fields=True):
    after: Annotated[Position, Meta(description="goes on after this position")] = 0
    limit: Limit = requests.PAGE_ITEMS
    workflow: requests.Workflow | None = None
    type: Pattern | None = None
    follow: Annotated[bool, Meta(description="goes on with what happens, as server-sent events always do")] = False


class Events:
    """Call `close` to end the streams."""

    def __init__(self, ledger: Ledger) -> None:
        self._stream = Stream(ledger)

    async def close(self, _: web.Application) -> None:
        self._stream.close()

    async def read(self, request: web.Request) -> web.StreamResponse:
        """NDJSON, a page or `follow`ing; server-sent events, which always follow, if they are what is accepted."""
        query = requests.query(request, Which)
        content_type = _accepted_type(request)
        wanted = Wanted(query.after, query.workflow, query.type)
        seen = requests.position(request, "Last-Event-ID", wanted.after)
        if content_type == SSE:
            return await self._stream.follow(request, wanted._replace(after=seen), content_type)
        if query.follow:
            return await self._stream.follow(request, wanted, content_type)
        found, following = await self._stream.page(wanted, query.limit)
        lines = [self._stream.encode(recorded) + b"\n" for recorded in found]
        return web.Response(body=b"".join(lines), headers={"Content-Type": content_type, **link(request, following)})

    routes: ClassVar[Routes] = (
        Route(
            "GET", f"{API}/events", read, "read", "What has happened, in order, and what happens.", CloudEvent,
            query=Which, media=(NDJSON, SSE), headers=("Last-Event-ID",),
        ),
    )  # fmt: skip


def _accepted_type(request: web.Request) -> str:
    accepted = [one.partition(";")[0].strip().lower() for one in request.headers.get("Accept", "*/*").split(",")]
    for one in accepted:
        if one in (NDJSON, SSE):
            return one
    if "*/*" in accepted or "application/*" in accepted:
        return NDJSON
    raise Unacceptable(406, "not_acceptable", f"events come as {NDJSON} or {SSE}")
