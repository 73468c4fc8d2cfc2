"""The description of the API as one page of HTML, for people: no script, nothing from elsewhere, and a curl line for each
operation. It is made of the OpenAPI and AsyncAPI documents.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any
from urllib.parse import urlencode

import msgspec

from gateway.problems import CODES
from gateway.routes import JSON
from gateway.schemas import Schema

STYLE = """
:root{color-scheme:light dark}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem}
section{border-top:1px solid #8886;margin-top:1.5rem}
h3{margin-bottom:.25rem}
code,pre{font:14px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}
pre{background:#8882;padding:.5rem;white-space:pre-wrap}
table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.15rem .75rem .15rem 0;border-bottom:1px solid #8883}
.scope{font-size:.8em;border:1px solid #8886;border-radius:.5em;padding:0 .5em}
:target{background:#fd04}
"""
POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What a browser is to do with it, and no more."""


def page(http: Schema, nats: Schema) -> str:
    """One page of HTML for both documents."""
    return "".join(_page(http, nats))


def _page(http: Schema, nats: Schema) -> Iterator[str]:
    yield '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    yield f"<title>Cairn API</title><style>{STYLE}</style><h1>Cairn</h1>{_text(http['info']['description'])}"
    yield '<p>The same for programs: <a href="openapi.json">openapi.json</a>, <a href="asyncapi.json">asyncapi.json</a>.'
    yield " In the lines below <code>$CAIRN_URL</code> is where Cairn listens and <code>$CAIRN_TOKEN</code> a token of it."
    operations = [(path, verb, one) for path, verbs in http["paths"].items() for verb, one in verbs.items()]
    yield "<ul>" + "".join(f'<li><a href="#{tag["name"]}">{tag["name"]}</a>' for tag in http["tags"])
    yield '<li><a href="#problems">problems</a><li><a href="#shapes">shapes</a><li><a href="#nats">NATS</a></ul>'
    for tag in http["tags"]:
        yield f'<section id="{tag["name"]}"><h2>{tag["name"]}</h2>{_text(tag["description"])}'
        for path, verb, one in operations:
            if tag["name"] in one["tags"]:
                yield from _operation(path, verb, one, http["components"])
        yield "</section>"
    yield '<section id="problems"><h2>Problems</h2><table><tr><th>code<th>it says'
    yield from (f"<tr><td><code>{code}</code><td>{_inline(words)}" for code, words in sorted(CODES.items()))
    yield '</table></section><section id="shapes"><h2>Shapes</h2>'
    yield from (_shape(name, schema) for name, schema in http["components"]["schemas"].items())
    yield f'</section><section id="nats"><h2>NATS</h2>{_text(nats["info"]["description"])}<table><tr><th>subject<th>'
    for channel in nats["channels"].values():
        if channel["address"]:
            yield f"<tr><td><code>{escape(channel['address'])}</code><td>{_inline(channel['summary'])}"
    yield "</table></section></html>"


def _operation(path: str, verb: str, one: Schema, components: Schema) -> Iterator[str]:
    scopes = [scope for need in one["security"] for scopes in need.values() for scope in scopes]
    yield f'<h3 id="{one["operationId"]}"><code>{verb.upper()} {escape(path)}</code>'
    yield f' <span class="scope">{scopes[0] if scopes else "open"}</span></h3>'
    yield f"<p>{_inline(one['summary'])} {_inline(one.get('description', ''))}"
    parameters = [components["parameters"][name["$ref"].rpartition("/")[2]] if "$ref" in name else name
                  for name in one["parameters"]]  # fmt: skip
    if parameters:
        yield "<table>"
        for name in parameters:
            yield f"<tr><td><code>{name['name']}</code> ({name['in']})<td>{_kind(name['schema'])}"
            yield f"<td>{_inline(name.get('description', ''))}"
        yield "</table>"
    if body := one.get("requestBody"):
        yield f"<p>Body: {_kind(body['content'][JSON]['schema'])}"
    for status, answer in one["responses"].items():
        for media, content in answer.get("content", {}).items():
            yield f"<p>{status}: {_kind(content['schema'])} as <code>{media}</code>"
    yield f"<pre>{escape(curl(path, verb, one, components['schemas']), quote=False)}</pre>"


def curl(path: str, verb: str, one: Schema, schemas: Mapping[str, Schema]) -> str:
    """The line that asks for it, with the least that has to be said."""
    examples = {name["name"]: name["example"] for name in one["parameters"] if "example" in name}
    token = ['-H "Authorization: Bearer $CAIRN_TOKEN"'] if one["security"] else []
    said = []
    if body := one.get("requestBody"):
        least = msgspec.json.encode(_least(body["content"][JSON]["schema"], schemas)).decode()
        said = ["-H 'Content-Type: application/json'", f"-d '{least}'"]
    where = re.sub(r"{(\w+)}", lambda found: examples[found[1]], path)
    asked = urlencode(
        {it["name"]: it["example"] for it in one["parameters"] if it.get("in") == "query" and "example" in it}
    )
    return " ".join(["curl", *([f"-X {verb.upper()}"] if verb != "get" and not said else []), *token, *said,
                     f"$CAIRN_URL{where}{asked and f'?{asked}'}"])  # fmt: skip


def _least(schema: Schema, schemas: Mapping[str, Schema]) -> Any:
    """A value as small as it may be: of an object the fields that are required."""
    if "$ref" in schema:
        return _least(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    for several in ("anyOf", "allOf"):
        if several in schema:
            return _least(schema[several][0], schemas)
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: _least(schema["properties"][name], schemas) for name in schema.get("required", ())}
        case "array":
            return [_least(schema["items"], schemas)]
        case "integer" | "number":
            return schema.get("minimum", 1)
        case "boolean":
            return False
    return "a"


def _shape(name: str, schema: Schema) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code>{'' if field in schema.get('required', ()) else ' ?'}"
        f"<td>{_kind(one)}<td>{_inline(one.get('description', ''))}"
        for field, one in schema.get("properties", {}).items()
    )
    return f'<h3 id="{name}">{name}</h3><p>{_inline(schema.get("description", ""))}<table>{rows}</table>'


def _kind(schema: Schema) -> str:
    """A schema in a few words, shapes as links."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#{name}">{name}</a>'
    if several := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(_kind(one) for one in several)
    if "contentSchema" in schema:
        return _inline(schema["description"])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    kind = str(schema.get("type", "anything"))
    if "items" in schema:
        return f"list of {_kind(schema['items'])}"
    bounds = [f"{words} {schema[key]}" for key, words in (("minimum", "from"), ("maximum", "to"), ("pattern", "as"))
              if key in schema]  # fmt: skip
    default = f", default {schema['default']}" if schema.get("default") not in (None, "", [], {}) else ""
    return escape(" ".join([kind, *bounds]) + default)


def _text(words: str) -> str:
    return "".join(f"<p>{_inline(one)}" for one in words.split("\n\n"))


def _inline(words: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(words, quote=False))
