"""Every problem of a plan, at its place, in one pass; and agreement with the JSON Schema that editors use.

It is long because it is one table of plans, a line for everything that can be wrong with one.
"""

import copy
import json
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain import validate
from domain.plan import ROLES, Plan
from domain.shape import KEYWORDS, SHAPE_CHECKS, findings, pointer
from domain.validate import InvalidPlan, parse, problems

NAN = float("nan")


def raw(*tasks: Any, **top: Any) -> bytes:
    return json.dumps({"id": "p", "tasks": list(tasks), **top}).encode()


def found(plan: bytes) -> list[tuple[str, str]]:
    return [(problem.pointer, problem.message) for problem in problems(plan)]


def only(plan: bytes) -> validate.Problem:
    (problem,) = problems(plan)
    return problem


def accepted_by(*items: Any) -> dict[str, Any]:
    return {"acceptance_criteria": {"tests": items}}


def routed(**route: Any) -> dict[str, Any]:
    return {"failure_routing": {"timeout": route}}


def shaped(**schema: Any) -> dict[str, Any]:
    return {"result_schema": schema}


JUNIT = {"cmd": "x", "junit": "/r.xml"}
TWICE = {"dependencies": ["other", "other"]}
CASES = [
    ("/tasks/0/dependancies", 'unknown field "dependancies"', 'did you mean "dependencies"?', {"dependancies": []}),
    ("/tasks/0/a~1b~0c", 'unknown field "a/b~c"', None, {"a/b~c": 1}),
    ("/tasks/0/title", "expected string, got 7", None, {"title": 7}),
    ("/tasks/0/inputs", "expected object, got an array", None, {"inputs": []}),
    ("/tasks/0/parent_id", "expected string or null, got true", None, {"parent_id": True}),
    ("/tasks/0/max_attempts", "expected integer, got 1.0", None, {"max_attempts": 1.0}),
    ("/tasks/0/max_attempts", "expected integer, got true", None, {"max_attempts": True}),
    ("/tasks/0/max_attempts", "must be at least 1, got 0", None, {"max_attempts": 0}),
    ("/tasks/0/timeout_seconds", "must be above 0, got -5", None, {"timeout_seconds": -5}),
    ("/tasks/0/timeout_seconds", "must be at most 2592000, got 1e+300", None, {"timeout_seconds": 1e300}),
    ("/tasks/0/retry/jitter", "must be at most 1, got 2", None, {"retry": {"jitter": 2}}),
    ("/tasks/0/approval/0", 'unknown value "before"', "known: before_completion", {"approval": ["before"]}),
    ("/tasks/0/approval/0", "unknown value 5", None, {"approval": [5]}),
    ("/tasks/0/acceptance_criteria/tests/0", 'required field "cmd" is missing', None, accepted_by({})),
    ("/tasks/0/acceptance_criteria/tests/0/cmd", '"  " does not match \\S', "Shell", accepted_by({"cmd": "  "})),
    ("/tasks/0/agent_role", 'unknown role "codr"', 'did you mean "coder"?', {"agent_role": "codr"}),
    ("/tasks/0/failure_routing/timeout", 'unknown role "x"', "known: planner", {"failure_routing": {"timeout": "x"}}),
    ("/tasks/0/failure_routing/timout", 'unknown key "timout"', '"timeout"?', {"failure_routing": {"timout": "coder"}}),
    ("/tasks/0/failure_routing/timeout/role", 'unknown role "x"', "known:", routed(do="route", role="x")),
    ("/tasks/0/failure_routing/timeout/do", 'unknown value "x"', "known: ask, branch", routed(do="x")),
    ("/tasks/0/failure_routing/timeout", "expected string or object, got 7", None, {"failure_routing": {"timeout": 7}}),
    ("/tasks/0/failure_routing/timeout/rol", 'unknown field "rol"', '"role"?', routed(do="retry", rol="coder")),
    ("/tasks/0/failure_routing/timeout", '"route" needs a role', 'add "role"', routed(do="route")),
    ("/tasks/0/failure_routing/timeout/role", '"ask" goes to nobody', "remove", routed(do="ask", role="coder")),
    ("/tasks/0/failure_routing/timeout/retry", 'after "fail" comes no', "remove", routed(do="fail", retry={})),
    ("/tasks/0/result_schema/patern", 'unknown field "patern"', "known: type, properties", shaped(patern="x")),
    ("/tasks/0/result_schema/items/type", 'unknown value "str"', "string", shaped(items={"type": "str"})),
    (
        "/tasks/0/max_branch_depth",
        "9 branches 4 levels deep are up to 7380",
        "lower it",
        {"max_debug_attempts": 9, "max_branch_depth": 4},
    ),
    ("/tasks/0/acceptance_criteria/tests/0/junit", '"/r.xml" does not', "relative", accepted_by(JUNIT)),
    ("/tasks/0/dependencies/1", 'unknown task "d"', None, {"dependencies": ["other", "d"]}),
    ("/tasks/0/dependencies/0", 'unknown task "othr"', 'did you mean "other"?', {"dependencies": ["othr"]}),
    ("/tasks/0/dependencies/1", '"other" is already listed at /tasks/0/dependencies/0', "keep", TWICE),
    ("/tasks/0/dependencies/0", 'task "a" refers to itself', "remove it", {"dependencies": ["a"]}),
    ("/tasks/0/parent_id", 'unknown task "gone"', None, {"parent_id": "gone"}),
    ("/tasks/0/files/0", '"../secret" does not match', "without", {"files": ["../secret"]}),
    ("/tasks/0/files/0", '"/etc/passwd" does not match', "relative", {"files": ["/etc/passwd"]}),
    ("/tasks/0/inputs/x/0", "number out of range", None, {"inputs": {"x": [NAN]}}),
    ("/tasks/0/priority", "number out of range", None, {"priority": 2**63}),
    ("/tasks/0/title", "text holds a NUL", None, {"title": "a\x00"}),
    ("/tasks/0/inputs/\\ud800", "key holds a NUL or half of a surrogate", None, {"inputs": {"\ud800": 1}}),
]


