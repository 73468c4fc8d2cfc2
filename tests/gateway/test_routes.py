"""The table of routes: it holds all that is served, and nothing is served without a scope."""

from collections.abc import AsyncIterator
from typing import get_args

import pytest
from aiohttp import web
from served import Served, asking, served

from gateway import http, routes
from gateway.acts import Acts

OPEN = {"/livez", "/readyz", "/version", "/openapi.json", "/asyncapi.json", "/docs"}
"""What anybody may ask for: it tells nothing of anybody's work."""


@pytest.fixture
async def system(postgres_url: str, nats_url: str, tenant: str) -> AsyncIterator[Served]:
    async with served(postgres_url, nats_url, tenant) as system:
        yield system


async def test_every_registered_route_is_in_the_table_and_has_a_scope(system: Served) -> None:
    app = system.application(slots=system.slots())
    registered = {(route.method, route.resource.canonical) for route in app.router.routes() if route.resource}
    table = {(route.method, route.template): route for route in http.ROUTES}
    heads = {("HEAD", route.template) for route in http.ROUTES if route.method == "GET" and not route.endless}
    assert registered == table.keys() | heads
    assert app[routes.TABLE].keys() == table.keys()
    for route in http.ROUTES:
        assert route.scope in get_args(routes.Scope), route
        assert route.summary.endswith("."), route
        assert (route.scope == "open") == (route.path in OPEN), route
        assert route.method == "GET" or route.scope != "read" or route.path.endswith("/validate"), route
        for struct in (route.query, route.body):
            assert struct is None or struct.__struct_config__.forbid_unknown_fields, struct


def test_a_route_is_there_once() -> None:
    app = web.Application()
    with pytest.raises(ValueError, match="pause is there twice"):
        routes.serve(app, Acts(None), Acts(None))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("query", "parameter", "detail"),
    [
        ("limit=0", "limit", "a whole number from 1 to 1000, not '0'"),
        ("limit=", "limit", "a whole number from 1 to 1000, not ''"),
        ("limit=1.5", "limit", "a whole number from 1 to 1000, not '1.5'"),
        ("limit=null", "limit", "a whole number from 1 to 1000, not 'null'"),
        ("state=odd", "state", "one of answered, any, expired, open, voided, not 'odd'"),
        ("workflow=No", "workflow", "the id of a workflow, not 'No'"),
        ("lmit=1", "lmit", "unknown parameter, known are: at_least, limit, after, state, workflow"),
        ("limit=1&limit=2", "limit", "given more than once"),
    ],
)
async def test_a_bad_parameter_is_named_with_what_it_has_to_be(
    system: Served, query: str, parameter: str, detail: str
) -> None:
    async with asking(system.url) as session, session.get(f"/api/v1/asks?{query}") as response:
        problem = await response.json(content_type=None)
    assert (response.status, problem["code"], problem["detail"]) == (
        422, "invalid_parameter", f"{parameter}: {detail}",
    )  # fmt: skip
    assert problem["errors"] == [{"detail": detail, "parameter": parameter}]


async def test_a_flag_is_set_by_its_name_alone(system: Served) -> None:
    async with asking(system.url) as session:
        for query, verbose in [("verbose", True), ("verbose=1", True), ("verbose=true", True), ("verbose=0", False)]:
            async with session.get(f"/readyz?{query}") as response:
                assert ("checks" in await response.json()) == verbose
        async with session.get("/readyz?verbose=yes") as response:
            assert (await response.json(content_type=None))["detail"] == "verbose: 1 or 0, not 'yes'"
