"""What an operator does to a workflow, over HTTP: each act with a reason, once, and a sentence when it is refused."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from served import Served, asking, served
from test_http import WORKFLOWS, get, post

PLAN = {
    "id": "demo",
    "tasks": [{"id": "a"}, {"id": "b", "dependencies": ["a"]}, {"id": "c", "dependencies": ["b"], "max_attempts": 2}],
}
DEMO = f"{WORKFLOWS}/demo"
PAT = {"X-Cairn-Actor": "pat"}
ACTS: list[tuple[str, dict[str, Any], str]] = [
    ("pause", {}, "workflow.paused"),
    ("tasks/b/prioritise", {"priority": 7}, "task.prioritised"),
    ("tasks/b/edit", {"changes": {"description": "Do it well.", "max_attempts": 2}}, "task.edited"),
    ("tasks", {"tasks": [{"id": "d"}, {"id": "e", "dependencies": ["d"]}]}, "task.added"),
    ("tasks/c/split", {"parts": [{"id": "c1"}, {"id": "c2"}], "replace": True}, "task.edited"),
    ("tasks/b/skip", {}, "task.excused"),
    ("tasks/e/cancel", {}, "task.cancelled"),
    ("resume", {}, "workflow.resumed"),
    ("cancel", {}, "workflow.cancelled"),
]


@pytest.fixture
async def system(postgres_url: str, nats_url: str, tenant: str) -> AsyncIterator[Served]:
    async with served(postgres_url, nats_url, tenant) as system:
        yield system


@pytest.fixture
async def session(system: Served) -> AsyncIterator[aiohttp.ClientSession]:
    async with asking(system.url) as session:
        yield session


async def test_each_act_is_an_event_that_says_who_and_why_and_again_it_changes_nothing(
    system: Served, session: aiohttp.ClientSession
) -> None:
    await post(session, WORKFLOWS, {"plan": PLAN})
    for path, body, kind in ACTS:
        before = await system.head()
        key = {"Idempotency-Key": f"once {path}", **PAT}
        first = await post(session, f"{DEMO}/{path}", {**body, "reason": f"because {path}"}, **key)
        assert first == (200, {"workflow": "demo", "position": await system.head()}), path
        new = await system.ledger.read(before, 100)
        event = next(one.event for one in new if one.type == kind)
        assert (event.by, event.reason) == ("pat", f"because {path}")
        assert {one.actor for one in new} == {"pat"}
        assert await post(session, f"{DEMO}/{path}", {**body, "reason": f"because {path}"}, **key) == first
        status, other = await post(session, f"{DEMO}/{path}", {**body, "reason": "another"}, **key)
        assert (status, other["code"]) == (422, "idempotency_key_reused"), path
        if path != "resume":
            assert (await post(session, f"{DEMO}/{path}", body))[0] == 200, path
        assert await system.head() == first[1]["position"], "it happened again"
    _, detail = await get(session, DEMO, at_least=await system.head())
    assert {task["task"]: task["status"] for task in detail["tasks"]} == {
        "a": "cancelled", "b": "excused", "c": "cancelled", "c1": "cancelled", "c2": "cancelled", "d": "cancelled",
        "e": "cancelled",
    }  # fmt: skip
    for path, body, _ in ACTS[:-1]:
        status, problem = await post(session, f"{DEMO}/{path}", body)
        assert (status, problem["code"]) == (409, "refused") and problem["detail"], path


async def test_a_key_of_another_act_is_refused(system: Served, session: aiohttp.ClientSession) -> None:
    await post(session, WORKFLOWS, {"plan": PLAN})
    key = {"Idempotency-Key": "once"}
    assert (await post(session, f"{DEMO}/pause", {}, **key))[0] == 200
    head = await system.head()
    for path, body, _ in ACTS[1:]:
        status, problem = await post(session, f"{DEMO}/{path}", body, **key)
        assert (status, problem["code"]) == (422, "idempotency_key_reused"), path
    assert await system.head() == head


async def test_a_key_of_an_edit_is_refused_for_what_would_be_no_task(
    system: Served, session: aiohttp.ClientSession
) -> None:
    await post(session, WORKFLOWS, {"plan": PLAN})
    key = {"Idempotency-Key": "once"}
    assert (await post(session, f"{DEMO}/tasks/b/edit", {"changes": {"max_attempts": 2}}, **key))[0] == 200
    for changes in ({"max_attempts": "two"}, {"titel": "?"}, {"title": None}):
        status, problem = await post(session, f"{DEMO}/tasks/b/edit", {"changes": changes}, **key)
        assert (status, problem["code"]) == (422, "idempotency_key_reused"), changes


async def test_a_backoff_is_cut_short(system: Served, session: aiohttp.ClientSession) -> None:
    await post(session, WORKFLOWS, {"plan": PLAN})
    status, problem = await post(session, f"{DEMO}/tasks/b/retry", {})
    assert (status, problem["code"]) == (409, "refused")
    assert problem["detail"] == "task b is pending and cannot be retried: it waits for a"


async def test_what_no_plan_could_hold_is_refused_with_the_place_in_the_body(
    system: Served, session: aiohttp.ClientSession
) -> None:
    await post(session, WORKFLOWS, {"plan": PLAN})
    head = await system.head()
    for path, body, pointer in (
        ("tasks/b/edit", {"changes": {"agent_role": "codr"}}, "/changes/agent_role"),
        ("tasks/b/edit", {"changes": {"id": "x"}}, "/changes/id"),
        ("tasks", {"tasks": [{"id": "x", "dependencies": ["nowhere"]}]}, "/tasks/0/dependencies/0"),
        ("tasks", {"tasks": [{"id": "x", "titel": "?"}]}, "/tasks/0/titel"),
        ("tasks/b/split", {"parts": [{"id": "x", "agent_role": "codr"}]}, "/parts/0/agent_role"),
        ("tasks/b/split", {"parts": []}, "/parts"),
        ("tasks/b/prioritise", {"priority": "high"}, "/priority"),
        ("pause", {"because": "?"}, "/because"),
    ):
        status, problem = await post(session, f"{DEMO}/{path}", body)
        assert status == 422 and [error["pointer"] for error in problem["errors"]] == [pointer], (path, problem)
    assert await system.head() == head


async def test_what_nobody_knows_is_not_found(session: aiohttp.ClientSession) -> None:
    await post(session, WORKFLOWS, {"plan": PLAN})
    for path in ("other/pause", "demo/tasks/ghost/skip", "demo/tasks/ghost/retry", "No-Such/resume"):
        assert (await post(session, f"{WORKFLOWS}/{path}", {}))[0] == 404


async def test_what_is_paused_is_found_by_that(system: Served, session: aiohttp.ClientSession) -> None:
    for name in ("one", "two"):
        await post(session, WORKFLOWS, {"plan": PLAN, "id": name})
    _, done = await post(session, f"{WORKFLOWS}/two/pause", {})
    _, found = await get(session, WORKFLOWS, status="paused", at_least=done["position"])
    assert [(row["workflow"], row["status"], row["paused"]) for row in found["workflows"]] == [("two", "running", True)]
