"""The server finds out by itself that its ledger was changed, and that is a fact of the ledger too."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest

from domain.events import AgentJoined, LedgerAudited
from handlers import audits
from handlers.audits import Audits
from handlers.execute import Executor
from ledger.append import Append, NewEvent
from ledger.ledger import Ledger
from ledger.names import schema_of

WAIT_SECONDS = 30.0


@pytest.fixture
async def ledger(postgres_url: str, tenant: str) -> AsyncIterator[Ledger]:
    async with Ledger.open(postgres_url, tenant=tenant) as ledger:
        yield ledger
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"DROP SCHEMA {schema_of(tenant)} CASCADE")


async def fill(ledger: Ledger, events: int) -> None:
    stream = f"agent-{uuid4().hex[:8]}"
    joined = [NewEvent(AgentJoined(agent="ann", role="coder"), uuid4(), "tests") for _ in range(events)]
    await ledger.append(Append(stream, 0, joined))


async def tampered(url: str, tenant: str, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(f"SET search_path = {schema_of(tenant)}; ALTER TABLE events DISABLE TRIGGER ALL")
        await connection.execute(statement)  # type: ignore[arg-type]


async def recorded(ledger: Ledger) -> list[LedgerAudited]:
    return [one.event for one in await ledger.read_stream(f"ledger-{ledger.tenant}")]  # type: ignore[misc]


async def test_the_first_audit_looks_at_everything_and_the_next_at_what_came_since(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audits, "SLICE_EVENTS", 7)
    audit = Audits(ledger, Executor(ledger), 24)
    await fill(ledger, 20)
    first = await audit.audit()
    assert first == LedgerAudited(
        position=20, ok=True, checked_events=20, digest=(await ledger.read(19, 1))[0].digest.hex()
    )
    await fill(ledger, 3)
    second = await audit.audit()
    assert (second.position, second.checked_events) == (24, 4)  # the record of the first among them
    assert await recorded(ledger) == [first, second]
    assert (await ledger.verify()).events == 25


async def test_what_was_changed_is_found_at_its_position_and_again_at_the_next_time(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    audit = Audits(ledger, Executor(ledger), 24)
    await fill(ledger, 5)
    await audit.audit()
    await fill(ledger, 5)
    await tampered(postgres_url, tenant, "UPDATE events SET actor = 'nobody' WHERE position = 9")
    for _ in range(2):
        found = await audit.audit()
        assert (found.ok, found.position, found.checked_events) == (False, 9, 4)
        assert "is not that of what it holds" in found.reason
    assert [event.ok for event in await recorded(ledger)] == [True, False, False]


async def test_a_past_that_was_made_anew_is_not_what_was_verified(
    ledger: Ledger, postgres_url: str, tenant: str
) -> None:
    """Whoever changes a digest too, where the last audit ended, contradicts what that has recorded."""
    audit = Audits(ledger, Executor(ledger), 24)
    await fill(ledger, 5)
    await audit.audit()
    await tampered(postgres_url, tenant, "UPDATE events SET digest = sha256(digest) WHERE position = 5")
    await tampered(
        postgres_url, tenant,
        "UPDATE ledger_head SET digest = (SELECT digest FROM events ORDER BY position DESC LIMIT 1)",
    )  # fmt: skip
    found = await audit.audit()
    assert not found.ok and found.position in (5, 6), found


async def test_it_runs_by_itself_at_its_time_and_never_where_nobody_wants_it(ledger: Ledger) -> None:
    await fill(ledger, 4)
    await Audits(ledger, Executor(ledger), 0, begin_seconds=0).run()
    assert await recorded(ledger) == []
    daily = Audits(ledger, Executor(ledger), 24, begin_seconds=0)
    running = asyncio.create_task(daily.run())
    await changed(ledger, 5)
    running.cancel()
    assert 23 * 3_600 < await daily._due_in() < 24 * 3_600, "one that was made a moment ago is enough"
    hasty = asyncio.create_task(Audits(ledger, Executor(ledger), 1e-9, begin_seconds=0).run())
    await changed(ledger, 7)
    hasty.cancel()
    await asyncio.gather(running, hasty, return_exceptions=True)
    assert [event.position for event in await recorded(ledger)][:3] == [4, 5, 6]


async def changed(ledger: Ledger, position: int) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        async for batch in ledger.follow(0):
            if batch[-1].position >= position:
                return
