"""The log of a real system at debug: what stands on a line about a request, a command, a batch, a run; and what never does."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from cairn.calls import Unauthorized
from cairn.config import Connection
from cairn.sync import SyncClient

from .desk import Desk, desk
from .stage import is_a

CANARY = {
    "OPENAI_API_KEY": "canary-openai-5f0c9a", "MY_SECRET": "canary-secret-77aa01", "SOME_TOKEN": "canary-token-c0ffee",
}  # fmt: skip
LOUD = """
import logging
from cairn import Agent, Result, Task

agent = Agent("writer", name="ann")

@agent.task
async def work(task: Task):
    return Result(summary="done")

agent.run()
"""


@pytest.fixture(scope="module")
def person() -> Iterator[Desk]:
    with desk(CAIRN_LOG_LEVEL="debug", **CANARY) as one:
        one.program("ann.py", LOUD)
        one.begin("ann", sys.executable, "ann.py")
        one.exec_agent("coder", "sh", "true")
        yield one
        one.intact()


def lines(person: Desk, name: str = "up") -> list[dict[str, Any]]:
    """The log; what a command says to a person besides has no braces."""
    found = [line for line in person.log(name).splitlines() if line.startswith("{")]
    return [json.loads(line) for line in found]


def about(person: Desk, **wanted: Any) -> list[dict[str, Any]]:
    return [line for line in lines(person) if wanted.items() <= line.items()]


def ask(person: Desk, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
    where = person.where()
    own = {"Authorization": f"Bearer {where.token}", "Content-Type": "application/json", **headers}
    request = Request(where.url + path, json.dumps(body).encode() if body is not None else None, own, method=method)
    try:
        with urlopen(request, timeout=30) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, json.load(answer)
    except HTTPError as error:
        return error.code, {name.lower(): value for name, value in error.headers.items()}, json.load(error)


def test_a_request_is_followed_through_the_log_by_its_ids(person: Desk) -> None:
    plan = {"id": "told", "tasks": [{"id": "a", "agent_role": "writer"}]}
    key = "11111111-2222-4333-8444-555555555555"
    status, headers, started = ask(
        person, "POST", "/api/v1/workflows", {"plan": plan}, **{"X-Request-Id": "mine-1", "Idempotency-Key": key}
    )
    assert (status, headers["x-request-id"]) == (201, "mine-1")
    assert person.finished("told") == "completed"
    [access] = about(person, event="http.request", request_id="mine-1")
    assert {
        "level": "info", "component": "gateway.trail", "tenant": "main", "method": "POST", "status": 201,
        "path": "/api/v1/workflows", "workflow": "told", "correlation_id": "told", "causation_id": key,
        "position": started["position"],
    }.items() <= access.items() and access["ms"] > 0  # fmt: skip
    decided = about(person, event="decided", workflow="told")
    assert decided[0].items() >= {
        "component": "handlers.decision", "level": "debug", "causation_id": key, "command": "StartWorkflow",
        "position": started["position"], "correlation_id": "told", "tenant": "main", "actor": "http",
    }.items()  # fmt: skip
    assert decided[0]["decided"][0] == "workflow.started" and decided[0]["version"] == len(decided[0]["decided"])
    assert "request_id" not in decided[0], "what is decided together may have been asked by several"
    done = next(line for line in decided if line["command"] == "ReportCompleted")
    assert (done["task"], done["run"].partition("/")[0], done["actor"]) == ("a", "a", "agent/ann")
    events = {event["causationid"]: event for event in person.client.events(workflow="told")}
    assert {line["causation_id"] for line in decided} >= set(events)


def test_debug_tells_statements_by_name_and_batches(person: Desk) -> None:
    person.until(lambda: bool(about(person, event="sql", statement="ledger.append")), "an append is told")
    for event, component in (
        ("ledger.relay.published", "ledger.relay"),
        ("projection.advanced", "projections.project"),
    ):
        batch = about(person, event=event)[0]
        assert batch["component"] == component and batch["events"] >= 1
        assert batch["position"] - batch["first"] + 1 == batch["events"]
    statements = {line["statement"] for line in about(person, event="sql")}
    assert {"ledger.append", "ledger.head", "projections.advance"} <= statements
    assert all(line["ms"] >= 0 for line in about(person, event="sql"))
    assert {line["view"] for line in about(person, event="projection.advanced")} >= {"board", "recovery"}


def test_what_is_only_read_and_who_is_not_let_in_are_told_at_debug(person: Desk) -> None:
    _, headers, _ = ask(person, "GET", "/api/v1/workflows")
    [read] = about(person, request_id=headers["x-request-id"], event="http.request")
    assert (read["level"], read["method"]) == ("debug", "GET")
    status, headers, problem = ask(person, "POST", "/api/v1/workflows", {}, Authorization="Bearer canary-wrong-9e1d")
    assert (status, problem["request_id"]) == (401, headers["x-request-id"])
    [refused] = about(person, request_id=problem["request_id"], event="http.request")
    assert (refused["level"], refused["status"]) == ("debug", 401)


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", '"'])
def test_an_id_of_a_request_that_is_none_is_replaced(person: Desk, given: str) -> None:
    _, headers, _ = ask(person, "GET", "/version", **{"X-Request-Id": given})
    assert headers["x-request-id"] != given and len(headers["x-request-id"]) == 32


def test_a_trace_that_a_request_names_goes_back_and_stands_on_its_problem(person: Desk) -> None:
    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    status, headers, problem = ask(person, "GET", "/api/v1/workflows/nobody", traceparent=given)
    assert (status, headers["traceparent"]) == (404, given)
    assert problem["trace_id"] == "4bf92f3577b34da6a3ce929d0e0e4736"
    [line] = about(person, request_id=problem["request_id"], event="http.request")
    assert line["trace_id"] == problem["trace_id"] and line["workflow"] == "nobody"
    _, headers, _ = ask(person, "GET", "/api/v1/workflows", traceparent="nonsense")
    assert "traceparent" not in headers


def test_an_agent_tells_which_run_a_line_is_about(person: Desk) -> None:
    name = person.submit({"id": "run", "tasks": [{"id": "c", "agent_role": "coder"}]})
    assert person.finished(name) == "completed"
    told = [line for line in lines(person, "sh") if line.get("workflow") == name]
    offered = person.seen(lambda event: is_a(event, "task.dispatched"), workflow=name)
    assert [line["event"] for line in told] == ["c/1 has begun", "c/1 has ended: completed"]
    for line in told:
        assert line.items() >= {
            "task": "c", "run": "c/1", "attempt": 1, "agent": "sh", "position": int(offered["sequence"]),
            "correlation_id": name, "component": "cairn.agent", "tenant": "main",
        }.items()  # fmt: skip


def test_all_that_is_said_while_postgres_is_away_is_one_format_and_holds_no_secret(person: Desk) -> None:
    """Last in this module: the lines of the driver are those of a lost connection."""
    where = person.where()
    stranger = SyncClient(Connection("", where.url, "canary-stranger-41", "main", person.folder))
    with pytest.raises(Unauthorized):
        stranger.workflows()
    os.kill(person.postmaster(), signal.SIGKILL)
    person.until(
        lambda: any(line["component"].startswith("psycopg") for line in lines(person)), "the driver says something"
    )
    person.until(lambda: bool(person.client.ready()["ready"]), "it is back")
    for name in ("up", "sh"):
        raw = person.log(name)
        plain = [line for line in raw.splitlines() if not line.startswith("{")]
        assert not any("connect" in line or "Traceback" in line or "error" in line.lower() for line in plain), plain
        for line in lines(person, name):
            assert {"timestamp", "level", "component", "event"} <= line.keys()
        bus = urlsplit(where.nats_url).password
        assert bus is not None
        for secret in (where.token, bus, "canary-wrong-9e1d", "canary-stranger-41", *CANARY.values()):
            assert secret not in raw