@pytest.mark.parametrize(("pointer", "message", "hint", "fields"), CASES)
def test_each_problem_is_named_at_its_place(pointer: str, message: str, hint: str | None, fields: dict[str, Any]):
    problem = only(raw({"id": "a", **fields}, {"id": "other"}))
    assert problem.pointer == pointer
    assert message in problem.message
    assert (hint or "") in (problem.hint or "")


@pytest.mark.parametrize("bad", ["", "A", "a.fix1", "-a", "a b", "a\n", "é", "a" * 64])
def test_an_id_outside_the_pattern_is_refused_for_plans_tasks_and_roles(bad: str):
    plan = {"id": bad, "tasks": [{"id": bad}], "roles": [bad]}
    assert [pointer for pointer, _ in found(json.dumps(plan).encode())] == ["/id", "/roles/0", "/tasks/0/id"]


def test_a_sign_that_every_failure_has_is_refused():
    plan = raw({"id": "a"}, failure_signs=[{"type": "sandbox"}, {"type": "sandbox", "text": "x"}, {"type": "nothing"}])
    assert found(plan) == [
        ("/failure_signs/0", "every failure would have this sign"),
        ("/failure_signs/2", "every failure would have this sign"),
        ("/failure_signs/2/type", 'unknown value "nothing"'),
    ]


def test_every_problem_is_found_in_one_pass():
    plan = raw(
        {"titel": "", "agent_role": "codr", "max_attempts": 0, "dependencies": ["b", 3, "zzz"]},
        "not a task",
        {"id": "b", "dependencies": ["c"], "timeout_seconds": NAN},
        {"id": "c", "dependencies": ["b"]},
        {"id": "c"},
        {"id": "UPPER", "parent_id": "nobody"},
        objectiv="",
    )
    assert [pointer for pointer, _ in found(plan)] == [
        "/objectiv",
        "/tasks/0",
        "/tasks/0/agent_role",
        "/tasks/0/dependencies/1",
        "/tasks/0/dependencies/2",
        "/tasks/0/max_attempts",
        "/tasks/0/titel",
        "/tasks/1",
        "/tasks/2/timeout_seconds",
        "/tasks/3/dependencies/0",
        "/tasks/4/id",
        "/tasks/5/id",
        "/tasks/5/parent_id",
    ]


def test_a_duplicate_id_names_both_places():
    assert only(raw({"id": "a"}, {"id": "b"}, {"id": "a"})) == validate.Problem(
        "/tasks/2/id", 'id "a" is already taken at /tasks/0/id', "rename one of them"
    )


