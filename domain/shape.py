"""The shape of JSON values, as a subset of JSON Schema: what does not fit, and where.

A schema is compiled once into `Parts`, by kind of value, and walked together with the value. Walking does not recurse,
so deep JSON cannot exhaust the stack; compiling does, as deep as a schema is nested.
Plans are checked by it (`domain/validate.py`), and the data of results (`Task.result_schema`). What people may write
into such a schema is `KEYWORDS`: no patterns, which an agent's text could keep busy for hours.
"""

import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

Path = tuple[str | int, ...]
JsonObject = dict[str, Any]

LONGEST_QUOTE = 60
SHOWN_MISFITS = 3


class Finding(NamedTuple):
    """What does not fit: `name` was written where one of `known` was meant."""

    path: Path
    message: str
    hint: str | None = None
    name: str | None = None
    known: Iterable[str] = ()


KINDS: dict[type, str] = {
    dict: "object",
    list: "array",
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


class Part(NamedTuple):
    """What a schema asks of the values of one kind: `checks`, or, where that kind does not belong, `expected`."""

    schema: JsonObject
    checks: tuple["_Check", ...] = ()
    expected: str | None = None
    members: dict[str, "Parts"] = {}  # noqa: RUF012
    rest: "Parts" = {}  # noqa: RUF012


Parts = dict[type, Part]


def findings(value: Any, parts: Parts) -> Iterator[Finding]:
    """All that does not fit, in the order of the value."""
    walk: list[tuple[Path, Any, Parts]] = [((), value, parts)]
    while walk:
        path, value, parts = walk.pop()
        kind = _kind(value)
        schema, checks, expected, members, rest = parts[kind]
        if expected is not None:
            yield Finding(path, f"expected {expected}, got {quote(value)}")
        for check in checks:
            yield from check(path, value, schema)
        if kind is dict:
            walk += [((*path, key), value[key], members.get(key, rest)) for key in reversed(value)]
        elif kind is list:
            walk += [((*path, index), value[index], rest) for index in reversed(range(len(value)))]


def misfit(value: Any, schema: JsonObject) -> str:
    """Why a value does not fit a schema that `faults` has found none in, with the places; empty if it fits."""
    found = list(islice(findings(value, parts_of(schema)), SHOWN_MISFITS + 1))
    shown = "; ".join(f"{pointer(it.path) or '(whole)'}: {it.message}" for it in found[:SHOWN_MISFITS])
    return shown + ("; and more" if len(found) > SHOWN_MISFITS else "")


def faults(schema: Any, path: Path = ()) -> Iterator[Finding]:
    """What is wrong with a schema that people wrote, which stands at `path`."""
    walk = [(path, schema)]
    while walk:
        path, schema = walk.pop()
        found = [*findings(schema, _OF_A_SCHEMA)]
        yield from (it._replace(path=(*path, *it.path)) for it in found)
        if not isinstance(schema, dict) or found:
            continue
        walk += [((*path, "properties", key), it) for key, it in schema.get("properties", {}).items()]
        walk += [((*path, key), schema[key]) for key in ("items", "additionalProperties") if key in schema
                 and not isinstance(schema[key], bool)]  # fmt: skip


def parts_of(schema: JsonObject, shared: dict[str, JsonObject] | None = None) -> Parts:
    """A schema, compiled; `shared` holds what its references name."""
    schema = _meant(schema, shared or {})
    return {kind: _part(schema, name, shared or {}) for kind, name in KINDS.items()} if schema else FREE


def _part(schema: JsonObject, kind: str, shared: dict[str, JsonObject]) -> Part:
    if "anyOf" in schema:
        options = [_meant(option, shared) for option in schema["anyOf"]]
        schema = next((option for option in options if _admits(option, kind)), _either(options))
    if not _admits(schema, kind):
        return Part({}, expected=" or ".join(_wanted(schema)), rest=FREE)
    checks = tuple(check for keyword, check in SHAPE_CHECKS[kind].items() if keyword in schema)
    if kind == "object":
        members = {key: parts_of(member, shared) for key, member in schema.get("properties", {}).items()}
        rest = schema.get("additionalProperties")
        return Part(schema, checks, None, members, parts_of(rest, shared) if isinstance(rest, dict) else FREE)
    return Part(schema, checks, None, {}, parts_of(schema.get("items", {}), shared) if kind == "array" else FREE)


def _meant(schema: JsonObject, shared: dict[str, JsonObject]) -> JsonObject:
    while "$ref" in schema:
        schema = shared[schema["$ref"]]
    return schema


def _wanted(schema: JsonObject) -> list[str]:
    wanted = schema.get("type", [])
    return [wanted] if isinstance(wanted, str) else wanted


def _admits(schema: JsonObject, kind: str) -> bool:
    wanted = _wanted(schema)
    return not wanted or kind in wanted or (kind == "integer" and "number" in wanted)


def _either(options: list[JsonObject]) -> JsonObject:
    return {"type": [kind for option in options for kind in _wanted(option)]}


def _kind(value: Any) -> type:
    return dict if isinstance(value, dict) else type(value)


_Check = Callable[[Path, Any, JsonObject], Iterable[Finding]]


def _limit(keyword: str, passes: Callable[[Any, Any], bool], words: str) -> _Check:
    def check(path: Path, value: Any, schema: JsonObject) -> Iterable[Finding]:
        limit = schema[keyword]
        return () if passes(value, limit) else [Finding(path, words.format(value=quote(value), limit=limit))]

    return check


def _pattern(path: Path, value: str, schema: JsonObject) -> Iterable[Finding]:
    if re.search(schema["pattern"], value):
        return ()
    return [Finding(path, f"{quote(value)} does not match {schema['pattern']}", schema.get("description"))]


def _one_of(path: Path, value: Any, schema: JsonObject) -> Iterable[Finding]:
    if any(_same(it, value) for it in schema["enum"]):
        return ()
    return [unknown(path, "value", value, [it for it in schema["enum"] if isinstance(it, str)])]


def _same(one: Any, other: Any) -> bool:
    """To Python True is 1."""
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
        case list(), list():
            return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _no_repeats(path: Path, value: list[Any], schema: JsonObject) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, item in enumerate(value if schema["uniqueItems"] else ()):
        if isinstance(item, str) and first.setdefault(item, index) != index:
            earlier = pointer((*path, first[item]))
            yield Finding((*path, index), f"{quote(item)} is already listed at {earlier}", "keep one")


def _required(path: Path, value: JsonObject, schema: JsonObject) -> Iterable[Finding]:
    return [Finding(path, f'required field "{key}" is missing') for key in schema["required"] if key not in value]


def _closed(path: Path, value: JsonObject, schema: JsonObject) -> Iterable[Finding]:
    if schema["additionalProperties"] is not False:
        return ()
    known = schema.get("properties", {})
    return [unknown((*path, key), "field", key, known) for key in value if key not in known]


def _names(path: Path, value: JsonObject, schema: JsonObject) -> Iterable[Finding]:
    known = schema["propertyNames"]["enum"]
    return [unknown((*path, key), "key", key, known) for key in value if key not in known]


_NUMBER: dict[str, _Check] = {
    "minimum": _limit("minimum", operator.ge, "must be at least {limit}, got {value}"),
    "exclusiveMinimum": _limit("exclusiveMinimum", operator.gt, "must be above {limit}, got {value}"),
    "maximum": _limit("maximum", operator.le, "must be at most {limit}, got {value}"),
    "enum": _one_of,
}
SHAPE_CHECKS: dict[str, dict[str, _Check]] = {
    "object": {"required": _required, "additionalProperties": _closed, "propertyNames": _names, "enum": _one_of},
    "array": {
        "minItems": _limit("minItems", lambda value, limit: len(value) >= limit, "needs at least {limit} entry"),
        "maxItems": _limit("maxItems", lambda value, limit: len(value) <= limit, "takes at most {limit} entries"),
        "uniqueItems": _no_repeats,
        "enum": _one_of,
    },
    "string": {
        "pattern": _pattern,
        "minLength": _limit("minLength", lambda value, limit: len(value) >= limit, "is shorter than {limit}: {value}"),
        "maxLength": _limit("maxLength", lambda value, limit: len(value) <= limit, "is longer than {limit}: {value}"),
        "enum": _one_of,
    },
    "integer": _NUMBER,
    "number": _NUMBER,
    "boolean": {"enum": _one_of},
    "null": {"enum": _one_of},
}
"""What the schema may ask of each kind of value, by JSON Schema keyword."""
FREE: Parts = {}
FREE.update({kind: Part({}, rest=FREE) for kind in KINDS})
"""What nobody interprets."""

_KIND = {"type": "string", "enum": [*KINDS.values()]}
_SIZE = {"type": "integer", "minimum": 0}
KEYWORDS: dict[str, JsonObject] = {
    "type": {"anyOf": [_KIND, {"type": "array", "items": _KIND, "minItems": 1}]},
    "properties": {"type": "object"},
    "required": {"type": "array", "items": {"type": "string"}},
    "additionalProperties": {"type": ["boolean", "object"]},
    "items": {"type": "object"},
    "minItems": _SIZE,
    "maxItems": _SIZE,
    "enum": {"type": "array", "minItems": 1},
    "minimum": {"type": "number"},
    "maximum": {"type": "number"},
    "minLength": _SIZE,
    "maxLength": _SIZE,
    "title": {"type": "string"},
    "description": {"type": "string"},
}
"""What people may write into a schema, and the shape of it; the values of `properties` and the like are schemas too."""
_OF_A_SCHEMA = parts_of({"type": "object", "properties": KEYWORDS, "additionalProperties": False})


def unknown(path: Path, what: str, name: Any, known: Iterable[str], hint: str | None = None) -> Finding:
    return Finding(path, f"unknown {what} {quote(name)}", hint, name if isinstance(name, str) else None, known)


def pointer(path: Path) -> str:
    """RFC 6901. Half surrogates, which no encoder takes, are written as escapes."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return "".join(f"/{part}" for part in parts).encode(errors="backslashreplace").decode()


def quote(value: Any) -> str:
    """A value as JSON in a message: short, and safe to print."""
    if isinstance(value, dict | list):
        return f"an {KINDS[_kind(value)]}"
    text = json.dumps(value, ensure_ascii=not str(value).isprintable())
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "..."
