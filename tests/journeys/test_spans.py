"""One workflow is one trace, from the request that starts it to its completion, sent by real processes as they send it."""

import sys
from collections.abc import Iterator
from typing import Any
from urllib.request import Request, urlopen

import msgspec
import pytest
from otlp import Collector, Seen, collecting

from cairn.calls import NotFound

from .desk import Desk, desk
from .stage import is_a

GIVEN = "4bf92f3577b34da6a3ce929d0e0e4736"
ABOVE = "00f067aa0ba902b7"
SERVER, CLIENT, PRODUCER, CONSUMER = 2, 3, 4, 5
WRITER = """
import os
from cairn import Agent, Failed, Result, Task

agent = Agent("writer", name="ann")

@agent.task
async def work(task: Task):
    if task.task == "a" and task.attempt == 1:
        raise Failed("not today", type="spec_mismatch")
    async with task.call(model="large") as call:
        call.used(input=100, output=20, cache_read=10, cost_usd=0.5, model="large-2")
    return Result(summary="done", data=task.traceparent)

agent.run()
"""
CLIENT_PROGRAM = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from cairn import SyncClient
from cairn.trace import outgoing

trace.set_tracer_provider(TracerProvider())
with trace.get_tracer("mine").start_as_current_span("mine"):
    SyncClient().submit({"id": "theirs", "tasks": [{"id": "a", "agent_role": "devops"}]})
    print(outgoing()["traceparent"])