def test_what_is_misshapen_is_not_judged_for_its_meaning_too():
    assert found(raw({"id": "a", "dependencies": ["zzz", "zzz"]})) == [
        ("/tasks/0/dependencies/0", 'unknown task "zzz"'),
        ("/tasks/0/dependencies/1", '"zzz" is already listed at /tasks/0/dependencies/0'),
    ]


def test_a_cycle_through_a_duplicate_id_is_printed_once_at_the_first():
    b, a = {"id": "b", "dependencies": ["a"]}, {"id": "a", "dependencies": ["b"]}
    assert [pointer for pointer, _ in found(raw(b, a, a))] == ["/tasks/1/dependencies/0", "/tasks/2/id"]


def test_a_cycle_is_printed_once_and_the_self_dependency_is_not_one():
    plan = raw(
        {"id": "a", "dependencies": ["b", "a"]},
        {"id": "b", "dependencies": ["c"]},
        {"id": "c", "dependencies": ["a"]},
        {"id": "d", "dependencies": ["a"]},
    )
    assert found(plan) == [
        ("/tasks/0/dependencies/1", 'task "a" refers to itself'),
        ("/tasks/2/dependencies/0", "cycle in dependencies: a -> b -> c -> a"),
    ]


def test_cycles_that_share_a_task_are_each_printed():
    plan = raw(
        {"id": "a", "dependencies": ["b", "c"]},
        {"id": "b", "dependencies": ["a"]},
        {"id": "c", "dependencies": ["a"], "parent_id": "d"},
        {"id": "d", "parent_id": "c"},
    )
    assert [message for _, message in found(plan)] == [
        "cycle in dependencies: a -> b -> a",
        "cycle in dependencies: a -> c -> a",
        "cycle in parent_id: c -> d -> c",
    ]


@given(st.lists(st.lists(st.integers(0, 7), unique=True, max_size=4), min_size=1, max_size=8))
def test_without_the_links_it_reports_every_plan_has_an_order(edges: list[list[int]]):
    edges = [[target for target in targets if target < len(edges)] for targets in edges]
    tasks = [{"id": f"t{n}", "dependencies": [f"t{m}" for m in targets]} for n, targets in enumerate(edges)]
    reported = problems(raw(*tasks))
    for problem in reversed(reported):
        _, _, index, _, place = problem.pointer.split("/")
        del tasks[int(index)]["dependencies"][int(place)]
    assert problems(raw(*tasks)) == []
    assert len({problem.message for problem in reported}) == len(reported)


def test_the_plan_itself_must_hold_tasks():
    assert found(raw()) == [("/tasks", "needs at least 1 entry")]
    assert found(b'{"id": "p"}') == [("", 'required field "tasks" is missing')]
    assert found(b"[]") == [("", "expected object, got an array")]


def test_a_plan_may_add_roles_and_be_a_branch():
    plan = raw({"id": "a", "agent_role": "quant"}, {"id": "b", "parent_id": "a", "is_temporary": True}, roles=["quant"])
    assert problems(plan) == []
    assert parse(plan).tasks[1].parent_id == "a"


@pytest.mark.parametrize("role", ROLES)
def test_every_built_in_role_is_known(role: str):
    assert problems(raw({"id": "a", "agent_role": role, "failure_routing": {"budget": role}})) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"id": "p",\n "tasks" []}', "not JSON: Expecting ':' delimiter at line 2, column 10"),
        (b"", "not JSON: Expecting value at line 1, column 1"),
        (b'{"id": "p"} x', "not JSON: Extra data at line 1, column 13"),
        (b'{\n"id": "\xff"}', "not UTF-8: byte 0xff at line 2, offset 9"),
    ],
)
def test_what_is_not_json_is_refused_with_line_and_column(text: bytes, message: str):
    assert found(text) == [("", message)]


def test_a_key_written_twice_is_found_at_any_depth():
    text = b'{"id": "p", "tasks": [{"id": "a", "inputs": {"x": {"k": 1, "k": 2}}, "id": "a"}]}'
    assert [pointer for pointer, _ in found(text)] == ["/tasks/0/id", "/tasks/0/inputs/x/k"]


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e999", b"9" * 5_000, b"-9223372036854775809"])
def test_a_number_nobody_can_store_is_refused(number: bytes):
    text = b'{"id": "p", "tasks": [{"id": "a", "inputs": {"x": %s}}]}' % number
    assert only(text).pointer == "/tasks/0/inputs/x"


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000 + b"1" + b"}" * 100_000])
def test_a_depth_bomb_is_a_problem_and_no_crash(text: bytes):
    assert "levels deep" in only(text).message


