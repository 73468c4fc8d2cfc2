"""What an operator does while agents work: pause over a restart, add and split, skip, edit, cancel in the middle."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .desk import Desk, desk, kinds

WORKS = """#!/bin/sh
case "$CAIRN_TASK" in
  *'"slow":true'*)
    touch "$(dirname "$0")/at-work"
    while [ ! -e "$(dirname "$0")/go-on" ]; do sleep 0.05; done ;;
  *'"hangs":true'*|*'"breaks":true'*'"debug":{'*)
    echo $$ > "$(dirname "$0")/hangs.new"; pwd >> "$(dirname "$0")/hangs.new"
    mv "$(dirname "$0")/hangs.new" "$(dirname "$0")/hangs"
    exec sleep 600 ;;
  *'"breaks":true'*) exit 3 ;;
esac
echo "$CAIRN_TASK" > "$(echo "$CAIRN_TASK" | sed 's/.*"task":"\\([a-z0-9-]*\\)".*/\\1/').json"
"""


@pytest.fixture
def person() -> Iterator[Desk]:
    with desk() as one:
        one.program("works", WORKS)
        one.begin_cairn("coder", "agent", "--role", "coder", "--exec", "./works", "--capacity", "3")
        yield one
        one.intact()


def statuses(person: Desk, workflow: str) -> dict[str, str]:
    return {task["task"]: task["status"] for task in person.show(workflow)["tasks"]}


def test_a_plan_is_paused_changed_and_resumed_and_a_restart_in_between_forgets_nothing(person: Desk) -> None:
    file = person.plan(
        "changed",
        {"id": "first", "inputs": {"slow": True}},
        {"id": "second", "dependencies": ["first"]},
        {"id": "dull", "dependencies": ["second"], "inputs": {"hangs": True}},
        {"id": "last", "dependencies": ["dull"]},
    )
    person.cairn("run", file, "--detach")
    person.until((person.at / "at-work").exists, "the first agent works")
    paused = person.cairn("pause", "changed", "--because", "something is wrong")
    assert paused.out.startswith("paused changed at position ")
    (person.at / "go-on").touch()
    person.until(lambda: statuses(person, "changed")["first"] == "completed", "what was out goes on and reports")
    assert statuses(person, "changed")["second"] == "pending"
    person.stop()
    person.start()
    [row] = json.loads(person.cairn("ls", "--status", "paused", "-o", "json").out)
    assert (row["workflow"], row["status"], row["paused"], row["progress"]) == ("changed", "running", True, 0.25)
    [second] = [task for task in person.show("changed")["tasks"] if task["task"] == "second"]
    assert second["waiting_on"] == "its workflow, which is paused"

    parts = person.at / "parts.json"
    parts.write_text(json.dumps([{"id": "half"}, {"id": "other-half", "dependencies": ["half"]}]))
    person.cairn("split", "changed", "second", parts, "--replace", "--because", "too large")
    person.cairn("edit", "changed", "last", "--set", "description=Do it well.", "--set", 'inputs={"n": 3}')
    person.cairn("skip", "changed", "dull", "--because", "nobody needs it")
    more = person.at / "more.json"
    more.write_text(json.dumps({"id": "report", "dependencies": ["last"], "weight": 2}))
    person.cairn("add", "changed", more)
    person.cairn("prioritise", "changed", "report", "5")
    wrong = person.cairn("edit", "changed", "first", "--set", "title=x", expect=4)
    assert "task first is completed, there is nothing left to edit" in wrong.err
    assert "unknown role" in person.cairn("edit", "changed", "last", "--set", "agent_role=codr", expect=2).err
    assert not [one for one in kinds(person.events("--workflow", "changed")) if one == "workflow.resumed"]

    person.cairn("resume", "changed", "--because", "mended")
    assert person.cairn("watch", "changed").code == 0
    detail = person.show("changed")
    assert detail["workflow"]["status"] == "completed" and detail["workflow"]["progress"] == 1.0
    assert {task["task"]: task["status"] for task in detail["tasks"]} == {
        "first": "completed", "second": "completed", "half": "completed", "other-half": "completed",
        "dull": "excused", "last": "completed", "report": "completed",
    }  # fmt: skip
    [told] = [event["data"] for event in person.events("--workflow", "changed", "--type", "task.dispatched")
              if event["data"]["task"] == "last"]  # fmt: skip
    assert (told["description"], told["inputs"]) == ("Do it well.", {"n": 3})
    acts = [event for event in person.events("--workflow", "changed") if event["data"].get("reason")]
    assert [event["data"]["reason"] for event in acts if event["type"] != "cairn.task.added.v1"] == [
        "something is wrong", "too large", "nobody needs it", "mended"
    ]  # fmt: skip
    assert all(event["data"]["by"] in event["actor"] for event in acts)


def test_one_task_is_cancelled_in_the_middle_and_the_rest_goes_on(person: Desk) -> None:
    file = person.plan(
        "partly",
        {"id": "stuck", "inputs": {"hangs": True}},
        {"id": "needs-it", "dependencies": ["stuck"]},
        {"id": "free"},
    )
    person.cairn("run", file, "--detach")
    person.until((person.at / "hangs").exists, "the agent works")
    pid, folder = (person.at / "hangs").read_text().splitlines()
    person.cairn("cancel", "partly", "stuck", "--because", "it hangs")
    assert person.cairn("watch", "partly", expect=1).code == 1
    assert statuses(person, "partly") == {"stuck": "cancelled", "needs-it": "skipped", "free": "completed"}
    assert person.show("partly")["workflow"]["reason"] == "cancelled: stuck"
    person.until(lambda: not Path(f"/proc/{pid}").exists(), "its program has ended", 15)
    person.until(lambda: not Path(folder).exists(), "its worktree is gone", 10)


def test_a_task_is_cancelled_while_somebody_mends_it_and_both_are_over_at_once(person: Desk) -> None:
    broken = {"id": "broken", "inputs": {"breaks": True}, "failure_routing": {"agent_error": "coder"}}
    person.cairn("run", person.plan("mending", broken), "--detach")
    person.until((person.at / "hangs").exists, "somebody mends it")
    pid, folder = (person.at / "hangs").read_text().splitlines()
    assert statuses(person, "mending") == {"broken": "branched", "broken.fix1": "running"}
    person.cairn("cancel", "mending", "broken", "--because", "it is not worth it")
    ended = person.events("--workflow", "mending", "--type", "task.cancelled")
    assert {event["data"]["task"] for event in ended} == {"broken", "broken.fix1"}
    assert len({event["causationid"] for event in ended}) == 1, "the branch has outlived what it was to mend"
    assert person.cairn("watch", "mending", expect=1).code == 1
    person.until(lambda: not Path(f"/proc/{pid}").exists(), "its program has ended", 15)
    person.until(lambda: not Path(folder).exists(), "its worktree is gone", 10)


def test_a_workflow_whose_time_is_over_ends_and_says_so(person: Desk) -> None:
    file = person.plan("endless", {"id": "stuck", "inputs": {"hangs": True}}, timeout_seconds=2)
    told = person.cairn("run", file, expect=1)
    assert "timed_out" in told.out
    [row] = json.loads(person.cairn("ls", "--status", "timed_out", "-o", "json").out)
    assert (row["workflow"], row["reason"]) == ("endless", "it took longer than 2 s")
