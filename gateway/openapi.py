"""The HTTP API as OpenAPI 3.1, made of the table of routes and the structs that it names."""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from gateway.problems import CODES, CONTENT_TYPE, ProblemDocument
from gateway.requests import LARGEST_NUMBER, LONGEST_ACTOR, LONGEST_KEY
from gateway.routes import JSON, NDJSON, SSE, Route
from gateway.schemas import Schema, components, needed, properties

ABOUT = """The control tower and flight recorder for teams of AI agents.

A command is answered after it is recorded, with the `position` that shows it: `at_least=<position>` makes a reader wait
for the view to be there. The same `Idempotency-Key` gets the same answer for as long as the ledger exists. Pages are
followed by `Link: rel="next"`. Whatever goes wrong is a problem document (RFC 9457); its `code` is stable."""

PATH: dict[str, tuple[str, str]] = {
    "workflow": ("The id of a workflow.", "demo"),
    "task": ("The id of a task of the workflow.", "a"),
    "ask": ("The id of an ask of the workflow.", "ask-1"),
    "agent": ("The name of an agent.", "ann"),
    "position": ("The position of an event.", "1"),
}
"""What stands in a path: what it is, and one as it might be."""
HEADERS: dict[str, Schema] = {
    "Idempotency-Key": {
        "description": "What makes a repeat of this command known: it gets the first answer, and changes nothing.",
        "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_KEY},
    },
    "X-Cairn-Actor": {
        "description": "Who asks, as the events will say.",
        "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_ACTOR, "default": "http"},
    },
    "traceparent": {"description": "The W3C trace that this belongs to.", "schema": {"type": "string"}},
    "Last-Event-ID": {
        "description": "With server-sent events: the position after which they go on, instead of `after`.",
        "schema": {"type": "integer", "minimum": 0, "maximum": LARGEST_NUMBER},
    },
}
LINES = {
    NDJSON: "One JSON document a line, each an `{item}`; empty lines are signs of life.",
    SSE: "Server-sent events: `id` is the position, `data` an `{item}`.",
}


def document(routes: Sequence[Route]) -> Schema:
    """The OpenAPI document. It depends on these routes and their structs alone."""
    bodies = [route.body for route in routes if route.body]
    answers = list(dict.fromkeys([ProblemDocument, *(route.answers for route in routes)]))
    found, schemas = components(bodies, answers)
    refs = dict(zip([*bodies, *answers], found, strict=True))
    schemas["ProblemDocument"]["properties"]["code"]["enum"] = sorted(CODES)
    paths: dict[str, Schema] = {}
    for route in routes:
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Cairn", "version": "v1", "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag, "description": words} for tag, words in _tags(routes).items()],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "parameters": {name: {"name": name, "in": "header", **about} for name, about in HEADERS.items()},
            "responses": {"Problem": _problem()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": _TOKEN}},
        },
    }


_TOKEN = (
    "`Authorization: Bearer <token>`; the scope that an operation asks of it (read, operate or admin) stands beside it."
    " Who may operate may read; admin may do all."
)


def tag_of(route: Route) -> str:
    return route.handle.__module__.rpartition(".")[2]


def _tags(routes: Sequence[Route]) -> dict[str, str]:
    """Resources, each with what its module says first."""
    found: dict[str, str] = {}
    for route in routes:
        words = inspect.getdoc(inspect.getmodule(route.handle)) or ""
        found.setdefault(tag_of(route), " ".join(words.partition("\n\n")[0].split()))
    return found


def _operation(route: Route, refs: Mapping[Any, Schema]) -> Schema:
    found: Schema = {
        "operationId": f"{tag_of(route)}_{route.handle.__name__}",
        "tags": [tag_of(route)],
        "summary": route.summary,
    }
    if words := inspect.getdoc(route.handle):
        found["description"] = " ".join(words.split())
    found["security"] = [] if route.scope == "open" else [{"token": [route.scope]}]
    found["parameters"] = [*_parameters(route)]
    if route.body:
        found["requestBody"] = {"required": bool(needed(route.body)), "content": {JSON: {"schema": refs[route.body]}}}
    answers = {str(status): _answer(route, status, refs) for status in (route.status, *route.also)}
    found["responses"] = answers | {"default": {"$ref": "#/components/responses/Problem"}}
    return found


def _parameters(route: Route) -> Iterator[Schema]:
    for name in re.findall(r"{(\w+)}", route.template):
        words, example = PATH[name]
        schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "description": words, "schema": schema, "example": example}
    wanted = needed(route.query) if route.query else set()
    for name, field in properties(route.query).items() if route.query else ():
        about: Schema = {"description": field.pop("description")} if "description" in field else {}
        if name in wanted:
            about |= {"required": True, "example": field["examples"][0]}
        yield {"name": name, "in": "query", **about, "schema": field}
    for name in route.headers:
        yield {"$ref": f"#/components/parameters/{name}"}


def _answer(route: Route, status: int, refs: Mapping[Any, Schema]) -> Schema:
    found: Schema = {"description": HTTPStatus(status).phrase, "content": {}}
    for media in route.media:
        schema = refs[route.answers]
        if media in LINES:
            words = LINES[media].format(item=schema["$ref"].rpartition("/")[2])
            schema = {"type": "string", "description": words, "contentMediaType": media, "contentSchema": schema}
        elif media != JSON:
            schema = {"type": "string", "contentMediaType": media}
        found["content"][media] = {"schema": schema}
    if route.query and "after" in route.query.__struct_fields__:
        found["headers"] = {"Link": {"description": 'The next page, `rel="next"`.', "schema": {"type": "string"}}}
    return found


def _problem() -> Schema:
    return {
        "description": "What went wrong: the one form of every refusal and fault.",
        "headers": {
            "Retry-After": {"description": "Seconds after which to ask again.", "schema": {"type": "integer"}},
        },
        "content": {CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
    }
