"""What is mended until its tests pass, results that have to fit, and tests that fail by chance: with real agents, a real
tester and real commits."""

import json
import sys
from collections.abc import Iterator

import pytest

from .stage import AGENTS, Json, System, is_a, system

SOON = {"initial_seconds": 0.1}


@pytest.fixture(scope="module")
def stage() -> Iterator[System]:
    with system() as one:
        one.agent("mason", "coder", "cora")
        one.agent("mason", "debugger", "dora")
        yield one
        one.intact()


def events(stage: System, workflow: str, kind: str) -> list[Json]:
    return [event["data"] for event in stage.client.events(workflow=workflow) if is_a(event, kind)]


def judged(name: str, cmd: str, **task: object) -> Json:
    criteria = {"tests": [{"cmd": cmd, "timeout_seconds": 20}]}
    return {"id": name, "tasks": [{"id": "a", "acceptance_criteria": criteria, "retry": SOON, **task}]}


def test_branches_go_as_deep_as_they_may_until_the_tests_of_the_first_task_pass(stage: System) -> None:
    test = "cat stones.txt; test $(wc -l < stones.txt) -ge 4"
    routing = {"test_failure": {"do": "branch", "role": "debugger"}}
    plan = judged("deep", test, failure_routing=routing, max_branch_depth=3, max_debug_attempts=1, max_attempts=1)
    workflow = stage.submit(plan)
    assert stage.finished(workflow) == "completed"

    opened = events(stage, workflow, "task.branched")
    assert [(it["task"], it["branch"]["id"], it["depth"]) for it in opened] == [
        ("a", "a.fix1", 1), ("a", "a.fix1.fix1", 2), ("a", "a.fix1.fix1.fix1", 3)
    ]  # fmt: skip
    done = {it["task"]: it["result"]["data"]["told"] for it in events(stage, workflow, "task.completed")}
    assert done["a.fix1.fix1.fix1"]["found"] == ["a", "a.fix1", "a.fix1.fix1"], "each is built on the one before"
    for name, stones in (("a.fix1", ["a"]), ("a.fix1.fix1", ["a", "a.fix1"])):
        assert done[name]["of"] == "a"
        assert done[name]["printed"] == ["".join(f"{stone}\n" for stone in stones)]
        assert all(f"\n+{stone}\n" in done[name]["diff"] for stone in stones), "it is shown what was done so far"
    passed = [(it["passed"], it["receipts"][0]["exit_code"]) for it in events(stage, workflow, "task.verified")]
    assert passed == [(False, 1), (False, 1), (False, 1), (True, 0)]


def test_when_the_deepest_branch_did_not_mend_it_a_person_is_asked_and_what_they_say_is_done(stage: System) -> None:
    test = "cat stones.txt; test $(wc -l < stones.txt) -ge 5"
    routing = {"test_failure": {"do": "branch", "role": "debugger"}}
    plan = judged("bottom", test, failure_routing=routing, max_branch_depth=2, max_debug_attempts=1, max_attempts=1)
    plan["tasks"].append({"id": "b", "dependencies": ["a"]})
    workflow = stage.submit(plan)

    opened = stage.seen(lambda event: is_a(event, "ask.opened"), workflow=workflow)
    ask = opened["data"]
    branches = [(it["branch"]["id"], it["depth"]) for it in events(stage, workflow, "task.branched")]
    assert branches == [("a.fix1", 1), ("a.fix1.fix1", 2)]
    assert (ask["task"], ask["kind"], ask["default"]) == ("a", "escalation", "fail")
    assert ask["options"] == ["retry", "accept", "edit", "reassign", "fail"]
    assert ask["question"] == f"`{test}` ended with exit code 1: what now?"
    [receipt] = ask["content"]["receipts"]
    assert (receipt["exit_code"], receipt["commit"]) == (1, ask["content"]["result"]["commit"])
    assert receipt["output"].split() == ["a", "a.fix1", "a.fix1.fix1"], "all that was done is what is asked about"
    detail = stage.client.workflow(workflow, int(opened["sequence"]))
    rows = {task["task"]: (task["status"], task["waiting_on"]) for task in detail["tasks"]}
    assert rows["a"][0] == "waiting" and ask["ask"] in rows["a"][1]
    assert rows["b"] == ("pending", "dependency a")

    stage.client.answer(workflow, ask["ask"], choice="retry", shown=ask["shown"], instructions="5", because="add up")
    assert stage.finished(workflow) == "completed"
    a, b = (it for it in events(stage, workflow, "task.completed") if it["task"] in ("a", "b"))
    assert (a["task"], a["run"], a["agent"]) == ("a", "a/2", "cora"), "nobody completes it but by its own tests"
    assert [it["passed"] for it in events(stage, workflow, "task.verified")] == [False, False, False, True]
    assert b["result"]["data"]["told"]["found"] == ["a"] * 5
    assert len(events(stage, workflow, "task.branched")) == 2, "branches stay counted"


