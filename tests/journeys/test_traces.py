"""Who, why and in which trace: on every event of a plan, whoever brought it about."""

import sys
import urllib.request
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import pytest

from .desk import Desk, desk
from .stage import Json, is_a

SUBMITTED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ANSWERED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WRITER = """
from cairn import Agent, Failed, Result, Task

agent = Agent("writer", name="ann")

@agent.task
async def work(task: Task):
    if task.task == "a" and task.attempt == 1:
        raise Failed("not today")
    return Result(summary="done", data=task.traceparent)

agent.run()
"""


@pytest.fixture(scope="module")
def person() -> Iterator[Desk]:
    with desk() as one:
        one.program("ann.py", WRITER)
        one.begin("ann", sys.executable, "ann.py")
        yield one
        one.intact()


def post(person: Desk, path: str, body: Any, trace: str) -> Json:
    where = person.where()
    headers = {"Authorization": f"Bearer {where.token}", "Content-Type": "application/json", "X-Cairn-Actor": "pat"}
    request = urllib.request.Request(
        where.url + path, msgspec.json.encode(body), {**headers, "traceparent": trace}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        said: Json = msgspec.json.decode(answer.read())
    return said


def test_every_event_of_a_plan_says_who_why_and_in_which_trace(person: Desk) -> None:
    """A retry by the clock, tests by the tester, an answer by a person, agents in between: all in the traces of people."""
    role = {"agent_role": "writer"}
    plan = {
        "id": "traced",
        "tasks": [
            {"id": "a", **role, "retry": {"initial_seconds": 0.1}},
            {"id": "b", **role, "dependencies": ["a"], "acceptance_criteria": {"tests": [{"cmd": "true"}]}},
            {"id": "c", **role, "dependencies": ["b"], "approval": ["before_dispatch"]},
        ],
    }
    post(person, "/api/v1/workflows", {"plan": plan, **person.empty("traced")}, SUBMITTED)
    asked = person.seen(lambda event: is_a(event, "ask.opened"), workflow="traced")["data"]
    path = f"/api/v1/workflows/traced/asks/{asked['ask']}/answer"
    post(person, path, {"shown": asked["shown"], "choice": "approve", "because": ""}, ANSWERED)
    assert person.finished("traced") == "completed"
    events = list(person.client.events(workflow="traced"))
    answered = next(number for number, event in enumerate(events) if is_a(event, "ask.answered"))
    for number, event in enumerate(events):
        assert event["correlationid"] == "traced"
        assert UUID(event["causationid"])
        assert event["traceparent"] == (SUBMITTED if number < answered else ANSWERED), (
            f"event {number}: {event['type']}"
        )
    actors = {event["actor"].partition("-")[0] for event in events}
    assert actors == {"pat", "clock/retry", "agent/ann", "agent/tester"}
    told = {event["data"]["task"]: event["data"]["result"]["data"] for event in events if is_a(event, "task.completed")}
    assert told == {"a": SUBMITTED, "b": SUBMITTED, "c": ANSWERED}, "agents are told the trace of their dispatch"
