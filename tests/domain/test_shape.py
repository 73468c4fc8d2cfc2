"""Values held against a declared shape, and which shapes may be declared; what JSON Schema says is what we say."""

import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.shape import FREE, KEYWORDS, SHOWN_MISFITS, faults, findings, misfit, parts_of, pointer

LINES = {
    "type": "object",
    "required": ["lines", "kind"],
    "properties": {
        "lines": {"type": "integer", "minimum": 1, "maximum": 9},
        "kind": {"enum": ["new", "old", None]},
        "names": {"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 4}, "maxItems": 2},
        "note": {"type": ["string", "null"]},
    },
    "additionalProperties": False,
}
GOOD = {"lines": 3, "kind": "new", "names": ["ab"], "note": None}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lines": 0}, "/lines: must be at least 1, got 0"),
        ({"lines": 10}, "/lines: must be at most 9, got 10"),
        ({"lines": "3"}, '/lines: expected integer, got "3"'),
        ({"lines": True}, "/lines: expected integer, got true"),
        ({"kind": "odd"}, '/kind: unknown value "odd"'),
        ({"kind": 0}, "/kind: unknown value 0"),
        ({"names": ["a"]}, '/names/0: is shorter than 2: "a"'),
        ({"names": ["abcde"]}, '/names/0: is longer than 4: "abcde"'),
        ({"names": ["ab", "cd", "ef"]}, "/names: takes at most 2 entries"),
        ({"note": 1}, "/note: expected string or null, got 1"),
        ({"more": 1}, '/more: unknown field "more"'),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(wrong: dict[str, Any], said: str) -> None:
    assert misfit(GOOD, LINES) == ""
    assert misfit({**GOOD, **wrong}, LINES) == said


@pytest.mark.parametrize(("value", "said"), [(None, "got null"), ([1], "got an array"), ("x", 'got "x"')])
def test_a_value_of_another_kind_does_not_fit_as_a_whole(value: Any, said: str) -> None:
    assert misfit(value, LINES) == f"(whole): expected object, {said}"


def test_a_missing_field_is_named() -> None:
    assert misfit({"lines": 3}, LINES) == '(whole): required field "kind" is missing'


def test_of_many_misfits_the_first_are_told() -> None:
    told = misfit(list(range(10)), {"items": {"type": "string"}})
    assert told.count("expected string") == SHOWN_MISFITS
    assert told.endswith("; and more")


def test_the_shape_of_what_is_not_named_can_be_declared_too() -> None:
    schema = {"type": "object", "additionalProperties": {"type": "number"}}
    assert misfit({"a": 1, "b": 1.5}, schema) == ""
    assert misfit({"a": "1"}, schema) == '/a: expected number, got "1"'


@pytest.mark.parametrize(
    ("schema", "place", "said"),
    [
        ({"pattern": "a+"}, "/pattern", 'unknown field "pattern"'),
        ({"properties": {"a": {"$ref": "#"}}}, "/properties/a/$ref", 'unknown field "$ref"'),
        ({"items": {"oneOf": []}}, "/items/oneOf", 'unknown field "oneOf"'),
        ({"additionalProperties": {"format": "date"}}, "/additionalProperties/format", 'unknown field "format"'),
        ({"type": "text"}, "/type", 'unknown value "text"'),
        ({"type": ["string", "text"]}, "/type/1", 'unknown value "text"'),
        ({"required": "a"}, "/required", 'expected array, got "a"'),
        ({"minLength": -1}, "/minLength", "must be at least 0, got -1"),
        ({"properties": {"a": 7}}, "/properties/a", "expected object, got 7"),
        ({"items": [{}]}, "/items", "expected object, got an array"),
    ],
)
def test_a_shape_that_is_none_of_ours_is_refused_at_its_place(schema: Any, place: str, said: str) -> None:
    assert [(pointer(fault.path), fault.message) for fault in faults(schema)] == [(place, said)]


def test_a_shape_may_be_deep_without_taking_long() -> None:
    schema: dict[str, Any] = {"type": "string"}
    value: Any = 7
    for _ in range(50):
        schema, value = {"properties": {"a": schema}, "items": {}}, {"a": value}
    begun = time.monotonic()
    assert misfit(value, schema).endswith("expected string, got 7")
    assert [*faults(schema)] == []
    assert time.monotonic() - begun < 5, "each level doubled the work"


def test_what_nobody_interprets_is_not_looked_into() -> None:
    assert parts_of({}) is FREE
    deep: Any = 1
    for _ in range(5_000):
        deep = [deep]
    assert [*findings(deep, FREE)] == []


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.5, 2.5])
    | st.sampled_from(["", "a", "ab", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
KINDS = ["object", "array", "string", "integer", "number", "boolean", "null"]
LEAVES = {
    "type": st.sampled_from(KINDS) | st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique=True),
    "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
    "enum": st.lists(VALUES, min_size=1, max_size=3),
    **dict.fromkeys(("minimum", "maximum"), st.integers(-2, 2)),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), st.integers(0, 2)),
}
SCHEMAS = st.recursive(
    st.fixed_dictionaries({}, optional=LEAVES),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            **LEAVES,
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
            "items": inner,
            "additionalProperties": st.booleans() | inner,
        },
    ),
    max_leaves=4,
)


@given(VALUES, SCHEMAS)
def test_a_value_fits_exactly_if_json_schema_says_so(value: Any, schema: dict[str, Any]) -> None:
    assert [*faults(schema)] == []
    assert set(schema) <= set(KEYWORDS)
    assert (misfit(value, schema) == "") == jsonschema.Draft202012Validator(schema).is_valid(value)
