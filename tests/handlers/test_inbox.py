"""What agents report is taken in once and answered; what is no report is kept apart, and harms nobody.

It is long because there are many ways to send what is no report.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4, uuid5

import msgspec
import pytest

from cairn.bus import Bus, Message
from domain.commands import ExpireLease
from domain.events import AskOpened, AttemptFailed, ReportRefused, TaskCompleted, TaskDispatched
from domain.plan import AcceptanceCriteria, Task, Test
from handlers import inbox as module
from handlers.deadlines import FIRING
from handlers.execute import Executor, Order
from handlers.inbox import Inbox
from ledger.announce import announce
from ledger.ledger import Ledger
from ledger.recorded import Recorded
from tests.spec import receipt, start

SECONDS = 20.0
NATS_DEFAULT_BYTES = 1_048_576
TASKS = [Task(f"t{number}") for number in range(6)]


class Agent:
    """What an agent sends, and the verdicts it hears."""

    def __init__(self, bus: Bus, tenant: str, name: str = "ann", role: str = "coder") -> None:
        self.bus, self.tenant, self.name, self.role = bus, tenant, name, role
        self.verdicts: dict[str, dict[str, Any]] = {}
        self._heard = asyncio.Event()

    async def listen(self) -> None:
        async def hear(message: Message) -> None:
            for verdict in json.loads(message.data):
                self.verdicts[verdict["id"]] = verdict
            self._heard.set()

        await self.bus.subscribe(f"cairn.{self.tenant}.verdict.{self.name}", hear)

    def report(self, number: int, kind: str = "completed", **other: Any) -> dict[str, Any]:
        body = {"id": str(uuid4()), "kind": kind, "task": f"t{number}", "run": f"t{number}/1", "token": number + 1}
        body |= {"agent": self.name}
        body |= {"result": {"summary": "done"}} if kind == "completed" else {}
        return body | other

    async def send(self, *reports: Any, workflow: str = "w") -> None:
        """Stores one message once there is an inbox."""
        about = [{"workflow": workflow, **one} if isinstance(one, dict) else one for one in reports]
        await self.post(json.dumps(about).encode())

    async def post(self, data: bytes) -> None:
        async with asyncio.timeout(SECONDS):
            while True:
                with suppress(ConnectionError):
                    assert "error" not in await self.bus.store(f"cairn.{self.tenant}.in.{self.role}.{self.name}", data)
                    return
                await asyncio.sleep(0.02)

    async def verdict(self, report: dict[str, Any]) -> dict[str, Any]:
        async with asyncio.timeout(SECONDS):
            while report["id"] not in self.verdicts:
                self._heard.clear()
                await self._heard.wait()
        return self.verdicts[report["id"]]


@asynccontextmanager
async def running(inbox: Inbox) -> AsyncIterator[None]:
    """An inbox that must still run at the end."""
    task = asyncio.create_task(inbox.run())
    try:
        yield
        assert not task.done(), "the inbox has ended"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def agent(bus: Bus, tenant: str, executor: Executor) -> Agent:
    await executor.execute("w", Order(uuid4(), start(*TASKS), "test"))
    agent = Agent(bus, tenant)
    await agent.listen()
    return agent


@pytest.fixture
def inbox(bus: Bus, executor: Executor, tenant: str) -> Inbox:
    return Inbox(bus, executor, tenant)


async def dead_letters(bus: Bus, tenant: str, count: int) -> list[Message]:
    stream, found = f"{tenant.upper()}_DEAD", []
    async with asyncio.timeout(SECONDS):
        while "error" in await bus.api(f"STREAM.INFO.{stream}"):
            await asyncio.sleep(0.02)
        await bus.ensure_consumer(stream, {"durable_name": "look", "ack_policy": "explicit"})
        async for messages in bus.pull(stream, "look", wait_seconds=0.5):
            for message in messages:
                found.append(message)
                await bus.ack(message)
            if len(found) >= count:
                return found
    raise AssertionError


async def acknowledged(bus: Bus, tenant: str) -> None:
    """Until nothing that was sent waits any more."""
    async with asyncio.timeout(SECONDS):
        while True:
            info = await bus.api(f"CONSUMER.INFO.{tenant.upper()}_INBOX.inbox")
            if info.get("num_pending") == info.get("num_ack_pending") == 0:
                return
            await asyncio.sleep(0.05)


async def of_kind(ledger: Ledger, kind: type) -> list[Recorded]:
    return [one for one in await ledger.read_stream("workflow-w") if isinstance(one.event, kind)]


async def test_a_report_goes_on_with_the_trace_it_names(inbox: Inbox, agent: Agent, ledger: Ledger) -> None:
    trace, lost = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "00-of-an-author's-own-making"
    named, nonsense = agent.report(0, traceparent=trace), agent.report(1, traceparent=lost)
    async with running(inbox):
        await agent.send(nonsense, workflow="w")
        await agent.verdict(nonsense)
        await agent.send(named, workflow="w")
        position = (await agent.verdict(named))["position"]
    assert [one.traceparent for one in await ledger.read(0)][-2:] == [trace, trace]
    assert {one.traceparent for one in await ledger.read(0, to=position - 2)} == {None}


async def test_every_outcome_is_answered_and_one_of_a_zombie_is_refused(
    inbox: Inbox, agent: Agent, ledger: Ledger
) -> None:
    begun, done, late = agent.report(0, "started"), agent.report(0), agent.report(1, token=77)
    failed = agent.report(2, "failed", failure={"type": "spec_mismatch", "message": "no"})
    unheard = agent.report(0)
    async with running(inbox):
        await agent.send(begun, done, late, failed)
        await agent.send(unheard, workflow="nowhere")
        accepted = await agent.verdict(done)
        refused = await agent.verdict(late)
        assert accepted["accepted"]
        assert accepted["position"] == (await of_kind(ledger, TaskCompleted))[0].position
        assert not refused["accepted"] and "holds the lease" in refused["why"]
        assert (await agent.verdict(failed))["accepted"]
        assert (await agent.verdict(unheard)) == {
            "id": unheard["id"], "accepted": False, "why": "there is no such workflow", "position": 0,
        }  # fmt: skip
        assert begun["id"] not in agent.verdicts, "that it has begun needs no answer"
        await acknowledged(agent.bus, agent.tenant)
    assert len(await of_kind(ledger, ReportRefused)) == 1


async def test_what_is_sent_twice_is_answered_twice_and_recorded_once(
    inbox: Inbox, agent: Agent, ledger: Ledger
) -> None:
    done, other = agent.report(0), agent.report(1)
    async with running(inbox):
        await agent.send(done, done, other, done)
        first = await agent.verdict(done)
        agent.verdicts.clear()
        await agent.send(done)
        assert await agent.verdict(done) == first
        assert first["accepted"]
        await acknowledged(agent.bus, agent.tenant)
    assert len(await of_kind(ledger, TaskCompleted)) == 2
    assert not await of_kind(ledger, ReportRefused)


GARBAGE = {
    "no JSON": b"\x00\xff\xfe garbage",
    "no list": b'{"id": 1}',
    "deep": b"[" * 100_000,
    "nothing": b"",
    "numbers": b"[1,2,3]",
    "a huge number": b"[" + b"9" * 10_000 + b"]",
    "very many": b"[" + b"1," * 500_000 + b"1]",
    "to the brim": b"x" * (8 * 1024 * 1024),
}


async def test_garbage_of_every_kind_is_kept_with_its_reason_and_stops_nobody(
    inbox: Inbox, agent: Agent, ledger: Ledger
) -> None:
    done = agent.report(0)
    async with running(inbox):
        for data in GARBAGE.values():
            await agent.post(data)
        await agent.send(done, workflow="w")
        assert (await agent.verdict(done))["accepted"]
        letters = await dead_letters(agent.bus, agent.tenant, len(GARBAGE))
        await acknowledged(agent.bus, agent.tenant)
    assert len(letters) == len(GARBAGE), "one letter for each, whatever it holds"
    for letter, data in zip(letters, GARBAGE.values(), strict=True):
        assert letter.subject == f"cairn.{agent.tenant}.dead.inbox"
        assert data.startswith(letter.data) and len(data) - len(letter.data) < 10_000
        assert (letter.headers or {})["Cairn-Why"]


async def test_a_bad_report_among_good_ones_is_answered_and_the_good_ones_are_taken(
    inbox: Inbox, agent: Agent, ledger: Ledger
) -> None:
    bad = [
        agent.report(1, "completed", result=None),
        agent.report(1, "made up"),
        agent.report(1, token=10**30),
        agent.report(1, token=-1),
        agent.report(1, task="two\nlines"),
        agent.report(1, run=""),
        agent.report(1, "failed"),
        agent.report(1, "asked"),
        agent.report(1, "failed", failure={"type": 1, "message": "no"}),
        agent.report(1, result={"summary": "done", "data": json.loads("[" * 600 + "]" * 600)}, token="x"),
    ]
    good = agent.report(0), agent.report(2)
    async with running(inbox):
        await agent.send(good[0], *bad, "no report at all", good[1])
        for report in good:
            assert (await agent.verdict(report))["accepted"]
        for report in bad:
            told = await agent.verdict(report)
            assert not told["accepted"] and told["why"]
        letters = await dead_letters(agent.bus, agent.tenant, 1)
        await acknowledged(agent.bus, agent.tenant)
    assert len(letters) == 1, "the message is kept once, not once for each of them"
    assert json.loads(letters[0].data)[0] == {"workflow": "w", **good[0]}
    assert len(await of_kind(ledger, TaskCompleted)) == 2


@pytest.mark.parametrize(
    ("speaker", "kind", "run", "token"),
    [
        ("coder.bob", "completed", "t0/1", 1),
        ("coder.ann", "verified", "t0/verify.1", 7),
        ("tester.bob", "verified", "t0/verify.1", 7),
        ("tester.ann.x", "verified", "t0/verify.1", 7),
        ("Coder.ann", "completed", "t0/1", 1),
        ("ann", "completed", "t0/1", 1),
    ],
)
async def test_nobody_speaks_for_another_or_for_another_role(
    inbox: Inbox, agent: Agent, ledger: Ledger, executor: Executor, speaker: str, kind: str, run: str, token: int
) -> None:
    """`tess` is the name that the report gives; who sent it stands in the subject."""
    task = Task("t0", acceptance_criteria=AcceptanceCriteria((Test("make test"),)))
    await executor.execute("checked", Order(uuid4(), start(task), "test"))
    forged = agent.report(0, kind, run=run, token=token, agent="tess", workflow="checked")
    forged |= {"receipts": [msgspec.to_builtins(receipt("make test", 0, None))]} if kind == "verified" else {}
    subject, done = f"cairn.{agent.tenant}.in.{speaker}", agent.report(1)
    async with running(inbox):
        await agent.send(done)
        assert "error" not in await agent.bus.store(subject, json.dumps([forged]).encode())
        [letter] = await dead_letters(agent.bus, agent.tenant, 1)
        assert (
            "speaks for" in (letter.headers or {})["Cairn-Why"]
            or "names no agent" in (letter.headers or {})["Cairn-Why"]
        )
        assert (await agent.verdict(done))["accepted"]
    assert [one.event.run for one in await of_kind(ledger, TaskCompleted)] == ["t1/1"]  # type: ignore[union-attr]
    assert len(await ledger.read_stream("workflow-checked")) == 2, "it was started and offered, and nothing else"


async def test_an_agent_of_another_role_has_no_say_in_a_run_whatever_it_knows_of_it(
    inbox: Inbox, agent: Agent, ledger: Ledger, executor: Executor
) -> None:
    task = Task("t0", acceptance_criteria=AcceptanceCriteria((Test("make test"),)))
    await executor.execute("checked", Order(uuid4(), start(task), "test"))
    stranger, tester = Agent(agent.bus, agent.tenant, "eve"), Agent(agent.bus, agent.tenant, "tess", "tester")
    await stranger.listen()
    await tester.listen()
    done = agent.report(0)
    how = {"run": "t0/verify.1", "token": 2, "receipts": [msgspec.to_builtins(receipt("make test", 0, None))]}
    forged, honest = stranger.report(0, "verified", **how), tester.report(0, "verified", **how)
    async with running(inbox):
        await agent.send(done, workflow="checked")
        assert (await agent.verdict(done))["accepted"]
        await stranger.send(forged, workflow="checked")
        told = await stranger.verdict(forged)
        assert not told["accepted"] and "offered to the role tester" in told["why"]
        await tester.send(honest, workflow="checked")
        assert (await tester.verdict(honest))["accepted"]
    kinds = [type(one.event).__name__ for one in await ledger.read_stream("workflow-checked")]
    assert kinds[kinds.index("ReportRefused") :] == [
        "ReportRefused", "TaskStarted", "TaskVerified", "TaskCompleted", "WorkflowCompleted",
    ]  # fmt: skip


async def test_a_workflow_or_an_agent_of_no_possible_name_is_garbage(inbox: Inbox, agent: Agent, nats_url: str) -> None:
    done = agent.report(0)
    async with running(inbox):
        await agent.send(agent.report(1), workflow="NoName")
        await raw_publish(
            nats_url, [f"cairn.{agent.tenant}.in.coder.".encode() + it for it in (b"\xff\xfe", b"a\x00b")]
        )
        await agent.send(done)
        assert (await agent.verdict(done))["accepted"]
        letters = await dead_letters(agent.bus, agent.tenant, 3)
        whys = [(letter.headers or {})["Cairn-Why"] for letter in letters]
        assert ["is no workflow's name" in why for why in whys] == [True, False, False]
        assert ["names no agent" in why for why in whys] == [False, True, True]
        await acknowledged(agent.bus, agent.tenant)


async def raw_publish(url: str, subjects: list[bytes]) -> None:
    """As a program does that does not use our client."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    login = json.dumps({"user": where.username, "pass": where.password, "verbose": False, "pedantic": False})
    writer.write(
        f"CONNECT {login}\r\n".encode() + b"".join(b"PUB %s 2\r\n[]\r\n" % it for it in subjects) + b"PING\r\n"
    )
    async with asyncio.timeout(5):
        while b"PONG" not in await reader.readline():
            pass
    writer.close()
    await writer.wait_closed()


