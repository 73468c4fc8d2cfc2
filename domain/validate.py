"""Every problem of a plan in one pass, each with the place it is at and, where there is one, the way out.

Three readings, each as far as the one before it allows: the text (is it JSON, and JSON that can be stored), the shape
(`plan.schema.json`, walked as data: `SHAPE_CHECKS`), and the meaning (`RULES`: unique names, references that lead
somewhere, an order that exists). Where the shape of a value is wrong its meaning is not judged.
Nothing here recurses, so neither deep JSON nor a long chain of tasks can exhaust the stack.

It is long because it is whole: four short parts, each of use only to the next, that share one Finding and its spelling.
"""

import json
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec

from domain.errors import Refused
from domain.plan import ROLES, Plan

MOST_PROBLEMS = 1_000
MOST_LEVELS = 64
MOST_COMPARISONS = 20_000  # names looked at for "did you mean" in one plan: about half a second
LONGEST_QUOTE = 60
LONGEST_CYCLE = 20

Path = tuple[str | int, ...]
JsonObject = dict[str, Any]


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong. `pointer` is an RFC 6901 JSON pointer to a place in the file; "" is the whole of it."""

    pointer: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.pointer or '(plan)'}: {self.message}" + (f" ({self.hint})" if self.hint else "")


class InvalidPlan(Refused):
    """The plan cannot be accepted as it is; `problems` says why, and is never empty."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class Finding(NamedTuple):
    """A problem before it is spelled: `name` was written where one of `known` was meant."""

    path: Path
    message: str
    hint: str | None = None
    name: str | None = None
    known: Iterable[str] = ()


def parse(raw: bytes) -> Plan:
    """The plan in these bytes (UTF-8 JSON). Raises InvalidPlan with every problem of it."""
    if found := problems(raw):
        raise InvalidPlan(found)
    return msgspec.json.decode(raw, type=Plan)


def problems(raw: bytes) -> list[Problem]:
    """Everything wrong with the plan in these bytes, ordered by place; empty when it can be accepted.

    After MOST_PROBLEMS the reading ends, and the last entry says so.
    """
    try:
        plan = _read(raw)
    except _NotJson as error:
        return [Problem("", str(error), error.hint)]
    found = list(islice(_shape(plan), MOST_PROBLEMS + 1))
    misshapen = {finding.path for finding in found}
    meant = (finding for finding in _meaning(plan) if finding.path not in misshapen)
    found += islice(meant, MOST_PROBLEMS + 1 - len(found))
    shown = [*_spell(sorted(found[:MOST_PROBLEMS], key=lambda finding: finding.path))]
    if len(found) > MOST_PROBLEMS:
        shown.append(Problem("", f"there are more problems: these are the first {MOST_PROBLEMS}"))
    return shown


# The text


