"""Spend and quality over HTTP: the sums of what was done, as JSON and as CSV, page by page."""

import csv
import io
import time
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from served import Served
from test_http import WORKFLOWS, get, post, session, system

from domain.commands import ReportCompleted
from domain.outcome import Finding, Result
from domain.usage import Spent
from handlers.execute import Order

__all__ = ["session", "system"]

SPEND, QUALITY = (WORKFLOWS.replace("workflows", name) for name in ("spend", "quality"))
PLAN: dict[str, Any] = {
    "id": "costs",
    "tasks": [{"id": "a", "agent_role": "coder"}, {"id": "b", "agent_role": "writer", "dependencies": ["a"]}],
}


async def done(system: Served, task: str, token: int, spent: Spent | None, *findings: Finding) -> None:
    said = ReportCompleted(
        now=time.time(), task=task, run=f"{task}/1", token=token, agent="ann", spent=spent,
        result=Result("done", findings=findings),
    )  # fmt: skip
    await system.executor.execute("costs", Order(uuid4(), said, "ann"))


@pytest.fixture
async def at_least(system: Served, session: aiohttp.ClientSession) -> int:
    """Of a workflow whose cost is known of one task and not of the other."""
    await post(session, WORKFLOWS, {"plan": PLAN})
    spent = Spent(model="=m", input_total=100, cache_read=40, output=10, cost_usd=0.5)
    await done(system, "a", 1, spent, Finding("security", "low", "x"), Finding("lint", "low", "y"))
    await done(system, "b", 2, None)
    return await system.head()


async def test_the_sums_are_told_and_what_is_unknown_is_no_part_of_them(
    session: aiohttp.ClientSession, at_least: int
) -> None:
    _, answer = await get(session, SPEND, by="workflow,role,model", at_least=at_least)
    coder, writer = answer["spend"]
    assert answer["next"] is None and (coder["role"], coder["model"], coder["day"]) == ("coder", "=m", None)
    assert (coder["input_total"], coder["cache_read"], coder["output"], coder["cost_reported_usd"]) == (
        100,
        40,
        10,
        0.5,
    )
    assert (writer["model"], writer["cost_unknown"], writer["tokens_unknown"], writer["accepted"]) == (None, 1, 1, None)
    _, answer = await get(session, SPEND, workflow="costs")
    [whole] = answer["spend"]
    assert (whole["attempts"], whole["accepted"], whole["accepted_cost_usd"]) == (2, 2, 0.5)
    assert (whole["accepted_cost_unknown"], whole["cost_per_accepted_usd"]) == (1, None)
    _, answer = await get(session, SPEND, role="coder")
    assert answer["spend"][0]["cost_per_accepted_usd"] == 0.5
    for nothing in ({"to": "2020-01-01"}, {"from": "2120-01-01"}, {"workflow": "another"}, {"model": "another"}):
        assert (await get(session, SPEND, **nothing))[1] == {"spend": [], "next": None}
    _, answer = await get(session, QUALITY, by="role,day", at_least=at_least)
    coder, writer = answer["quality"]
    assert (coder["accepted"], coder["first_pass_rate"], coder["pass_rate"], coder["coverage_last"]) == (
        1,
        1,
        None,
        None,
    )
    assert coder["findings"] == {"security": {"low": 1}, "lint": {"low": 1}} and writer["findings"] == {}


async def test_a_page_leads_to_the_next(session: aiohttp.ClientSession, at_least: int) -> None:
    _, first = await get(session, SPEND, by="day,role,model", limit="1", at_least=at_least)
    _, last = await get(session, SPEND, by="day,role,model", limit="1", after=first["next"])
    assert [row["role"] for page in (first, last) for row in page["spend"]] == ["coder", "writer"]
    assert first["next"].endswith("||coder|=m") and last["next"] is None
    async with session.get(QUALITY, params={"limit": "1", "at_least": str(at_least)}) as response:
        assert response.links["next"]["url"].query["after"] == "||coder"


async def test_a_spreadsheet_gets_csv_and_runs_nothing_of_it(session: aiohttp.ClientSession, at_least: int) -> None:
    asked = {"by": "role,model", "at_least": str(at_least)}
    async with session.get(SPEND, params=asked, headers={"Accept": "text/csv"}) as response:
        assert response.content_type == "text/csv"
        coder, writer = csv.DictReader(io.StringIO(await response.text()))
    assert (coder["role"], coder["model"], coder["cost_reported_usd"]) == ("coder", "'=m", "0.5")
    assert (writer["model"], writer["cost_per_accepted_usd"]) == ("", "")
    async with session.get(
        QUALITY, params=asked | {"by": "role", "role": "coder"}, headers={"Accept": "text/csv"}
    ) as response:
        [row] = csv.DictReader(io.StringIO(await response.text()))
    assert '"security":{"low":1}' in row["findings"]


@pytest.mark.parametrize(
    ("path", "query", "parameter", "detail"),
    [
        (SPEND, "by=agent", "by", "any of workflow, role, model, day"),
        (QUALITY, "by=model", "by", "any of workflow, role, day"),
        (QUALITY, "model=m", "model", "unknown parameter"),
        (SPEND, "from=yesterday", "from", "as 2026-11-22, not 'yesterday'"),
        (SPEND, "to=2026-02-30", "to", "as 2026-11-22"),
        (SPEND, "workflow=No", "workflow", "the id of a workflow"),
        (SPEND, "model=a%00b", "model", "no NUL"),
        (SPEND, "after=%00", "after", "the `next` of the page before"),
    ],
)
async def test_a_bad_parameter_is_named(
    session: aiohttp.ClientSession, path: str, query: str, parameter: str, detail: str
) -> None:
    async with session.get(f"{path}?{query}") as response:
        assert response.status == 422
        [error] = (await response.json())["errors"]
    assert error["parameter"] == parameter and detail in error["detail"]