async def test_a_failure_of_a_class_that_is_not_an_agents_to_give_is_an_agents_error(
    inbox: Inbox, agent: Agent, ledger: Ledger
) -> None:
    reports = [
        agent.report(number, "failed", failure={"type": kind, "message": "m" * 5000, "detail": "d" * 50_000})
        for number, kind in enumerate(("refused", "budget", "made up", "test_failure"))
    ]
    async with running(inbox):
        await agent.send(*reports)
        for report in reports:
            assert (await agent.verdict(report))["accepted"]
    failures = [one.event.failure for one in await of_kind(ledger, AttemptFailed)]  # type: ignore[union-attr]
    assert [failure.type for failure in failures] == ["agent_error"] * 3 + ["test_failure"]
    assert all(len(failure.message) < 3000 and len(failure.detail) < 10_000 for failure in failures)


@pytest.mark.parametrize("commit", ["main", "HEAD~1", "refs/cairn/w/t0/1", "-d", "a" * 39, "A" * 40, "a" * 40 + "\n"])
async def test_work_is_named_by_its_commits_id_for_a_name_can_be_moved_after_it_was_judged(
    inbox: Inbox, agent: Agent, ledger: Ledger, commit: str
) -> None:
    named, done = agent.report(0, result={"commit": commit}), agent.report(1, result={"commit": "c0ffee00" * 5})
    async with running(inbox):
        await agent.send(named, done)
        assert (await agent.verdict(named))["accepted"]
        assert (await agent.verdict(done))["accepted"]
    failures = [one.event.failure for one in await of_kind(ledger, AttemptFailed)]  # type: ignore[union-attr]
    assert [failure.type for failure in failures] == ["invalid_result"]
    assert len(await of_kind(ledger, TaskCompleted)) == 1


