"""The README is tried: what it tells a stranger to type is typed, in its order, in a fresh data directory."""

import json
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from journeys.desk import Desk, git
from journeys.stage import data_folder, kept

from ops.cli import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
ASKING = """#!/bin/sh
case "$CAIRN_TASK" in
  *'"choice":"8080"'* | *'use the cache'*) echo done > work.txt ;;
  *'"task":"port"'*) echo '{"ask": {"question": "Which port?", "options": ["80", "8080"]}}' ;;
  *) echo 'too slow' >&2; exit 1 ;;
esac
"""
ENVIRONMENT_MADE = ". .venv/bin/activate"


def blocks(kind: str) -> list[str]:
    """What stands between the fences of one kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """All lines that a reader is to type."""
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@pytest.fixture
def reader() -> Iterator[Desk]:
    """Somebody in the checkout with the virtual environment activated."""
    with data_folder() as folder, kept(Desk(folder, ROOT, PATH=f"{Path(sys.executable).parent}:/usr/bin:/bin")) as one:
        yield one


def test_every_command_of_the_readme_is_one_that_is_tried_here() -> None:
    assert len(commands()) > 10
    for command in commands():
        known = command == ENVIRONMENT_MADE or re.match(r"(make|cairn) [a-z]", command)
        assert known, f"nothing here tries `{command}`"
    assert "-m venv .venv" in MAKEFILE, "who makes the environment that the README activates?"


def test_every_make_target_named_exists_and_ci_calls_nothing_else() -> None:
    named = set(re.findall(r"(?:^\$ |`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"run", "test", "check", "bench"} <= named <= TARGETS
    calls = (ROOT / ".ci" / "run").read_text()
    called = {name for name in re.findall(r"\bmake ([a-z-]+)", calls) if not name.startswith("-")}
    assert {"check", "test"} <= called <= named, "CI does what the README does not say"
    listed = subprocess.check_output(["make", "--no-print-directory", "help"], cwd=ROOT, text=True)
    assert set(re.findall(r"^  make ([a-z-]+) ", listed, re.MULTILINE)) == TARGETS


def test_make_run_is_the_example_that_the_journeys_run() -> None:
    recipe = MAKEFILE.partition("\nrun:")[2].partition("\n\n")[0]
    assert "cairn run examples/momentum/plan.json --scripted examples/momentum/script" in recipe
    assert "examples/momentum/plan.json" in README


def test_every_file_linked_and_every_command_listed_exists() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / link).exists(), f"the README links to {link}"
    listed = re.search(r"`cairn --help` lists the other commands \(([^)]+)\)", README)
    assert listed
    for command in re.findall(r"`([a-z]+)", listed[1]):
        assert command in COMMANDS, f"there is no `cairn {command}`"


def test_what_a_reader_types_works(reader: Desk) -> None:
    typed = [command.removeprefix("cairn ") for command in commands() if command.startswith("cairn ")]
    agents = []
    for number, command in enumerate(typed):
        words = shlex.split(command.removesuffix(" &"), comments=True)
        if words[0] == "up":  # a person reads that it is up before they go on
            reader.begin("up", "cairn", *words)
            reader.until(lambda: "Ctrl-C" in reader.log("up"), "it says how to stop it")
        elif command.endswith(" &"):
            agents.append(f"{words[0]}-{number}")
            reader.begin(agents[-1], "cairn", *words)
        else:
            if words[0] == "answer":
                _is_asked(reader, words[1])
            said = reader.cairn(*words)
            assert said.out, f"`cairn {command}` prints nothing"
    assert reader.finished("demo") == "completed", "the answers were taken"
    assert reader.finished("hello-exec") == "completed"
    for name in agents:
        assert reader.ended(name, signal.SIGINT) == 0, reader.log(name)
    _python_agent_works(reader)


def _is_asked(reader: Desk, ask: str) -> None:
    """A plan of this name with an agent that asks, and a task which fails until somebody says how."""
    if ask == "demo/ask-1":
        asking, plan = reader.folder / "asking.sh", reader.folder / "demo.json"
        asking.write_text(ASKING)
        reader.begin("asking", "cairn", "agent", "--role", "debugger", "--exec", f"sh {asking}", "--name", "dee")
        task = {"agent_role": "debugger", "max_attempts": 1}
        tasks = [{"id": "port", **task}, {"id": "speed", "dependencies": ["port"], **task}]
        plan.write_text(json.dumps({"id": "demo", "tasks": tasks}))
        reader.cairn("run", plan, expect=5)
    reader.until(lambda: ask in reader.cairn("asks").out, "somebody is asked")


def _python_agent_works(reader: Desk) -> None:
    [program] = blocks("python")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "agent.py").write_text(program)
        reader.begin("python", sys.executable, str(Path(folder) / "agent.py"))
        (Path(folder) / "plan.json").write_text('{"id": "python", "tasks": [{"id": "a", "title": "the README"}]}')
        reader.cairn("run", Path(folder) / "plan.json")
    assert git(reader.artifacts, "show", "ai/generated/python/a:hello.txt") == "hello from the README\n"
