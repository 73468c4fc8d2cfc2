"""The descriptions of the API: right by the rules of their own formats, complete, and true to what is spoken."""

import ast
import asyncio
import base64
import hashlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from schemathesis.specs.openapi.definitions import OPENAPI_31
from served import ASKING, PLAN, TOKEN, Served, asking, listening, served

from gateway import asyncapi, http, openapi
from gateway.openapi import HEADERS
from gateway.problems import CODES
from ledger.announce import announce
from ledger.codec import EVENTS

ROOT = Path(__file__).parents[2]
HTTP = openapi.document(http.ROUTES)
NATS = asyncapi.document()


@pytest.fixture
async def system(postgres_url: str, nats_url: str, tenant: str) -> AsyncIterator[Served]:
    async with served(postgres_url, nats_url, tenant) as system:
        yield system


def found_under(key: str, document: Any) -> Iterator[Any]:
    match document:
        case dict():
            if key in document:
                yield document[key]
            for value in document.values():
                yield from found_under(key, value)
        case list():
            for value in document:
                yield from found_under(key, value)


def checker(document: dict[str, Any], ref: str) -> Draft202012Validator:
    """Of what a document says at `ref`."""
    registry = Registry().with_resource("urn:it", Resource(document, DRAFT202012))
    return Draft202012Validator({"$ref": f"urn:it{ref}"}, registry=registry)


def test_the_openapi_document_is_one() -> None:
    Draft202012Validator(OPENAPI_31).validate(HTTP)


@pytest.mark.parametrize("document", [HTTP, NATS], ids=["http", "nats"])
def test_every_shape_is_a_schema_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert re.fullmatch(r"[a-zA-Z0-9._-]+", name)
    for ref in {ref for ref in found_under("$ref", document) if isinstance(ref, str)}:
        place: Any = document
        for step in ref.removeprefix("#/").split("/"):
            place = place[step.replace("~1", "/").replace("~0", "~")]
        assert place
    for pattern in found_under("pattern", document):
        assert "\\Z" not in str(pattern)  # means the end in Python, and a Z elsewhere


def test_every_route_is_described_with_its_scope_and_its_refusals() -> None:
    described = {(verb.upper(), path): one for path, verbs in HTTP["paths"].items() for verb, one in verbs.items()}
    assert described.keys() == {(route.method, route.template) for route in http.ROUTES}
    assert len({one["operationId"] for one in described.values()}) == len(described)
    for route in http.ROUTES:
        one = described[route.method, route.template]
        assert one["security"] == ([] if route.scope == "open" else [{"token": [route.scope]}])
        assert one["responses"]["default"] == {"$ref": "#/components/responses/Problem"}
        assert set(route.headers) <= HEADERS.keys()
        assert ("requestBody" in one) == (route.body is not None)
        names = {name["name"] for name in one["parameters"] if name.get("in") == "query"}
        assert names == set(route.query.__struct_encode_fields__ if route.query else ())


def test_every_code_of_a_problem_is_in_the_table_and_no_other() -> None:
    given = {"bad_request", "method_not_allowed", "expectation_failed"}  # made of aiohttp's own statuses
    for path in (ROOT / "gateway").glob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            match call:
                case ast.Call(func=ast.Name(id="Unacceptable"), args=[_, ast.Constant(value=str(code)), *_]):
                    given.add(code)
    assert given == CODES.keys()


def test_every_type_of_event_has_a_channel() -> None:
    types = {one["name"] for one in NATS["components"]["messages"].values() if "name" in one}
    assert types == {f"cairn.{tag}.v1" for tag in EVENTS}
    assert set(NATS["channels"]) >= EVENTS.keys()
    for channel in NATS["channels"].values():
        assert set(re.findall(r"{(\w+)}", channel["address"] or "")) == channel["parameters"].keys()
    for operation in NATS["operations"].values():
        messages = NATS["channels"][operation["channel"]["$ref"].rpartition("/")[2]]["messages"]
        assert {ref["$ref"].rpartition("/")[2] for ref in operation["messages"]} == messages.keys()


