"""The walls of the house, read from the source: who imports whom, what stays pure, what only one module may do."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ARROWS: dict[str, set[str]] = {
    "domain": set(),
    "ledger": {"domain"},
    "projections": {"ledger", "domain"},
    "handlers": {"ledger", "domain"},
    "gateway": {"handlers", "projections", "ledger", "domain"},
    "ops": {"gateway", "handlers", "projections", "ledger", "domain", "cairn"},
    "cairn": set(),
}
"""From a package to those it may import, besides itself."""
MORE_ARROWS = {"handlers/agents/": {"cairn"}, "cairn/__main__.py": {"ops"}}
"""The built-in agents are written with the public package, as a user's would be; the command `cairn` starts `ops`."""

NATS = {"cairn/bus.py"}
ENVIRONMENT = {"ops/settings.py", "cairn/config.py"}
LONGEST_LINES = 300

IMPURE_MODULES = frozenset(
    {"asyncio", "concurrent", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets", "select",
     "shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib", "warnings"}
)  # fmt: skip
IMPURE_CALLS = frozenset({"now", "utcnow", "today", "fromtimestamp", "uuid1", "uuid4", "open", "print", "input"})
ASYNC = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)


def sources(*folders: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for folder in folders for path in (ROOT / folder).rglob("*.py"))


def parsed(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text(), path)


def imports(tree: ast.AST, path: str) -> Iterator[str]:
    """Every module imported, at the top or anywhere else, by its full name; `from a import b` gives a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.split("/")[:-1]
            inside = package[: len(package) + 1 - node.level] if node.level else []
            module = ".".join([*inside, *([node.module] if node.module else [])])
            yield from (module, *(f"{module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__") and node.args:
            name = node.args[0]
            yield name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "?"


def forbidden(tree: ast.AST, path: str) -> set[str]:
    """The packages of ours that this file imports against the arrows."""
    own = path.split("/")[0]
    more = (names for folder, names in MORE_ARROWS.items() if path.startswith(folder))
    allowed = ARROWS[own].union({own}, *more)
    return {top for name in imports(tree, path) if (top := name.split(".")[0]) in ARROWS and top not in allowed}


def impurities(tree: ast.AST, path: str) -> Iterator[str]:
    for name in imports(tree, path):
        top = name.split(".")[0]
        if top in IMPURE_MODULES or top not in {*sys.stdlib_module_names, "msgspec", "domain"}:
            yield f"imports {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _called(node) in IMPURE_CALLS:
            yield f"line {node.lineno}: calls {_called(node)}"
        elif isinstance(node, ASYNC) or (isinstance(node, ast.comprehension) and node.is_async):
            yield "is asynchronous"


def reads_environment(tree: ast.AST) -> bool:
    names = {"environ", "environb", "getenv", "getenvb"}
    return any(
        (isinstance(node, ast.Attribute) and node.attr in names and _named(node.value) == "os")
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {alias.name for alias in node.names})
        for node in ast.walk(tree)
    )


def _called(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else _named(call.func)


def _named(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", sources(*ARROWS))
def test_imports_follow_the_arrows(path: str) -> None:
    assert not forbidden(parsed(path), path)


def test_the_bus_alone_knows_nats() -> None:
    who = {path for path in sources(*ARROWS) for name in imports(parsed(path), path) if name.split(".")[0] == "nats"}
    assert who <= NATS


@pytest.mark.parametrize("path", sources("domain"))
def test_the_domain_is_pure(path: str) -> None:
    assert not [*impurities(parsed(path), path)]


def test_the_environment_is_read_in_two_places() -> None:
    assert {path for path in sources(*ARROWS) if reads_environment(parsed(path))} <= ENVIRONMENT


@pytest.mark.parametrize("path", sources(*ARROWS, "tests"))
def test_a_long_file_says_why(path: str) -> None:
    lines = (ROOT / path).read_text().count("\n")
    why = ast.get_docstring(parsed(path)) or ""
    assert lines <= LONGEST_LINES or re.search(r"\blong\b", why), f"{lines} lines: split it, or say 'long because ...'"


def test_every_package_has_its_arrows() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(ARROWS)


@pytest.mark.parametrize(
    ("path", "source", "found"),
    [
        ("domain/x.py", "import ledger.append", {"ledger"}),
        ("domain/x.py", "def f():\n    from cairn import Client", {"cairn"}),
        ("handlers/x.py", "from projections import board", {"projections"}),
        ("handlers/x.py", "import cairn", {"cairn"}),
        ("handlers/agents/x.py", "import cairn", set()),
        ("cairn/client.py", "from ops.cli import main", {"ops"}),
        ("gateway/x.py", "import importlib\nimportlib.import_module('ops.cli')", {"ops"}),
        ("cairn/x.py", "from . import bus\nfrom .bus import Bus\nimport msgspec", set()),
        ("ledger/a/x.py", "from ..b import c", set()),
    ],
)
def test_a_breach_of_the_arrows_is_seen(path: str, source: str, found: set[str]) -> None:
    assert forbidden(ast.parse(source), path) == found


@pytest.mark.parametrize(
    "source",
    [
        "import time", "from random import choice", "import psycopg", "x = datetime.now(UTC)", "x = uuid.uuid4()",
        "async def f(): ...", "import logging.config", "open('x')", "from uuid import uuid4\nuuid4()",
    ],
)  # fmt: skip
def test_an_impurity_is_seen(source: str) -> None:
    assert [*impurities(ast.parse(source), "domain/x.py")]


@pytest.mark.parametrize("source", ["import os\nos.environ['A']", "from os import getenv", "import os\nos.getenv('A')"])
def test_a_read_of_the_environment_is_seen(source: str) -> None:
    assert reads_environment(ast.parse(source))
