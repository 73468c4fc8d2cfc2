"""What Prometheus is told, and that it changes with what is so."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text
from served import ASKING, PLAN, Served, asking, served

from gateway import health, metrics
from gateway.connection import Runner
from projections.board import Board
from projections.figures import FIGURES, LEDGER
from projections.metrics import Metrics
from projections.project import Projection

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
WAIT_SECONDS = 30.0
Samples = dict[tuple[str, ...], float]


async def scraped(
    session: aiohttp.ClientSession, accept: str = "text/plain", parse: Any = plain_text
) -> dict[tuple[str, ...], float]:
    """The samples by name and values of their labels."""
    async with session.get("/metrics", headers={"Accept": accept}) as response:
        assert (response.status, response.content_type) == (200, accept.partition(";")[0])
        families = parse(await response.text())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


async def told(session: aiohttp.ClientSession, wanted: Samples) -> Samples:
    """All that is told as soon as these are; each scrape may be as old as a moment, and the view behind."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not wanted.items() <= (found := await scraped(session)).items():
            await asyncio.sleep(0.1)
    return found


async def submit(session: aiohttp.ClientSession, plan: dict[str, Any]) -> dict[str, Any]:
    async with session.post("/api/v1/workflows", json={"plan": plan, "id": f"w-{uuid4().hex[:8]}"}) as started:
        answer: dict[str, Any] = await started.json()
        return answer


@pytest.mark.parametrize(("accept", "parse"), [("text/plain", plain_text), (OPEN_METRICS, open_metrics)])
async def test_tasks_are_counted_by_what_they_wait_on_and_orphans_are_seen(
    postgres_url: str, nats_url: str, tenant: str, accept: str, parse: Any
) -> None:
    async with served(postgres_url, nats_url, tenant) as system, asking(system.url) as session:
        position = (await submit(session, PLAN))["position"]
        for view in (system.board, system.views["recovery"]):
            await view.reached(position)
        found = await scraped(session, accept, parse)
        waits = {key[1]: value for key, value in found.items() if key[0] == "cairn_waits"}
        assert waits == {"lease": 0.0, "timer": 0.0, "ask": 0.0, "slot": 1.0, "dependency": 1.0}
        assert (found["cairn_build_info", "0.0.test"], found["cairn_orphans",]) == (1.0, 0.0)
        assert found["cairn_queue_depth", "coder"] == 1.0
        async with system.pool.connection() as connection:
            await connection.execute("DELETE FROM waits WHERE kind = 'slot'")
        await told(session, {("cairn_orphans",): 1.0, ("cairn_waits", "slot"): 0.0})
        async with session.get("/readyz") as response:
            assert (response.status, await response.json()) == (200, {"ready": True, "orphans": 1, "halted": []})


async def test_nobody_can_tell_while_the_views_are_being_made(postgres_url: str, nats_url: str, tenant: str) -> None:
    async with served(postgres_url, nats_url, tenant) as system, asking(system.url) as session:
        async with system.pool.connection() as connection:
            await connection.execute("DROP TABLE waits")
        async with session.get("/readyz") as response:
            assert (await response.json())["orphans"] is None
        for _ in range(2):
            async with session.get("/metrics") as response:
                assert (response.status, (await response.json(content_type=None))["code"]) == (503, "view_behind")


async def test_everything_that_is_told_is_declared_and_the_other_way_round(
    postgres_url: str, nats_url: str, tenant: str
) -> None:
    async with served(postgres_url, nats_url, tenant) as system, asking(system.url) as session:
        await system.finish((await submit(session, PLAN))["workflow"])
        asked_for = (await submit(session, ASKING))["position"]
        done = {("cairn_workflows_total", "completed"): 1.0, ("cairn_asks_pending", "before_dispatch"): 1.0}
        await told(session, done | {("cairn_ledger_position",): asked_for})
        for accept, parse in (("text/plain", plain_text), (OPEN_METRICS, open_metrics)):
            async with session.get("/metrics", headers={"Accept": accept}) as response:
                families = {family.name: family for family in parse(await response.text())}
            kinds = {figure.name.removesuffix("_total"): figure for figure in FIGURES.values()}
            assert families.keys() == kinds.keys()
            for name, family in families.items():
                assert (family.type, family.documentation) == (kinds[name].kind, kinds[name].about)
                for sample in family.samples:
                    assert sample.labels.keys() - {"le"} == set(kinds[name].labels)


