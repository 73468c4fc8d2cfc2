"""Agents come, are missed, come back, are drained and leave; what nobody is there for waits, and says for whom."""

import signal
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from .stage import LEASE_SECONDS, Json, System, is_a, system


@pytest.fixture(scope="module")
def stage() -> Iterator[System]:
    """One system for all of them; each has a role of its own."""
    with system() as one:
        yield one
        one.intact()


def plan(name: str, *seconds: float, **task: object) -> Json:
    """As many tasks of the role `name`, one after the other as there is one agent; so long they take."""
    tasks = [{"id": f"t{n}", "agent_role": name, "inputs": {"seconds": each}, **task} for n, each in enumerate(seconds)]
    return {"id": name, "roles": [name], "tasks": tasks}


def agent(stage: System, name: str) -> Json:
    """How it is listed; {} if it is not."""
    return next((one for one in stage.client.agents() if one["name"] == name), {})


def waits(stage: System, workflow: str) -> list[str]:
    return [task["waiting_on"] for task in stage.client.workflow(workflow)["tasks"] if task["waiting_on"]]


def test_a_drained_agent_finishes_what_it_holds_and_gets_no_more(stage: System) -> None:
    stage.agent("worker", "drained", "dora")
    workflow = stage.submit(plan("drained", 2.0, 0.0), bare=True)
    stage.seen(lambda event: is_a(event, "task.started", agent="dora"), workflow=workflow)
    stage.client.drain("dora", "her machine is needed")
    drained = stage.seen(lambda event: is_a(event, "agent.drained", agent="dora"))
    assert drained["data"]["reason"] == "her machine is needed" and drained["data"]["by"] == drained["actor"]
    done = stage.seen(lambda event: is_a(event, "task.completed"), workflow=workflow)
    assert done["data"]["agent"] == "dora"
    stage.until(lambda: waits(stage, workflow) == ["a slot: no agent of role drained is there"], "it waits on a slot")
    assert "a slot: no agent of role drained is there" in stage.cairn("show", workflow)
    [listed] = [line for line in stage.cairn("ls").splitlines() if line.startswith(workflow)]
    assert " drained " in listed
    assert "takes no more" in stage.cairn("agents", "drain", "dora", "--because", "x"), (
        "that it is so already is no error"
    )
    [told] = [line for line in stage.cairn("agents").splitlines() if line.startswith("dora")]
    assert "here, drained" in told and "0/1" in told
    stage.agent("worker", "drained", "dan")
    assert stage.finished(workflow) == "completed"
    by = [event["data"]["agent"] for event in stage.client.events(workflow=workflow) if is_a(event, "task.completed")]
    assert by == ["dora", "dan"]


def test_an_agent_that_dies_is_lost_its_work_is_taken_over_and_it_comes_back(stage: System) -> None:
    dying = stage.agent("worker", "dying", "della")
    workflow = stage.submit(plan("dying", 4.0), bare=True)
    stage.seen(lambda event: is_a(event, "task.started", agent="della"), workflow=workflow)
    assert agent(stage, "della")["status"] == "here"
    dying.kill()
    dying.wait()
    killed = datetime.now(UTC)
    lost = stage.seen(lambda event: is_a(event, "agent.lost", agent="della"), seconds=4 * LEASE_SECONDS)
    assert lost["actor"] == "clock/agent"
    assert (datetime.fromisoformat(lost["time"]) - killed).total_seconds() < 2 * LEASE_SECONDS, "it took too long"
    stage.until(lambda: waits(stage, workflow) == ["a slot: no agent of role dying is there"], "it waits on a slot")
    stage.agent("worker", "dying", "della")
    stage.seen(lambda event: is_a(event, "agent.returned", agent="della"), after=int(lost["sequence"]))
    assert stage.finished(workflow) == "completed"


