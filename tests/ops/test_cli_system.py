"""The command line against a real system: `cairn up` and its agents as processes, every command as a user calls it."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest
from cli_home import CAIRN, WAIT_SECONDS, Home, ended, new_home, on_terminal, told
from terminal import plain

from tests.cluster import with_cluster


@pytest.fixture(scope="module")
def system() -> Iterator[Home]:
    """A system that is up, with one coder that is a program."""
    made = new_home()
    with_cluster(made.data)
    agent = made.start(
        "agent",
        "--role",
        "coder",
        "--exec",
        "agents/coder.sh",
        "--capacity",
        "4",
        DATABASE_URL="postgresql://me:hush@h/d",
    )
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
        "run", system.plan("fails", {"id": "a", "inputs": {"fail": True}}, {"id": "b", "dependencies": ["a"]},
                           escalation={"due_seconds": 0})
    )  # fmt: skip
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
    assert event["data"]["choice"] == "approve" and event["data"]["because"] == "--yes" and event["data"]["by"]


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
    assert system.cairn("events", "--follow", "--order", "desc").returncode == 2
    newest = [json.loads(line) for line in system.cairn("events", "--order", "desc", "-o", "jsonl").stdout.splitlines()]
    assert newest == events[::-1]
    [done] = [one for one in events if one["type"] == "cairn.task.completed.v1" and "/seen/" in one["subject"]]
    wanted = (
        "--task", "a", "--agent", done["data"]["agent"], "--actor", done["actor"], "--correlation", "seen", "--causation",
        done["causationid"], "--from", done["time"], "--type", "task.started,*.completed", "--q", "A",
    )  # fmt: skip
    found = system.cairn("events", *wanted, "--limit", "5", "-o", "json")
    assert done in json.loads(found.stdout), found.stderr
    assert not system.cairn("events", *wanted, "--to", done["time"]).stdout


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


def test_every_command_that_changes_something_tells_programs_what(system: Home) -> None:
    def json_of(*words: str, code: int = 0) -> Any:
        done = system.cairn(*words, "-o", "json")
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)

    asking = system.plan("for-programs", {"id": "a", "approval": ["before_dispatch"]})
    started = json_of("run", asking, "--detach")
    assert started["workflow"] == "for-programs" and started["position"] > 0
    answered = json_of("approve", "for-programs", "ask-1")
    assert answered.pop("position") > started["position"]
    assert answered == {"workflow": "for-programs", "ask": "ask-1", "choice": "approve"}
    watched = system.cairn("watch", "for-programs", "-o", "jsonl")
    history = system.cairn("events", "--workflow", "for-programs", "-o", "jsonl").stdout
    assert watched.returncode == 0 and watched.stdout == history and "task.completed" not in watched.stderr
    assert json_of("run", system.plan("whole", {"id": "a"})) == json_of("show", "whole")
    broken = system.plan("broken", {"id": "a", "inputs": {"fail": True}}, escalation={"due_seconds": 0})
    assert json_of("run", broken, code=1)["tasks"][0]["failure"]
    json_of("run", asking, "--detach")
    cancelled = json_of("cancel", "for-programs-2")
    assert cancelled.keys() == {"workflow", "position"} and cancelled["workflow"] == "for-programs-2"


def test_all_workflows_are_followed_as_json_lines(system: Home) -> None:
    watching = system.start("watch", "-o", "jsonl")
    assert watching.stdout
    system.cairn("run", system.plan("followed", {"id": "a"}))
    for line in watching.stdout:
        if json.loads(line)["type"] == "cairn.workflow.completed.v1" and "followed" in line:
            break
    assert ended(watching, signal.SIGINT) == 130


def test_a_reader_who_has_seen_enough_ends_what_shows_without_a_word(system: Home) -> None:
    system.cairn("run", "--detach", system.plan("enough", {"id": "a", "agent_role": "writer"}))
    for words in (["show", "enough"], ["ls"], ["events", "--follow"], ["show", "enough", "-o", "json"]):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([*CAIRN, *words], cwd=system.folder, env=system.environment, stdout=writing,
                              stderr=subprocess.PIPE, text=True, timeout=WAIT_SECONDS)  # fmt: skip
        os.close(writing)
        assert (done.returncode, done.stderr) == (141, ""), words
    system.cairn("cancel", "enough")


def test_leaving_a_run_leaves_the_workflow_to_the_system(system: Home) -> None:
    run = system.start("run", system.plan("left", {"id": "a", "agent_role": "writer"}))
    told(run, "task.dispatched")
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=WAIT_SECONDS)
    assert run.returncode == 130 and "left goes on; watch it: cairn watch left" in said
    assert json.loads(system.cairn("show", "left", "-o", "json").stdout)["workflow"]["status"] == "running"
    system.cairn("cancel", "left")


def test_a_terminal_gets_a_board_in_colour_unless_it_asks_for_none(system: Home) -> None:
    system.cairn("run", system.plan("seen-live", {"id": "a"}))
    coloured = re.compile(r"\x1b\[[0-9;]*3[1-6]m")
    code, shown = on_terminal(system, ["watch", "seen-live"], [])
    assert code == 0 and "1/1 completed" in plain(shown) and coloured.search(shown) and "task.dispatched" not in shown
    code, shown = on_terminal(system, ["watch", "seen-live"], [], NO_COLOR="1")
    assert code == 0 and "1/1 completed" in plain(shown) and not coloured.search(shown)


def test_a_terminal_of_a_ci_machine_is_never_asked(system: Home) -> None:
    plan = system.plan("ci", {"id": "a", "approval": ["before_dispatch"]})
    code, shown = on_terminal(system, ["run", plan], [], CI="true")
    assert code == 5 and "cairn approve ci ask-1" in shown
    assert "[y]es" not in shown and "0/1 completed" not in shown and "\x1b" not in shown
    assert system.cairn("cancel", "ci").returncode == 0


def test_an_ask_that_is_left_for_later_is_answered_elsewhere_while_the_run_waits(system: Home) -> None:
    plan = system.plan("later", {"id": "a", "approval": ["before_dispatch"]})
    answering: list[subprocess.Popen[str]] = []

    def elsewhere() -> str:
        answering.append(system.start("approve", "later", "ask-1"))
        return ""

    code, shown = on_terminal(system, ["run", plan], [("[l]ater: ", "l\n"), ("not answered; later: ", elsewhere)])
    assert code == 0 and "cairn approve later ask-1" in shown and "status     completed" in shown
    answering[0].communicate(timeout=WAIT_SECONDS)
    assert answering[0].returncode == 0


def test_nobody_approves_a_run_that_nobody_watches(system: Home) -> None:
    done = system.cairn("run", "--yes", "--detach", system.plan("both", {"id": "a"}))
    assert done.returncode == 2 and "nobody would be there" in done.stderr
    assert system.cairn("show", "both").returncode == 3


def test_all_workflows_are_watched_live_until_ctrl_c(system: Home) -> None:
    system.cairn("run", system.plan("among", {"id": "a"}))
    code, shown = on_terminal(system, ["watch"], [("among", "\x03")])
    assert code == 130 and re.search(r"among +completed +1/1", plain(shown))
