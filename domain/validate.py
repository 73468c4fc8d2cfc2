"""Every problem of a plan in one pass, each with the place it is at and, where there is one, the way out.

Three readings, each as far as the one before it allows: the text (is it JSON, and JSON that can be stored), the shape
(`plan.schema.json`, walked as data by `domain.shape`), and the meaning (`RULES`: unique names, references that lead
somewhere, an order that exists). Where the shape of a value is wrong its meaning is not judged.
Nothing here recurses, so neither deep JSON nor a long chain of tasks can exhaust the stack.
It is long because it is whole: three short readings, each of use only to the next, that share their spelling.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from itertools import chain, islice
from typing import Any, NamedTuple

import msgspec

from domain.errors import Refused
from domain.plan import ROLES, Plan
from domain.shape import (
    LONGEST_QUOTE,
    Finding,
    JsonObject,
    Parts,
    Path,
    faults,
    findings,
    parts_of,
    pointer,
    quote,
    unknown,
)

MOST_PROBLEMS = 1_000
MOST_LEVELS = 64
MOST_COMPARISONS = 20_000  # names looked at for "did you mean" in one plan: about half a second
LONGEST_CYCLE = 20
MOST_BRANCHES = 1_000
"""Of one task, with the branches of its branches: each may cost as much as the task itself."""


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
    found: list[Finding] = []
    for reading in (_unstorable(plan), findings(plan, _root()), _meaning(plan)):
        wrong = {finding.path for finding in found}
        found += islice((it for it in reading if it.path not in wrong), MOST_PROBLEMS + 1 - len(found))
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


def _unstorable(plan: Any) -> Iterator[Finding]:
    walk: list[tuple[Path, Any]] = [((), plan)]
    while walk:
        path, value = walk.pop()
        if isinstance(value, str) and _UNSTORABLE_TEXT.search(value):
            yield Finding(path, "text holds a NUL or half of a surrogate pair, which cannot be stored")
        elif isinstance(value, float) and not math.isfinite(value):
            yield Finding(path, "number out of range: NaN, infinities and integers beyond 64 bits cannot be stored")
        elif isinstance(value, dict | list) and len(path) >= MOST_LEVELS:
            yield Finding(path, _TOO_DEEP, _FLATTEN)
        elif isinstance(value, _Object):
            for key in value.repeated:
                yield Finding((*path, key), f"key {quote(key)} is written more than once in this object", "keep one")
            for key in filter(_UNSTORABLE_TEXT.search, value):
                yield Finding((*path, key), "key holds a NUL or half of a surrogate pair, which cannot be stored")
            walk += [((*path, key), it) for key, it in value.items()]
        elif isinstance(value, list):
            walk += [((*path, index), it) for index, it in enumerate(value)]


# The shape


@cache
def _root() -> Parts:
    (root,), shared = msgspec.json.schema_components((Plan,), ref_template="{name}")
    return parts_of(root, shared)


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
        links={field: [*_links(tasks, field, kind)] for field, kind in LINKS.items()}
        | {
            "role_budgets": [
                _Link(("role_budgets", key), None, key) for key, _ in _entries(top.get("role_budgets"), dict)
            ]
        },
    )
    rules = chain.from_iterable(rule(names) for rule in RULES)
    of_tasks = chain.from_iterable(rule(tasks) for rule in TASK_RULES)
    return chain(rules, of_tasks, _signs_say_something(_entries(top.get("failure_signs"), list)))


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
            if field == "failure_routing" and isinstance(target, dict):
                key, target = (*key, "role"), target.get("role")
            if isinstance(target, str):
                yield _Link((*path, field, *key), source if isinstance(source, str) else None, target)


def _ids_are_unique(names: _Names) -> Iterator[Finding]:
    first: dict[str, Path] = {}
    for name, path in names.ids:
        if first.setdefault(name, path) != path:
            yield Finding(path, f"id {quote(name)} is already taken at {pointer(first[name])}", "rename one of them")


def _tasks_are_known(names: _Names) -> Iterator[Finding]:
    ids = dict(names.ids)
    for link in names.links["dependencies"] + names.links["parent_id"]:
        if link.target == link.source:
            yield Finding(link.path, f"task {quote(link.source)} refers to itself", "remove it")
        elif link.target not in ids:
            yield unknown(link.path, "task", link.target, ids)


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
    for path, _, role in names.links["agent_role"] + names.links["failure_routing"] + names.links["role_budgets"]:
        if role not in names.roles:
            yield unknown(path, "role", role, names.roles, 'list it in "roles" of the plan if it is meant')


def _branches_are_few(tasks: Iterable[tuple[Path, JsonObject]]) -> Iterator[Finding]:
    for path, task in tasks:
        width, depth = task.get("max_debug_attempts", 2), task.get("max_branch_depth", 1)
        if type(width) is not int or type(depth) is not int or not 0 <= width <= 100 or not 0 <= depth <= 8:
            continue
        if (branches := sum(width**level for level in range(1, depth + 1))) > MOST_BRANCHES:
            message = f"{width} branches {depth} levels deep are up to {branches} in all, the limit is {MOST_BRANCHES}"
            yield Finding((*path, "max_branch_depth"), message, "lower it, or max_debug_attempts")


def _results_have_a_shape(tasks: Iterable[tuple[Path, JsonObject]]) -> Iterator[Finding]:
    for path, task in tasks:
        if isinstance(schema := task.get("result_schema"), dict):
            yield from faults(schema, (*path, "result_schema"))


def _routes_lead_somewhere(tasks: Iterable[tuple[Path, JsonObject]]) -> Iterator[Finding]:
    for path, task in tasks:
        for key, route in _entries(task.get("failure_routing"), dict):
            if isinstance(route, dict):
                do, place = route.get("do"), (*path, "failure_routing", key)
                if do in ("route", "branch") and "role" not in route:
                    yield Finding(place, f'"{do}" needs a role', 'add "role"')
                if do in ("retry", "ask", "fail") and "role" in route:
                    yield Finding((*place, "role"), f'"{do}" goes to nobody', "remove it, or route or branch")
                if do in ("branch", "ask", "fail") and "retry" in route:
                    yield Finding((*place, "retry"), f'after "{do}" comes no attempt to wait for', "remove it")


TASK_RULES = (_branches_are_few, _results_have_a_shape, _routes_lead_somewhere)
"""What the shape cannot say of a task by itself."""


def _signs_say_something(signs: Iterable[tuple[int, Any]]) -> Iterator[Finding]:
    for index, sign in signs:
        if isinstance(sign, dict) and not sign.get("text") and not sign.get("exit_codes"):
            yield Finding(("failure_signs", index), "every failure would have this sign", "give it text or exit_codes")


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


def _spell(findings: Iterable[Finding]) -> Iterator[Problem]:
    left = MOST_COMPARISONS
    for path, message, hint, name, known in findings:
        hints = [hint] if hint else []
        if name is not None and len(name) <= LONGEST_QUOTE * 2:
            candidates = list(islice(known, left))
            left -= len(candidates)
            if close := get_close_matches(name, candidates, n=1):
                hints.insert(0, f"did you mean {quote(close[0])}?")
            elif 0 < len(candidates) <= len(ROLES) * 2:
                hints.insert(0, f"known: {', '.join(candidates)}")
        yield Problem(pointer(path), message, "; ".join(hints) or None)
