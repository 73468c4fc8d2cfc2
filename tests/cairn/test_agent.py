"""What an agent promises its author, and what it makes of whatever an author's code does.

It is long because it begins with the whole other side of an agent: dispatches, a roster, an inbox.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cairn import Agent, Failed, Result, Task
from cairn import agent as module
from cairn.bus import Bus, Message
from cairn.config import Connection
from cairn.task import Finding, Receipt

SECONDS = 20.0


class Stage:
    """The other side of an agent: a stream of dispatches, a roster that answers, an inbox that only reads."""

    def __init__(self, bus: Bus, nats_url: str, tenant: str, folder: Path) -> None:
        self.bus, self.tenant = bus, tenant
        self.where = Connection(nats_url, "", "", tenant, folder)
        self.reports: list[dict[str, Any]] = []
        self.void: list[Any] = []
        self.joins = self.beats = self._offers = 0
        self._came = asyncio.Event()

    async def open(self) -> None:
        await self.bus.ensure_stream({"name": f"{self.tenant.upper()}_EV", "subjects": [f"cairn.{self.tenant}.evt.>"]})
        await self.bus.ensure_stream(
            {"name": f"{self.tenant.upper()}_IN", "subjects": [f"cairn.{self.tenant}.in.>"], "allow_atomic": True}
        )
        await self.bus.subscribe(f"cairn.{self.tenant}.join.>", self._join)
        await self.bus.subscribe(f"cairn.{self.tenant}.beat.>", self._beat)
        await self.bus.subscribe(f"cairn.{self.tenant}.in.>", self._report)

    async def _join(self, message: Message) -> None:
        self.joins += 1
        stream = f"{self.tenant.upper()}_EV"
        await self.bus.ensure_consumer(stream, {"durable_name": "c", "ack_policy": "explicit", "ack_wait": 2 * 10**9})
        await self.bus.publish(message.reply, json.dumps({"stream": stream, "consumers": ["c"]}).encode())

    async def _beat(self, message: Message) -> None:
        self.beats += 1
        await self.bus.publish(message.reply, json.dumps({"void": self.void}).encode())

    async def _report(self, message: Message) -> None:
        for report in json.loads(message.data):
            self.reports.append(report)
            if report["kind"] != "started":
                await self.bus.publish(
                    f"cairn.{self.tenant}.verdict.{report['agent']}",
                    json.dumps([{"id": report["id"], "accepted": True}]).encode(),
                )
        self._came.set()

    async def offer(self, name: str | None = None, **task: Any) -> str:
        """Dispatches a task; its run."""
        self._offers += 1
        name = name or f"t{self._offers}"
        body = {"workflow": "w", "task": name, "run": f"{name}/1", "attempt": 1, "role": "coder", "token": self._offers}
        body |= {"lease_seconds": 0.3, "timeout_seconds": 30.0} | task
        await self.post(json.dumps({"sequence": "00000000000000000007", "data": body}).encode())
        return f"{name}/1"

    async def post(self, data: bytes) -> None:
        assert "error" not in await self.bus.store(f"cairn.{self.tenant}.evt.w.dispatched", data)

    async def consumer(self) -> dict[str, Any]:
        found = await self.bus.api(f"CONSUMER.INFO.{self.tenant.upper()}_EV.c")
        return found if "error" not in found else {"ack_floor": {"stream_seq": 0}}

    async def report(self, run: str, *kinds: str) -> dict[str, Any]:
        """The first report on a run that is not only that it began (or of these kinds)."""
        wanted = kinds or ("completed", "failed", "verified", "asked")
        async with asyncio.timeout(SECONDS):
            while True:
                for report in self.reports:
                    if report["run"] == run and report["kind"] in wanted:
                        return report
                self._came.clear()
                await self._came.wait()


@pytest.fixture
async def stage(nats_url: str, tenant: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with Bus.connect(nats_url) as bus:
        stage = Stage(bus, nats_url, tenant, tmp_path)
        await stage.open()
        yield stage
        for name in ("EV", "IN"):
            await bus.api(f"STREAM.DELETE.{tenant.upper()}_{name}")


@asynccontextmanager
async def serving(agent: Agent, stage: Stage) -> AsyncIterator[asyncio.Event]:
    """The agent at work; it must be stopped or still be alive at the end."""
    stop = asyncio.Event()
    task = asyncio.create_task(agent.serve(stage.where, stop=stop))
    try:
        yield stop
        stop.set()
        await asyncio.wait_for(task, SECONDS)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def failure_of(stage: Stage, run: str) -> tuple[str, str]:
    failure = (await stage.report(run, "failed"))["failure"]
    return failure["type"], failure["message"]


async def test_a_question_ends_the_run_and_its_answer_is_what_the_same_call_returns(stage: Stage) -> None:
    agent = Agent("coder", name="ann")

    @agent.task
    async def work(task: Task) -> str:
        first = await task.ask("Which?", ["red", "blue"], due_seconds=60.0, default="red")
        second = await task.ask("And why?")
        return f"{first.choice} {second.choice or 'for no reason'}"

    red, none = {"ask": "ask-1", "question": "Which?", "choice": "red"}, {"ask": "ask-2", "question": "And why?"}
    async with serving(agent, stage):
        asked = await stage.report(await stage.offer())
        told = {"question": "Which?", "options": ["red", "blue"], "due_seconds": 60.0, "default": "red"}
        assert (asked["kind"], asked["ask"]) == ("asked", told)
        again = await stage.report(await stage.offer(answers=[red]))
        assert (again["kind"], again["ask"]["question"]) == ("asked", "And why?")
        done = await stage.report(await stage.offer(answers=[red, none]))
        assert done["result"]["summary"] == "red for no reason"


async def test_a_task_becomes_a_result(stage: Stage) -> None:
    agent, returned = Agent("coder", name="ann"), iter([Result("r"), "s", None, {"summary": "d", "data": {"n": 1}}])

    @agent.task
    async def work(task: Task) -> Any:
        assert task.position == 7
        return next(returned)

    async with serving(agent, stage):
        results = [(await stage.report(await stage.offer(), "completed"))["result"] for _ in range(4)]
    assert results == [{"summary": "r"}, {"summary": "s"}, {}, {"summary": "d", "data": {"n": 1}}]
    assert all(report["agent"] == "ann" for report in stage.reports)
    assert [report["kind"] for report in stage.reports] == ["started", "completed"] * 4


def circle() -> list[Any]:
    own: list[Any] = []
    own.append(own)
    return own


def raising(error: BaseException) -> Any:
    def work() -> Any:
        raise error

    return work


class Panic(BaseException):
    """As libraries in other languages raise it."""


@pytest.mark.parametrize(
    ("work", "kind", "message"),
    [
        (raising(KeyError("oops")), "agent_error", "KeyError: 'oops'"),
        (raising(Failed("no spec", type="spec_mismatch", detail="d")), "spec_mismatch", "no spec"),
        (raising(Failed("bad \udcff name")), "agent_error", "bad ? name"),
        (raising(SystemExit(3)), "agent_error", "SystemExit: 3"),
        (raising(asyncio.CancelledError()), "agent_error", "CancelledError: "),
        (raising(GeneratorExit("of a generator")), "agent_error", "GeneratorExit: of a generator"),
        (raising(KeyboardInterrupt("of the author's own")), "agent_error", "KeyboardInterrupt: of the author's own"),
        (raising(Panic("no exception at all")), "agent_error", "Panic: no exception at all"),
        (raising(BaseExceptionGroup("all", [Panic("one")])), "agent_error", "BaseExceptionGroup: all"),
        (raising(TimeoutError("of the author's own")), "agent_error", "TimeoutError: of the author's own"),
        (lambda: 5, "invalid_result", "not int"),
        (lambda: [1, 2], "invalid_result", "not list"),
        (lambda: {"summary": 5}, "invalid_result", "Expected `str`"),
        (lambda: Result(data=object()), "invalid_result", "no JSON"),
        (lambda: Result(data=circle()), "invalid_result", "no JSON"),
        (lambda: Result("\udcff"), "invalid_result", "no JSON"),
        (lambda: Result(data="x" * 70_000), "invalid_result", "the limit is 65536"),
        (
            lambda: Result(findings=(Finding("lint", "low", "x"),) * 201),
            "invalid_result",
            "201 findings, the limit is 200",
        ),
        (lambda: Result(findings=(Finding("lint", "low", "x" * 70_000),)), "invalid_result", "the limit is 65536"),
        (lambda: Result(findings=(Finding("odd", "low", "x"),)), "invalid_result", "value 'odd' - at `$[0].kind`"),
        (lambda: {"findings": [{"kind": "lint", "severity": "low"}]}, "invalid_result", "field `message`"),
    ],
    ids=lambda value: "handler" if callable(value) else str(value),
)
async def test_whatever_a_handler_does_is_the_outcome_of_its_attempt(
    stage: Stage, work: Any, kind: str, message: str
) -> None:
    agent = Agent("coder")

    @agent.task
    async def handler(task: Task) -> Any:
        return work() if task.task == "bad" else "fine"

    async with serving(agent, stage):
        found = await failure_of(stage, await stage.offer("bad"))
        assert found[0] == kind and message in found[1]
        assert await stage.report(await stage.offer("good"), "completed")


INTERRUPTED = """
import asyncio, os, signal, sys
from pathlib import Path
from cairn import Agent
from cairn.config import Connection

