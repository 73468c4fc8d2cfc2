"""Agents that hang, lie, vanish, print garbage or send far too much: their tasks fail for a reason that is told, or
another agent does them; the system goes on, and nothing is believed that was not tested."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from cairn.bus import Bus

from .stage import LEASE_SECONDS, Json, System, is_a, layers, system


@pytest.fixture(scope="module")
def stage() -> Iterator[System]:
    """One system for all of them: what one agent does must not hurt the next. The first dispatch is left lying from
    the beginning, as it takes the longest until it is offered again."""
    with system() as one:
        one.submit(odd("mute", "well"))
        one.agent("raw", "mute", "mim", "mute").wait(30)
        yield one
        one.intact()


def odd(name: str, does: str, **task: Any) -> Json:
    """A plan of one tested task for an agent of a role that nobody else has."""
    task = {"agent_role": name, "inputs": {"does": does}, "max_attempts": 1, **task}
    return {**layers(name, 1, **task), "roles": [name], "escalation": {"due_seconds": 0}}


def failure(stage: System, workflow: str) -> Json:
    found: Json = stage.seen(lambda event: is_a(event, "task.attempt_failed"), workflow=workflow)["data"]["failure"]
    return found


def completed(stage: System, workflow: str) -> list[Json]:
    return [event for event in stage.client.events(workflow=workflow) if is_a(event, "task.completed")]


def test_an_agent_that_lies_about_its_tests_is_not_believed(stage: System) -> None:
    stage.agent("odd", "liar", "lia")
    workflow = stage.submit(odd("liar", "lie", max_attempts=2))
    assert stage.finished(workflow) == "failed"
    assert completed(stage, workflow) == []
    assert failure(stage, workflow)["type"] == "test_failure"


def test_an_agent_cannot_hand_in_receipts_of_its_own(stage: System) -> None:
    forger = stage.agent("raw", "forger", "fay", "forge")
    workflow = stage.submit(odd("forger", "well"))
    refused = stage.seen(lambda event: is_a(event, "report.refused"), workflow=workflow)
    assert refused["data"]["kind"] == "verified" and "is there to work" in refused["data"]["why"]
    forger.terminate()
    forger.wait()
    stage.client.cancel(workflow, "seen enough")
    assert completed(stage, workflow) == []


def test_an_agent_that_poses_as_the_tester_never_completes_a_task(stage: System) -> None:
    poser = stage.agent("raw", "poser", "pam", "pose")
    workflow = stage.submit(odd("poser", "well"))
    assert stage.finished(workflow) == "failed"
    assert completed(stage, workflow) == [] and failure(stage, workflow)["type"] == "test_failure"
    events = list(stage.client.events(workflow=workflow))
    assert not [event for event in events if is_a(event, "task.verified", passed=True)]
    refused = [event["data"] for event in events if is_a(event, "report.refused")]
    assert {one["agent"] for one in refused} <= {"pam"}, "what it says under other names does not even arrive"
    assert "Publish Violation" in (stage.folder / "log" / "nats.log").read_text()
    poser.terminate()
    poser.wait()


def test_an_agent_that_hangs_runs_out_of_time(stage: System) -> None:
    stage.agent("odd", "sleepy", "sam")
    workflow = stage.submit(odd("sleepy", "hang", timeout_seconds=0.5))
    assert stage.finished(workflow) == "failed"
    assert failure(stage, workflow)["type"] == "timeout"


def test_a_test_that_hangs_is_evidence_against_the_work_and_no_fault_of_the_tester(stage: System) -> None:
    stage.agent("odd", "endless", "eve")
    plan = odd("endless", "well")
    plan["tasks"][0]["acceptance_criteria"]["tests"] = [{"cmd": "sleep 600", "timeout_seconds": 0.5}]
    workflow = stage.submit(plan)
    assert stage.finished(workflow) == "failed"
    judged = [event["data"] for event in stage.client.events(workflow=workflow) if is_a(event, "task.verified")]
    assert [receipt["timed_out"] for one in judged for receipt in one["receipts"]] == [True]
    assert failure(stage, workflow)["message"] == "`sleep 600` ran out of time"


def test_an_agent_whose_loop_stands_still_is_given_up_and_another_goes_on(stage: System) -> None:
    blocked = stage.agent("odd", "stuck", "sue")
    plan = odd("stuck", "block", timeout_seconds=LEASE_SECONDS, max_attempts=2)
    plan["tasks"][0]["inputs"]["then_well"] = True
    workflow = stage.submit(plan)
    stage.seen(lambda event: is_a(event, "task.started"), workflow=workflow)
    stage.agent("odd", "stuck", "stu")
    assert stage.finished(workflow) == "completed"
    assert failure(stage, workflow)["type"] in ("timeout", "agent_lost")
    blocked.kill()
    blocked.wait()


@pytest.mark.parametrize(
    ("does", "kind", "told"),
    [
        ("huge", "invalid_result", "the limit is"),
        ("deep", "invalid_result", "nested"),
        ("list", "invalid_result", "list"),
        ("nothing json knows", "invalid_result", "no JSON"),
        ("raise", "agent_error", "no idea"),
    ],
)
def test_what_is_no_result_fails_the_attempt_with_a_reason(stage: System, does: str, kind: str, told: str) -> None:
    name = f"odd-{does.split()[0]}"
    stage.agent("odd", name, f"agent-of-{name}")
    workflow = stage.submit(odd(name, does))
    assert stage.finished(workflow) == "failed"
    why = failure(stage, workflow)
    assert why["type"] == kind and told in why["message"]


def test_results_that_do_not_fit_into_one_message_travel_in_several(stage: System) -> None:
    """150 results of 60 kB at once: more than NATS takes in a message, and all are on one workflow."""
    stage.agent("odd", "large", "lou", "200")
    tasks = [{"id": f"t{number}", "agent_role": "large", "inputs": {"does": "large"}} for number in range(150)]
    workflow = stage.submit({"id": "large", "roles": ["large"], "tasks": tasks}, bare=True)
    assert stage.finished(workflow) == "completed"


def test_a_result_that_no_sdk_has_checked_is_refused_by_the_inbox(stage: System) -> None:
    agent = stage.agent("raw", "raw-huge", "agent-of-raw-huge", "huge")
    workflow = stage.submit(odd("raw-huge", "well"))
    assert stage.finished(workflow) == "failed"
    assert failure(stage, workflow)["type"] == "invalid_result"
    agent.terminate()
    agent.wait()


def test_an_agent_that_vanishes_in_the_middle_is_given_up_by_its_lease(stage: System) -> None:
    gone = stage.agent("odd", "ghost", "gus")
    plan = odd("ghost", "vanish")
    plan["tasks"][0]["inputs"]["then_well"] = True
    workflow = stage.submit(plan)
    assert gone.wait(30) == 3
    stage.agent("odd", "ghost", "gil")
    assert stage.finished(workflow) == "completed"


@pytest.mark.parametrize(
    ("name", "cmd", "how", "told"),
    [
        ("binary", "head -c 200000 /dev/urandom; echo done > t1-1.txt", "completed", ""),
        ("chatty", "yes garbage | head -c 20000000; echo done > t1-1.txt", "completed", ""),
        ("broken", "echo '{no json'; exit 0", "failed", "no JSON result"),
        ("failing", "echo 'out of luck' >&2; exit 7", "failed", "out of luck"),
        ("leaving", "sleep 3600 & echo done > t1-1.txt", "completed", ""),
    ],
)
def test_a_program_that_prints_garbage_is_judged_by_its_work(
    stage: System, name: str, cmd: str, how: str, told: str
) -> None:
    stage.exec_agent(f"prog-{name}", f"agent-of-{name}", cmd)
    workflow = stage.submit(odd(f"prog-{name}", "its own thing"))
    assert stage.finished(workflow) == how
    if told:
        assert told in failure(stage, workflow)["message"]


GARBAGE = {
    "nothing": b"",
    "bytes": bytes(range(256)),
    "no list": b'{"id": 1}',
    "numbers": b"[1, 2, 3]",
    "no text": b'["\xff\xfe"]',
    "deep": b"[" * 100_000,
    "deep and closed": b"[" * 100_000 + b"]" * 100_000,
    "deep inside": b'[{"id": ' + b"[" * 5000 + b"]" * 5000 + b"}]",
    "no key": b'[{"\xff": 1}]',
    "another's": b'[{"id": "11111111-1111-1111-1111-111111111111", "kind": "started", "workflow": "mute", "task": "t1-1", '
    b'"run": "t1-1/1", "token": 1, "agent": "x"}]',
    "half a report": b'[{"id": "11111111-1111-1111-1111-111111111111", "kind": "completed", "task": "a", "run": "a/1", '
    b'"token": 1, "agent": "garbage"}]',
}


def test_garbage_in_the_inbox_is_kept_as_a_dead_letter_and_holds_nothing_up(stage: System) -> None:
    asyncio.run(_throw(stage))
    stage.agent("odd", "honest", "hal")
    assert stage.finished(stage.submit(odd("honest", "well"))) == "completed"
    assert set(GARBAGE.values()) <= asyncio.run(_buried(stage))
    letters = json.loads(stage.cairn("letters", "-o", "json"))
    assert len(letters) >= len(GARBAGE) and all(letter["why"] for letter in letters)
    assert {len(body) for body in GARBAGE.values()} <= {letter["bytes"] for letter in letters}
    head, newest = stage.cairn("letters", "--limit", "1").splitlines()
    assert head.split() == ["LETTER", "TIME", "BYTES", "WHY", "BEGINS"] and str(letters[-1]["letter"]) in newest
    assert asyncio.run(_pending(stage)) == 0


def test_an_agent_that_dies_before_it_acknowledged_leaves_the_dispatch_to_another(stage: System) -> None:
    assert not any(is_a(event, "task.started") for event in stage.client.events(workflow="mute"))
    stage.agent("odd", "mute", "mo")
    assert stage.finished("mute") == "completed"


async def _throw(stage: System) -> None:
    async with Bus.connect(stage.where().nats_url) as bus:
        for body in GARBAGE.values():
            assert "error" not in await bus.store("cairn.main.in.odd.garbage", body)
        await bus.publish("cairn.main.beat.odd.garbage", b"\xff")
        await bus.publish("cairn.main.join.odd.garbage", b"[" * 100_000)
        await bus.publish("cairn.main.beat.odd.garbage", b"[" * 100_000)


async def _buried(stage: System) -> set[bytes]:
    """All dead letters; each says why it is one."""
    found: set[bytes] = set()
    async with Bus.connect(stage.where().nats_url) as bus:
        await bus.ensure_consumer("MAIN_DEAD", {"name": "journey", "ack_policy": "none", "mem_storage": True})
        async for messages in bus.pull("MAIN_DEAD", "journey", wait_seconds=0.3):
            if not messages:
                return found
            for message in messages:
                assert message.headers and message.headers["Cairn-Why"]
                found.add(message.data)
    raise AssertionError("a pull ends only when it is told to")


async def _pending(stage: System) -> int:
    """Messages of the inbox that were not acknowledged yet, once all were delivered."""
    async with Bus.connect(stage.where().nats_url) as bus:
        async with asyncio.timeout(20):
            while True:
                state = await bus.api("CONSUMER.INFO.MAIN_INBOX.inbox")
                if not state["num_pending"] + state["num_ack_pending"]:
                    return 0
                await asyncio.sleep(0.02)
