"""Views that are sums by day: which are asked for, and a page of them as JSON or as CSV."""

from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any

from aiohttp import web
from msgspec import Meta, Struct, field
from msgspec.structs import astuple

from gateway import requests
from gateway.pages import AtLeast, Limit, link
from gateway.routes import JSON, json
from gateway.sheets import CSV, sheet

MEDIA = (JSON, CSV)
Day = Annotated[date, Meta(description="a day of the calendar (UTC), as 2026-11-22")]
Text = Annotated[str, Meta(max_length=200, pattern=r"^[^\x00]*\Z", description="at most 200 characters, no NUL")]


class Days(AtLeast, frozen=True, forbid_unknown_fields=True):
    """Days from and to which sums go, both counted."""

    limit: Limit = requests.PAGE_ITEMS
    after: Annotated[Text, Meta(description="goes on after this: the `next` of the page before")] = ""
    since: Day | None = field(default=None, name="from")
    until: Day | None = field(default=None, name="to")
    workflow: requests.Workflow | None = None
    role: Text | None = None

    def asked(self) -> dict[str, Any]:
        """As the functions of these views want it; one row more, which tells whether there is a next page."""
        return {
            "since": self.since, "until": self.until, "workflow": self.workflow, "role": self.role,
            "limit": self.limit + 1, "after": self.after.split("|") if self.after else [],
        }  # fmt: skip


def page(request: web.Request, rows: Sequence[Struct], more: Sequence[str] | None, kind: type[Struct]) -> web.Response:
    """`more` is the place of the last of these rows if others come after it; `kind` the JSON answer, of rows and next."""
    following = None if more is None else "|".join(more)
    headers = link(request, following)
    if CSV not in request.headers.get("Accept", ""):
        return json(kind(rows, following), headers=headers)
    body = sheet(rows[0].__struct_fields__, map(astuple, rows)) if rows else b""
    return web.Response(body=body, content_type=CSV, charset="utf-8", headers=headers)
