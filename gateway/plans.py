"""Plans that are looked at and not started."""

import asyncio
from typing import ClassVar

from aiohttp import web
from msgspec import Struct

from domain.plan import Plan
from domain.validate import problems
from gateway import requests
from gateway.problems import BadPlace, places
from gateway.routes import API, Route, Routes, json


class Judgement(Struct, frozen=True):
    """`errors` is empty for a valid plan; each has a pointer into it."""

    valid: bool
    errors: tuple[BadPlace, ...]


class Plans:
    async def validate(self, request: web.Request) -> web.Response:
        """The body is the plan itself. 200 whatever is found."""
        requests.query(request)
        raw = await requests.raw_body(request)
        found = await asyncio.to_thread(problems, raw)
        return json(Judgement(not found, places(found)))

    routes: ClassVar[Routes] = (
        Route(
            "POST", f"{API}/plans/validate", validate, "read",
            "Says everything that is wrong with a plan, and records nothing.", Judgement, body=Plan,
        ),
    )  # fmt: skip
