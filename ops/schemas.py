"""What others read and is generated from the code: `python -m ops.schemas` writes it, `--check` finds drift."""

import argparse
import difflib
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from domain.plan import Plan
from gateway import asyncapi, openapi
from gateway.http import ROUTES
from ops import figures, rulebook
from ops.grafana import boards

FOLDER = Path(__file__).parent.parent
ADDRESS = "https://cairn.dev/schemas/"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def documents() -> dict[str, str]:
    """File to the text it must have."""
    return {
        "schemas/plan.schema.json": _schema("plan.schema.json", "Cairn plan", Plan),
        "schemas/openapi.json": _text(openapi.document(ROUTES)),
        "schemas/asyncapi.json": _text(asyncapi.document()),
        "docs/rulebook.md": rulebook.page(),
        "docs/metrics.md": figures.page(),
        **boards.documents(),
    }


def _schema(name: str, title: str, kind: type) -> str:
    schema: dict[str, Any] = {"$schema": DIALECT, "$id": ADDRESS + name, "title": title}
    schema["description"] = inspect.getdoc(kind)
    return _text(schema | msgspec.json.schema(kind))


def _text(document: dict[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write(folder: Path = FOLDER) -> None:
    for name, text in documents().items():
        (folder / name).write_text(text, encoding="utf-8")


def drift(folder: Path = FOLDER) -> str:
    """A unified diff from the files to what the structs say; empty when they agree. A missing file is all new."""
    return "".join(
        line
        for name, text in documents().items()
        for line in difflib.unified_diff(
            _lines(folder / name), text.splitlines(keepends=True), name, f"{name} (generated)"
        )
    )


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []


def main(arguments: Sequence[str] | None = None, folder: Path = FOLDER) -> int:
    parser = argparse.ArgumentParser(prog="python -m ops.schemas", description="Write the generated schemas.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; print the drift and exit 1 if there is any"
    )
    if not parser.parse_args(arguments).check:
        write(folder)
        return 0
    difference = drift(folder)
    if difference:
        print(difference, end="")
        print("they are out of date: run `python -m ops.schemas` and commit the result", file=sys.stderr)
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
