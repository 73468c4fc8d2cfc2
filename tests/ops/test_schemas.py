"""The generated schemas: written as they should be, and found out when they are not."""

import json
from pathlib import Path
from typing import get_args

import pytest
from jsonschema import Draft202012Validator

from domain.failures import FAILURE_TYPES
from domain.state import TaskStatus
from ops import schemas

FOLDERS = ("schemas", "docs", "ops/grafana/dashboards")


def test_the_committed_schemas_are_what_the_structs_say():
    assert schemas.drift() == ""


def test_the_plan_schema_is_valid_and_says_who_it_is():
    schema = json.loads(schemas.documents()["schemas/plan.schema.json"])
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == "https://cairn.dev/schemas/plan.schema.json"
    assert schema["title"] == "Cairn plan"
    assert schema["description"]


def test_every_field_an_editor_offers_is_described():
    kinds = json.loads(schemas.documents()["schemas/plan.schema.json"])["$defs"]
    fields = {f"{kind}.{name}": spec for kind, body in kinds.items() for name, spec in body["properties"].items()}
    assert len(fields) > 30
    assert [name for name, spec in fields.items() if not spec.get("description")] == []


def test_a_plan_may_name_its_schema_for_the_editor():
    schema = json.loads(schemas.documents()["schemas/plan.schema.json"])
    plan = {"$schema": "../schemas/plan.schema.json", "id": "p", "tasks": [{"id": "a"}]}
    Draft202012Validator(schema).validate(plan)


def test_writing_ends_the_drift_and_checking_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert schemas.main(["--check"], tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
    assert schemas.main([], tmp_path) == 0
    capsys.readouterr()
    assert schemas.main(["--check"], tmp_path) == 0
    assert capsys.readouterr() == ("", "")


def test_drift_is_shown_as_a_diff_with_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
    schemas.write(tmp_path)
    path = tmp_path / "schemas" / "plan.schema.json"
    path.write_text(path.read_text().replace('"Cairn plan"', '"Another plan"'))
    assert schemas.main(["--check"], tmp_path) == 1
    printed = capsys.readouterr()
    assert '-  "title": "Another plan",\n+  "title": "Cairn plan",\n' in printed.out
    assert "python -m ops.schemas" in printed.err


def test_the_rulebook_names_every_status_and_every_failure():
    page = schemas.documents()["docs/rulebook.md"]
    assert [name for name in (*get_args(TaskStatus), *FAILURE_TYPES) if name not in page] == []