"""
PLAN = {
    "id": "seen",
    "tasks": [
        {"id": "a", "agent_role": "writer", "retry": {"initial_seconds": 0.1}},
        {"id": "b", "agent_role": "writer", "dependencies": ["a"], "acceptance_criteria": {"tests": [{"cmd": "true"}]}},
    ],
}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as one:
        yield one


@pytest.fixture(scope="module")
def person(collector: Collector) -> Iterator[Desk]:
    sent = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with desk(**sent) as one:
        one.program("ann.py", WRITER)
        one.begin("ann", sys.executable, "ann.py")
        one.exec_agent("devops", "sh", "echo $TRACEPARENT")
        yield one
        one.intact()


def post(person: Desk, path: str, body: Any, **headers: str) -> tuple[dict[str, str], Any]:
    """The headers of the answer in lower case, and the answer."""
    where = person.where()
    own = {"Authorization": f"Bearer {where.token}", "Content-Type": "application/json", **headers}
    with urlopen(Request(where.url + path, msgspec.json.encode(body), own, method="POST"), timeout=30) as answer:
        return {name.lower(): value for name, value in answer.headers.items()}, msgspec.json.decode(answer.read())


def carried_out(person: Desk, collector: Collector, plan: dict[str, Any], **headers: str) -> tuple[str, list[Seen]]:
    """The traceparent of the answer, and all spans of the workflow, once that of its completion has come."""
    name = plan["id"]
    answered, _ = post(person, "/api/v1/workflows", {"plan": plan, **person.empty(name)}, **headers)
    assert person.finished(name) == "completed"
    last = int(person.seen(lambda event: is_a(event, "workflow.completed"), workflow=name)["sequence"])

    def of_it() -> list[Seen]:
        return [span for span in collector.spans() if span.attributes.get("cairn.workflow") == name]

    events = list(person.client.events(workflow=name))
    causes = len({event["causationid"] for event in events})
    person.until(lambda: sum(span.name.startswith("decide ") for span in of_it()) >= causes, "all decisions are sent")
    assert any(span.attributes.get("cairn.position") == last for span in of_it())
    traces = {span.trace for span in of_it()}
    return answered["traceparent"], [span for span in collector.spans() if span.trace in traces]


def above(span: Seen, spans: dict[str, Seen]) -> list[str]:
    """The names of a span and all above it."""
    names = [span.name]
    while (found := spans.get(span.parent)) is not None:
        span = found
        names.append(span.name)
    return names


def test_one_workflow_is_one_trace_from_the_request_to_its_completion(person: Desk, collector: Collector) -> None:
    answered, found = carried_out(person, collector, PLAN, traceparent=f"00-{GIVEN}-{ABOVE}-01")
    spans = {span.span: span for span in found}
    assert {span.trace for span in found} == {GIVEN}
    [request] = [span for span in found if span.kind == SERVER]
    assert (request.name, request.parent, request.service) == ("POST /api/v1/workflows", ABOVE, "cairn")
    assert answered == f"00-{GIVEN}-{request.span}-01"
    assert all(span.parent in spans for span in found if span is not request), "nobody's parent is missing"
    for event in person.client.events(workflow="seen"):
        decided = spans[event["traceparent"].split("-")[2]]
        assert decided.name.startswith("decide ") and decided.attributes["cairn.position"] >= int(event["sequence"])
    [first] = [span for span in found if span.name == "decide StartWorkflow"]
    assert first.parent == request.span
    last = max(found, key=lambda span: span.attributes.get("cairn.position", 0))
    assert above(last, spans) == [
        "decide ReportVerified", "verify tester", "send task.dispatched",
        "decide ReportCompleted", "invoke_agent writer", "send task.dispatched",
        "decide ReportCompleted", "invoke_agent writer", "send task.dispatched",
        "decide Retry",
        "decide ReportFailed", "invoke_agent writer", "send task.dispatched",
        "decide StartWorkflow", "POST /api/v1/workflows",
    ]  # fmt: skip
    for span in found:
        assert span.begun <= span.ended and span.begun >= request.begun
    told = {span.attributes["cairn.run"]: span for span in found if span.kind == CONSUMER}
    runs = {name: (span.attributes["cairn.task"], span.attributes["cairn.attempt"]) for name, span in told.items()}
    assert set(runs.values()) == {("a", 1), ("a", 2), ("b", 1)}
    offers = {span.span for span in found if span.kind == PRODUCER}
    assert all(span.parent in offers for span in told.values())
    failed = next(span for span in told.values() if runs[span.attributes["cairn.run"]] == ("a", 1))
    assert failed.error and failed.attributes["error.type"] == "spec_mismatch"


def test_calls_of_models_are_told_in_the_words_of_genai(person: Desk, collector: Collector) -> None:
    task = {"id": "a", "agent_role": "writer", "max_attempts": 2, "retry": {"initial_seconds": 0.1}}
    _, found = carried_out(person, collector, {"id": "models", "tasks": [task]})
    spans = {span.span: span for span in found}
    [call] = [span for span in found if span.kind == CLIENT]
    used = {
        "gen_ai.request.model": "large-2", "gen_ai.response.model": "large-2", "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 20, "gen_ai.usage.cache_read.input_tokens": 10, "cairn.cost.usd": 0.5,
    }  # fmt: skip
    assert (call.name, call.attributes) == ("chat large-2", {"gen_ai.operation.name": "chat", **used})
    run = spans[call.parent]
    assert run.name == "invoke_agent writer" and run.service == "cairn-agent"
    assert used.items() <= run.attributes.items()
    assert run.attributes["gen_ai.operation.name"] == "invoke_agent" and run.attributes["gen_ai.agent.id"] == "ann"


def test_a_workflow_that_nobody_gave_a_trace_begins_one_and_stays_in_it(person: Desk, collector: Collector) -> None:
    approved = {"id": "own", "tasks": [{"id": "a", "agent_role": "devops", "approval": ["before_dispatch"]}]}
    post(person, "/api/v1/workflows", {"plan": approved, **person.empty("own")})
    asked = person.seen(lambda event: is_a(event, "ask.opened"), workflow="own")["data"]
    said = {"shown": asked["shown"], "choice": "approve", "because": ""}
    post(person, f"/api/v1/workflows/own/asks/{asked['ask']}/answer", said)
    assert person.finished("own") == "completed"
    events = list(person.client.events(workflow="own"))
    [trace] = {event["traceparent"].split("-")[1] for event in events}
    done = next(event["data"]["result"] for event in events if is_a(event, "task.completed"))
    run = done["summary"].split("-")[2]
    person.until(lambda: any(span.span == run for span in collector.spans()), "the run's span is sent")
    found = {span.span: span for span in collector.spans() if span.trace == trace}
    assert found[run].name == "invoke_agent devops", "the program was told what its own spans belong to"
    assert [span.name for span in found.values() if not span.parent] == ["POST /api/v1/workflows"]


def test_a_client_that_traces_is_above_what_it_asks_for(person: Desk, collector: Collector) -> None:
    person.program("client.py", CLIENT_PROGRAM)
    person.begin("client", sys.executable, "client.py")
    assert person.ended("client") == 0, person.log("client")
    given = person.log("client").strip().splitlines()[-1]

    def served() -> list[Seen]:
        return [span for span in collector.spans() if span.kind == SERVER and span.trace == given.split("-")[1]]

    person.until(lambda: bool(served()), "the request is sent")
    [request] = served()
    assert request.parent == given.split("-")[2] and request.name == "POST /api/v1/workflows"
    assert person.finished("theirs") == "completed"


def test_a_stream_that_is_filled_anew_offers_nothing_anew(person: Desk, collector: Collector) -> None:
    task = {"id": "a", "agent_role": "devops"}
    _, found = carried_out(person, collector, {"id": "before", "tasks": [task]})
    offered = [span for span in found if span.name == "send task.dispatched"]
    assert len(offered) == 1
    person.cairn("ledger", "rebuild-stream", "--yes")
    _, found = carried_out(person, collector, {"id": "after", "tasks": [task]})
    assert len([span for span in found if span.name == "send task.dispatched"]) == 1
    of_before = [span for span in collector.spans() if span.attributes.get("cairn.workflow") == "before"]
    assert [span for span in of_before if span.name == "send task.dispatched"] == offered


def test_a_refused_act_is_a_span_with_its_reason(person: Desk, collector: Collector) -> None:
    client = person.client
    name = person.submit({"id": "refused", "tasks": [{"id": "a", "agent_role": "architect"}]}, bare=True)
    with pytest.raises(NotFound):
        client.retry(name, "b", "now")
    client.cancel(name, "enough")

    def refused() -> list[Seen]:
        return [span for span in collector.spans() if span.attributes.get("cairn.workflow") == name and span.error]

    person.until(lambda: bool(refused()), "the refusal is sent")
    [span] = refused()
    assert span.name == "decide RetryNow" and span.attributes["cairn.task"] == "b"
