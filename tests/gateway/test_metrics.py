"""What Prometheus is told, and that it changes with what is so."""

from typing import Any

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
from prometheus_client.parser import text_string_to_metric_families as plain_text
from served import PLAN, asking, served

OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


async def scraped(session: aiohttp.ClientSession, accept: str, parse: Any) -> dict[tuple[str, ...], float]:
    """The samples by name and values of their labels."""
    async with session.get("/metrics", headers={"Accept": accept}) as response:
        assert (response.status, response.content_type) == (200, accept.partition(";")[0])
        families = parse(await response.text())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


@pytest.mark.parametrize(("accept", "parse"), [("text/plain", plain_text), (OPEN_METRICS, open_metrics)])
async def test_tasks_are_counted_by_what_they_wait_on_and_orphans_are_seen(
    postgres_url: str, nats_url: str, tenant: str, accept: str, parse: Any
) -> None:
    async with served(postgres_url, nats_url, tenant) as system, asking(system.url) as session:
        async with session.post("/api/v1/workflows", json={"plan": PLAN}) as started:
            position = (await started.json())["position"]
        for view in (system.board, system.recovery):
            await view.reached(position)
        waits = {("cairn_waits", kind): 0.0 for kind in ("lease", "timer", "ask")}
        waits |= {("cairn_waits", "slot"): 1.0, ("cairn_waits", "dependency"): 1.0}
        build = {("cairn_build_info", "0.0.test"): 1.0}
        assert await scraped(session, accept, parse) == {**waits, **build, ("cairn_orphans",): 0.0}

        async with system.pool.connection() as connection:
            await connection.execute("DELETE FROM waits WHERE kind = 'slot'")
        found = await scraped(session, accept, parse)
        assert (found["cairn_orphans",], found["cairn_waits", "slot"]) == (1.0, 0.0)
        async with session.get("/readyz") as response:
            assert (response.status, await response.json()) == (200, {"ready": True, "orphans": 1, "halted": []})


async def test_nobody_can_tell_while_the_views_are_being_made(postgres_url: str, nats_url: str, tenant: str) -> None:
    async with served(postgres_url, nats_url, tenant) as system, asking(system.url) as session:
        async with system.pool.connection() as connection:
            await connection.execute("DROP TABLE waits")
        async with session.get("/readyz") as response:
            assert (await response.json())["orphans"] is None
        async with session.get("/metrics") as response:
            assert (response.status, (await response.json(content_type=None))["code"]) == (503, "view_behind")
