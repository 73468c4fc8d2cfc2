"""Views that are sums by day: which are asked for, and a page of them as JSON or as CSV."""

import csv
import io
from collections.abc import Sequence
from datetime import date
from typing import Annotated, Any

import msgspec
from aiohttp import web
from msgspec import Meta, Struct, field
from msgspec.structs import asdict

from gateway import requests
from gateway.pages import AtLeast, Limit, link
from gateway.routes import JSON, json

CSV = "text/csv"
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
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    for number, row in enumerate(rows):
        cells = asdict(row)
        if not number:
            writer.writerow(cells)
        writer.writerow(map(_cell, cells.values()))
    return web.Response(text=text.getvalue(), content_type=CSV, headers=headers)


def _cell(value: Any) -> Any:
    """Nothing as nothing, objects as JSON; a text that a spreadsheet would run is quoted."""
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode()
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "@", "-") else value
