"""What people are asked, and what comes of it: at the command line of a system that is up, with agents that are programs
of their own."""

import json
import sys
from collections.abc import Iterator

import pytest

from .desk import Desk, desk, kinds
from .stage import Json, is_a

SHELL = """#!/bin/sh
case "$CAIRN_TASK" in
  *'"choice":"blue"'*) echo blue > colour.txt; echo '{"summary": "painted it blue"}' ;;
  *) echo '{"ask": {"question": "Which colour?", "options": ["red", "blue"]}}' ;;
esac
"""
PYTHON = """
from cairn import Agent, Result, Task

agent = Agent("painter", name="pia")

@agent.task
async def paint(task: Task) -> Result:
    try:
        said = await task.ask("Which colour?", ["red", "blue"], due_seconds=task.inputs.get("due_seconds"), default="red")
    except Exception:
        return Result(summary="a question is no error")
    (task.path / "colour.txt").write_text(said.choice)
    return Result(summary=f"painted it {said.choice} for {said.by or 'nobody'}")

agent.run()
"""
GENTLE = """#!/bin/sh
case "$CAIRN_TASK" in
  *gently*) echo done > work.txt; echo '{"summary": "all is well"}' ;;
  *) echo 'it broke off' >&2; exit 3 ;;
esac
"""
ONCE = {"max_attempts": 1, "retry": {"initial_seconds": 0.05}}


@pytest.fixture(scope="module")
def person() -> Iterator[Desk]:
    with desk() as one:
        one.begin("pia", sys.executable, one.program("pia.py", PYTHON))
        one.begin_cairn("sh", "agent", "--role", "writer", "--exec", one.program("sh.sh", SHELL), "--name", "sheila")
        one.begin_cairn("coder", "agent", "--role", "coder", "--exec", one.program("gentle.sh", GENTLE))
        yield one
        one.intact()


def asks(person: Desk, workflow: str, state: str = "any") -> list[Json]:
    found: list[Json] = json.loads(person.cairn("asks", "--workflow", workflow, "--state", state, "-o", "json").out)
    return found


def opened(person: Desk, workflow: str, ask: str) -> Json:
    """What it shows, once it is opened."""
    found: Json = person.seen(lambda event: is_a(event, "ask.opened", ask=ask), workflow=workflow)["data"]
    return found


def of(person: Desk, workflow: str) -> list[str]:
    return kinds(person.events("--workflow", workflow))


@pytest.mark.parametrize("role", ["writer", "painter"])
def test_an_agent_asks_its_run_ends_and_the_next_one_has_the_answer(person: Desk, role: str) -> None:
    name = f"{role}s"
    plan = person.plan(name, {"id": "a", "agent_role": role, "max_attempts": 1}, roles=["painter"])
    told = person.cairn("run", plan, expect=5).err
    assert f"fix: cairn answer {name}/ask-1 --choose red|blue" in told and "Which colour?" in told
    [row] = asks(person, name, "open")
    assert (row["kind"], row["question"], row["options"]) == ("question", "Which colour?", ["red", "blue"])
    assert row["opened_at"] and row["due"] and row["state"] == "open"
    assert f"{name}/ask-1" in person.cairn("asks").out

    none = person.cairn("answer", f"{name}/ask-1", "--choose", "green", expect=4)
    assert "no option 'green', it has: red, blue" in none.err
    person.cairn("answer", f"{name}/ask-7", "--choose", "blue", expect=3)
    person.cairn("answer", name, "--choose", "blue", expect=2)
    said = person.cairn("answer", f"{name}/ask-1", "--choose", "blue", "--because", "it is calm", "-o", "json")
    assert json.loads(said.out)["choice"] == "blue"
    person.cairn("answer", f"{name}/ask-1", "--choose", "blue", expect=4)
    person.cairn("watch", name)

    detail = person.show(name)
    assert detail["tasks"][0]["summary"].startswith("painted it blue")
    assert [(one["run"], one["outcome"]) for one in detail["attempts"]] == [("a/1", "asked"), ("a/2", "completed")]
    assert of(person, name) == [
        "workflow.started", "task.dispatched", "task.started", "task.asked", "ask.opened", "ask.answered",
        "task.dispatched", "task.started", "task.completed", "workflow.completed",
    ]  # fmt: skip
    [row] = asks(person, name)
    assert (row["state"], row["choice"], row["because"]) == ("answered", "blue", "it is calm")