@pytest.mark.parametrize("tag", sorted(EVENTS))
def test_an_event_is_what_is_said_of_it(tag: str) -> None:
    schema = NATS["components"]["messages"][tag]["payload"]["allOf"][1]["properties"]["data"]["$ref"]
    check = checker(NATS, schema)
    (file,) = (ROOT / "schemas" / "golden").glob(f"*/{tag}.jsonl")
    for line in file.read_text().splitlines():
        check.validate(json.loads(line))


async def test_what_goes_over_the_bus_fits_its_channel(system: Served) -> None:
    async with asking(system.url) as session:
        for body in ({"plan": PLAN}, {"plan": ASKING}):
            async with session.post("/api/v1/workflows", json=body) as response:
                assert response.status == 201
    await system.finish("demo")
    tags = set()
    for recorded in await system.ledger.read(0):
        subject, body, _ = announce(recorded, system.ledger.tenant, 1, None)
        tags.add(recorded.type)
        channel = NATS["channels"][recorded.type]
        address = re.escape(channel["address"]).replace(r"\{", "{").replace(r"\}", "}")
        assert re.fullmatch(re.sub(r"{\w+}", r"[^.]+", address), subject)
        checker(NATS, f"#/components/messages/{recorded.type}/payload").validate(json.loads(body))
    assert tags >= {"workflow.started", "task.dispatched", "ask.opened", "workflow.completed"}


async def test_both_documents_are_served_to_anybody(system: Served) -> None:
    async with aiohttp.ClientSession(system.url) as session:
        for path, document in (("/openapi.json", HTTP), ("/asyncapi.json", NATS)):
            async with session.get(path) as response:
                assert (response.status, response.content_type) == (200, "application/json")
                assert await response.json() == json.loads(json.dumps(document))
                assert json.loads((ROOT / "schemas" / path[1:]).read_text()) == json.loads(json.dumps(document))


class Page(HTMLParser):
    """What of a page a browser would fetch or follow, and the text of its styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.ids, self.tags, self.style = list[str](), list[str](), set[str](), ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            assert name not in ("style", "src") and not name.startswith("on"), (tag, name)
            if name in ("href", "id"):
                (self.links if name == "href" else self.ids).append(value or "")

    def handle_data(self, text: str) -> None:
        if self.lasttag == "style":
            self.style += text


async def test_the_page_for_people_needs_nobody_else(system: Served) -> None:
    async with aiohttp.ClientSession(system.url) as session, session.get("/docs") as response:
        assert (response.status, response.content_type, response.charset) == (200, "text/html", "utf-8")
        policy, text = response.headers["Content-Security-Policy"], await response.text()
    page = Page(text)
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not page.tags & {"script", "link", "img", "iframe", "form", "object"}
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert link[1:] in page.ids if link.startswith("#") else link in ("openapi.json", "asyncapi.json")
    for route in http.ROUTES:
        assert f"<code>{route.method} {route.template}</code>" in text
    for channel in NATS["channels"].values():
        assert channel["address"] is None or channel["address"] in text


async def test_every_curl_line_of_the_page_is_understood(system: Served) -> None:
    slots = system.slots()
    await slots.open()
    async with listening(system, slots=slots) as url, asking(url) as session:
        async with session.post("/api/v1/workflows", json={"plan": PLAN}) as response:
            assert response.status == 201
        async with session.get("/docs") as response:
            lines = [unescape(line) for line in re.findall(r"<pre>(.*?)</pre>", await response.text())]
        assert len(lines) == len(http.ROUTES)
        quiet = "curl -s -o /dev/null -w '%{http_code}\\n'"
        script = "\n".join(line.replace("curl", f"{quiet} -m 2" if "/stream" in line else quiet, 1) for line in lines)
        environment = {"PATH": "/usr/bin:/bin", "CAIRN_URL": url, "CAIRN_TOKEN": TOKEN}
        shell = await asyncio.create_subprocess_exec(
            "bash", env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        printed, _ = await shell.communicate(script.encode())
    for line, status in zip(lines, map(int, printed.split()), strict=True):
        orders = " -d " in line  # of things that may not be so: no such task, nothing to add
        assert status in (200, 201) or (orders and status in (404, 409, 422)), (line, status)
