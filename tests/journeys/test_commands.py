"""A day at the command line: every command as a person or a script calls it, against one system that is up."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from .desk import Desk, desk, kinds

WRITES = """#!/bin/sh
echo "$CAIRN_TASK" > task.json
echo '{"summary": "wrote down the task", "data": {"lines": 1}}'
"""
SLEEPS = """#!/bin/sh
case "$CAIRN_TASK" in *'"sleep":true'*) ;; *) exec "$(dirname "$0")/writes" ;; esac
sleep 600 &
echo "$$ $!" > "$(dirname "$0")/pids.new"; pwd >> "$(dirname "$0")/pids.new"
mv "$(dirname "$0")/pids.new" "$(dirname "$0")/pids"
wait
"""
ASKS = {"id": "a", "description": "Mind the gap.", "approval": ["before_dispatch"]}


@pytest.fixture(scope="module")
def person() -> Iterator[Desk]:
    """Somebody with a system that is up and one coder that is a shell script."""
    with desk() as one:
        one.program("writes", WRITES)
        one.begin_cairn("coder", "agent", "--role", "coder", "--exec", "./writes", "--capacity", "3")
        yield one
        one.intact()


def test_a_script_starts_a_plan_watches_it_and_a_person_approves_what_was_shown(person: Desk) -> None:
    file = person.plan("detached", ASKS, {"id": "b", "dependencies": ["a"]}, title="Two tasks")
    person.begin_cairn("following", "events", "--follow", "--workflow", "detached", "-o", "jsonl")
    started = person.cairn("run", file, "--detach")
    assert started.out == "detached\n" and "cairn watch detached" in started.err
    person.begin_cairn("watching", "watch", "detached")
    person.until(lambda: "cairn approve detached ask-1" in person.log("watching"), "the watcher is told of the ask")
    row = next(row for row in json.loads(person.cairn("ls", "-o", "json").out) if row["workflow"] == "detached")
    assert (row["status"], row["tasks"], row["completed"], row["title"]) == ("waiting", 2, 0, "Two tasks")
    assert "open: cairn approve detached ask-1" in person.cairn("show", "detached").out

    [ask] = person.show("detached")["asks"]
    before = len(person.events())
    wrong = person.cairn("approve", "detached", "ask-1", "--shown", "0" * 64, expect=4)
    assert ask["shown"] in wrong.err and "fix: cairn show detached" in wrong.err
    person.cairn("approve", "detached", "ask-2", expect=3)
    assert len(person.events()) == before, "a wrong answer was recorded"
    right = person.cairn("approve", "detached", "ask-1", "--shown", ask["shown"], "--because", "seen it")
    position = re.fullmatch(r"approved ask-1 of detached at position (\d+)\n", right.out)
    assert position and "Mind the gap." in right.err

    assert person.ended("watching") == 0
    [answer] = person.events("--workflow", "detached", "--type", "ask.answered")
    assert int(answer["sequence"]) <= int(position[1]), "who answered would not see it at the position they were told"
    assert answer["data"]["because"] == "seen it" and answer["data"]["by"] in answer["actor"]
    person.cairn("approve", "detached", "ask-1", expect=4)
    person.cairn("approve", "detached", "ask-1", "--refuse", expect=4)

    history = person.events("--workflow", "detached")
    person.until(lambda: person.log("following").count("\n") >= len(history), "all of it has been followed")
    assert [json.loads(line) for line in person.log("following").splitlines()] == history
    assert kinds(history)[0] == "workflow.started" and kinds(history)[-1] == "workflow.completed"
    assert person.ended("following", signal.SIGINT) == 130


def test_a_run_without_a_terminal_that_needs_a_person_ends_with_5_and_refusing_ends_the_workflow(person: Desk) -> None:
    run = person.cairn("run", person.plan("unmanned", ASKS, {"id": "b", "dependencies": ["a"]}), expect=5)
    assert "fix: cairn approve unmanned ask-1" in run.err and not run.out
    assert "stays up" not in run.err, "it has joined a system that was up anyway"
    refused = person.cairn("approve", "unmanned", "ask-1", "--refuse", "--because", "not on a Friday")
    assert refused.out.startswith("refused ask-1 of unmanned")
    assert person.cairn("watch", "unmanned", expect=1).err.strip().endswith("more: cairn show unmanned")
    tasks = {task["task"]: task for task in person.show("unmanned")["tasks"]}
    assert tasks["a"]["status"] == "failed" and tasks["b"]["status"] == "skipped"
    assert tasks["a"]["failure"]["type"] == "refused" and "not on a Friday" in tasks["a"]["failure"]["message"]
    assert "not on a Friday" in person.cairn("show", "unmanned").out


def test_cancelling_in_the_middle_stops_the_program_and_leaves_no_worktree(person: Desk) -> None:
    person.begin_cairn("slow", "agent", "--role", "reviewer", "--exec", person.program("sleeps", SLEEPS))
    tasks = [{"id": name, "agent_role": "reviewer", "inputs": {"sleep": True}} for name in ("a", "b")]
    file = person.plan("cancelled", {"id": "first"}, *({**task, "dependencies": ["first"]} for task in tasks))
    run = person.begin_cairn("running", "run", file)
    person.until((person.at / "pids").exists, "the agent works")
    ids, folder = (person.at / "pids").read_text().splitlines()
    assert Path(folder).is_dir() and folder.startswith(str(person.folder))
    cancelled = person.cairn("cancel", "cancelled", "--reason", "enough")
    assert re.fullmatch(r"cancelled cancelled at position \d+\n", cancelled.out)
    assert run.wait(20) == 1 and "cancelled" in person.log("running")
    person.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ids.split()), "the program has ended", 15)
    person.until(lambda: not Path(folder).exists(), "its worktree is gone", 10)
    statuses = {task["task"]: task["status"] for task in person.show("cancelled")["tasks"]}
    assert statuses == {"first": "completed", "a": "cancelled", "b": "cancelled"}
    [last] = person.events("--workflow", "cancelled", "--type", "workflow.cancelled")
    assert last["data"]["reason"] == "enough" and last["data"]["by"] in last["actor"]
    person.cairn("run", person.plan("afterwards", {"id": "a", "agent_role": "reviewer"}))


def test_a_person_at_a_terminal_types_what_they_decide(person: Desk) -> None:
    task = {**ASKS, "approval": ["before_dispatch", "before_completion"]}
    prompts = [("[l]ater: ", "what?\n"), ("[l]ater: ", "y\n"), ("no reason) ", "go on\n"),
               ("[l]ater: ", "y\n"), ("no reason) ", "\n")]  # fmt: skip
    code, shown = person.at_terminal(["run", person.plan("manned", task)], prompts)
    assert code == 0, shown
    assert "Mind the gap." in shown and "wrote down the task" in shown and "status     completed" in shown
    answers = [event["data"] for event in person.events("--workflow", "manned", "--type", "ask.answered")]
    assert [(one["choice"], one.get("because", "")) for one in answers] == [("approve", "go on"), ("approve", "")]

    code, shown = person.at_terminal(
        ["run", person.plan("unwanted", ASKS)], [("[l]ater: ", "n\n"), ("no reason) ", "no\n")]
    )
    assert code == 1 and "refused by" in shown, shown


def test_a_workflow_is_drawn_as_a_chart_and_found_by_what_was_said_in_it(person: Desk) -> None:
    tasks = {"id": "draw", "title": "Draw the tide_table"}, {"id": "ink", "dependencies": ["draw"]}
    person.cairn("run", person.plan("charted", *tasks, title="Tides"))
    found = "type:workflow", "workflow:charted", "status:completed"
    person.until(lambda: "charted" in person.cairn("search", *found).out, "the slower of the two views has it")
    chart = person.cairn("timeline", "charted").out.splitlines()
    assert chart[0].startswith("charted  Tides  completed")
    assert [(row.split()[0], "completed" in row) for row in chart[3:5]] == [("draw", True), ("ink", True)]
    told = json.loads(person.cairn("timeline", "charted", "-o", "json").out)
    assert [task["task"] for task in told["tasks"]] == ["draw", "ink"] and told["workflow"]["outcome"] == "completed"
    person.cairn("timeline", "nowhere", expect=3)

    hits = json.loads(person.cairn("search", "tide", "type:task", "-o", "json").out)
    assert [(hit["workflow"], hit["task"], hit["status"]) for hit in hits] == [("charted", "draw", "completed")]
    assert "task charted/draw  completed  Draw the tide_table" in person.cairn("search", "tide table", "wrote").out
    assert not person.cairn("search", "--", "tide", "-type:task", "-type:workflow").out
    assert "status is one of" in person.cairn("search", "status:odd", expect=2).err


def test_a_bad_plan_is_told_whole_and_leaves_no_trace(person: Desk) -> None:
    head = person.events()[-1]["sequence"]
    tasks = [
        {"id": "a", "dependencies": ["b"]}, {"id": "b", "dependencies": ["a"]}, {"id": "b", "agent_role": "codr"},
        {"id": "c", "dependencies": ["nowhere"], "timeout": 3},
    ]  # fmt: skip
    file = person.plan("bad", *tasks)
    for words in (["validate", file], ["run", file], ["run", file, "--detach"]):
        told = person.cairn(*words, expect=2)
        assert not told.out
        for pointer in ("/tasks/3/timeout", "/tasks/2/id", "/tasks/2/agent_role", "/tasks/3/dependencies/0"):
            assert f"{file}#{pointer}" in told.err, told.err
        assert "did you mean" in told.err and "a → b → a" in told.err.replace("->", "→")
    (person.at / "text.json").write_text("{'id': 1}")
    person.cairn("run", "text.json", expect=2)
    person.cairn("run", "absent.json", expect=2)
    assert person.cairn("validate", "-", stdin=file.read_text(), expect=2).err
    assert person.events()[-1]["sequence"] == head, "something was recorded"


@pytest.mark.parametrize(
    "words",
    ["show x", "watch x", "cancel x", "approve x ask-1", "events --workflow x"],
)
def test_what_nobody_knows_is_not_found(person: Desk, words: str) -> None:
    told = person.cairn(*words.split(), expect=3)
    assert "there is no " in told.err and "fix: cairn ls" in told.err and not told.out


def test_a_run_that_was_killed_leaves_its_workflow_to_the_system(person: Desk) -> None:
    run = person.begin_cairn("killed", "run", person.plan("orphan", {"id": "a", "agent_role": "writer"}))
    person.until(lambda: "task.dispatched" in person.log("killed"), "it waits for a writer")
    os.kill(run.pid, signal.SIGKILL)
    assert person.ended("killed") == -signal.SIGKILL
    person.begin_cairn("writer", "agent", "--role", "writer", "--exec", "./writes")
    person.cairn("watch", "orphan")


def test_where_nothing_is_up_every_command_says_how_to_start_it() -> None:
    with desk(up=False) as one:
        words = ["ls", "show x", "watch", "watch x", "events", "events --follow", "approve x ask-1", "cancel x"]
        started = [(each, one.call(*each.split())) for each in words]
        for each, process in started:
            _, said = process.communicate(timeout=30)
            assert process.returncode == 6, f"cairn {each}: {process.returncode} {said}"
            assert "nothing is up in" in said and "fix: cairn up" in said
        one.cairn("validate", one.plan("fine", {"id": "a"}))
        assert not (one.folder / "up.json").exists()


def test_a_run_where_no_test_can_be_run_says_so_and_does_not_wait_for_ever() -> None:
    with desk(up=False, CAIRN_SANDBOX="docker", DOCKER_HOST="unix:///nonexistent.sock") as one:
        told = one.cairn("run", one.plan("untestable", {"id": "a"}), expect=1)
        assert "no test can be run here" in told.err and "fix: cairn doctor" in told.err and not told.out
        assert not (one.folder / "up.json").exists()
