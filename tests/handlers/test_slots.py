"""Whoever waits is told what it was granted, whatever ends frees what it held: by several servers, after any crash."""

import asyncio
import time
from collections import Counter
from contextlib import suppress
from typing import Any
from uuid import uuid4

import pytest

from cairn.bus import Bus
from domain.claims import Claim, Limits, PlaceClaim
from domain.commands import Cancel, Prioritise, ReportCompleted, ReportFailed, StartWorkflow
from domain.commands import Retry as RetryTask
from domain.errors import Full
from domain.outcome import Failure, Result
from domain.plan import Plan, Retry, Task
from handlers import execute
from handlers.execute import Executor, Order
from handlers.kinds import QUEUE, WORKFLOW
from handlers.slots import Slots
from handlers.valve import Valve
from ledger.ledger import Ledger

SECONDS = 20.0
ONE = Limits(max_workflows=1)


class Kept:
    """A cursor of the test's own."""

    def __init__(self) -> None:
        self.position = 0

    async def load(self) -> int:
        return self.position

    async def save(self, position: int) -> None:
        self.position = max(self.position, position)


class Server:
    """What one server does for the queue, until it is killed."""

    def __init__(self, ledger: Ledger, bus: Bus, cursor: Kept, limits: Limits = ONE) -> None:
        self.ledger, self.executor = ledger, Executor(ledger)
        self.slots = Slots(ledger, self.executor, cursor, limits, Valve(bus, ledger, self.executor))

    async def __aenter__(self) -> "Server":
        await self.slots.open()
        self._running = asyncio.create_task(self.slots.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        with suppress(asyncio.CancelledError):
            await self._running

    async def do(self, workflow: str, command: Any) -> None:
        await self.executor.execute(workflow, Order(uuid4(), command, "test"))

    async def start(self, workflow: str, *tasks: Task, queued: bool = False) -> None:
        plan = Plan(id=workflow, tasks=tasks)
        await self.do(workflow, StartWorkflow(now=time.time(), workflow=workflow, plan=plan, queued=queued))

    async def work(self, workflow: str, task: str = "a") -> None:
        """Completes the run of a task, once it has one."""
        run = (await self.until(workflow, lambda state: state.tasks[task].run)).tasks[task].run
        await self.do(
            workflow,
            ReportCompleted(
                now=time.time(), task=task, run=run.id, token=run.token, agent="ann", result=Result("done")
            ),
        )

    async def until(self, workflow: str, what: Any) -> Any:
        async with asyncio.timeout(SECONDS):
            while not what(state := await Executor(self.ledger).state(workflow, WORKFLOW)):
                await asyncio.sleep(0.02)
        return state

    async def has_seen_all(self, name: str) -> None:
        """What comes later is granted by now."""
        await self.start(name, Task("a", resources=(f"only:{name}",)))
        await self.until(name, lambda state: state.tasks["a"].run)

    async def claims(self) -> dict[str, bool]:
        queue = await Executor(self.ledger).state(self.ledger.tenant, QUEUE)
        return {id: standing.granted for id, standing in queue.claims.items()}

    async def nothing_is_claimed(self) -> None:
        async with asyncio.timeout(SECONDS):
            while await self.claims():
                await asyncio.sleep(0.02)
        events = await self.ledger.read_stream(f"queue-{self.ledger.tenant}")
        kinds = Counter(event.type for event in events)
        assert kinds["claim.queued"] == kinds["claim.freed"]


@pytest.fixture
def cursor() -> Kept:
    return Kept()


async def test_two_servers_grant_each_claim_once(ledger: Ledger, bus: Bus, cursor: Kept) -> None:
    async with Server(ledger, bus, cursor) as one, Server(ledger, bus, Kept()) as other:
        names = [f"w{number}" for number in range(6)]
        for name, server in zip(names, [one, other] * 3, strict=True):
            await server.start(name, Task("a", resources=("repo:x",)), queued=True)
        for name in names:
            await one.until(name, lambda state: state.status == "running")
            running = [it for it in names if (await Executor(ledger).state(it, WORKFLOW)).status == "running"]
            assert running == [name]
            await other.work(name)
        await one.nothing_is_claimed()


async def test_what_is_read_again_from_the_beginning_changes_nothing(ledger: Ledger, bus: Bus, cursor: Kept) -> None:
    async with Server(ledger, bus, cursor) as server:
        await server.start("w", Task("a", resources=("repo:x",)), queued=True)
        await server.work("w")
        await server.nothing_is_claimed()
        before = (await ledger.head()).position
    again = Kept()
    async with Server(ledger, bus, again) as server, asyncio.timeout(SECONDS):
        while again.position < before:
            await asyncio.sleep(0.02)
        assert (await ledger.head()).position == before
        await server.nothing_is_claimed()


async def test_what_is_read_again_takes_nothing_from_those_who_wait_and_work_by_now(
    ledger: Ledger, bus: Bus, cursor: Kept
) -> None:
    async with Server(ledger, bus, cursor, Limits()) as server:
        for name in ("works", "waits"):
            await server.start(name, Task("a", resources=("repo:x",), retry=Retry(0.0)))
            await server.until(name, lambda state: state.tasks["a"].status in ("queued", "dispatched"))
        run = (await server.until("works", lambda state: state.tasks["a"].run)).tasks["a"].run
        failure = Failure("agent_error", "it broke")
        who = {"task": "a", "run": run.id, "token": run.token, "agent": "ann"}
        await server.do("waits", Cancel(now=time.time(), by="pat"))
        await server.do("works", ReportFailed(now=time.time(), failure=failure, **who))
        await server.do("works", RetryTask(now=time.time(), task="a", attempt=2))
        await server.until("works", lambda state: state.tasks["a"].run)
        await server.start("next", Task("a", resources=("repo:x",)))
        await server.do("next", Prioritise(now=time.time(), by="pat", task="a", priority=5))
        await server.until("next", lambda state: state.tasks["a"].spec.priority)
        head = (await ledger.head()).position
        await server.has_seen_all("first")
    held = {"works/a/2": True, "next/a/1": False}
    for behind in range(head):
        again = Kept()
        again.position = behind
        async with Server(ledger, bus, again, Limits()) as server:
            await server.has_seen_all(f"from-{behind}")
            assert {id: granted for id, granted in (await server.claims()).items() if "from" not in id} == {
                "first/a/1": True, **held
            }, f"from {behind} on"  # fmt: skip
    async with Server(ledger, bus, Kept(), Limits()) as server:
        await server.work("works")
        await server.work("next")


async def test_a_claim_that_nobody_holds_any_more_is_freed_at_the_start(ledger: Ledger, bus: Bus, cursor: Kept) -> None:
    alone = Server(ledger, bus, cursor)
    await alone.start("w", Task("a"))
    await alone.work("w")
    for claim in (
        Claim("w", "w"),
        Claim("w/a/1", "w", "a", "a/1", "coder", ("repo:x",)),
        Claim("never", "never"),
    ):
        place = PlaceClaim(now=time.time(), limits=ONE, claim=claim)
        await alone.executor.execute(ledger.tenant, Order(uuid4(), place, "test"), QUEUE)
    cursor.position = (await ledger.head()).position
    async with Server(ledger, bus, cursor) as server:
        assert await server.claims() == {}


async def test_a_task_that_is_cancelled_while_it_waits_and_one_that_works_free_what_is_theirs(
    ledger: Ledger, bus: Bus, cursor: Kept
) -> None:
    async with Server(ledger, bus, cursor, Limits()) as server:
        for name in ("works", "waits", "last"):
            await server.start(name, Task("a", resources=("repo:x",)))
            await server.until(name, lambda state: state.tasks["a"].status in ("queued", "dispatched"))
        await server.until("works", lambda state: state.tasks["a"].run)
        for name in ("waits", "works"):
            await server.do(name, Cancel(now=time.time(), by="pat"))
        await server.work("last")
        await server.nothing_is_claimed()


async def test_more_commands_than_a_process_can_hold_are_refused(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "PENDING_COMMANDS", 3)
    executor = Executor(ledger)

    def start(name: str) -> asyncio.Future[Any]:
        plan = Plan(id=name, tasks=(Task("a"),))
        return executor.submit(name, Order(uuid4(), StartWorkflow(now=1.0, workflow=name, plan=plan), "test"))

    answers = await asyncio.gather(*(start(f"w{number}") for number in range(5)), return_exceptions=True)
    assert [isinstance(answer, Full) for answer in answers] == [False] * 3 + [True] * 2
    assert not isinstance((await asyncio.gather(start("w3"), return_exceptions=True))[0], Exception), (
        "there is room again"
    )
