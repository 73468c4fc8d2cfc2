"""The command line against a real system: `cairn up` and its agents as processes, every command as a user calls it."""

import csv
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from ops.embedded.child import left_behind

CAIRN = [sys.executable, "-m", "cairn"]
WAIT_SECONDS = 60
CODER = """#!/bin/sh
case "$CAIRN_TASK" in *'"fail":true'*) echo "cannot do this" >&2; exit 3 ;; esac
test -z "$DATABASE_URL$NATS_URL$CAIRN_TOKEN" || { echo "secrets" >&2; exit 4; }
echo work >> work.txt
echo '{"summary": "worked"}'
"""


class Home:
    """A data directory with the environment of a user who works in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        self.environment = {
            "PATH": os.environ["PATH"], "CAIRN_DATA_DIR": str(self.data), "CAIRN_LISTEN": "127.0.0.1:0",
            "TERM": "xterm", "CAIRN_LOG_LEVEL": "warning",
        }  # fmt: skip

    def cairn(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CAIRN, *map(str, arguments)], cwd=self.folder, env=self.environment, text=True, capture_output=True,
            timeout=WAIT_SECONDS, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*CAIRN, *arguments], cwd=self.folder, env=self.environment, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def plan(self, name: str, *tasks: dict[str, Any]) -> str:
        rows = [{"agent_role": "coder", "max_attempts": 1, **task} for task in tasks]
        (self.folder / f"{name}.json").write_text(json.dumps({"id": name, "title": "A plan", "tasks": rows}))
        return f"{name}.json"

    def runs(self) -> list[int]:
        """Ids of what works in the data directory."""
        return left_behind("postgres", self.data / "postgres") + left_behind("nats-server", self.data / "nats")

    def agents(self) -> list[int]:
        """Ids of the processes that were started in the folder by a command, and still live."""
        return left_behind(Path(sys.executable).name, self.folder)


def told(process: subprocess.Popen[str], text: str) -> list[str]:
    """What it wrote to stderr up to the line that holds `text`."""
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if text in line:
            return lines
    raise AssertionError(f"ended without {text!r}: {lines}")


def ended(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    process.communicate(timeout=WAIT_SECONDS)
    return process.returncode


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def new_home() -> Home:
    folder = Path(tempfile.mkdtemp(prefix="cairn-cli-"))
    folder.chmod(0o711)
    (folder / "agents").mkdir()
    (folder / "agents/coder.sh").write_text(CODER)
    (folder / "agents/coder.sh").chmod(0o755)
    return Home(folder)


@pytest.fixture
def home() -> Iterator[Home]:
    made = new_home()
    yield made
    if (made.data / "up.json").exists():  # a test failed half-way
        os.kill(json.loads((made.data / "up.json").read_text())["pid"], signal.SIGTERM)
    until(lambda: not made.runs())
    shutil.rmtree(made.folder)


@pytest.fixture(scope="module")
def system() -> Iterator[Home]:
    """A system that is up, with one coder that is a program."""
    made = new_home()
    agent = made.start("agent", "--role", "coder", "--exec", "agents/coder.sh", "--capacity", "4")
    told(agent, "waiting for a system")
    up = made.start("up")
    try:
        lines = told(up, "stop ")
        assert [line.split()[0] for line in lines] == ["gateway", "data", "Postgres", "NATS", "sandbox", "stop"]
        assert "@" not in lines[3], "the NATS line shows a secret"
        told(agent, "works on")
        yield made
    finally:
        codes = ended(agent), ended(up)
    assert codes == (0, 0)
    assert not made.runs() and not (made.data / "up.json").exists()
    shutil.rmtree(made.folder)


def test_a_run_joins_the_system_that_is_up_and_ends_with_a_summary(system: Home) -> None:
    plan = system.plan("joins", {"id": "a"}, {"id": "b", "dependencies": ["a"]})
    done = system.cairn("run", plan)
    assert done.returncode == 0
    rows = dict(re.findall(r"^(\w+) +(.*)$", done.stdout, re.MULTILINE))
    assert rows["workflow"] == "joins (A plan)" and rows["status"] == "completed"
    assert rows["tasks"] == "2 of 2 tasks completed" and "ai/generated/joins/b" in done.stdout
    for kind in ("workflow.started", "task.dispatched", "task.completed", "workflow.completed"):
        assert kind in done.stderr
    assert "starting the system" not in done.stderr
    look = re.search(r"git -C \S+ log --stat \S+", done.stdout)
    assert look and "work.txt" in subprocess.check_output(look[0].split(), text=True)
    again = system.cairn("run", plan)
    assert again.returncode == 0 and "workflow   joins-2 " in again.stdout
    taken = system.cairn("run", plan, "--id", "joins")
    assert taken.returncode == 4 and "joins" in taken.stderr and "fix: " in taken.stderr


def test_a_run_that_fails_ends_with_1_and_says_why(system: Home) -> None:
    done = system.cairn(
        "run", system.plan("fails", {"id": "a", "inputs": {"fail": True}}, {"id": "b", "dependencies": ["a"]})
    )
    assert done.returncode == 1
    assert "status     failed: failed: a" in done.stdout
    assert "ended with exit code 3: cannot do this; nothing came after it" in done.stdout
    shown = system.cairn("show", "fails").stdout
    assert "Why a failed: agent_error" in shown and "skipped" in shown


def test_without_a_terminal_a_run_that_needs_a_person_ends_with_5_and_goes_on(system: Home) -> None:
    done = system.cairn(
        "run", system.plan("asks", {"id": "a", "description": "Mind this.", "approval": ["before_dispatch"]})
    )
    assert done.returncode == 5 and not done.stdout
    assert "fix: cairn approve asks ask-1" in done.stderr and "description: Mind this." in done.stderr
    assert "open: cairn approve asks ask-1" in system.cairn("show", "asks").stdout
    wrong = system.cairn("approve", "asks", "ask-1", "--shown", "0" * 64)
    assert wrong.returncode == 4 and "is not what you were shown" in wrong.stderr
    assert system.cairn("approve", "asks", "ask-7").returncode == 3
    approved = system.cairn("approve", "asks", "ask-1", "--because", "fine")
    assert approved.returncode == 0 and approved.stdout.startswith("approved ask-1 of asks at position ")
    assert "description: Mind this." in approved.stderr
    assert system.cairn("watch", "asks").returncode == 0
    assert system.cairn("approve", "asks", "ask-1", "--refuse").returncode == 4
    assert "ask-1  a  before_dispatch  approved by " in system.cairn("show", "asks").stdout


def test_yes_approves_in_advance_and_says_so_in_the_ledger(system: Home) -> None:
    done = system.cairn("run", "--yes", system.plan("yes", {"id": "a", "approval": ["before_completion"]}))
    assert done.returncode == 0
    line = system.cairn("events", "--workflow", "yes", "--type", "ask.answered", "-o", "jsonl").stdout
    event = json.loads(line)
    assert event["data"]["approved"] and event["data"]["because"] == "--yes" and event["data"]["by"]


def test_refusing_ends_the_task(system: Home) -> None:
    plan = system.plan("refused", {"id": "a", "approval": ["before_dispatch"]})
    assert system.cairn("run", "--detach", plan).stdout == "refused\n"
    assert system.cairn("approve", "refused", "ask-1", "--refuse", "--because", "no").stdout.startswith("refused ask-1")
    assert system.cairn("watch", "refused").returncode == 1


def test_cancel_ends_a_workflow_once(system: Home) -> None:
    system.cairn("run", "--detach", system.plan("stops", {"id": "a", "agent_role": "writer"}))
    first = system.cairn("cancel", "stops", "--reason", "enough")
    assert first.returncode == 0 and re.fullmatch(r"cancelled stops at position \d+\n", first.stdout)
    assert system.cairn("cancel", "stops").stdout == first.stdout, "what is cancelled is cancelled again"
    assert system.cairn("watch", "stops").returncode == 1
    assert system.cairn("cancel", "nowhere").returncode == 3
    system.cairn("run", system.plan("completes", {"id": "a"}))
    late = system.cairn("cancel", "completes")
    assert late.returncode == 4 and "fix: cairn show completes" in late.stderr


def test_lists_are_for_people_and_for_programs(system: Home) -> None:
    system.cairn("run", system.plan("listed", {"id": "a"}))
    assert re.search(r"^listed +completed +1/1 ", system.cairn("ls").stdout, re.MULTILINE)
    rows = json.loads(system.cairn("ls", "-o", "json").stdout)
    assert {row["workflow"] for row in rows} >= {"listed"}
    assert [json.loads(line) for line in system.cairn("ls", "-o", "jsonl").stdout.splitlines()] == rows
    table = [*csv.DictReader(StringIO(system.cairn("ls", "-o", "csv").stdout))]
    assert [row["workflow"] for row in table] == [row["workflow"] for row in rows]
    assert {row["status"] for row in json.loads(system.cairn("ls", "--status", "completed", "-o", "json").stdout)} == {
        "completed"
    }
    assert json.loads(system.cairn("show", "listed", "-o", "json").stdout)["workflow"]["status"] == "completed"
    missing = system.cairn("show", "nowhere")
    assert (
        missing.returncode == 3
        and "there is no workflow nowhere" in missing.stderr
        and "fix: cairn ls" in missing.stderr
    )


def test_events_come_whole_in_order_and_as_they_happen(system: Home) -> None:
    follower = system.start("events", "--follow", "--workflow", "seen", "--type", "workflow.*")
    system.cairn("run", system.plan("seen", {"id": "a"}))
    assert follower.stdout
    assert [follower.stdout.readline().split()[2] for _ in range(2)] == ["workflow.started", "workflow.completed"]
    assert ended(follower, signal.SIGINT) == 130
    events = [json.loads(line) for line in system.cairn("events", "-o", "jsonl").stdout.splitlines()]
    assert [int(event["sequence"]) for event in events] == [*range(1, len(events) + 1)]
    last = int(events[-1]["sequence"])
    assert len(system.cairn("events", "--after", str(last - 2)).stdout.splitlines()) == 2
    assert system.cairn("events", "--follow", "-o", "json").returncode == 2


def test_a_second_up_in_the_same_place_is_a_conflict(system: Home) -> None:
    done = system.cairn("up")
    assert done.returncode == 4 and "another Cairn (process " in done.stderr and "fix: " in done.stderr


def test_a_repository_of_the_users_own_keeps_its_branch_and_files(system: Home) -> None:
    repo = system.folder / "mine"
    subprocess.run(["git", "init", "-q", "-b", "main", repo], check=True)
    me = ("-c", "user.name=u", "-c", "user.email=u@u")
    subprocess.run(["git", "-C", repo, *me, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    before = subprocess.check_output(["git", "-C", repo, "rev-parse", "HEAD"], text=True)
    assert system.cairn("run", "--repo", "mine", system.plan("owned", {"id": "a"})).returncode == 0
    assert subprocess.check_output(["git", "-C", repo, "rev-parse", "HEAD"], text=True) == before
    assert not subprocess.check_output(["git", "-C", repo, "status", "--porcelain"], text=True)
    log = subprocess.check_output(["git", "-C", repo, "log", "--format=%H", "ai/generated/owned/a"], text=True)
    assert before in log and len(log.splitlines()) == 2
    none = system.cairn("run", "--repo", "agents", system.plan("none", {"id": "a"}))
    assert none.returncode == 2 and "not the top folder of a Git repository" in none.stderr


def test_leaving_a_run_leaves_the_workflow_to_the_system(system: Home) -> None:
    run = system.start("run", system.plan("left", {"id": "a", "agent_role": "writer"}))
    told(run, "task.dispatched")
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=WAIT_SECONDS)
    assert run.returncode == 130 and "left goes on; watch it: cairn watch left" in said
    assert json.loads(system.cairn("show", "left", "-o", "json").stdout)["workflow"]["status"] == "running"
    system.cairn("cancel", "left")


def test_a_run_alone_starts_a_system_asks_on_the_terminal_and_stops_all_it_started(home: Home) -> None:
    script = home.folder / "script/a"
    script.mkdir(parents=True)
    (script / "1.patch").write_text("--- /dev/null\n+++ b/a.txt\n@@ -0,0 +1 @@\n+hello\n")
    tests = {"tests": [{"cmd": "grep -qx hello a.txt"}]}
    plan = home.plan("alone", {"id": "a", "approval": ["before_dispatch"], "acceptance_criteria": tests})
    answers = [("[l]ater: ", "what?\n"), ("[l]ater: ", "y\n"), ("no reason) ", "I looked\n")]
    code, seen = on_terminal(home, ["run", plan, "--scripted", "script"], answers)
    assert code == 0, seen
    assert "starting the system in" in seen and "alone asks a person about task a" in seen
    assert "waits for a person: ask-1" in seen and "1/1 completed" in seen, "the board was not drawn"
    assert "approve? [y]es, [n]o, [l]ater:" in seen and "a before_dispatch: approved by" in seen and "I looked" in seen
    assert re.search(r"status +completed", seen) and re.search(r"commit +\w{10}  ai/generated/alone/a", seen)
    assert not home.runs() and not (home.data / "up.json").exists()
    assert not home.agents(), "an agent outlived the run"


def test_a_run_alone_that_needs_a_person_leaves_its_system_and_agents_running(home: Home) -> None:
    script = home.folder / "script/a"
    script.mkdir(parents=True)
    (script / "1.patch").write_text("--- /dev/null\n+++ b/a.txt\n@@ -0,0 +1 @@\n+hello\n")
    done = home.cairn("run", home.plan("person", {"id": "a", "approval": ["before_dispatch"]}), "--scripted", "script")
    assert done.returncode == 5 and "cairn approve person ask-1" in done.stderr
    stop = re.search(r"stop the system: kill (\d+)", done.stderr)
    assert stop and home.agents()
    assert home.cairn("approve", "person", "ask-1").returncode == 0
    assert home.cairn("watch", "person").returncode == 0
    os.kill(int(stop[1]), signal.SIGTERM)
    until(lambda: not home.runs() and not home.agents())


def test_a_run_that_is_interrupted_stops_its_system_and_the_next_up_carries_on(home: Home) -> None:
    run = home.start("run", home.plan("broken", {"id": "a"}))
    told(run, "task.dispatched")
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=WAIT_SECONDS)
    assert run.returncode == 130 and "broken goes on where it was at the next `cairn up`" in said
    assert not home.runs()
    up = home.start("up")
    told(up, "stop ")
    agent = home.start("agent", "--role", "coder", "--exec", "agents/coder.sh")
    assert home.cairn("watch", "broken").returncode == 0
    up.kill()  # its servers end with it, its address stays behind
    up.communicate()
    until(lambda: not home.runs())
    assert (home.data / "up.json").exists()
    gone = home.cairn("ls")
    assert gone.returncode == 6 and "cairn up" in gone.stderr
    detached = home.cairn("run", "--detach", home.plan("after", {"id": "a"}))
    assert detached.returncode == 0 and detached.stdout == "after\n"
    assert home.cairn("watch", "after").returncode == 0, "the agent did not come back to the system"
    stop = re.search(r"stop the system: kill (\d+)", detached.stderr)
    assert stop
    os.kill(int(stop[1]), signal.SIGTERM)
    until(lambda: not home.runs() and not (home.data / "up.json").exists())
    assert ended(agent) == 0


def test_a_system_that_cannot_start_says_why_and_leaves_nothing(home: Home) -> None:
    home.data.mkdir()
    (home.data / "layout").write_text("999\n")
    done = home.cairn("run", home.plan("never", {"id": "a"}))
    assert done.returncode == 1 and "made by another version" in done.stderr and "fix: " in done.stderr
    (home.data / "layout").unlink()
    home.environment["DATABASE_URL"] = "postgresql://nobody@127.0.0.1:9/none"
    done = home.cairn("run", "never.json")
    assert done.returncode == 1 and "the system did not start" in done.stderr and "up.log" in done.stderr


def on_terminal(home: Home, arguments: list[str], answers: list[tuple[str, str]]) -> tuple[int, str]:
    """Calls with a terminal of 40 lines and types each answer once its prompt is seen; exit code and all that was shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(home.folder)
        os.execve(sys.executable, [*CAIRN, *arguments], home.environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    shown, read_to, deadline = "", 0, time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.5)[0]:
            try:
                shown += os.read(terminal, 65_536).decode(errors="replace")
            except OSError:  # how a terminal says that its last process has gone
                break
        if answers and (at := shown.find(answers[0][0], read_to)) >= 0:
            read_to = at + len(answers[0][0])
            os.write(terminal, answers.pop(0)[1].encode())
    else:
        os.kill(pid, signal.SIGTERM)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