async def test_the_target_is_a_bucket_and_what_met_it_is_counted_for_the_whole_past(
    postgres_url: str, nats_url: str, tenant: str
) -> None:
    async with served(postgres_url, nats_url, tenant) as system, asking(system.url) as session:
        for _ in range(2):
            await system.finish((await submit(session, PLAN))["workflow"])
        found = await told(session, {("cairn_workflows_within_sla_total",): 2.0})
        assert found["cairn_workflow_duration_seconds_bucket", "120.0", "completed"] == 2.0
        async with system.pool.connection() as connection:
            await connection.execute("INSERT INTO metrics_ended VALUES ('completed', 77, 3), ('failed', 5, 1)")
        for target, within in ((76, 2.0), (77, 5.0)):
            async with another(system, sla_seconds=target) as url, asking(url) as other:
                found = await scraped(other)
                assert found["cairn_sla_target_seconds",] == target
                assert found["cairn_workflow_duration_seconds_bucket", f"{target}.0", "completed"] == within
                assert found["cairn_workflow_duration_seconds_bucket", "+Inf", "completed"] == 5.0
                assert found["cairn_workflow_duration_seconds_count", "completed"] == 5.0
                assert found["cairn_workflows_within_sla_total",] == within


@asynccontextmanager
async def another(system: Served, **settings: Any) -> AsyncIterator[str]:
    runner = Runner(system.application(**settings), shutdown_timeout=5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_requests_are_counted_by_the_pattern_of_their_route(
    postgres_url: str, nats_url: str, tenant: str
) -> None:
    async with served(postgres_url, nats_url, tenant) as system, asking(system.url) as session:
        for path in ("/api/v1/workflows/evil-1", "/api/v1/workflows/evil-2", "/evil/3", "/readyz?evil=4"):
            async with session.get(path) as response:
                assert response.status >= 400
        async with session.request("PROPFIND", "/readyz") as response:
            assert response.status == 405
        async with session.get("/readyz", headers={"Authorization": "none"}) as response:
            assert response.status == 200
        async with session.get("/metrics", headers={"Authorization": "none"}) as response:
            assert response.status == 401
        async with session.get("/metrics") as response:
            text = await response.text()
        assert "evil" not in text.lower()
        found = {(one.name, *one.labels.values()): one.value for family in plain_text(text) for one in family.samples}
        counted = {key[1:]: value for key, value in found.items() if key[0] == "cairn_http_requests_total"}
        assert counted == {
            ("GET", "/api/v1/workflows/{workflow}", "404"): 2.0, ("GET", "unmatched", "404"): 1.0,
            ("GET", "/readyz", "422"): 1.0, ("other", "unmatched", "405"): 1.0, ("GET", "/readyz", "200"): 1.0,
            ("GET", "/metrics", "401"): 1.0,
        }  # fmt: skip
        assert found["cairn_http_request_duration_seconds_count", "/api/v1/workflows/{workflow}"] == 2.0


async def test_whoever_follows_is_counted_while_they_do(postgres_url: str, nats_url: str, tenant: str) -> None:
    async with served(postgres_url, nats_url, tenant) as system, asking(system.url) as session:
        for accept in ("text/event-stream", "application/x-ndjson"):
            async with session.get("/api/v1/events/stream", headers={"Accept": accept}) as following:
                assert following.status == 200
                await told(session, {("cairn_stream_clients",): 1.0})
            await told(session, {("cairn_stream_clients",): 0.0})
        found = await told(session, {("cairn_http_requests_total", "GET", "/api/v1/events/stream", "200"): 2.0})
        assert ("cairn_http_request_duration_seconds_count", "/api/v1/events/stream") not in found


async def test_a_view_that_lets_events_gather_is_no_reason_to_send_work_elsewhere(
    postgres_url: str, nats_url: str, tenant: str
) -> None:
    async with served(postgres_url, nats_url, tenant) as system:
        behind = {view.name: health._view(20_000, Projection(system.pool, view)) for view in (Board(), Metrics())}
        assert not behind["board"].ok and not behind["metrics"].ok
        assert behind["board"].needed and not behind["metrics"].needed


async def test_any_number_of_scrapers_cost_what_one_does(postgres_url: str, nats_url: str, tenant: str) -> None:
    async with served(postgres_url, nats_url, tenant) as system, asking(system.url) as session:
        await scraped(session)
        lent = system.pool.get_stats()["requests_num"]
        await asyncio.gather(*(scraped(session) for _ in range(200)))
        reads = system.pool.get_stats()["requests_num"] - lent
        assert reads < 100, "every scrape asked Postgres"


async def test_a_counter_is_left_out_while_its_view_is_made_anew(
    postgres_url: str, nats_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "FRESH_SECONDS", 0.0)
    async with served(postgres_url, nats_url, tenant) as system, asking(system.url) as session:
        await system.finish((await submit(session, PLAN))["workflow"])
        whole = await told(session, {("cairn_workflows_total", "completed"): 1.0})
        past = {key for key in whole if any(key[0].startswith(name) for name in LEDGER)}
        async with system.pool.connection() as connection, connection.transaction():
            position = -1
            while position:
                await Projection(system.pool, Metrics()).rebuild()
                held = await connection.execute("SELECT position FROM projections WHERE name = 'metrics' FOR UPDATE")
                [position] = await held.fetchone() or [0]
            meanwhile = await scraped(session)
        assert not past & meanwhile.keys()
        assert meanwhile["cairn_ledger_position",] == whole["cairn_ledger_position",]
        again = await told(session, {key: whole[key] for key in past})
        assert {key: again[key] for key in past} == {key: whole[key] for key in past}
