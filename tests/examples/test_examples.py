"""The examples' own material, without the machinery: real git, pytest and shell scripts in temporary folders."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from domain.failures import classify

EXAMPLES = Path(__file__).parents[2] / "examples"
MOMENTUM, HELLO = EXAMPLES / "momentum", EXAMPLES / "hello-exec"
SCRIPT = MOMENTUM / "script"
PATCHES = sorted(SCRIPT.glob("*/*.patch"))
GIT = shutil.which("git") or "git"
ENVIRONMENT = {
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), str(Path(GIT).parent), os.defpath]),
    "PYTHONDONTWRITEBYTECODE": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{who}_{what}": "a@example.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}
RUN_SECONDS = 60


def run(*command: str, cwd: Path, **more: Any) -> "subprocess.CompletedProcess[str]":
    """The finished process; its exit code is the caller's to judge."""
    environment = ENVIRONMENT | more.pop("env", {})
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False, **more
    )


def git(cwd: Path, *arguments: str) -> str:
    done = run(GIT, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plan(example: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((example / "plan.json").read_text())
    return document


def task(example: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in plan(example)["tasks"] if each["id"] == name)
    return found


def first_commit(example: Path, folder: Path) -> Path:
    shutil.copytree(example / plan(example)["workspace"], folder)
    git(folder, "init", "-q", "-b", "main")
    return commit(folder)


def commit(tree: Path) -> Path:
    git(tree, "add", "-A")
    git(tree, "commit", "-qm", "work")
    return tree


def play(tree: Path, name: str, attempt: int = 1) -> None:
    """Applies and commits a patch of the script, as the scripted agent does."""
    git(tree, "apply", str(SCRIPT / name / f"{attempt}.patch"))
    commit(tree)


def accept(example: Path, tree: Path, name: str) -> list[tuple[int, str]]:
    """Exit code and output of each acceptance test of a task."""
    tests = task(example, name)["acceptance_criteria"]["tests"]
    done = [run("/bin/sh", "-c", test["cmd"], cwd=tree) for test in tests]
    return [(each.returncode, each.stdout + each.stderr) for each in done]


def passes(example: Path, tree: Path, name: str) -> None:
    outcomes = accept(example, tree, name)
    assert outcomes
    assert [code for code, _ in outcomes] == [0] * len(outcomes), outcomes


@pytest.fixture
def momentum(tmp_path: Path) -> Path:
    """The momentum repository after its research."""
    tree = first_commit(MOMENTUM, tmp_path / "momentum")
    play(tree, "research")
    return tree


@pytest.mark.parametrize("example", [MOMENTUM, HELLO], ids=lambda path: path.name)
def test_a_plan_has_no_problems(example: Path) -> None:
    from domain.validate import problems

    assert list(problems((example / "plan.json").read_bytes())) == []


@pytest.mark.parametrize("example", [MOMENTUM, HELLO], ids=lambda path: path.name)
def test_every_task_of_a_plan_can_be_judged_and_follows_tasks_before_it(example: Path) -> None:
    document, seen = plan(example), set[str]()
    assert document["id"] == example.name
    assert (example / document["$schema"]).parent.resolve() == EXAMPLES.parent / "schemas"
    for each in document["tasks"]:
        assert each["acceptance_criteria"]["tests"], each["id"]
        assert seen >= set(each.get("dependencies", [])), each["id"]
        seen.add(each["id"])


def test_the_first_rsi_really_fails_and_the_branch_really_mends_it(momentum: Path) -> None:
    play(momentum, "indicators", attempt=1)
    [(code, output)] = accept(MOMENTUM, momentum, "indicators")
    assert code == 1, output
    assert "At index 1 diff: 70.08 != 66.32" in output
    assert "2 failed, 10 passed" in output
    assert task(MOMENTUM, "indicators")["failure_routing"][classify(code, False, output)] == "debugger"

    play(momentum, "indicators.fix1")
    passes(MOMENTUM, momentum, "indicators")


def test_without_the_branch_the_second_attempt_is_right_from_the_original_base(momentum: Path) -> None:
    play(momentum, "indicators", attempt=2)
    passes(MOMENTUM, momentum, "indicators")


def test_the_rest_of_the_story_passes_its_tests_over_merged_branches(momentum: Path, tmp_path: Path) -> None:
    passes(MOMENTUM, momentum, "research")
    play(momentum, "indicators", attempt=1)
    play(momentum, "indicators.fix1")
    for name in ("strategy", "backtest"):
        tree = tmp_path / name
        git(momentum, "worktree", "add", "-q", "-b", name, str(tree), "main")
        play(tree, name)
        passes(MOMENTUM, tree, name)

    git(momentum, "merge", "-q", "--no-edit", "strategy", "backtest")
    assert {code for code, _ in accept(MOMENTUM, momentum, "report")}.isdisjoint({0})
    play(momentum, "report")
    passes(MOMENTUM, momentum, "report")
    assert git(momentum, "status", "--porcelain", "--ignored") == ""
    assert said_by_the_writer() == computed(momentum)


def said_by_the_writer() -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((SCRIPT / "report" / "1.json").read_text())["data"]["figures"]
    return figures


def computed(tree: Path) -> dict[str, Any]:
    program = (
        "import json; from momentum.report import figures\n"
        "print(json.dumps({name: {'return': round(result.total_return, 4), 'drawdown': round(result.max_drawdown, 4), "
        "'trades': result.trades} for name, result in figures().items()}))"
    )
    figures: dict[str, Any] = json.loads(run(sys.executable, "-c", program, cwd=tree).stdout)
    return figures


@pytest.mark.parametrize("patch", PATCHES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_patch_touches_only_the_files_of_its_task_and_says_what_it_did(patch: Path, tmp_path: Path) -> None:
    owner = task(MOMENTUM, patch.parent.name.partition(".")[0])
    touched = {line.split("\t")[2] for line in git(tmp_path, "apply", "--numstat", str(patch)).splitlines()}
    assert touched
    assert touched <= set(owner["files"])
    said = json.loads(patch.with_suffix(".json").read_text())
    assert set(said) == {"summary", "data"}
    assert said["summary"]


def test_every_task_of_the_momentum_plan_has_a_patch_for_its_first_attempt() -> None:
    names = {each["id"] for each in plan(MOMENTUM)["tasks"]} | {"indicators.fix1"}
    assert {patch.parent.name for patch in PATCHES if patch.stem == "1"} == names


def test_the_prices_are_what_their_script_writes(tmp_path: Path) -> None:
    script = shutil.copy(MOMENTUM / "workspace" / "make_prices.py", tmp_path)
    assert run(sys.executable, str(script), cwd=tmp_path).returncode == 0
    assert (tmp_path / "prices.csv").read_bytes() == (MOMENTUM / "workspace" / "prices.csv").read_bytes()
    assert len((tmp_path / "prices.csv").read_text().splitlines()) == 251


def work(tree: Path, name: str, attempt: int, dependencies: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    """Starts the agent's script for a task the way `cairn agent --exec` does: JSON on stdin and in CAIRN_TASK."""
    what = task(HELLO, name)
    given = json.dumps(
        {
            "workflow": "hello-exec",
            "task": name,
            "attempt": attempt,
            "role": what["agent_role"],
            "title": what["title"],
            "description": what["description"],
            "inputs": what.get("inputs", {}),
            "dependencies": dependencies,
            "debug": None,
            "timeout_seconds": what["timeout_seconds"],
        }
    )
    script = HELLO / "agents" / f"{what['agent_role']}.sh"
    return run(str(script), cwd=tree, input=given, env={"CAIRN_TASK": given})


def test_shell_scripts_carry_out_the_hello_plan_and_the_translator_needs_two_attempts(tmp_path: Path) -> None:
    tree = first_commit(HELLO, tmp_path / "hello")
    reported: dict[str, Any] = {}
    for each in plan(HELLO)["tasks"]:
        name = each["id"]
        assert any(code for code, _ in accept(HELLO, tree, name)), f"{name} passes before anyone worked on it"
        known = {dependency: reported[dependency] for dependency in each.get("dependencies", [])}
        done = work(tree, name, 1, known)
        if name == "translate":
            assert (done.returncode, done.stdout) == (75, "")
            assert "dictionary" in done.stderr
            assert git(tree, "status", "--porcelain") == ""
            done = work(tree, name, 2, known)
        assert done.returncode == 0, done.stderr
        reported[name] = json.loads(done.stdout.splitlines()[-1])
        assert set(reported[name]) <= {"summary", "data"}
        passes(HELLO, tree, name)
        commit(tree)
    changed = set(git(tree, "ls-files").split()) - {"README.md"}
    assert changed == {path for each in plan(HELLO)["tasks"] for path in each["files"]}


@pytest.mark.parametrize("script", sorted((HELLO / "agents").glob("*.sh")), ids=lambda path: path.stem)
def test_an_agent_s_script_is_executable_and_fits_in_ten_lines(script: Path) -> None:
    assert os.access(script, os.X_OK)
    assert len(script.read_text().splitlines()) <= 10
    assert run("/bin/sh", "-n", str(script), cwd=HELLO).returncode == 0
