"""What commands are answered when Postgres breaks off in the middle: never something that was not recorded."""

import asyncio
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from domain.plan import Task
from handlers.execute import Executor, Order
from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger
from ledger.pipe import Pipe
from ledger.recorded import Recorded
from ops.embedded import Embedded
from tests.cluster import with_cluster
from tests.ledger.appends import lose_answers
from tests.spec import completed
from tests.spec import start as start_w

WIDE = [Task(f"t{number}") for number in range(60)]


def order(command: Any) -> Order:
    return Order(uuid4(), command, "test")


def start(*tasks: Task) -> Order:
    return order(start_w(*tasks))


def names(recorded: list[Recorded]) -> list[str]:
    return [type(one.event).__name__ for one in recorded]


async def test_the_answers_of_commands_that_were_recorded_together_survive_a_lost_connection(
    executor: Executor, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The append was committed and nobody heard of it: each command gets its own events all the same."""
    await executor.execute("w", start(*WIDE))
    left = lose_answers(monkeypatch, 1)
    orders = [order(completed(f"t{number}/1", number + 1)) for number in range(5)]
    answers = await asyncio.gather(*(executor.execute("w", it) for it in orders))
    assert left() == 0
    for one, answer in zip(orders, answers, strict=True):
        assert "TaskCompleted" in names(answer)
        assert answer == await ledger.find_command(one.id)
    assert "TaskCompleted" in names(await executor.execute("w", order(completed("t9/1", 10))))


async def test_what_was_sent_and_not_recorded_is_not_taken_for_what_another_process_recorded(
    executor: Executor, ledger: Ledger, postgres_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection broke before the commit; meanwhile somebody else recorded the first of the commands, alone."""
    await executor.execute("w", start(*WIDE))
    orders = [order(completed(f"t{number}/1", number + 1)) for number in range(3)]
    reconnect = ledger._writer._reconnect

    async def meanwhile(*about: Any) -> None:
        monkeypatch.undo()
        async with Ledger.open(postgres_url, tenant=tenant) as other:
            await Executor(other).execute("w", orders[0])
        await reconnect(*about)

    async def broken() -> int:
        raise psycopg.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(Pipe, "send", lambda *_: asyncio.ensure_future(broken()))
    monkeypatch.setattr(ledger._writer, "_reconnect", meanwhile)
    answers = await asyncio.gather(*(executor.execute("w", it) for it in orders))
    for one, answer in zip(orders, answers, strict=True):
        assert "TaskCompleted" in names(answer)
        assert answer == await ledger.find_command(one.id)


async def test_a_postgres_that_goes_away_is_a_fault_and_asking_again_tells(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.writer.PATIENCE_SECONDS", 0.5)
    servers = Embedded(with_cluster(data_dir), nats_url="nats://unused")
    try:
        await servers.start()
        assert servers.postgres is not None
        async with asyncio.timeout(60), Ledger.open(servers.database_url, tenant="away") as ledger:
            executor = Executor(ledger)
            await executor.execute("w", start(*WIDE))
            orders = [order(completed(f"t{number}/1", number + 1)) for number in range(len(WIDE))]
            calls = []
            for one in orders:
                calls.append(asyncio.create_task(executor.execute("w", one)))
                await asyncio.sleep(0.002)
                if len(calls) == 20:
                    servers.postgres.child._process.kill()  # type: ignore[union-attr]
            answers = await asyncio.gather(*calls, return_exceptions=True)
            faults = [one for one in answers if isinstance(one, BaseException)]
            assert faults and all(isinstance(one, LedgerUnavailable) for one in faults)
            await servers.postgres.stop()
            await servers.postgres.start()
            again = await asyncio.gather(*(executor.execute("w", one) for one in orders))
            for before, after in zip(answers, again, strict=True):
                assert "TaskCompleted" in names(after)
                assert isinstance(before, LedgerUnavailable) or before == after
            events = await ledger.read_stream("workflow-w")
            assert names(events).count("TaskCompleted") == len(WIDE)
            assert "ReportRefused" not in names(events)
    finally:
        await servers.stop()