class _NotJson(Exception):
    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class _Object(dict[str, Any]):
    """A JSON object that remembers which of its keys were written more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(key for key, _ in pairs) if len(pairs) > len(self) else {}
        self.repeated = [key for key, count in counts.items() if count > 1]


def _read(raw: bytes) -> Any:
    try:
        return json.loads(raw.decode(), object_pairs_hook=_Object, parse_int=_whole)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        place = f"byte 0x{raw[error.start]:02x} at line {line}, offset {error.start}"
        raise _NotJson(f"not UTF-8: {place}", "save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        place = f"at line {error.lineno}, column {error.colno}"
        hint = "JSON has no comments and no comma after the last entry; strings and keys take double quotes"
        raise _NotJson(f"not JSON: {error.msg} {place}", hint) from None
    except RecursionError:
        raise _NotJson(_TOO_DEEP, _FLATTEN) from None


def _whole(digits: str) -> int | float:
    """Integers nobody can store become infinite, and are refused with the other numbers of that kind."""
    number = int(digits) if len(digits) <= 20 else math.inf
    return number if -(2**63) <= number < 2**63 else math.inf


_TOO_DEEP = f"nested more than {MOST_LEVELS} levels deep"
_FLATTEN = "flatten it, or put it in a file of the workspace"
_UNSTORABLE_TEXT = re.compile("[\x00\ud800-\udfff]")


def _unstorable(path: Path, value: Any) -> Finding | None:
    kind = type(value)
    if kind is str:
        if _UNSTORABLE_TEXT.search(value):
            return Finding(path, "text holds a NUL or half of a surrogate pair, which cannot be stored")
    elif kind is float:
        if not math.isfinite(value):
            return Finding(path, "number out of range: NaN, infinities and integers beyond 64 bits cannot be stored")
    elif len(path) >= MOST_LEVELS and (kind is _Object or kind is list):
        return Finding(path, _TOO_DEEP, _FLATTEN)
    return None


def _bad_keys(path: Path, value: _Object, known: Iterable[str]) -> Iterator[Finding]:
    for key in value.repeated:
        yield Finding((*path, key), f"key {_quote(key)} is written more than once in this object", "keep one")
    for key in value.keys() - known:
        if _UNSTORABLE_TEXT.search(key):
            yield Finding((*path, key), "key holds a NUL or half of a surrogate pair, which cannot be stored")


# The shape

_KINDS: dict[type, str] = {
    _Object: "object",
    list: "array",
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    type(None): "null",
}


class _Part(NamedTuple):
    """What a schema asks of the values of one kind: `checks`, or, where that kind does not belong, `expected`."""

    schema: JsonObject
    checks: tuple["_Check", ...] = ()
    expected: str | None = None
    members: dict[str, "_Parts"] = {}  # noqa: RUF012
    rest: "_Parts" = {}  # noqa: RUF012


_Parts = dict[type, _Part]


def _shape(plan: Any) -> Iterator[Finding]:
    """Walks value and schema together, in the order of the file; `_FREE` is what nobody interprets."""
    walk: list[tuple[Path, Any, _Parts]] = [((), plan, _root())]
    while walk:
        path, value, parts = walk.pop()
        kind = type(value)
        if unstorable := _unstorable(path, value):
            yield unstorable
            continue
        schema, checks, expected, members, rest = parts[kind]
        if expected is not None:
            yield Finding(path, f"expected {expected}, got {_quote(value)}")
        for check in checks:
            yield from check(path, value, schema)
        if kind is _Object:
            yield from _bad_keys(path, value, members)
            walk += [((*path, key), value[key], members.get(key, rest)) for key in reversed(value)]
        elif kind is list:
            walk += [((*path, index), value[index], rest) for index in reversed(range(len(value)))]


@cache
def _root() -> _Parts:
    (root,), shared = msgspec.json.schema_components((Plan,), ref_template="{name}")
    return _parts(root, shared)


def _parts(schema: JsonObject, shared: dict[str, JsonObject]) -> _Parts:
    while "$ref" in schema:
        schema = shared[schema["$ref"]]
    return {kind: _part(schema, name, shared) for kind, name in _KINDS.items()} if schema else _FREE


def _part(schema: JsonObject, kind: str, shared: dict[str, JsonObject]) -> _Part:
    if "anyOf" in schema:
        schema = next((option for option in schema["anyOf"] if _admits(option, kind)), _either(schema["anyOf"]))
    if not _admits(schema, kind):
        return _Part({}, expected=schema["type"], rest=_FREE)
    checks = tuple(check for keyword, check in SHAPE_CHECKS[kind].items() if keyword in schema)
    members = {key: _parts(member, shared) for key, member in schema.get("properties", {}).items()}
    rest = schema.get("additionalProperties" if kind == "object" else "items") or {}
    return _Part(schema, checks, None, members, _parts(rest, shared))


def _admits(schema: JsonObject, kind: str) -> bool:
    wanted = schema.get("type", kind)
    return bool(wanted == kind) or (kind == "integer" and wanted == "number")


def _either(options: list[JsonObject]) -> JsonObject:
    return {"type": " or ".join(option["type"] for option in options)}


_Check = Callable[[Path, Any, JsonObject], Iterable[Finding]]


def _limit(keyword: str, passes: Callable[[Any, Any], bool], words: str) -> _Check:
    def check(path: Path, value: Any, schema: JsonObject) -> Iterable[Finding]:
        limit = schema[keyword]
        return () if passes(value, limit) else [Finding(path, words.format(value=_quote(value), limit=limit))]

    return check


def _pattern(path: Path, value: str, schema: JsonObject) -> Iterable[Finding]:
    if re.search(schema["pattern"], value):
        return ()
    return [Finding(path, f"{_quote(value)} does not match {schema['pattern']}", schema.get("description"))]


def _one_of(path: Path, value: Any, schema: JsonObject) -> Iterable[Finding]:
    return () if value in schema["enum"] else [_unknown(path, "value", value, schema["enum"])]


def _no_repeats(path: Path, value: list[Any], schema: JsonObject) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, item in enumerate(value if schema["uniqueItems"] else ()):
        if isinstance(item, str) and first.setdefault(item, index) != index:
            earlier = _pointer((*path, first[item]))
            yield Finding((*path, index), f"{_quote(item)} is already listed at {earlier}", "keep one")


def _required(path: Path, value: _Object, schema: JsonObject) -> Iterable[Finding]:
    return [Finding(path, f'required field "{key}" is missing') for key in schema["required"] if key not in value]


def _closed(path: Path, value: _Object, schema: JsonObject) -> Iterable[Finding]:
    if schema["additionalProperties"] is not False:
        return ()
    known = schema["properties"]
    return [_unknown((*path, key), "field", key, known) for key in value if key not in known]


def _names(path: Path, value: _Object, schema: JsonObject) -> Iterable[Finding]:
    known = schema["propertyNames"]["enum"]
    return [_unknown((*path, key), "key", key, known) for key in value if key not in known]


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
        "uniqueItems": _no_repeats,
        "enum": _one_of,
    },
    "string": {"pattern": _pattern, "enum": _one_of},
    "integer": _NUMBER,
    "number": _NUMBER,
    "boolean": {"enum": _one_of},
    "null": {"enum": _one_of},
}
"""What the schema may ask of each kind of value, by JSON Schema keyword."""
_FREE: _Parts = {}
_FREE.update({kind: _Part({}, rest=_FREE) for kind in _KINDS})


# The meaning

LINKS: dict[str, type] = {"dependencies": list, "parent_id": str, "agent_role": str, "failure_routing": dict}
"""The fields by which a task names other tasks (the first two) and roles, and the kind of value each has to be."""


class _Link(NamedTuple):
    """`source`, the id of a task if it has one, names `target`; `path` is where."""

    path: Path
    source: str | None
    target: str


class _Names(NamedTuple):
    """What a plan names, as far as its shape allows: ids, each with its first place; roles; links by field."""

    ids: list[tuple[str, Path]]
    roles: dict[str, None]
    links: dict[str, list[_Link]]


def _meaning(plan: Any) -> Iterator[Finding]:
    top = plan if isinstance(plan, dict) else {}
    tasks: list[tuple[Path, JsonObject]] = [
        (("tasks", index), task) for index, task in _entries(top.get("tasks"), list) if isinstance(task, dict)
    ]
    names = _Names(
        ids=[(task["id"], (*path, "id")) for path, task in tasks if isinstance(task.get("id"), str)],
        roles=dict.fromkeys([*ROLES, *(role for _, role in _entries(top.get("roles"), list) if isinstance(role, str))]),
        links={field: [*_links(tasks, field, kind)] for field, kind in LINKS.items()},
    )
    return chain.from_iterable(rule(names) for rule in RULES)


def _entries(value: Any, kind: type) -> Iterable[tuple[Any, Any]]:
    found: Any = value if isinstance(value, kind) else kind()
    return found.items() if isinstance(found, dict) else enumerate(found)


def _links(tasks: list[tuple[Path, JsonObject]], field: str, kind: type) -> Iterator[_Link]:
    for path, task in tasks:
        if field not in task:
            continue
        source, value = task.get("id"), task[field]
        entries = [((), value)] if kind is str else [((key,), item) for key, item in _entries(value, kind)]
        for key, target in entries:
            if isinstance(target, str):
                yield _Link((*path, field, *key), source if isinstance(source, str) else None, target)


def _ids_are_unique(names: _Names) -> Iterator[Finding]:
    first: dict[str, Path] = {}
    for name, path in names.ids:
        if first.setdefault(name, path) != path:
            yield Finding(path, f"id {_quote(name)} is already taken at {_pointer(first[name])}", "rename one of them")


def _tasks_are_known(names: _Names) -> Iterator[Finding]:
    ids = dict(names.ids)
    for link in names.links["dependencies"] + names.links["parent_id"]:
        if link.target == link.source:
            yield Finding(link.path, f"task {_quote(link.source)} refers to itself", "remove it")
        elif link.target not in ids:
            yield _unknown(link.path, "task", link.target, ids)


def _order_exists(names: _Names) -> Iterator[Finding]:
    for field in ("dependencies", "parent_id"):
        if not names.links[field]:
            continue
        graph: dict[str, dict[str, Path]] = {name: {} for name, _ in names.ids}
        for path, source, target in names.links[field]:
            if source is not None and target in graph and target != source:
                graph[source].setdefault(target, path)
        for path, cycle in _cycles(graph):
            yield Finding(path, f"cycle in {field}: {' -> '.join(cycle)}", "each waits for the next: remove one link")


def _roles_are_known(names: _Names) -> Iterator[Finding]:
    for path, _, role in names.links["agent_role"] + names.links["failure_routing"]:
        if role not in names.roles:
            yield _unknown(path, "role", role, names.roles, 'list it in "roles" of the plan if it is meant')


RULES = (_ids_are_unique, _tasks_are_known, _order_exists, _roles_are_known)
"""What the shape cannot say. Each rule reads the names of the plan and knows nothing of the others."""


def _cycles(graph: dict[str, dict[str, Path]]) -> Iterator[tuple[Path, list[str]]]:
    """Each edge that closes a cycle in a depth-first walk, with that cycle. Without these edges none is left."""
    done: set[str] = set()
    for root in graph:
        if root in done:
            continue
        trail, place, walk = [root], {root: 0}, [iter(graph[root].items())]
        while walk:
            target, path = next(walk[-1], (None, ()))
            if target is None:
                walk.pop()
                done.add(trail[-1])
                del place[trail.pop()]
            elif target in place:
                start, length = place[target], len(trail) - place[target]
                cut = [f"... {length - LONGEST_CYCLE} more ..."] if length > LONGEST_CYCLE else []
                yield path, [*trail[start : start + LONGEST_CYCLE], *cut, target]
            elif target not in done:
                place[target] = len(trail)
                trail.append(target)
                walk.append(iter(graph[target].items()))


# The spelling


def _unknown(path: Path, what: str, name: Any, known: Iterable[str], hint: str | None = None) -> Finding:
    return Finding(path, f"unknown {what} {_quote(name)}", hint, name if isinstance(name, str) else None, known)


def _spell(findings: Iterable[Finding]) -> Iterator[Problem]:
    left = MOST_COMPARISONS
    for path, message, hint, name, known in findings:
        hints = [hint] if hint else []
        if name is not None and len(name) <= LONGEST_QUOTE * 2:
            candidates = list(islice(known, left))
            left -= len(candidates)
            if close := get_close_matches(name, candidates, n=1):
                hints.insert(0, f"did you mean {_quote(close[0])}?")
            elif 0 < len(candidates) <= len(ROLES) * 2:
                hints.insert(0, f"known: {', '.join(candidates)}")
        yield Problem(_pointer(path), message, "; ".join(hints) or None)


def _pointer(path: Path) -> str:
    """RFC 6901. Half surrogates, which no encoder takes, are written as escapes."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in path)
    return "".join(f"/{part}" for part in parts).encode(errors="backslashreplace").decode()


def _quote(value: Any) -> str:
    """A value as JSON in a message: short, and safe to print."""
    if isinstance(value, dict | list):
        return f"an {_KINDS[type(value)]}"
    text = json.dumps(value, ensure_ascii=not str(value).isprintable())
    return text if len(text) <= LONGEST_QUOTE else text[:LONGEST_QUOTE] + "..."