agent = Agent("coder")

@agent.task
async def handler(task):
    os.kill(os.getpid(), signal.SIGINT)

where = Connection(sys.argv[1], "", "", sys.argv[2], Path(sys.argv[3]))
if sys.argv[4] == "run":
    agent.run(where)
else:
    asyncio.new_event_loop().run_until_complete(agent.serve(where))
"""


@pytest.mark.parametrize(("how", "code"), [("run", 0), ("a loop of its own", -signal.SIGINT)])
async def test_ctrl_c_is_for_the_agent_even_while_a_handler_works(stage: Stage, how: str, code: int) -> None:
    run = await stage.offer()
    arguments = (stage.where.nats_url, stage.tenant, str(stage.where.state_dir), how)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", INTERRUPTED, *arguments, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(SECONDS):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == code, said
    assert not [report for report in stage.reports if report["run"] == run and report["kind"] == "failed"]


async def test_a_detail_that_is_no_text_is_told_all_the_same(stage: Stage) -> None:
    agent = Agent("coder")

    @agent.task
    async def handler(task: Task) -> Any:
        raise Failed("no", detail=None)  # type: ignore[arg-type]

    async with serving(agent, stage):
        assert await failure_of(stage, await stage.offer()) == ("agent_error", "no")


async def test_a_tester_returns_receipts_and_nothing_else(stage: Stage) -> None:
    agent = Agent("tester", commits=False)

    @agent.task
    async def handler(task: Task) -> Any:
        return [Receipt("make", 0, False, 1.0, "none", None, 0, "")] if task.task == "good" else Result("looks fine")

    async with serving(agent, stage):
        good = await stage.report(await stage.offer("good", purpose="verify"))
        assert good["kind"] == "verified" and good["receipts"][0]["cmd"] == "make"
        kind, message = await failure_of(stage, await stage.offer("bad", purpose="verify"))
        assert kind == "invalid_result" and "list of receipts" in message


def receipts_by(name: str) -> Agent:
    agent = Agent("tester", name=name, commits=False)

    @agent.task
    async def handler(task: Task) -> Any:
        return [Receipt("make", 0, False, 1.0, "none", None, 0, "")]

    return agent


async def test_what_a_tester_did_itself_is_left_to_another_tester(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PASS_ON_SECONDS", 0.05)
    async with serving(receipts_by("ann"), stage):
        own, others = (
            await stage.offer(purpose="verify", worker="ann"),
            await stage.offer(purpose="verify", worker="bob"),
        )
        assert (await stage.report(others))["agent"] == "ann"
        assert not [report for report in stage.reports if report["run"] == own]
        async with serving(receipts_by("tess"), stage):
            assert (await stage.report(own))["agent"] == "tess"
    assert {report["agent"] for report in stage.reports if report["run"] == own} == {"tess"}


async def test_what_a_tester_did_itself_does_not_go_round_for_ever(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PASS_ON_SECONDS", 0.05)
    monkeypatch.setattr(module, "PASS_ON_TIMES", 3)
    async with serving(receipts_by("ann"), stage):
        await stage.offer(purpose="verify", worker="ann")
        async with asyncio.timeout(SECONDS):
            while (await stage.consumer())["ack_floor"]["stream_seq"] < 1:
                await asyncio.sleep(0.02)
        assert (await stage.consumer())["delivered"]["consumer_seq"] == 3
    assert not stage.reports


async def test_a_handler_that_takes_too_long_is_cancelled(stage: Stage) -> None:
    agent, ended = Agent("coder"), asyncio.Event()

    @agent.task
    async def handler(task: Task) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(agent, stage):
        assert (await failure_of(stage, await stage.offer(timeout_seconds=0.1)))[0] == "timeout"
        assert ended.is_set()


async def test_no_more_tasks_at_once_than_there_is_room_for(stage: Stage) -> None:
    agent, now, most, go = Agent("coder", capacity=3), 0, 0, asyncio.Event()

    @agent.task
    async def handler(task: Task) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await go.wait()
        now -= 1

    async with serving(agent, stage):
        runs = [await stage.offer() for _ in range(9)]
        await asyncio.gather(*(stage.report(run, "started") for run in runs[:3]))
        await asyncio.sleep(0.2)  # in which it could take more
        assert now == 3 and len(stage.reports) == 3
        go.set()
        await asyncio.gather(*(stage.report(run, "completed") for run in runs))
    assert most == 3


async def test_a_lease_that_is_lost_ends_the_work_without_an_outcome(stage: Stage) -> None:
    agent, ended = Agent("coder"), asyncio.Event()

    @agent.task
    async def handler(task: Task) -> None:
        if task.task == "late":
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

    async with serving(agent, stage):
        run = await stage.offer("late")
        await stage.report(run, "started")
        stage.void = [["w", run, 1]]
        await asyncio.wait_for(ended.wait(), SECONDS)
        stage.void = []
        assert await stage.report(await stage.offer("next"), "completed"), "there is room again"
    assert [report["kind"] for report in stage.reports if report["run"] == run] == ["started"]


async def test_it_beats_often_enough_for_the_shortest_lease(stage: Stage) -> None:
    agent, go = Agent("coder", capacity=2), asyncio.Event()

    @agent.task
    async def handler(task: Task) -> None:
        await go.wait()

    async with serving(agent, stage):
        await stage.report(await stage.offer(lease_seconds=30.0), "started")
        await stage.report(await stage.offer(lease_seconds=0.3), "started")
        async with asyncio.timeout(SECONDS):
            while not stage.beats:
                await asyncio.sleep(0.01)
        began, before = time.monotonic(), stage.beats
        async with asyncio.timeout(SECONDS):
            while stage.beats < before + 5:
                await asyncio.sleep(0.01)
        assert time.monotonic() - began < 5 * 0.3
        go.set()


async def test_one_that_is_stopped_ends_what_it_can_and_hands_back_the_rest(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DRAIN_SECONDS", 0.3)
    agent, ended = Agent("coder", capacity=2), asyncio.Event()

    @agent.task
    async def handler(task: Task) -> str:
        await asyncio.sleep(0.1 if task.task == "short" else 60)
        return "done"

    async with serving(agent, stage) as stop:
        short, long = await stage.offer("short"), await stage.offer("long")
        await asyncio.gather(stage.report(short, "started"), stage.report(long, "started"))
        stop.set()
        ended.set()
    after = await stage.offer("after")
    assert (await stage.report(short))["kind"] == "completed"
    kind, message = await failure_of(stage, long)
    assert kind == "agent_lost" and message == f"{agent.name} was stopped"
    assert not [report for report in stage.reports if report["run"] == after]
    journals = list((stage.where.state_dir / "outbox" / stage.where.tenant / "coder").iterdir())
    assert [path.name for path in journals] == [f"{agent.name}.jsonl"]


async def test_a_dispatch_that_cannot_be_read_stops_nobody(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("coder")

    @agent.task
    async def handler(task: Task) -> str:
        return "done"

    async with serving(agent, stage):
        await stage.post(b"garbage")
        await stage.post(json.dumps({"sequence": "7", "dataref": "/too/large"}).encode())
        assert await stage.report(await stage.offer(), "completed")
    assert caplog.text.count("cannot be read") == 2


async def test_it_joins_again_when_its_consumer_is_gone(stage: Stage) -> None:
    agent = Agent("coder")

    @agent.task
    async def handler(task: Task) -> str:
        return "done"

    async with serving(agent, stage):
        await stage.report(await stage.offer(), "completed")
        await stage.bus.api(f"CONSUMER.DELETE.{stage.tenant.upper()}_EV.c")
        await stage.report(await stage.offer(), "completed")
    assert stage.joins >= 2


async def test_misuse_is_told_where_it_happens(stage: Stage) -> None:
    agent = Agent("coder")
    with pytest.raises(TypeError, match="has no handler"):
        await agent.serve(stage.where)

    def blocking(task: Task) -> str:
        return "done"

    with pytest.raises(TypeError, match="no `async def`"):
        agent.task(blocking)  # type: ignore[arg-type]

    class Worker:
        async def __call__(self, task: Task, more: int = 0) -> str:
            return "done"

    agent.task(Worker())
    agent.task(partial(Worker.__call__, Worker(), more=1))
    for wrong in ("", "Coder", "a.b", "x" * 64, "a\n"):
        with pytest.raises(ValueError, match="role"):
            Agent(wrong)
    for wrong in ("", "my agent", "../up", "a*", ">", "ümlaut"):
        with pytest.raises(ValueError, match="name"):
            Agent("coder", name=wrong)
    with pytest.raises(ValueError, match="capacity 0"):
        Agent("coder", capacity=0)
    assert Agent("coder").name != Agent("coder").name
    assert str(os.getpid()) in Agent("coder").name


async def test_any_number_of_files_may_be_changed(stage: Stage) -> None:
    agent, paths = Agent("coder"), [f"src/generated/module_{number}.py" for number in range(5_000)]

    @agent.task
    async def work(task: Task) -> Result:
        return Result(files=tuple(paths))

    async with serving(agent, stage):
        assert (await stage.report(await stage.offer()))["result"]["files"] == paths


async def test_what_was_delivered_before_begins_once_it_is_stored_that_it_has(stage: Stage) -> None:
    """It may have ended the agent that had it: so often as it does that, so often it counts."""
    agent, began = Agent("coder", name="ann"), asyncio.Event()

    @agent.task
    async def work(_: Task) -> None:
        began.set()

    events, inbox = f"{stage.tenant.upper()}_EV", f"{stage.tenant.upper()}_IN"
    run = await stage.offer()
    await stage.bus.ensure_consumer(events, {"durable_name": "c", "ack_policy": "explicit", "ack_wait": 10**8})
    async for lost in stage.bus.pull(events, "c", wait_seconds=1.0):
        assert [message.delivered for message in lost] == [1]
        break
    await stage.bus.api(f"STREAM.DELETE.{inbox}")
    async with serving(agent, stage):
        await stage.report(run, "started")
        assert not began.is_set()
        await stage.open()
        await stage.report(run, "completed")