def test_where_everything_was_tried_a_person_says_how_to_go_on_and_it_succeeds(person: Desk) -> None:
    plan = person.plan("tried", {"id": "a", **ONCE, "max_attempts": 2}, {"id": "b", "dependencies": ["a"], **ONCE})
    told = person.cairn("run", plan, expect=5).err
    assert "cairn answer tried/ask-1 --choose retry|edit|reassign|fail" in told
    shown = person.cairn("asks", "tried/ask-1").out
    assert "it broke off" in shown and "attempts: 2" in shown
    person.cairn("answer", "tried/ask-1", "--choose", "retry", "--instructions", "gently, please")
    person.until(lambda: len(asks(person, "tried", "open")) == 1, "its dependent has failed as well")
    assert person.show("tried")["tasks"][0]["summary"] == "all is well"
    edit = json.dumps({"description": "go gently"})
    person.cairn("answer", "tried/ask-2", "--choose", "edit", "--edit", "{no json", expect=2)
    person.cairn("answer", "tried/ask-2", "--choose", "edit", "--edit", '{"tests": [{"cmd": " "}]}', expect=4)
    person.cairn("answer", "tried/ask-2", "--choose", "edit", "--edit", edit)
    person.cairn("watch", "tried")
    assert of(person, "tried").count("task.attempt_failed") == 2 + 1


def test_what_was_changed_after_its_approval_is_asked_for_again_and_an_answer_to_the_old_is_none(person: Desk) -> None:
    task = {"id": "a", "description": "go", "approval": ["before_dispatch"], **ONCE}
    person.cairn("run", person.plan("changed", task), "--detach")
    [first] = asks(person, "changed")
    person.cairn("approve", "changed", "ask-1", "--shown", first["shown"])
    person.until(lambda: len(asks(person, "changed")) == 2, "everything was tried")
    person.cairn("answer", "changed/ask-2", "--choose", "edit", "--edit", '{"description": "go gently"}')
    [third] = asks(person, "changed", "open")
    assert (third["ask"], third["kind"]) == ("ask-3", "before_dispatch") and third["shown"] != first["shown"]

    before = of(person, "changed")
    person.cairn("approve", "changed", "ask-3", "--shown", first["shown"], expect=4)
    person.cairn("approve", "changed", "ask-1", "--shown", first["shown"], expect=4)
    person.cairn("answer", "changed/ask-3", "--choose", "approve", "--shown", first["shown"], expect=4)
    assert of(person, "changed") == before, "an answer to what is no longer so has changed something"
    person.cairn("approve", "changed", "ask-3", "--shown", third["shown"])
    person.cairn("watch", "changed")
    assert of(person, "changed").count("task.dispatched") == 2


def test_what_is_changed_while_it_is_asked_about_or_after_it_was_approved_does_not_begin_unseen(person: Desk) -> None:
    task = {"id": "a", "description": "go", "approval": ["before_dispatch"], **ONCE}
    person.cairn("run", person.plan("moved", task), "--detach")
    first = opened(person, "moved", "ask-1")
    person.cairn("edit", "moved", "a", "--set", "description=go on", "--because", "not far enough")
    second = opened(person, "moved", "ask-2")
    assert second["content"]["task"]["description"] == "go on"
    stale = person.cairn("approve", "moved", "ask-1", "--shown", first["shown"], expect=4)
    assert "what it showed is no longer so: ask ask-2 asks anew" in stale.err

    person.client.pause("moved", "let me think")
    person.client.answer("moved", "ask-2", choice="approve", shown=second["shown"])
    person.client.edit("moved", "a", {"description": "go gently"})
    person.client.resume("moved")
    third = opened(person, "moved", "ask-3")
    assert third["content"]["task"]["description"] == "go gently"
    person.cairn("approve", "moved", "ask-3", "--shown", second["shown"], expect=4)
    assert "task.dispatched" not in of(person, "moved"), "it has begun as nobody has seen it"
    person.client.answer("moved", "ask-3", choice="approve", shown=third["shown"])
    assert person.finished("moved") == "completed"
    events = list(person.client.events(workflow="moved"))
    [begun] = [event["data"] for event in events if is_a(event, "task.dispatched")]
    assert begun["description"] == "go gently"
    assert [event["data"]["ask"] for event in events if is_a(event, "ask.voided")] == ["ask-1"]
    assert [event["data"]["ask"] for event in events if is_a(event, "ask.answered")] == ["ask-2", "ask-3"]