def test_the_depth_limit_does_not_depend_on_the_stack():
    def nested(levels: int) -> bytes:
        return b'{"id": "p", "tasks": [{"id": "a", "inputs": ' + b'{"a":' * levels + b"1" + b"}" * levels + b"}]}"

    # The plan, its tasks and the task are the three levels around "inputs".
    assert problems(nested(validate.MOST_LEVELS - 3)) == []
    assert "levels deep" in only(nested(validate.MOST_LEVELS - 2)).message


def test_the_reading_ends_after_enough_problems_and_says_so():
    shown = problems(raw(*[1] * 5_000))
    assert len(shown) == validate.MOST_PROBLEMS + 1
    assert shown[-1].message == "there are more problems: these are the first 1000"


def test_messages_stay_short_and_printable_whatever_was_written():
    shown = problems(raw({"id": "a", "agent_role": "\x1b[31m\x9b1m\u202e" + "x" * 100_000, "title": ["y" * 100_000]}))
    for problem in shown:
        assert len(problem.message) < 200
        assert problem.message.isprintable()
        str(problem).encode()


def test_suggestions_end_before_they_take_long():
    shown = problems(raw(*({"id": f"task-{n}", "dependencies": [f"tsak-{n}"]} for n in range(900))))
    hinted = [problem for problem in shown if problem.hint]
    assert len(shown) == 900
    assert 0 < len(hinted) <= validate.MOST_COMPARISONS / 900 + 1


def test_a_chain_of_ten_thousand_tasks_is_read_without_recursion_in_linear_time():
    def seconds(count: int) -> float:
        tasks = [{"id": f"t{n}", "dependencies": [f"t{n - 1}"] if n else [f"t{count - 1}"]} for n in range(count)]
        start = time.process_time()
        assert [message.count(" -> ") for _, message in found(raw(*tasks))] == [validate.LONGEST_CYCLE + 1]
        return time.process_time() - start

    few, many = seconds(2_500), seconds(10_000)
    assert many < 12 * few + 0.2


def test_an_invalid_plan_is_refused_with_all_its_problems():
    with pytest.raises(InvalidPlan) as refused:
        parse(raw({"id": "a", "agent_role": "codr"}, {"id": "a"}))
    assert [problem.pointer for problem in refused.value.problems] == ["/tasks/0/agent_role", "/tasks/1/id"]
    assert '/tasks/1/id: id "a" is already taken at /tasks/0/id (rename one of them)' in str(refused.value)


# Agreement: the walker, the jsonschema package and msgspec's decoder judge the same plans the same way.

SCHEMA = msgspec.json.schema(Plan)
ANNOTATIONS = {"title", "description", "default", "examples", "type", "$ref", "$defs", "properties", "items", "anyOf"}
BASE: dict[str, Any] = {
    "$schema": "./plan.schema.json",
    "id": "p",
    "tasks": [
        {
            "id": "a",
            "acceptance_criteria": {"tests": [{"cmd": "true", "timeout_seconds": 1.5}]},
            "retry": {"factor": 2},
        },
        {
            "id": "b",
            "dependencies": ["a"],
            "failure_routing": {
                "timeout": "coder",
                "sandbox": {"do": "route", "role": "quant", "retry": {"jitter": 1}},
            },
            "approval": ["before_dispatch"],
            "inputs": {"x": [1, {"y": None}]},
            "files": ["src/a.py"],
            "parent_id": "a",
            "is_temporary": True,
        },
    ],
    "roles": ["quant"],
    "failure_signs": [{"type": "sandbox", "text": "x", "exit_codes": [3]}],
    "workspace": "workspace",
}
FIELDS = sorted({name for kind in SCHEMA["$defs"].values() for name in kind["properties"]} | {"nmae", "timout"})
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=8)
VALUES = st.recursive(
    st.sampled_from([None, True, 0, -1, 1, 101, 0.0, 0.5, 1.5, 1e9, "", " ", "a", "A", "a\n", "../a", "/a", "coder"])
    | st.sampled_from(["before_dispatch", "timeout", "quant", "b"])
    | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | TEXT, inner, max_size=3),
    max_leaves=6,
)


