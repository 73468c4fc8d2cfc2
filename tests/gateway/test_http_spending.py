"""Usage and budgets over HTTP: what was used is told with what is unknown; a budget is raised once, by whom it says."""

import aiohttp
from served import Served
from test_http import WORKFLOWS, get, post, session, system

__all__ = ["session", "system"]

PLAN = {
    "id": "spends",
    "budget": {"tokens": 1_000},
    "tasks": [{"id": "a", "agent_role": "coder"}, {"id": "b", "agent_role": "coder", "dependencies": ["a"]}],
}


async def test_what_was_used_is_told_and_what_is_unknown_is_counted_apart(
    system: Served, session: aiohttp.ClientSession
) -> None:
    await post(session, WORKFLOWS, {"plan": {**PLAN, "budget": {}}})
    await system.finish("spends")
    _, detail = await get(session, f"{WORKFLOWS}/spends", at_least=await system.head())
    (usage, _) = (attempt["usage"] for attempt in detail["attempts"])
    assert usage["seconds"] >= 0 and usage["cost_source"] == "unknown"
    assert usage["input_total"] is usage["cost_usd"] is usage["model"] is None
    whole, a = detail["usage"]["workflow"], detail["usage"]["tasks"]["a"]
    assert (whole["attempts"], whole["tokens_known"], whole["cost_known"], a["attempts"]) == (2, 0, 0, 1)


async def test_a_budget_is_raised_once_and_only_where_there_is_one(
    system: Served, session: aiohttp.ClientSession
) -> None:
    await post(session, WORKFLOWS, {"plan": PLAN})
    path, more = f"{WORKFLOWS}/spends/budget", {"amount": {"tokens": 500}, "because": "it pays"}
    key = {"Idempotency-Key": "more-1", "X-Cairn-Actor": "pat"}
    first = await post(session, path, more, **key)
    assert first[0] == 200
    assert await post(session, path, more, **key) == first
    assert (await post(session, path, more | {"amount": {"tokens": 1}}, **key))[1]["code"] == "idempotency_key_reused"
    for amount in ({}, {"tokens": 0}, {"tokens": "many"}, {"wishes": 3}):
        assert (await post(session, path, {"amount": amount}))[0] == 422
    status, problem = await post(session, path, {"amount": {"usd": 1}})
    assert (status, problem["code"]) == (409, "refused") and "does not limit usd" in problem["detail"]
    status, problem = await post(session, path, {"scope": "role/nobody", "amount": {"tokens": 1}})
    assert status == 409 and "those that do: workflow" in problem["detail"]