def test_approving_one_result_approves_no_other(person: Desk) -> None:
    task = {
        "id": "a", "description": "go gently", "approval": ["before_completion"],
        "retry": {"initial_seconds": 0.05}, "failure_routing": {"refused": {"do": "retry"}},
    }  # fmt: skip
    person.cairn("run", person.plan("other", task), "--detach")
    first = opened(person, "other", "ask-1")
    person.cairn("approve", "other", "ask-1", "--refuse", "--because", "once more")
    second = opened(person, "other", "ask-2")
    results = [ask["content"]["result"]["commit"] for ask in (first, second)]
    assert results[0] != results[1] and first["shown"] != second["shown"]
    person.cairn("approve", "other", "ask-2", "--shown", first["shown"], expect=4)
    assert "task.completed" not in of(person, "other")
    person.client.answer("other", "ask-2", choice="approve", shown=second["shown"])
    assert person.finished("other") == "completed"
    events = list(person.client.events(workflow="other"))
    [done] = [event["data"] for event in events if is_a(event, "task.completed")]
    assert done["result"]["commit"] == results[1]
    assert len([event for event in events if is_a(event, "task.dispatched")]) == 2, "a decision has run something again"


def test_before_work_counts_the_person_sees_the_diff_of_exactly_the_commit_that_is_asked_about(person: Desk) -> None:
    task = {"id": "a", "description": "go gently", "approval": ["before_completion"]}
    person.cairn("run", person.plan("shown", task), "--detach")
    person.until(lambda: len(asks(person, "shown", "open")) == 1, "the result is put before a person")
    said = person.cairn("asks", "shown/ask-1").out
    assert "+done" in said and "work.txt" in said and "Does this result count as completed?" in said
    assert asks(person, "shown")[0]["content"]["result"]["commit"] in said
    person.cairn("approve", "shown", "ask-1")
    person.cairn("watch", "shown")


def test_nobody_answers_and_the_defaults_are_taken(person: Desk) -> None:
    tasks = [
        {"id": "paint", "agent_role": "painter", "inputs": {"due_seconds": 0.2}},
        {"id": "start", "description": "gently", "approval": ["before_dispatch"]},
        {"id": "broken", **ONCE},
    ]
    plan = person.plan(
        "late", *tasks, roles=["painter"], approvals={"due_seconds": 0.3, "default": "approve"},
        escalation={"due_seconds": 0.3},
    )  # fmt: skip
    person.cairn("run", plan, "--detach")
    person.cairn("watch", "late", expect=1)
    detail = person.show("late")
    assert {task["task"]: task["status"] for task in detail["tasks"]} == {
        "paint": "completed", "start": "completed", "broken": "failed",
    }  # fmt: skip
    assert detail["tasks"][0]["summary"] == "painted it red for nobody"
    assert {(ask["kind"], ask["state"], ask["choice"]) for ask in detail["asks"]} == {
        ("question", "expired", "red"), ("before_dispatch", "expired", "approve"), ("escalation", "expired", "fail"),
    }  # fmt: skip
    assert "nobody answered in time: fail" in person.cairn("show", "late").out
    person.cairn("answer", "late/ask-1", "--choose", "retry", expect=4)


def test_an_ask_is_for_those_the_plan_names(person: Desk) -> None:
    task = {"id": "a", "description": "gently", "approval": ["before_dispatch"]}
    person.cairn("run", person.plan("named", task, approvals={"who": ["lea of the desk"]}), "--detach")
    refused = person.cairn("approve", "named", "ask-1", expect=4)
    assert "is for lea of the desk to answer" in refused.err and "who may answer: lea of the desk" in refused.err
    person.cairn("cancel", "named")
    [ask] = asks(person, "named")
    assert ask["state"] == "voided" and "cancelled the workflow" in ask["because"]
