"""What agents use and what they may use: the runaway that keeps succeeding is stopped by its budget, and a person is
asked; what was noted outlives the agent; every attempt ends with what it used."""

from collections.abc import Iterator
from typing import Any

import pytest

from .stage import Json, System, is_a, system

CAP = 5_000


@pytest.fixture(scope="module")
def stage() -> Iterator[System]:
    with system() as one:
        yield one
        one.intact()


def plan(name: str, **task: Any) -> Json:
    one = {"id": "burn", "agent_role": name, "retry": {"initial_seconds": 0.1}, **task}
    return {"id": name, "roles": [name], "tasks": [one]}


def data(stage: System, workflow: str, kind: str) -> list[Json]:
    return [event["data"] for event in stage.client.events(workflow=workflow) if is_a(event, kind)]


def taken(stage: System, workflow: str) -> int:
    """Tokens that calls have used."""
    return sum(one["tokens"] for one in data(stage, workflow, "call.settled"))


def test_the_runaway_spender_is_stopped_at_its_budget_and_a_person_is_asked(stage: System) -> None:
    stage.agent("spender", "runaway", "rob")
    inputs = {"tokens": 400, "calls": 100, "together": 100}
    workflow = stage.submit(plan("runaway", budget={"tokens": CAP}, inputs=inputs))
    ask = stage.seen(lambda event: is_a(event, "ask.opened"), workflow=workflow)["data"]
    assert ask["kind"] == "budget" and ask["content"]["raise"] == {"task/burn": {"tokens": CAP}}
    refused = stage.seen(lambda event: is_a(event, "report.refused", kind="reserve"), workflow=workflow)["data"]
    assert "does not fit" in refused["why"]
    spent = stage.seen(lambda event: is_a(event, "task.attempt_failed"), workflow=workflow)["data"]
    assert spent["failure"]["type"] == "budget"
    assert taken(stage, workflow) <= CAP
    stage.client.answer(workflow, ask["ask"], choice="fail", shown=ask["shown"], because="it burns")
    assert stage.finished(workflow) == "failed"


def test_a_hundred_agents_at_once_use_no_more_together_than_their_workflow_may(stage: System) -> None:
    for name in ("una", "uri", "ute", "ugo"):
        stage.agent("spender", "horde", name, "25")
    go = stage.folder / "go"
    inputs = {"tokens": 40, "calls": 10, "together": 1, "after": str(go)}
    tasks = [{"id": f"t{n}", "agent_role": "horde", "inputs": inputs, "max_attempts": 1} for n in range(100)]
    given = {"budget": {"tokens": CAP}, "escalation": {"due_seconds": 0}}
    workflow = stage.submit({"id": "horde", "roles": ["horde"], "tasks": tasks, **given}, bare=True)
    stage.until(lambda: len(data(stage, workflow, "task.started")) == 100, "a hundred are at work at once")
    go.touch()
    assert stage.finished(workflow) == "failed"
    assert {one["agent"] for one in data(stage, workflow, "task.started")} == {"una", "uri", "ute", "ugo"}
    used = taken(stage, workflow)
    assert 100 * 40 <= used <= CAP, "each had its part, and together they have used no more than there was"
    assert {one["failure"]["type"] for one in data(stage, workflow, "task.attempt_failed")} == {"budget"}


def test_a_person_gives_more_and_it_goes_on(stage: System) -> None:
    stage.agent("spender", "hungry", "hal")
    inputs = {"tokens": 400, "calls": 3, "together": 1}
    workflow = stage.submit(plan("hungry", budget={"tokens": 1_000}, inputs=inputs))
    ask = stage.seen(lambda event: is_a(event, "ask.opened"), workflow=workflow)["data"]
    stage.client.answer(workflow, ask["ask"], choice="raise", shown=ask["shown"])
    ended = stage.seen(lambda event: (is_a(event, "ask.opened") and event["data"]["ask"] == "ask-2")
                       or is_a(event, "workflow.completed"), workflow=workflow)  # fmt: skip
    assert is_a(ended, "workflow.completed")
    assert taken(stage, workflow) <= 2_000


def test_what_was_noted_outlives_agent_and_server_and_every_attempt_says_what_it_used(stage: System) -> None:
    flag = stage.folder / "died"
    inputs = {"tokens": 100, "calls": 2, "dies": str(flag)}
    stage.agent("spender", "noter", "nan")
    workflow = stage.submit(plan("noter", inputs=inputs))
    stage.until(flag.exists, "the agent is dead")
    stage.kill()
    stage.start()
    stage.agent("spender", "noter", "ned")
    assert stage.finished(workflow) == "completed"
    done = stage.seen(lambda event: is_a(event, "task.completed"), workflow=workflow)
    detail = stage.client.workflow(workflow, int(done["sequence"]))
    assert done["data"]["result"]["data"] == {"attempts": ["burn/1", "burn/2"]}
    lost, well = (attempt["usage"] for attempt in detail["attempts"])
    assert lost["seconds"] > 0 and lost["input_total"] is None and lost["cost_source"] == "unknown"
    assert (well["input_total"], well["output"], well["cost_source"]) == (180, 20, "computed")
    assert detail["usage"]["workflow"]["attempts"] == 2 and detail["usage"]["workflow"]["tokens_known"] == 1
    assert "1 of 2 attempts known" in stage.cairn("show", workflow)


def test_numbers_that_come_late_are_taken_in_and_say_what_was(stage: System) -> None:
    stage.agent("spender", "late", "lea")
    workflow = stage.submit(plan("late", inputs={"tokens": 100, "calls": 1, "late": 1_000}))
    assert stage.finished(workflow) == "completed"
    corrected = stage.seen(lambda event: is_a(event, "usage.corrected"), workflow=workflow)
    [attempt] = stage.client.workflow(workflow, int(corrected["sequence"]))["attempts"]
    assert attempt["usage"]["input_total"] == 90 + 1_000 and attempt["usage"]["output"] == 10
    [done] = data(stage, workflow, "task.completed")
    assert corrected["data"]["run"] == done["run"], "what was recorded of the run is as it was"
    assert corrected["data"]["was"]["input_total"] == 90


def test_who_works_longer_than_the_budget_has_time_for_is_ended(stage: System) -> None:
    stage.agent("odd", "slow", "sol")
    workflow = stage.submit(plan("slow", inputs={"does": "hang"}, budget={"seconds": 0.5}))
    ask = stage.seen(lambda event: is_a(event, "ask.opened"), workflow=workflow)["data"]
    assert ask["kind"] == "budget" and ask["content"]["raise"] == {"task/burn": {"seconds": 0.5}}
    [ended] = data(stage, workflow, "task.attempt_failed")
    assert ended["failure"]["type"] == "budget" and ended["usage"]["seconds"] > 0.4
    stage.client.answer(workflow, ask["ask"], choice="fail", shown=ask["shown"])
    assert stage.finished(workflow) == "failed"