def test_a_zombie_is_lost_refused_and_welcome_again(stage: System) -> None:
    zombie = stage.agent("worker", "zombie", "zoe")
    workflow = stage.submit(plan("zombie", 0.5), bare=True)
    stage.seen(lambda event: is_a(event, "task.started", agent="zoe"), workflow=workflow)
    zombie.send_signal(signal.SIGSTOP)
    lost = stage.seen(lambda event: is_a(event, "agent.lost", agent="zoe"))
    stage.agent("worker", "zombie", "zack")
    assert stage.finished(workflow) == "completed"
    zombie.send_signal(signal.SIGCONT)
    stage.seen(lambda event: is_a(event, "report.refused", agent="zoe"), workflow=workflow)
    stage.seen(lambda event: is_a(event, "agent.returned", agent="zoe"), after=int(lost["sequence"]))
    by = [event["data"]["agent"] for event in stage.client.events(workflow=workflow) if is_a(event, "task.completed")]
    assert by == ["zack"]
    stage.until(lambda: agent(stage, "zoe").get("status") == "here", "she is listed as here")


def test_an_agent_says_goodbye(stage: System) -> None:
    leaving = stage.exec_agent("leaving", "lea", "true")
    stage.until(lambda: agent(stage, "lea").get("status") == "here", "she is listed as here")
    leaving.terminate()
    assert leaving.wait(20) == 0
    stage.seen(lambda event: is_a(event, "agent.left", agent="lea"))
    stage.until(lambda: not agent(stage, "lea"), "she is not listed any more")


def test_a_task_goes_to_an_agent_that_can_do_it(stage: System) -> None:
    stage.exec_agent("able", "abe", "echo abe")
    needing = {"capabilities": ["gpu", "python"]}
    workflow = stage.submit(plan("able", 0.0, 0.0, **needing), bare=True)
    stage.until(
        lambda: waits(stage, workflow) == ["a slot: no agent of role able with gpu, python is there"] * 2, "they wait"
    )
    stage.exec_agent("able", "gus", "echo gus", "--capability", "gpu")
    stage.exec_agent("able", "pia", "echo pia", *(f"--capability={one}" for one in ("python", "gpu", "rust")))
    assert stage.finished(workflow) == "completed"
    events = list(stage.client.events(workflow=workflow))
    assert {event["data"]["agent"] for event in events if is_a(event, "task.started")} == {"pia"}
    plain = stage.submit({**plan("able", *[0.3] * 6), "id": "plain"}, bare=True)
    assert stage.finished(plain) == "completed"
    events = list(stage.client.events(workflow=plain))
    assert {event["data"]["agent"] for event in events if is_a(event, "task.started")} > {"pia"}
    assert not [event for event in events if is_a(event, "report.refused") or is_a(event, "task.attempt_failed")]


def test_a_name_is_that_of_one_role(stage: System) -> None:
    first = stage.exec_agent("first", "nina", "true")
    stage.until(lambda: bool(agent(stage, "nina")), "she is there")
    other = stage.exec_agent("second", "nina", "true")
    assert other.wait(20) == 4
    assert "name of a first" in (stage.folder / "nina.log").read_text()
    first.terminate()
    assert first.wait(20) == 0


def test_an_agent_from_elsewhere_works_with_nothing_but_its_own_user(stage: System) -> None:
    told = stage.cairn("agents", "admit", "rita", "--role", "remote").strip()
    assert told.startswith("NATS_URL=") and stage.where().nats_url not in told
    url = told.removeprefix("NATS_URL=").strip("'")
    with_nothing = {"CAIRN_DATA_DIR": str(stage.folder / "elsewhere"), "NATS_URL": url}
    stage.exec_agent("remote", "rita", "echo hello from afar", environment=with_nothing)
    assert stage.finished(stage.submit(plan("remote", 0.0), bare=True)) == "completed"
    wrong = stage.exec_agent("remote", "rob", "true", environment=with_nothing)
    assert wrong.wait(20) == 4
    assert "NATS_URL is for the agent rita" in (stage.folder / "rob.log").read_text()
