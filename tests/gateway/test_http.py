"""Commands and views over HTTP, against a real ledger and board.

It is long because each route has its refusals beside it.
"""

import asyncio
import gzip
import io
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from served import ASKING, PLAN, Served, asking, listening, served

from gateway import pages
from gateway.start import numbered

WORKFLOWS = "/api/v1/workflows"


@pytest.fixture
async def system(postgres_url: str, nats_url: str, tenant: str) -> AsyncIterator[Served]:
    async with served(postgres_url, nats_url, tenant) as system:
        yield system


@pytest.fixture
async def session(system: Served) -> AsyncIterator[aiohttp.ClientSession]:
    async with asking(system.url) as session:
        yield session


async def post(session: aiohttp.ClientSession, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    async with session.post(path, json=body, headers=headers) as response:
        problem = response.status >= 400
        assert response.content_type == ("application/problem+json" if problem else "application/json")
        found = await response.json(content_type=None)
        assert not problem or (found["status"] == response.status and found["code"] and found["detail"])
        return response.status, found


async def get(session: aiohttp.ClientSession, path: str, **query: Any) -> tuple[int, dict[str, Any]]:
    async with session.get(path, params=query) as response:
        return response.status, await response.json(content_type=None)


async def test_a_plan_is_started_and_whoever_started_it_sees_it_at_once(session: aiohttp.ClientSession) -> None:
    status, started = await post(session, WORKFLOWS, {"plan": PLAN})
    assert (status, started["workflow"]) == (201, "demo")
    status, detail = await get(session, f"{WORKFLOWS}/demo", at_least=started["position"])
    assert status == 200
    assert detail["workflow"]["status"] == "running"
    assert detail["workflow"]["completed"] == 0  # defaults are not left out
    assert [task["task"] for task in detail["tasks"]] == ["a", "b"]
    assert detail["workflow"]["last"] == started["position"]


async def test_every_run_of_a_plan_gets_a_name_of_its_own(system: Served, session: aiohttp.ClientSession) -> None:
    names = [(await post(session, WORKFLOWS, {"plan": PLAN}))[1]["workflow"] for _ in range(6)]
    assert names == ["demo", *(f"demo-{n}" for n in range(2, 7))]
    async with listening(system) as another, asking(another) as fresh:  # one that remembers nothing
        found = await asyncio.gather(*(post(fresh, WORKFLOWS, {"plan": PLAN}) for _ in range(20)))
    assert sorted(answer["workflow"] for _, answer in found) == sorted(f"demo-{n}" for n in range(7, 27))


def test_a_long_plan_id_is_cut_to_make_room_for_the_number() -> None:
    assert numbered("a" * 63, 12) == "a" * 60 + "-12"
    assert numbered("demo", 2) == "demo-2"


async def test_a_name_that_is_taken_is_a_conflict(system: Served, session: aiohttp.ClientSession) -> None:
    assert (await post(session, WORKFLOWS, {"plan": PLAN, "id": "mine"}))[0] == 201
    head = await system.head()
    status, problem = await post(session, WORKFLOWS, {"plan": PLAN, "id": "mine"})
    assert (status, problem["code"]) == (409, "conflict")
    assert await system.head() == head


@pytest.mark.parametrize("key", ["0b7e6f0a-2f6e-4d5e-9a43-7f0f3a0c9f11", "nightly build 2026-11-21"])
async def test_the_same_key_gets_the_same_answer(system: Served, session: aiohttp.ClientSession, key: str) -> None:
    await post(session, WORKFLOWS, {"plan": PLAN})
    body = {"plan": PLAN}
    answers = await asyncio.gather(*(post(session, WORKFLOWS, body, **{"Idempotency-Key": key}) for _ in range(8)))
    assert len({json.dumps(answer) for answer in answers}) == 1
    assert answers[0][0] == 201
    await post(session, WORKFLOWS, {"plan": PLAN})
    head = await system.head()
    async with listening(system) as another, asking(another) as fresh:
        assert await post(fresh, WORKFLOWS, body, **{"Idempotency-Key": key}) == answers[0]
    assert await post(session, WORKFLOWS, body, **{"Idempotency-Key": key}) == answers[0]
    assert await system.head() == head


async def test_a_key_that_was_used_for_something_else_is_refused(
    system: Served, session: aiohttp.ClientSession
) -> None:
    key = {"Idempotency-Key": "once"}
    await post(session, WORKFLOWS, {"plan": PLAN}, **key)
    await post(session, WORKFLOWS, {"plan": PLAN, "id": "other"})
    head = await system.head()
    for path, body in [
        (WORKFLOWS, {"plan": PLAN | {"title": "another"}}),
        (WORKFLOWS, {"plan": PLAN, "id": "new"}),
        (WORKFLOWS, {"plan": PLAN, "repository": "/srv/x.git"}),
        (f"{WORKFLOWS}/demo/cancel", {}),
        (f"{WORKFLOWS}/other/cancel", {}),
    ]:
        status, problem = await post(session, path, body, **key)
        assert (status, problem["code"]) == (422, "idempotency_key_reused")
    assert await system.head() == head


async def test_an_invalid_plan_is_told_every_problem_and_records_nothing(
    system: Served, session: aiohttp.ClientSession
) -> None:
    plan = {"id": "demo", "tasks": [{"id": "a", "dependencies": ["x"]}, {"id": "a", "titel": "?"}]}
    status, problem = await post(session, WORKFLOWS, {"plan": plan})
    assert (status, problem["code"]) == (422, "invalid_plan")
    pointers = {error["pointer"] for error in problem["errors"]}
    assert {"/plan/tasks/0/dependencies/0", "/plan/tasks/1/id", "/plan/tasks/1/titel"} <= pointers
    assert any("title" in error.get("hint", "") for error in problem["errors"])
    assert await system.head() == 0
    status, found = await post(session, "/api/v1/plans/validate", plan)
    assert (status, found["valid"]) == (200, False)
    assert {error["pointer"] for error in found["errors"]} == {one.removeprefix("/plan") for one in pointers}
    assert await post(session, "/api/v1/plans/validate", PLAN) == (200, {"valid": True, "errors": []})


JSON = {"Content-Type": "application/json"}
DEEP = b"[" * 1_000_000 + b"]" * 1_000_000
HUGE = b'{"plan": {"id": "' + b"a" * (17 * 2**20) + b'"}}'
BAD_BODIES: dict[str, tuple[int, str, bytes, dict[str, str]]] = {
    "nothing": (422, "invalid_body", b"", JSON),
    "no JSON": (400, "invalid_json", b"{plan: 1}", JSON),
    "cut off": (400, "invalid_json", b'{"plan": {', JSON),
    "two values": (400, "invalid_json", b'{"plan": 1} {}', JSON),
    "no UTF-8": (400, "invalid_json", b'{"plan": 1, "id": "\xff"}', JSON),
    "half a surrogate": (400, "invalid_json", b'{"plan": 1, "id": "\\ud800"}', JSON),
    "an array": (422, "invalid_body", b"[]", JSON),
    "an unknown field": (422, "invalid_body", b'{"plan": {}, "paln": {}}', JSON),
    "a wrong type": (422, "invalid_body", b'{"plan": {}, "id": 7}', JSON),
    "a bad id": (422, "invalid_body", b'{"plan": {}, "id": "../x"}', JSON),
    "an id with a line end": (422, "invalid_body", b'{"plan": {}, "id": "x\\n"}', JSON),
    "a base without repository": (422, "invalid_body", b'{"plan": {}, "base": "%b"}' % (b"0" * 40), JSON),
    "an option as base": (422, "invalid_body", b'{"plan": {}, "repository": "/r", "base": "--all"}', JSON),
    "NUL in the repository": (422, "invalid_body", b'{"plan": {}, "repository": "/r\\u0000"}', JSON),
    "a plan that is a number": (422, "invalid_plan", b'{"plan": 1}', JSON),
    "a plan of NaN": (422, "invalid_plan", b'{"plan": {"id": "x", "metadata": {"a": 1e999}, "tasks": []}}', JSON),
    "depth": (422, "invalid_body", DEEP, JSON),
    "depth in the plan": (400, "invalid_json", b'{"plan": %b}' % DEEP, JSON),
    "some depth in the plan": (422, "invalid_plan", b'{"plan": %b}' % (b"[" * 200 + b"]" * 200), JSON),
    "17 MB": (413, "content_too_large", HUGE, JSON),
    "100 MB, compressed": (413, "content_too_large", gzip.compress(bytes(10**8)), JSON | {"Content-Encoding": "gzip"}),
    "broken compression": (400, "invalid_body", b"not gzip at all", JSON | {"Content-Encoding": "gzip"}),
    "a form": (415, "unsupported_media_type", b"plan=1", {"Content-Type": "application/x-www-form-urlencoded"}),
    "an unnamed type": (415, "unsupported_media_type", b"{}", {}),
}


HUNG_UP = {"17 MB", "100 MB, compressed", "broken compression"}
"""A server may answer these and hang up before the client has sent all; then the answer can be lost on the way."""


async def test_bad_bodies_are_refused_and_the_next_one_is_served(
    system: Served, session: aiohttp.ClientSession
) -> None:
    for name, (wanted, code, body, headers) in BAD_BODIES.items():
        try:
            async with (
                asking(system.url) as alone,
                alone.post(WORKFLOWS, data=io.BytesIO(body), headers=headers) as response,
            ):
                assert response.content_type == "application/problem+json", name
                problem = await response.json(content_type=None)
                assert (response.status, problem["code"]) == (wanted, code), (name, problem)
        except aiohttp.ClientConnectionError:
            assert name in HUNG_UP, name
    assert await system.head() == 0
    assert (await post(session, WORKFLOWS, {"plan": PLAN}))[0] == 201


async def test_a_bad_field_is_pointed_at(session: aiohttp.ClientSession) -> None:
    for body, pointer in [
        ({"plan": {}, "id": 7}, "/id"),
        ({"plan": {}, "paln": {}}, "/paln"),
        ({}, ""),
    ]:
        _, problem = await post(session, WORKFLOWS, body)
        assert [error["pointer"] for error in problem["errors"]] == [pointer]


async def test_what_is_cancelled_stays_cancelled(system: Served, session: aiohttp.ClientSession) -> None:
    await post(session, WORKFLOWS, {"plan": PLAN})
    status, first = await post(session, f"{WORKFLOWS}/demo/cancel", {"reason": "enough"}, **{"X-Cairn-Actor": "pat"})
    assert status == 200
    _, detail = await get(session, f"{WORKFLOWS}/demo", at_least=first["position"])
    assert (detail["workflow"]["status"], detail["workflow"]["reason"]) == ("cancelled", "by pat: enough")
    async with session.post(f"{WORKFLOWS}/demo/cancel") as again:  # no body at all is fine
        assert again.status == 200
    assert await system.head() == first["position"]


async def test_what_has_ended_cannot_be_cancelled(system: Served, session: aiohttp.ClientSession) -> None:
    await post(session, WORKFLOWS, {"plan": PLAN})
    await system.finish("demo")
    status, problem = await post(session, f"{WORKFLOWS}/demo/cancel", {})
    assert (status, problem["code"]) == (409, "refused")
    for name in ("nobody", "No-Such", "a%2Fb", "x" * 200):
        status, problem = await post(session, f"{WORKFLOWS}/{name}/cancel", {})
        assert (status, problem["code"]) == (404, "not_found")


async def test_a_person_decides_on_what_was_shown_and_only_once(system: Served, session: aiohttp.ClientSession) -> None:
    _, started = await post(session, WORKFLOWS, {"plan": ASKING})
    _, detail = await get(session, f"{WORKFLOWS}/asking", at_least=started["position"])
    (ask,) = detail["asks"]
    path, yes = f"{WORKFLOWS}/asking/asks/{ask['ask']}/answer", {"choice": "approve", "shown": ask["shown"]}
    assert (await post(session, f"{WORKFLOWS}/asking/asks/none/answer", yes))[1]["code"] == "not_found"
    assert (await post(session, path, yes | {"shown": "0" * 64}))[1]["code"] == "conflict"
    assert "no option" in (await post(session, path, yes | {"choice": "perhaps"}))[1]["detail"]
    assert (await post(session, path, yes | {"role": "writer"}))[1]["code"] == "refused"
    wrong = ({"choice": 1}, {"shown": "x"}, {"because": "\0"}, {"edit": {"title": "x"}})
    for bad in ({"choice": "approve"}, *(yes | each for each in wrong)):
        assert (await post(session, path, bad))[0] == 422
    key = {"Idempotency-Key": "pat-1", "X-Cairn-Actor": "Pät"}
    first = await post(session, path, yes | {"because": "looks right"}, **key)
    assert first[0] == 200
    assert await post(session, path, yes | {"because": "looks right"}, **key) == first
    assert (await post(session, path, yes | {"choice": "reject"}, **key))[1]["code"] == "idempotency_key_reused"
    assert (await post(session, path, yes))[1]["code"] == "conflict"
    _, detail = await get(session, f"{WORKFLOWS}/asking", at_least=first[1]["position"])
    assert (detail["asks"][0]["answered_by"], detail["asks"][0]["because"]) == ("Pät", "looks right")


async def test_asks_come_in_pages_in_the_order_they_were_opened(system: Served, session: aiohttp.ClientSession) -> None:
    asks = "/api/v1/asks"
    for n in range(5):
        await post(session, WORKFLOWS, {"plan": ASKING, "id": f"w{n}"})
    await post(session, f"{WORKFLOWS}/w3/cancel", {})
    await system.board.reached(await system.head())
    pages, path = [], f"{asks}?limit=3&state=any"
    while path:
        async with session.get(path) as response:
            pages.append([row["workflow"] for row in (await response.json())["asks"]])
            path = str(response.links["next"]["url"].relative()) if "next" in response.links else ""
    assert pages == [["w0", "w1", "w2"], ["w3", "w4"]]
    assert [row["workflow"] for row in (await get(session, asks))[1]["asks"]] == ["w0", "w1", "w2", "w4"]
    assert [row["workflow"] for row in (await get(session, asks, state="voided"))[1]["asks"]] == ["w3"]
    _, found = await get(session, asks, workflow="w1")
    (row,), (shown,) = found["asks"], (await get(session, f"{WORKFLOWS}/w1"))[1]["asks"]
    assert row == shown and (row["state"], row["options"], row["default"]) == ("open", ["approve", "reject"], "reject")
    for bad in ({"limit": 0}, {"state": "odd"}, {"workflow": "No Such"}, {"page": 2}, {"after": -1}):
        status, problem = await get(session, asks, **bad)
        assert (status, problem["code"]) == (422, "invalid_parameter"), bad


async def test_workflows_come_in_pages_the_newest_first(system: Served, session: aiohttp.ClientSession) -> None:
    for n in range(7):
        await post(session, WORKFLOWS, {"plan": PLAN, "id": f"w{n}"})
    for n in (1, 4):
        await post(session, f"{WORKFLOWS}/w{n}/cancel", {})
    await system.board.reached(await system.head())
    pages, path = [], f"{WORKFLOWS}?limit=3"
    while path:
        async with session.get(path) as response:
            found = await response.json()
            pages.append([row["workflow"] for row in found["workflows"]])
            path = str(response.links["next"]["url"].relative()) if "next" in response.links else ""
            assert bool(path) == (found["next"] is not None)
    assert pages == [["w6", "w5", "w4"], ["w3", "w2", "w1"], ["w0"]]
    _, found = await get(session, WORKFLOWS, status="cancelled", limit=1)
    assert [row["workflow"] for row in found["workflows"]] == ["w4"]
    _, found = await get(session, WORKFLOWS, status="cancelled", after=found["next"])
    assert ([row["workflow"] for row in found["workflows"]], found["next"]) == (["w1"], None)
    for bad in ({"limit": 0}, {"limit": 1001}, {"limit": "x"}, {"limit": "٣"}, {"after": -1}, {"status": "odd"},
                {"page": 2}, {"after": 2**63}):  # fmt: skip
        status, problem = await get(session, WORKFLOWS, **bad)
        assert (status, problem["code"]) == (422, "invalid_parameter"), bad


async def test_a_view_that_is_behind_is_waited_for_and_then_said_to_be(
    system: Served, session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "VIEW_SECONDS", 0.2)
    await post(session, WORKFLOWS, {"plan": PLAN})
    async with session.get(f"{WORKFLOWS}/demo?at_least=1000") as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
        assert (await response.json(content_type=None))["code"] == "view_behind"
    assert (await get(session, f"{WORKFLOWS}/nobody"))[0] == 404


async def test_a_workflow_is_found_as_soon_as_it_is_recorded(system: Served, session: aiohttp.ClientSession) -> None:
    for n in range(20):
        await post(session, WORKFLOWS, {"plan": PLAN, "id": f"w{n}"})
        assert (await get(session, f"{WORKFLOWS}/w{n}"))[0] == 200


async def test_events_say_who_asked_and_in_which_trace(system: Served, session: aiohttp.ClientSession) -> None:
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    await post(session, WORKFLOWS, {"plan": PLAN}, **{"X-Cairn-Actor": "Pät", "traceparent": trace})
    await post(session, WORKFLOWS, {"plan": PLAN}, traceparent="nonsense")
    first, second = (await system.ledger.read(0, 3))[::2]
    assert (first.actor, first.traceparent) == ("Pät", trace)
    assert (second.actor, second.traceparent) == ("http", None)
    for name, value in [
        ("X-Cairn-Actor", "x" * 101),
        ("X-Cairn-Actor", "Zero\u200bwidth"),
        ("Idempotency-Key", "k" * 201),
    ]:
        status, problem = await post(session, WORKFLOWS, {"plan": PLAN}, **{name: value})
        assert (status, problem["errors"][0]["parameter"]) == (422, name)
