"""The timeline of a workflow, and search, over HTTP."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from served import Served, asking, served

from cairn import Client, Invalid, NotFound

WORKFLOWS, SEARCH = "/api/v1/workflows", "/api/v1/search"
PLAN: dict[str, Any] = {
    "id": "demo", "title": "A demonstration",
    "tasks": [{"id": f"t{n}", "title": f"Task {n} of many", "dependencies": ["t0"] if n else []} for n in range(5)],
}  # fmt: skip


@pytest.fixture
async def system(postgres_url: str, nats_url: str, tenant: str) -> AsyncIterator[Served]:
    async with served(postgres_url, nats_url, tenant) as system:
        yield system


@pytest.fixture
async def session(system: Served) -> AsyncIterator[aiohttp.ClientSession]:
    async with asking(system.url) as session, session.post(WORKFLOWS, json={"plan": PLAN}) as response:
        assert response.status == 201
        await system.finish("demo")
        yield session


async def get(session: aiohttp.ClientSession, path: str, **query: Any) -> tuple[int, dict[str, Any]]:
    async with session.get(path, params=query) as response:
        return response.status, await response.json(content_type=None)


async def test_a_timeline_is_read_page_by_page_as_of_a_position(system: Served, session: aiohttp.ClientSession) -> None:
    head, tasks, after = await system.head(), list[dict[str, Any]](), 0
    while after is not None:
        status, page = await get(session, f"{WORKFLOWS}/demo/timeline", limit=2, after=after, at_least=head)
        assert status == 200
        tasks, after = tasks + page["tasks"], page["next"]
    flow = page["workflow"]
    assert (flow["workflow"], flow["tasks"], flow["last"], flow["outcome"]) == ("demo", 5, head, "completed")
    assert [task["task"] for task in tasks] == [f"t{n}" for n in range(5)]
    for task in tasks:
        assert task["from"] == flow["from"] and task["outcome"] == "completed"
        ends = [task["from"], *(interval["to"] for interval in task["intervals"])]
        assert [interval["from"] for interval in task["intervals"]] == ends[:-1] and ends[-1] == task["to"] <= flow[
            "to"
        ]
        assert [attempt["outcome"] for attempt in task["attempts"]] == ["completed"]
    assert {interval["kind"] for interval in tasks[4]["intervals"]} == {"dependency", "slot"}
    async with Client(system.where) as client:
        assert await client.timeline("demo") == {"workflow": flow, "tasks": tasks}
        with pytest.raises(NotFound):
            await client.timeline("nobody")


async def test_what_is_searched_for_is_found_page_by_page(system: Served, session: aiohttp.ClientSession) -> None:
    head, found, after = await system.head(), list[str](), None
    while True:
        more = {"after": after} if after else {}
        status, page = await get(session, SEARCH, q="many status:completed", limit=2, at_least=head, **more)
        assert status == 200
        found += [hit["task"] for hit in page["hits"]]
        if (after := page["next"]) is None:
            break
    assert sorted(found) == [f"t{n}" for n in range(5)]
    async with session.get(SEARCH, params={"q": "demonstration", "limit": 1}) as response:
        [hit] = (await response.json())["hits"]
    assert (hit["type"], hit["workflow"], hit["status"], hit["task"]) == ("workflow", "demo", "completed", None)
    async with session.get(SEARCH, params={"q": "many", "limit": 1}) as response:
        assert response.links["next"]["url"].query["q"] == "many"


@pytest.mark.parametrize(
    ("query", "parameter"),
    [({"q": ""}, "q"), ({"q": "-only"}, "q"), ({"q": "status:late"}, "q"), ({"q": "x" * 2000}, "q"),
     ({"q": "x", "after": "1.2"}, "after"), ({"q": "x", "after": "9" * 19 + ".1.1.1"}, "after"),
     ({"q": "x", "limit": 101}, "limit"), ({"q": "x", "in": "titles"}, "in")],
)  # fmt: skip
async def test_what_cannot_be_searched_for_is_told_with_its_place(
    session: aiohttp.ClientSession, query: dict[str, Any], parameter: str
) -> None:
    status, problem = await get(session, SEARCH, **query)
    assert status == 422, problem
    assert [place["parameter"] for place in problem["errors"]] == [parameter]


@pytest.mark.parametrize(
    "text", ["' OR 1=1 --", "a\0b", "\ud800".encode("utf-8", "replace").decode(), "%s %(x)s", "😀 'x' & !"]
)
async def test_a_query_is_only_ever_text(session: aiohttp.ClientSession, text: str) -> None:
    assert (await get(session, SEARCH, q=f"x {text}"))[0] == 200


async def test_a_search_needs_words(system: Served, session: aiohttp.ClientSession) -> None:
    assert (await get(session, SEARCH))[0] == 422
    async with Client(system.where) as client:
        with pytest.raises(Invalid, match="nothing to look for"):
            await client.search("*")
