"""Events as CloudEvents: what a message says, and that it turns back into the very event."""

import json
from datetime import UTC, datetime
from uuid import UUID, uuid4, uuid5

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.events import TaskDispatched, WorkflowCancelled
from ledger.announce import CARRIED_BYTES, announce, understand
from ledger.codec import chain, encode, event_id, tag_of
from ledger.recorded import Recorded

AT = datetime(2026, 11, 21, 8, 30, 0, 120, tzinfo=UTC)
DISPATCHED = TaskDispatched(
    workflow="momentum", task="rsi", run="rsi/1", attempt=1, role="coder", token=1, due=1.5, lease_seconds=30.0,
    timeout_seconds=60.0, inputs={"née": [1, 2.5, None]},
)  # fmt: skip


def recorded(event: TaskDispatched | WorkflowCancelled, *, traceparent: str | None = None) -> Recorded:
    envelope = (7, "workflow-momentum", 3, tag_of(event), UUID(int=5), AT, "corr", None, "ann", traceparent)
    return Recorded(*envelope, encode(event), chain(bytes(32), envelope, encode(event)))


def test_a_dispatch_is_a_cloud_event_under_the_subject_of_its_role() -> None:
    event = recorded(DISPATCHED, traceparent="00-ab-cd-01")
    subject, body, headers = announce(event, "main", 2, 1_000_000)
    assert subject == "cairn.main.evt.workflow.momentum.task.dispatched.coder"
    assert headers == {
        "Content-Type": "application/cloudevents+json",
        "Nats-Msg-Id": "2-7",
        "traceparent": "00-ab-cd-01",
    }
    assert json.loads(body) == {
        "specversion": "1.0",
        "id": "00000000-0000-0000-0000-000000000005",
        "source": "/cairn/main",
        "type": "cairn.task.dispatched.v1",
        "subject": "workflow/momentum/task/rsi",
        "time": "2026-11-21T08:30:00.000120Z",
        "datacontenttype": "application/json",
        "sequence": "00000000000000000007",
        "partitionkey": "workflow-momentum",
        "streamversion": 3,
        "actor": "ann",
        "digest": event.digest.hex(),
        "correlationid": "corr",
        "traceparent": "00-ab-cd-01",
        "data": json.loads(event.state),
    }
    assert event.state in body
    assert understand(body) == event
    assert understand(body).event == DISPATCHED
    assert understand(body).continues(bytes(32))


def test_an_event_of_a_workflow_has_no_task_and_no_role() -> None:
    event = recorded(WorkflowCancelled(workflow="momentum", by="ann"))
    subject, body, _ = announce(event, "main", 1, 1_000_000)
    assert subject == "cairn.main.evt.workflow.momentum.workflow.cancelled"
    assert json.loads(body)["subject"] == "workflow/momentum"
    assert understand(body) == event


@pytest.mark.parametrize(("size", "max_payload"), [(CARRIED_BYTES, 1_000_000), (20_000, 32_768)])
def test_a_large_event_is_announced_by_reference(size: int, max_payload: int) -> None:
    event = recorded(WorkflowCancelled(workflow="momentum", by="ann", reason="x" * size))
    _, body, _ = announce(event, "main", 1, max_payload)
    assert len(body) < 2_000
    assert json.loads(body)["dataref"] == "/cairn/main/events/7"
    assert "data" not in json.loads(body)
    assert understand(body).state == b""
    assert not understand(body).continues(bytes(32))
    assert understand(announce(event, "main", 1, None)[1]) == event


def test_an_offer_to_agents_carries_what_a_message_takes() -> None:
    """They have no Postgres to ask."""
    event = recorded(msgspec.structs.replace(DISPATCHED, description="x" * 500_000))
    assert understand(announce(event, "main", 1, 1_000_000)[1]) == event
    assert understand(announce(event, "main", 1, 400_000)[1]).state == b""


@given(st.text(max_size=50), st.text(max_size=50), st.integers(0, 2**31))
def test_any_text_survives_the_way_there_and_back(reason: str, by: str, index: int) -> None:
    event = recorded(WorkflowCancelled(workflow="w", by=by, reason=reason))
    assert understand(announce(event, "main", 1, 1_000_000)[1]) == event
    assert understand(announce(event, "main", 1, 1_000_000)[1]).event == event.event


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"\xff", b'{"specversion":"1.0"}', b"[" * 10_000, b'{"x":' + b"[" * 10_000]
)
def test_what_is_no_announcement_is_not_understood(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        understand(body)


@pytest.mark.parametrize(("key", "value"), [("sequence", "seven"), ("digest", "zz"), ("time", "today"), ("id", "5")])
def test_what_says_something_else_where_a_value_belongs_is_no_announcement(key: str, value: str) -> None:
    told = json.loads(announce(recorded(DISPATCHED), "main", 1, 1_000_000)[1])
    with pytest.raises(msgspec.DecodeError):
        understand(json.dumps({**told, key: value}).encode())


def test_ids_are_uuid5_of_the_command() -> None:
    for index in range(200):
        command = uuid4()
        assert event_id(command, index) == uuid5(command, str(index))
