"""The plan's structs: what they default to, refuse, and bring back."""

import msgspec
import pytest

from domain.failures import FAILURE_TYPES
from domain.plan import ROLES, Plan, Retry, Task, Test

SMALLEST = b'{"id": "p", "tasks": [{"id": "a"}]}'


def decode(raw: bytes) -> Plan:
    return msgspec.json.decode(raw, type=Plan)


def test_a_plan_needs_only_ids():
    (task,) = decode(SMALLEST).tasks
    assert (task.agent_role, task.timeout_seconds, task.max_attempts) == ("coder", 1800.0, 3)
    assert (task.dependencies, task.acceptance_criteria.tests, task.retry) == ((), (), Retry(1.0, 2.0, 60.0, 0.1))
    assert (task.max_debug_attempts, task.max_branch_depth, task.approval, task.is_temporary) == (2, 1, (), False)


def test_a_plan_survives_its_own_encoding():
    plan = Plan(
        schema_="./plan.schema.json",
        id="p",
        tasks=(Task("a", inputs={"window": 14}), Task("b", dependencies=("a",), failure_routing={"timeout": "coder"})),
    )
    assert decode(msgspec.json.encode(plan)) == plan


def test_a_generated_id_survives_decoding_since_history_holds_branches():
    plan = Plan(id="p", tasks=(Task("rsi.fix1", parent_id="rsi", is_temporary=True),))
    assert decode(msgspec.json.encode(plan)) == plan


def test_the_dollar_schema_key_of_an_editor_is_part_of_a_plan():
    assert decode(b'{"$schema": "x", "id": "p", "tasks": [{"id": "a"}]}').schema_ == "x"


@pytest.mark.parametrize(
    "field",
    ['"max_attempts": 0', '"timeout_seconds": 0', '"timeout_seconds": true', '"approval": ["later"]', '"nmae": ""'],
)
def test_decoding_refuses_what_no_plan_can_mean(field: str):
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"id": "p", "tasks": [{"id": "a", %s}]}' % field.encode())


def test_the_longest_backoff_a_plan_can_ask_for_is_a_number():
    worst = Retry(initial_seconds=2_592_000, factor=100)
    assert min(worst.initial_seconds * worst.factor**100, worst.max_seconds) == 60.0


def test_every_task_a_plan_holds_is_frozen():
    with pytest.raises(AttributeError):
        Task("a").id = "b"  # type: ignore[misc]


def test_roles_and_failure_types_are_lists_of_distinct_names():
    assert len(set(ROLES)) == len(ROLES) == 9
    assert len(set(FAILURE_TYPES)) == len(FAILURE_TYPES) == 14


def test_the_acceptance_test_is_no_suite_to_pytest():
    assert Test.__test__ is False
    assert "__test__" not in Test.__struct_fields__