ONE = {"kind": "lint", "severity": "low", "message": "x"}


@pytest.mark.parametrize(
    "said",
    [
        {"data": "x" * 70_000},
        {"data": json.loads("[" * 500 + "]" * 500)},
        {"findings": [ONE] * 201},
        {"findings": [ONE | {"message": "x" * 70_000}]},
    ],
    ids=["long", "deep", "many findings", "a long finding"],
)
async def test_a_result_that_nobody_could_read_is_a_failed_attempt(
    inbox: Inbox, agent: Agent, ledger: Ledger, said: dict[str, Any]
) -> None:
    done = agent.report(0, result={"summary": "done", **said})
    async with running(inbox):
        await agent.send(done)
        assert (await agent.verdict(done))["accepted"]
    failures = [one.event.failure for one in await of_kind(ledger, AttemptFailed)]  # type: ignore[union-attr]
    assert [failure.type for failure in failures] == ["invalid_result"]


GOOD = {"question": "Which?", "options": ["red", "blue"], "default": "red", "due_seconds": 60.0}


async def test_what_an_agent_asks_is_put_before_a_person(inbox: Inbox, agent: Agent, ledger: Ledger) -> None:
    asked = agent.report(0, "asked", ask=GOOD)
    async with running(inbox):
        await agent.send(asked)
        assert (await agent.verdict(asked))["accepted"]
    [opened] = [one.event for one in await of_kind(ledger, AskOpened)]
    assert isinstance(opened, AskOpened)
    assert (opened.kind, opened.question, opened.options, opened.default) == (
        "question",
        "Which?",
        ("red", "blue"),
        "red",
    )


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"question": " "}, "1 to 2000 characters"),
        ({"question": "x" * 2001}, "1 to 2000 characters"),
        ({"options": ["a", "a"]}, "each once"),
        ({"options": [str(n) for n in range(21)], "default": "1"}, "at most 20"),
        ({"options": ["a", " "]}, "1 to 200 characters"),
        ({"default": "green"}, "none of the options: red, blue"),
        ({"due_seconds": 0}, "waits up to"),
        ({"due_seconds": 1e9}, "waits up to"),
    ],
)
async def test_what_cannot_be_asked_is_a_failed_attempt(
    inbox: Inbox, agent: Agent, ledger: Ledger, wrong: dict[str, Any], why: str
) -> None:
    asked = agent.report(0, "asked", ask=GOOD | wrong)
    async with running(inbox):
        await agent.send(asked)
        assert (await agent.verdict(asked))["accepted"]
    [failure] = [one.event.failure for one in await of_kind(ledger, AttemptFailed)]  # type: ignore[union-attr]
    assert failure.type == "invalid_result" and why in failure.message


