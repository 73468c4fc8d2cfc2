"""Who may ask, and what the probes say."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from served import PLAN, TOKEN, Line, Served, asking, served

from domain.events import ReportRefused
from gateway.access import access
from ledger import writer
from ledger.append import Append, NewEvent
from ledger.codec import event_id
from projections.standing import Halted

VIEWS = ("board", "recovery", "spend", "quality")


@pytest.fixture
async def system(postgres_url: str, nats_url: str, tenant: str) -> AsyncIterator[Served]:
    async with served(postgres_url, nats_url, tenant) as system:
        yield system


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def code_of(url: str, path: str = "/api/v1/workflows", **headers: str) -> tuple[int, str | None]:
    async with aiohttp.ClientSession(url) as session, session.get(path, headers=headers) as response:
        body = await response.json(content_type=None)
        return response.status, body.get("code")


def test_there_is_no_gateway_without_a_token() -> None:
    with pytest.raises(ValueError, match="token"):
        access("")


async def test_nothing_is_told_without_the_token(system: Served) -> None:
    for headers in ({}, bearer("wrong"), bearer(""), bearer(TOKEN + "x"), {"Authorization": TOKEN},
                    {"Authorization": f"Basic {TOKEN}"}, {"Authorization": "Bearer \u00fc"}):  # fmt: skip
        for path in ("/api/v1/workflows", "/api/v1/events", "/metrics", "/no/such/path"):
            assert await code_of(system.url, path, **headers) == (401, "unauthorized"), headers
    assert (await code_of(system.url, **bearer()))[0] == 200
    assert (await code_of(system.url, Authorization=f"bearer  {TOKEN}"))[0] == 200


async def test_a_name_that_was_made_to_lead_here_is_refused(system: Served) -> None:
    port = urlsplit(system.url).port
    for host in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "localhost@evil.example",
                 "127.0.0.1.evil.example", "10.0.0.1", "localhost:http", "[::1", ""):  # fmt: skip
        assert await code_of(system.url, Host=host, **bearer()) == (403, "host_not_allowed"), host
    for host in ("localhost", f"LOCALHOST:{port}", f"127.0.0.1:{port}", "[::1]:80", "127.8.8.8"):
        assert (await code_of(system.url, Host=host, **bearer()))[0] == 200, host


async def test_a_page_of_another_site_is_refused(system: Served) -> None:
    netloc = urlsplit(system.url).netloc
    for origin in ("http://evil.example", "null", f"http://{netloc}.evil.example", "http://127.0.0.1:1", "http://["):
        assert await code_of(system.url, Origin=origin, **bearer()) == (403, "origin_not_allowed"), origin
    assert (await code_of(system.url, Origin=system.url, **bearer()))[0] == 200


async def test_what_is_not_there_is_a_problem_too(system: Served) -> None:
    async with asking(system.url) as session:
        for method, path, status, code in [("GET", "/api/v1/none", 404, "not_found"),
                                           ("DELETE", "/api/v1/workflows", 405, "method_not_allowed"),
                                           ("HEAD", "/api/v1/events", 405, None)]:  # fmt: skip
            async with session.request(method, path) as response:
                assert response.status == status
                assert response.content_type == "application/problem+json"
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                if code:
                    assert (await response.json(content_type=None))["code"] == code


async def test_probes_need_no_token_and_say_how_it_stands(system: Served) -> None:
    async with aiohttp.ClientSession(system.url) as session:
        async with session.get("/livez") as response:
            assert response.status == 200
        async with session.get("/version") as response:
            found = await response.json()
            assert (found["name"], found["version"]) == ("cairn", "0.0.test")
        async with session.get("/readyz") as response:
            assert (response.status, await response.json()) == (200, {"ready": True, "orphans": 0, "halted": []})
        async with session.get("/readyz?verbose") as response:
            found = await response.json()
            assert (found["ready"], set(found["checks"])) == (True, {"postgres", "nats", "relay", *VIEWS})
            assert found["checks"]["board"]["behind"] == 0


async def test_readiness_ends_with_postgres_and_with_nats(
    postgres_url: str, nats_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", 1.0)
    parameters = {key: str(value) for key, value in conninfo_to_dict(postgres_url).items() if value}
    bus = urlsplit(nats_url)
    to_postgres, to_nats = Line(lambda: _postgres(parameters)), Line(lambda: _tcp(bus.hostname, bus.port))
    async with to_postgres.listening() as postgres_port, to_nats.listening() as nats_port:
        dsn = make_conninfo(**parameters | {"host": "127.0.0.1", "port": postgres_port})
        secret = f"{bus.username}:{bus.password}@" if bus.username else ""
        by_line = f"nats://{secret}127.0.0.1:{nats_port}"
        async with served(dsn, by_line, tenant, admin_url=postgres_url) as system, asking(system.url) as session:
            assert await _failing(session) == (200, set())
            to_nats.cut()
            assert (await _failing(session)) == (503, {"nats"})
            async with session.post("/api/v1/workflows", json={"plan": PLAN}) as response:
                assert response.status == 201  # recorded; the bus hears of it later
            to_postgres.cut()
            status, failing = await _failing(session)
            assert (status, failing) == (503, {"postgres", "nats", "relay", *VIEWS})
            async with (
                session.get("/api/v1/workflows") as read,
                session.post("/api/v1/workflows", json={"plan": PLAN, "id": "x"}) as written,
            ):
                for response in (read, written):
                    assert (response.status, response.headers["Retry-After"]) == (503, "1")
                    assert (await response.json(content_type=None))["code"] == "ledger_unavailable"
            async with session.get("/livez") as response:
                assert response.status == 200


async def _failing(session: aiohttp.ClientSession) -> tuple[int, set[str]]:
    async with session.get("/readyz?verbose") as response:
        found = await response.json()
        assert found["ready"] == (response.status == 200)
        return response.status, {name for name, check in found["checks"].items() if not check["ok"]}


async def _postgres(parameters: dict[str, str]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = parameters["host"], parameters.get("port", "5432")
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
    return await _tcp(host, int(port))


async def _tcp(host: str | None, port: int | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(host, port)


async def test_a_view_that_is_halted_is_named_and_not_read_beyond_while_all_else_goes_on(system: Served) -> None:
    refused = ReportRefused(task="t", run="t/1", token=1, agent="ann", kind="started", why="")
    async with asking(system.url) as session:
        async with session.post("/api/v1/workflows", json={"plan": PLAN}) as response:
            before = (await response.json())["position"]
        await system.ledger.append(Append("workflow-ghost", 0, [NewEvent(refused, event_id(uuid4(), 0), "tests")]))
        async with session.post("/api/v1/workflows", json={"plan": PLAN}) as response:
            position = (await response.json())["position"]
        await system.recovery.reached(position)
        for at_least, expected in ((position, (503, "view_halted")), (before, (200, None))):
            async with session.get("/api/v1/workflows", params={"at_least": at_least}) as response:
                found = await response.json(content_type=None)
                assert (response.status, found.get("code")) == expected
        async with session.get("/readyz?verbose") as response:
            found = await response.json()
            assert (response.status, found["halted"]) == (200, ["board"])
            check = found["checks"]["board"]
            assert (check["ok"], check["halted"], check["needed"]) == (False, before + 1, False)
            assert check["detail"] == (
                "halted: LookupError: workflow ghost was never started (a report.refused of workflow-ghost)"
            )
            assert found["checks"]["recovery"] == {"ok": True, "detail": f"at position {position}", "behind": 0}
        async with system.pool.connection() as connection:
            await connection.execute("DROP TABLE waits")
        async with session.post("/api/v1/workflows", json={"plan": PLAN}) as response:
            position = (await response.json())["position"]
        with pytest.raises(Halted, match=r"recovery halted .*UndefinedTable"):
            await system.recovery.reached(position)
        async with session.get("/readyz") as response:
            assert (response.status, (await response.json())["halted"]) == (503, ["board", "recovery"])