def test_a_person_gives_it_to_another_role_and_then_takes_what_there_is(stage: System) -> None:
    plan = judged("taken", "false", max_attempts=1)
    plan["tasks"].append({"id": "b", "dependencies": ["a"]})
    workflow = stage.submit(plan)
    first = stage.seen(lambda event: is_a(event, "ask.opened", ask="ask-1"), workflow=workflow)["data"]
    stage.client.answer(workflow, "ask-1", choice="reassign", shown=first["shown"], role="debugger")
    second = stage.seen(lambda event: is_a(event, "ask.opened", ask="ask-2"), workflow=workflow)["data"]
    assert second["content"]["result"]["commit"] != first["content"]["result"]["commit"]
    stage.client.answer(workflow, "ask-2", choice="accept", shown=second["shown"], because="good enough")
    assert stage.finished(workflow) == "completed"
    assert [it["agent"] for it in events(stage, workflow, "task.reported")] == ["cora", "dora"]
    assert not any(it["passed"] for it in events(stage, workflow, "task.verified"))
    a, b = events(stage, workflow, "task.completed")
    assert (a["task"], a["result"]["commit"]) == ("a", second["content"]["result"]["commit"])
    assert b["result"]["data"]["told"]["found"] == ["a"], "what depends on it is built on what was taken"
    answers = [(it["choice"], it.get("because"), bool(it["by"])) for it in events(stage, workflow, "ask.answered")]
    assert answers == [("reassign", None, True), ("accept", "good enough", True)], "who waived the evidence is recorded"


def test_a_receipt_says_what_ran_the_tests(stage: System) -> None:
    workflow = stage.submit(judged("runtime", "true"))
    assert stage.finished(workflow) == "completed"
    (verified,) = events(stage, workflow, "task.verified")
    assert "sha256:" in verified["receipts"][0]["runtime"]


def test_a_result_that_does_not_fit_goes_back_to_its_source_and_dependents_get_only_what_does(stage: System) -> None:
    shape = {"type": "object", "required": ["stones"], "properties": {"stones": {"type": "integer", "minimum": 1}}}
    tasks = [{"id": "a", "result_schema": shape, "retry": SOON}, {"id": "b", "dependencies": ["a"]}]
    workflow = stage.submit({"id": "shaped", "tasks": tasks})
    assert stage.finished(workflow) == "completed"
    (failed,) = events(stage, workflow, "task.attempt_failed")
    assert (failed["task"], failed["failure"]["type"]) == ("a", "invalid_result")
    why = 'its data does not fit result_schema: /stones: expected integer, got "some"'
    assert failed["failure"]["message"] == why
    a, b = (it["result"]["data"] for it in events(stage, workflow, "task.completed"))
    assert (a["stones"], a["told"]["previous"]) == (1, why), "the next attempt is told what was wrong"
    assert b["told"]["needs"]["a"]["stones"] == 1


def test_a_test_that_fails_by_chance_is_told_apart_by_running_it_again(stage: System) -> None:
    """It fails until four seconds after the work was done, whoever did it."""
    test = "sleep 0.5; test $(date +%s) -ge $(cat when.txt)"
    workflow = stage.submit(judged("flaky", test, flaky_reruns=10, max_attempts=1))
    assert stage.finished(workflow) == "completed"
    verified = events(stage, workflow, "task.verified")
    assert [it["passed"] for it in verified] == [False] * (len(verified) - 1) + [True]
    assert len(verified) > 1
    assert verified[-1]["receipts"][0]["flaky"]
    assert len({it["receipts"][0]["commit"] for it in verified}) == 1
    (task,) = stage.client.workflow(workflow)["tasks"]
    assert [receipt["flaky"] for receipt in task["receipts"]] == [True], "the board shows it"


def test_findings_coverage_and_cost_are_told_of_real_runs_and_a_grave_finding_is_not_accepted(stage: System) -> None:
    stage.exec_agent("surveyor", "sue", f"{sys.executable} {AGENTS / 'surveyor.py'}")
    tested = {"tests": [{"cmd": "python3 survey.py", "coverage": "coverage.json"}], "findings_below": "high"}
    task = {"id": "a", "agent_role": "surveyor", "acceptance_criteria": tested, "retry": SOON}
    workflow = stage.submit({"id": "surveyed", "roles": ["surveyor"], "tasks": [task]})
    assert stage.finished(workflow) == "completed"
    (failed,) = events(stage, workflow, "task.attempt_failed")
    why = "a security finding, high: wall.py a key lies in the open"
    assert (failed["failure"]["type"], failed["failure"]["message"]) == ("finding", why)
    (verified,) = events(stage, workflow, "task.verified")
    assert verified["receipts"][0]["coverage"] == 66.67, "of three lines one did not run"

    done = int(stage.seen(lambda event: is_a(event, "workflow.completed"), workflow=workflow)["sequence"])
    [row] = stage.client.quality(["workflow", "role"], workflow=workflow, at_least=done)
    assert row["role"] == "surveyor" and row["findings"] == {"lint": {"low": 2}, "security": {"high": 1}}
    assert (row["pass_rate"], row["first_pass_rate"], row["retries"], row["coverage_last"]) == (1.0, 0.0, 1, 66.67)
    [row] = stage.client.spend(["role", "model"], workflow=workflow, role="surveyor", at_least=done)
    assert (row["model"], row["attempts"], row["cost_reported_usd"], row["input_total"]) == ("theodolite", 2, 0.75, 300)
    [whole] = json.loads(stage.cairn("spend", "--workflow", workflow, "-o", "json"))
    assert (whole["accepted"], whole["cost_per_accepted_usd"]) == (1, 0.75), "what failed before is paid for, too"
    assert "66.67 % (mean 66.67 %)" in stage.cairn("quality", "--workflow", workflow)
    head, line = stage.cairn("spend", "--workflow", workflow).splitlines()
    assert head.split()[-1] == "TASK" and line.split()[-1] == "0.7500"