@pytest.mark.parametrize("printed", [400_000, 5_000_000])
async def test_whatever_tests_have_printed_the_next_dispatch_fits_into_a_message(
    inbox: Inbox, agent: Agent, executor: Executor, ledger: Ledger, printed: int
) -> None:
    """One that does not is announced without its task: no agent can begin it, and it is offered again for ever."""
    tests = AcceptanceCriteria((Test("make test"),))
    task = Task("t0", "T", "d" * 200_000, acceptance_criteria=tests, failure_routing={"test_failure": "debugger"})
    await executor.execute("checked", Order(uuid4(), start(task), "test"))
    done = agent.report(0)
    seen = msgspec.to_builtins(receipt("make test", 1, None, output="x" * printed))
    tester = Agent(agent.bus, agent.tenant, "tess", "tester")
    await tester.listen()
    told = tester.report(0, "verified", run="t0/verify.1", token=2, receipts=[seen])
    async with running(inbox):
        await agent.send(done, workflow="checked")
        await agent.verdict(done)
        await tester.send(told, workflow="checked")
        assert (await tester.verdict(told))["accepted"]
    recorded = await ledger.read_stream("workflow-checked")
    offers = [one for one in recorded if isinstance(one.event, TaskDispatched)]
    assert [one.event.task for one in offers] == ["t0", "t0", "t0.fix1" if printed < 500_000 else "t0"]  # type: ignore[union-attr]
    for offer in offers:
        assert "data" in json.loads(announce(offer, agent.tenant, 1, NATS_DEFAULT_BYTES)[1])


