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


def taken(stage: System, workflow: str) -> int:
    """Tokens that calls have used."""
    events = stage.client.events(workflow=workflow)
    return sum(event["data"]["tokens"] for event in events if is_a(event, "call.settled"))


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


def test_what_was_noted_outlives_the_agent_and_every_attempt_says_what_it_used(stage: System) -> None:
    flag = stage.folder / "died"
    inputs = {"tokens": 100, "calls": 2, "dies": str(flag)}
    stage.agent("spender", "noter", "nan")
    workflow = stage.submit(plan("noter", inputs=inputs))
    stage.until(flag.exists, "the agent is dead")
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
