"""The run queue with real servers and agents: what is exclusive stays so, whoever waits gets in, too many are refused."""

import json
from collections import Counter
from datetime import datetime

import pytest

from cairn.calls import CairnError

from .stage import Json, System, is_a, system


def locked(name: str, tasks: int, *resources: str) -> Json:
    """Independent tasks that all need the same resources."""
    return {
        "id": name,
        "tasks": [
            {"id": f"t{number}", "resources": list(resources), "retry": {"initial_seconds": 0.1}}
            for number in range(1, tasks + 1)
        ],
    }


def simple(name: str, tasks: int = 1) -> Json:
    return {"id": name, "tasks": [{"id": f"t{number}"} for number in range(1, tasks + 1)]}


def events(stage: System) -> list[Json]:
    return list(stage.client.events())


def never_shared(stage: System, resource: str) -> int:
    """How many runs used the resource, none while another did: between its dispatch and the end of its run."""
    plans: dict[str, dict[str, Json]] = {}
    user, used = "", 0
    for event in events(stage):
        data, workflow = event["data"], event["subject"].split("/")[1]
        if is_a(event, "workflow.started"):
            plans[workflow] = {task["id"]: task for task in data["plan"]["tasks"]}
            continue
        task = plans.get(workflow, {}).get(data.get("task", ""), {})
        if resource not in task.get("resources", ()):
            continue
        run = f"{workflow}/{data['run']}" if "run" in data else f"{workflow}/{data['task']}"
        match event["type"]:
            case "cairn.task.dispatched.v1":
                assert user in ("", run), f"{run} was dispatched while {user} used {resource}"
                used += user == ""
                user = run
            case "cairn.task.completed.v1" | "cairn.task.attempt_failed.v1" | "cairn.task.reported.v1":
                assert user == run
                user = ""
            case "cairn.task.cancelled.v1":
                user = "" if user.startswith(f"{run}/") else user
    assert user == ""
    return used


def most_at_once(stage: System, begins: str, ends: tuple[str, ...]) -> int:
    now, most = 0, 0
    for event in events(stage):
        now += (event["type"] == f"cairn.{begins}.v1") - (event["type"] in [f"cairn.{end}.v1" for end in ends])
        most = max(most, now)
    return most


def nothing_is_claimed(stage: System) -> None:
    """Every claim was granted and freed, once."""

    def settled() -> bool:
        told = events(stage)
        queued = Counter(event["data"]["claim"]["id"] for event in told if is_a(event, "claim.queued"))
        freed = Counter(event["data"]["claim"] for event in told if is_a(event, "claim.freed"))
        return queued == freed and all(count == 1 for count in queued.values())

    stage.until(settled, "all that was claimed is freed")


def test_two_workflows_on_one_resource_run_one_after_another_also_when_the_server_is_killed() -> None:
    with system() as stage:
        stage.agent("worker", "coder", "ann", "8")
        names = [stage.submit(locked(name, 4, "repo:x")) for name in ("one", "two")]
        for count in (2, 5):
            stage.until(
                lambda count=count: sum(is_a(event, "claim.granted") for event in events(stage)) >= count,
                f"{count} claims are granted",
            )
            stage.kill()
            stage.start()
        assert [stage.finished(name) for name in names] == ["completed", "completed"]
        assert never_shared(stage, "repo:x") == 8
        nothing_is_claimed(stage)
        stage.intact()


def test_a_resource_is_free_again_when_its_holder_dies_or_is_cancelled() -> None:
    with system() as stage:
        killed = stage.agent("zombie", "coder", "zed", str(stage.folder))
        first = stage.submit(locked("first", 1, "repo:x"), bare=True)
        stage.seen(lambda event: is_a(event, "task.started", agent="zed"), workflow=first)
        second, third = (stage.submit(locked(name, 1, "repo:x"), bare=True) for name in ("second", "third"))
        stage.until(
            lambda: stage.client.workflow(second)["tasks"][0]["waiting_on"] == "a slot: repo:x is held by first/t1",
            "the board says what it waits for",
        )
        assert stage.client.workflow(second)["tasks"][0]["status"] == "queued"
        stage.client.cancel(second)
        killed.kill()
        killed.wait()
        stage.agent("worker", "coder", "bob", "4")
        assert [stage.finished(name) for name in (first, second, third)] == ["completed", "cancelled", "completed"]
        nothing_is_claimed(stage)
        stage.intact()