async def test_no_agent_can_take_the_id_of_another_command_before_it_is_given(
    inbox: Inbox, agent: Agent, ledger: Ledger, executor: Executor
) -> None:
    begun, clock = agent.report(0, "started"), uuid5(FIRING, "w/t0/lease/1")
    squatting, silenced = agent.report(1, id=str(clock), token=77), agent.report(2)
    stranger = Agent(agent.bus, agent.tenant, "eve")
    async with running(inbox):
        await agent.send(begun, squatting)
        assert not (await agent.verdict(squatting))["accepted"]
        await stranger.send(stranger.report(3, id=silenced["id"], token=77))
        await agent.send(silenced)
        assert (await agent.verdict(silenced))["accepted"]
        await executor.execute("w", Order(clock, ExpireLease(now=0.0, task="t0", token=1), "clock/lease"))
    assert [one.event.task for one in await of_kind(ledger, AttemptFailed)] == ["t0"]  # type: ignore[union-attr]
    assert [one.event.task for one in await of_kind(ledger, TaskCompleted)] == ["t2"]  # type: ignore[union-attr]


async def test_work_may_change_any_number_of_files(inbox: Inbox, agent: Agent, ledger: Ledger) -> None:
    paths = [f"src/generated/module_{number}.py" for number in range(5_000)]
    done = agent.report(0, result={"summary": "done", "files": paths})
    async with running(inbox):
        await agent.send(done)
        assert (await agent.verdict(done))["accepted"]
    [completed] = await of_kind(ledger, TaskCompleted)
    assert list(completed.event.result.files) == paths  # type: ignore[union-attr]


