"""The wheel as a user gets it: one top-level name, complete, and no quarrel with packages of theirs."""

import os
import signal
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest
from journeys.stage import data_folder, processes

ROOT = Path(__file__).parents[1]
SERVER = ("domain", "ledger", "projections", "handlers", "gateway", "ops", "schemas")
WAIT_SECONDS = 60
WHENCE = """
import sys
from cairn.__main__ import main
sys.argv = ["cairn", "--version"]
try:
    main()
except SystemExit:
    import ops.cli
    print(ops.cli.__file__)
"""
PLAN = '{"id": "mine", "tasks": [{"id": "a", "acceptance_criteria": {"tests": [{"cmd": "test -s mine.txt"}]}}]}'
AGENT = """
import handlers, domain, ops
from cairn import Agent

assert handlers.MINE and domain.MINE and ops.MINE
agent = Agent("coder")

@agent.task
async def work(task):
    (task.path / "mine.txt").write_text("mine")

agent.run()
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built offline, with the hatchling that is installed."""
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=ROOT, check=True,
                   capture_output=True)  # fmt: skip
    [built] = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Iterator[Path]:
    """The folder of programs of a virtual environment that holds the wheel, and borrows what it depends on from ours."""
    with data_folder() as home:  # a sandbox has to be able to read it
        venv.create(home, symlinks=True)
        python = home / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet"]
        subprocess.run([*pip, wheel], check=True)
        where = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.check_output(where, text=True).strip())
        # A path in a .pth file is not searched for further ones: our editable checkout stays out of it.
        (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
        yield home / "bin"


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """A project of a user whose packages are called as ours are."""
    for name in SERVER:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "plan.json").write_text(PLAN)
    return tmp_path


def environment(programs: Path, data: Path) -> dict[str, str]:
    return {
        "PATH": f"{programs}:{os.environ['PATH']}", "CAIRN_DATA_DIR": str(data), "CAIRN_LISTEN": "127.0.0.1:0",
        "CAIRN_SANDBOX": "process",
    }  # fmt: skip


def test_the_wheel_has_one_top_level_name_and_all_that_the_server_reads(wheel: Path) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} == {"cairn", f"cairn-{version}.dist-info"}
    tracked = subprocess.check_output(["git", "ls-files", *SERVER], cwd=ROOT, text=True).split()
    there = {name for name in tracked if (ROOT / name).exists() and not name.startswith("schemas/golden/")}
    assert {f"cairn/_server/{name}" for name in there} <= names, "what the server is made of is not all there"
    assert any(name.endswith(".sql") for name in names)
    ends = {Path(name).suffix for name in names if name.startswith("cairn/")}
    assert ends == {".py", ".sql", ".json", ".md", ".yml", ".yaml"}, (
        "something that is no part of the program is shipped"
    )
    assert not any(part in name for name in names for part in ("examples/", "tests/", "__pycache__"))
    assert f"cairn-{version}.dist-info/licenses/LICENSE" in names


def test_the_command_runs_where_the_users_packages_are_called_as_ours(installed: Path, user: Path) -> None:
    with data_folder() as data:
        env = environment(installed, data)
        for words, says in (
            (["cairn", "--help"], "Usage: cairn"), (["cairn", "version"], "cairn 0."),
            (["cairn", "validate", "plan.json"], "plan.json is valid"),
            (["python", "-m", "cairn", "validate", "plan.json"], "plan.json is valid"),
            (["python", "-c", WHENCE], "/cairn/_server/ops/"), (["cairn", "doctor"], "data directory"),
        ):  # fmt: skip
            done = subprocess.run(words, cwd=user, env=env, capture_output=True, text=True, timeout=WAIT_SECONDS)
            assert done.returncode == 0 and says in done.stdout, f"{words}: {done.stdout}{done.stderr}"


def test_the_installed_system_carries_out_a_plan_of_a_users_agent(installed: Path, user: Path) -> None:
    with data_folder() as data:
        env = environment(installed, data)
        (user / "agent.py").write_text(AGENT)
        with running(["cairn", "up"], user, env) as up:
            ready = next((line for line in up if line.startswith("stop ")), "")
            assert ready, "the system did not start"
            with running(["python", "agent.py"], user, env):
                done = subprocess.run(
                    ["cairn", "run", "plan.json"], cwd=user, env=env, capture_output=True, text=True,
                    timeout=WAIT_SECONDS,
                )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert "1 of 1 task completed" in done.stdout and "1 of work, 1 run of tests" in done.stdout
        assert not processes(data)


@contextmanager
def running(words: Sequence[str], folder: Path, env: Mapping[str, str]) -> Iterator[IO[str]]:
    """What a program says on stderr; at the end it is interrupted, and has to end well."""
    with subprocess.Popen(words, cwd=folder, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            yield process.stderr
        finally:
            process.send_signal(signal.SIGINT)
            said = process.stderr.read()
            code = process.wait(WAIT_SECONDS)
        assert code == 0, said