def test_so_many_workflows_run_at_once_the_rest_wait_in_their_order_and_too_many_are_refused() -> None:
    with system(CAIRN_MAX_WORKFLOWS="2", CAIRN_MAX_QUEUED="3") as stage:
        names = [stage.submit(simple(f"w{number}"), bare=True) for number in range(5)]
        assert [stage.client.workflow(name)["workflow"]["status"] for name in names] == [
            "running", "running", "queued", "queued", "queued",
        ]  # fmt: skip
        with pytest.raises(CairnError, match="2 workflows run at once and 3 wait") as refused:
            stage.submit(simple("w5"), bare=True)
        assert (refused.value.status, refused.value.code) == (429, "full")
        assert not any("w5" in event["subject"] for event in events(stage)), "nothing was recorded"
        stage.kill()
        stage.start()
        stage.agent("worker", "coder", "ann", "8")
        assert [stage.finished(name) for name in names] == ["completed"] * 5
        admitted = [event["data"]["workflow"] for event in events(stage) if is_a(event, "workflow.admitted")]
        assert sorted(admitted) == names
        granted = [event["data"]["workflow"] for event in events(stage) if is_a(event, "claim.granted")]
        assert granted == names
        assert most_at_once(stage, "workflow.admitted", ("workflow.completed",)) == 2
        nothing_is_claimed(stage)
        assert stage.finished(stage.submit(simple("w5"), bare=True)) == "completed", "there is room again"
        stage.intact()


def test_a_role_works_on_so_many_tasks_at_once() -> None:
    with system(CAIRN_ROLE_SLOTS="coder=2") as stage:
        stage.agent("worker", "coder", "ann", "8")
        assert stage.finished(stage.submit(simple("many", 8), bare=True)) == "completed"
        assert most_at_once(stage, "task.dispatched", ("task.completed",)) == 2
        nothing_is_claimed(stage)
        stage.intact()
        assert json.loads(stage.cairn("config", "show", "-o", "json"))


def test_a_system_starts_paused_and_is_resumed_gradually_on_the_command_line() -> None:
    with system() as stage:
        stage.agent("worker", "coder", "ann", "8")
        assert stage.finished(stage.submit(simple("before"), bare=True)) == "completed"
        stage.stop()
        stage.start("--paused")
        workflow = stage.submit(simple("after", 6), bare=True)
        stage.seen(lambda event: is_a(event, "task.dispatched"), workflow=workflow)
        told = json.loads(stage.cairn("queue", "-o", "json"))
        assert told["paused"] == [{"role": None, "by": "cairn up", "reason": "--paused"}]
        assert "everything was paused by cairn up" in stage.cairn("queue")
        assert not any(is_a(event, "task.started") for event in events(stage)[-3:])
        assert "resumed the tenant at 180 a minute" in stage.cairn("resume", "--tenant", "--rate", "180")
        resumed = stage.seen(lambda event: is_a(event, "tenant.resumed"))
        assert stage.finished(workflow) == "completed"
        started = [event for event in events(stage) if is_a(event, "task.started")][1:]
        took = datetime.fromisoformat(started[-1]["time"]).timestamp() - resumed["data"]["at"]
        assert took >= 1.0, f"six at three a second were handed out within {took:.2f} s"
        assert "paused role coder" in stage.cairn("pause", "--role", "coder", "--reason", "a look")
        assert "paused already" in stage.cairn("pause", "--role", "coder")
        held = stage.submit(locked("held", 1, "repo:x"), bare=True)
        stage.until(
            lambda: "role coder was paused by" in stage.client.workflow(held)["tasks"][0]["waiting_on"],
            "the board says that the role is paused",
        )
        stage.cairn("resume", "--role", "coder")
        assert stage.finished(held) == "completed"
        nothing_is_claimed(stage)
        stage.intact()