async def test_a_crash_before_the_acknowledgement_is_harmless(
    bus: Bus, agent: Agent, ledger: Ledger, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ACK_WAIT_SECONDS", 1)
    done = agent.report(0)
    reached = asyncio.Event()

    async def stop_there(message: Message) -> None:
        reached.set()
        await asyncio.Event().wait()

    async with Bus.connect(bus._url) as theirs:
        monkeypatch.setattr(theirs, "ack", stop_there)
        async with running(Inbox(theirs, Executor(ledger), tenant)):
            await agent.send(done)
            first = await agent.verdict(done)
            await asyncio.wait_for(reached.wait(), SECONDS)
    agent.verdicts.clear()
    async with running(Inbox(bus, Executor(ledger), tenant)):
        assert await agent.verdict(done) == first
        await acknowledged(bus, tenant)
    assert len(await of_kind(ledger, TaskCompleted)) == 1
    assert not await of_kind(ledger, ReportRefused)


async def test_an_inbox_that_is_wiped_while_it_runs_is_made_again(inbox: Inbox, agent: Agent) -> None:
    first, second = agent.report(0), agent.report(1)
    async with running(inbox):
        await agent.send(first)
        await agent.verdict(first)
        began = time.monotonic()
        for name in ("INBOX", "DEAD"):
            await agent.bus.api(f"STREAM.DELETE.{agent.tenant.upper()}_{name}")
        await agent.send(second)
        assert (await agent.verdict(second))["accepted"]
        assert time.monotonic() - began < 5


async def test_the_dead_letters_may_be_wiped_while_it_runs(inbox: Inbox, agent: Agent) -> None:
    done = agent.report(0)
    async with running(inbox):
        await agent.post(b"garbage")
        await dead_letters(agent.bus, agent.tenant, 1)
        await agent.bus.api(f"STREAM.DELETE.{agent.tenant.upper()}_DEAD")
        await agent.post(b"garbage again")
        await agent.send(done)
        assert (await agent.verdict(done))["accepted"]
        assert (await dead_letters(agent.bus, agent.tenant, 1))[0].data == b"garbage again"


async def test_inboxes_share_the_work(bus: Bus, agent: Agent, ledger: Ledger, tenant: str) -> None:
    reports = [agent.report(number) for number in range(len(TASKS))]
    async with running(Inbox(bus, Executor(ledger), tenant)), running(Inbox(bus, Executor(ledger), tenant)):
        for report in reports:
            await agent.send(report)
        for report in reports:
            assert (await agent.verdict(report))["accepted"]
    assert len(await of_kind(ledger, TaskCompleted)) == len(TASKS)


async def test_a_tenant_may_be_named_as_a_part_of_a_subject(nats_url: str, postgres_url: str) -> None:
    async with Bus.connect(nats_url) as bus, Ledger.open(postgres_url, tenant="in") as ledger:
        agent = Agent(bus, "in")
        async with running(Inbox(bus, Executor(ledger), "in")):
            await agent.post(b"garbage")
            assert (await dead_letters(bus, "in", 1))[0].subject == "cairn.in.dead.inbox"
        for name in ("IN_INBOX", "IN_DEAD"):
            await bus.api(f"STREAM.DELETE.{name}")