def containers(value: Any) -> list[Any]:
    if not isinstance(value, dict | list):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(found for item in inner for found in containers(item))]


@st.composite
def spoiled(draw: st.DrawFn) -> dict[str, Any]:
    plan = copy.deepcopy(BASE)
    for _ in range(draw(st.integers(0, 3))):
        holder = draw(st.sampled_from(containers(plan)))
        keys = sorted(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if keys and draw(st.booleans()):
            key = draw(st.sampled_from(keys))
            if draw(st.booleans()):
                del holder[key]
            else:
                holder[key] = draw(VALUES)
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(FIELDS))] = draw(VALUES)
        else:
            holder.append(draw(VALUES | st.sampled_from(holder or [None])))
    return plan


def whole(_: Any, value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)  # to JSON Schema 1.0 is an integer, to us it is not


VALIDATOR = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine("integer", whole),
)(SCHEMA)


BOUNDS = [
    (kind, name, keyword, spec[keyword])
    for kind, body in SCHEMA["$defs"].items()
    for name, spec in body["properties"].items()
    for keyword in ("minimum", "maximum", "exclusiveMinimum")
    if keyword in spec
]


@pytest.mark.parametrize(("kind", "name", "keyword", "bound"), BOUNDS)
def test_a_bound_is_within_the_range_unless_it_is_exclusive(kind: str, name: str, keyword: str, bound: float):
    fields = {"Task": {name: bound}, "Retry": {"retry": {name: bound}}, "Test": accepted_by({"cmd": "x", name: bound})}
    of_the_plan = {} if kind in fields else {kind.lower(): {name: bound}}
    assert len(problems(raw({"id": "a", **fields.get(kind, {})}, **of_the_plan))) == (
        1 if keyword == "exclusiveMinimum" else 0
    )


def every(errors: Iterable[Any]) -> Iterator[Any]:
    """With those inside the choices of an "anyOf", which is one error to JSON Schema."""
    for error in errors:
        yield error
        yield from every(error.context)


@settings(max_examples=300, deadline=None)
@given(spoiled())
def test_the_shape_is_judged_as_the_json_schema_says_at_the_same_places(plan: dict[str, Any]):
    text = json.dumps(plan).encode()
    ours = {finding.path for finding in findings(validate._read(text), validate._root())}
    theirs = {tuple(error.absolute_path) for error in every(VALIDATOR.iter_errors(plan))}
    assert all(any(path[: len(error)] == error for path in ours) for error in theirs), (ours, theirs)
    # We point at the unknown field or the repeated entry itself, JSON Schema at what holds it.
    assert all({path, path[:-1]} & theirs for path in ours), (ours, theirs)
    assert {problem.pointer for problem in problems(text)} >= {pointer(path) for path in ours}


@settings(max_examples=300, deadline=None)
@given(spoiled())
def test_what_has_no_problem_decodes_and_what_does_not_decode_has_one(plan: dict[str, Any]):
    text = json.dumps(plan).encode()
    if not problems(text):
        assert parse(text).id == plan["id"]
        return
    with pytest.raises(InvalidPlan):
        parse(text)


@given(st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_at_all_can_make_it_raise(text: bytes):
    assert problems(text) != []


def test_the_walker_knows_every_keyword_the_schema_uses():
    checks = {keyword for of_kind in SHAPE_CHECKS.values() for keyword in of_kind}

    def keywords(schema: dict[str, Any]) -> set[str]:
        below = [*schema.get("properties", {}).values(), *schema.get("anyOf", ()), *schema.get("$defs", {}).values()]
        below += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
        return set(schema).union(*map(keywords, below))

    assert (keywords(SCHEMA) | KEYWORDS.keys()) - ANNOTATIONS == checks


def test_a_task_needs_a_few_capabilities_that_are_words() -> None:
    def of(*capabilities: Any) -> list[tuple[str, str]]:
        return found(raw(tasks=[{"id": "a", "capabilities": list(capabilities)}]))

    assert of("gpu", "python", "rust", "node") == []
    assert of(*"abcde") == [("/tasks/0/capabilities", "takes at most 4 entries")]
    assert [pointer for pointer, _ in of("GPU", "a b", "x+y")] == [f"/tasks/0/capabilities/{n}" for n in range(3)]
    assert [pointer for pointer, _ in of("a", "a")] == ["/tasks/0/capabilities/1"]
