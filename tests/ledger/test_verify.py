"""Who changes what has happened is found out: every column, every gap, both ends; by one process and by several."""

from collections.abc import AsyncIterator
from uuid import uuid4

import psycopg
import pytest
from appends import append, fill

from ledger import audit as auditing
from ledger import verify as verifying
from ledger.audit import audit
from ledger.codec import chain
from ledger.errors import BrokenChain, LedgerUnavailable, NoLedger
from ledger.ledger import Ledger
from ledger.recorded import Recorded
from ledger.verify import Verified

Superuser = psycopg.AsyncConnection[tuple[object, ...]]


@pytest.fixture
async def superuser(ledger: Ledger, postgres_url: str, tenant: str) -> AsyncIterator[Superuser]:
    """One for whom no trigger refuses anything."""
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"SET search_path = cairn_{tenant}")
        for table in ("events", "ledger_head"):
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER ALL")
        yield connection


CHANGES = {
    "position": "position + 1000",
    "stream": "stream || 'x'",
    "version": "version + 1000",
    "type": "'task.completed'",
    "id": "gen_random_uuid()",
    "recorded_at": "recorded_at + interval '1 microsecond'",
    "correlation_id": "NULL",
    "causation_id": "'another'",
    "actor": "'nobody'",
    "traceparent": "''",
    "state": "state || ' '::bytea",
    "digest": "sha256(digest)",
}


@pytest.mark.parametrize("column", Recorded.__struct_fields__)
async def test_a_change_in_any_column_is_found_where_it_is(
    ledger: Ledger, superuser: Superuser, column: str, postgres_url: str, tenant: str
) -> None:
    await fill(ledger, "workflow-a", 6)
    assert (await ledger.verify()).position == 6
    await superuser.execute(f"UPDATE events SET {column} = {CHANGES[column]} WHERE position = 4")
    for verify in (ledger.verify(), audit(postgres_url, tenant)):
        with pytest.raises(BrokenChain, match="position 4:") as broken:
            await verify
        assert broken.value.position == 4


@pytest.mark.parametrize(
    ("tampering", "position", "why"),
    [
        ("DELETE FROM events WHERE position = 1", 1, "missing"),
        ("DELETE FROM events WHERE position = 5", 5, "missing"),
        ("DELETE FROM events WHERE position > 4", 5, "missing, and all after it"),
        ("DELETE FROM events WHERE position = 6", 6, "missing, and all after it"),
        ("DELETE FROM events", 1, "missing, and all after it"),
        ("UPDATE ledger_head SET position = 9", 7, "missing, and all after it"),
        ("UPDATE ledger_head SET digest = sha256(digest)", 6, "the head says"),
        ("UPDATE ledger_head SET position = 5", 5, "the head says"),
        ("UPDATE ledger_head SET (position, digest) = (SELECT position, digest FROM events WHERE position = 5)", 6,
         "the head does not go that far"),
        ("DELETE FROM ledger_head", 0, "lost its row"),
        ("UPDATE events SET state = replace(state::text, '5c', '5d')::bytea || 'x' WHERE position IN (2, 6)", 2, "dige"),
    ],
)  # fmt: skip
async def test_what_is_missing_too_much_or_at_odds_with_the_head_is_found(
    ledger: Ledger, superuser: Superuser, tampering: str, position: int, why: str, postgres_url: str, tenant: str
) -> None:
    await fill(ledger, "workflow-a", 6)
    await superuser.execute(tampering)
    for verify in (ledger.verify(), audit(postgres_url, tenant)):
        with pytest.raises(BrokenChain, match=f"position {position}: .*{why}"):
            await verify


async def test_no_event_is_put_before_the_first(ledger: Ledger, superuser: Superuser) -> None:
    await fill(ledger, "workflow-a", 6)
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition"):
        await superuser.execute(
            "INSERT INTO events SELECT 0, stream, 7, type, gen_random_uuid(), recorded_at, NULL, NULL, actor, NULL,"
            " state, digest FROM events WHERE position = 6"
        )


async def test_an_event_that_was_put_behind_the_head_is_found(ledger: Ledger, superuser: Superuser) -> None:
    """It follows on the chain, as anyone can compute; every reader would take it for history."""
    (event,) = await fill(ledger, "workflow-a", 1)
    envelope = (2, "workflow-a", 2, *event.envelope[3:4], uuid4(), *event.envelope[5:])
    row = (*envelope, event.state, chain(event.digest, envelope, event.state))
    await superuser.execute("INSERT INTO events VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", row)
    with pytest.raises(BrokenChain, match="position 2: the head does not go that far"):
        await ledger.verify()


async def test_a_part_behind_the_head_holds_nothing(ledger: Ledger) -> None:
    head = (await fill(ledger, "workflow-a", 2))[-1]
    assert await ledger.verify(100) == Verified(0, 2, head.digest, head.digest)


async def test_a_part_can_be_verified_alone(ledger: Ledger, superuser: Superuser) -> None:
    await ledger.append(append("workflow-a", 0, 2_100))
    await superuser.execute("UPDATE events SET actor = 'nobody' WHERE position = 1500")
    assert (await ledger.verify(1, 1_499)).events == 1_499
    assert (await ledger.verify(1_501)).events == 600
    with pytest.raises(BrokenChain, match="position 1500:"):
        await ledger.verify(1_400, 1_600)
    await superuser.execute("DELETE FROM events WHERE position = 1600")
    with pytest.raises(BrokenChain, match="position 1600:"):
        await ledger.verify(1_601, 1_700)


async def test_an_empty_ledger_is_whole(ledger: Ledger, postgres_url: str, tenant: str) -> None:
    assert await ledger.verify() == await audit(postgres_url, tenant)
    assert (await ledger.verify()).events == 0


async def test_processes_that_share_the_work_come_to_the_same(
    ledger: Ledger, superuser: Superuser, postgres_url: str, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at the borders of the ranges they work on, and when several ranges are broken."""
    monkeypatch.setattr(auditing, "RANGE_EVENTS", 100)
    monkeypatch.setattr(verifying, "READ_EVENTS", 30)
    await ledger.append(append("workflow-a", 0, 350))
    told: list[tuple[int, int]] = []
    verified = await audit(postgres_url, tenant, processes=2, told=lambda done, of: told.append((done, of)))
    assert verified == await ledger.verify()
    assert told == [(100, 350), (200, 350), (300, 350), (350, 350)]
    part = await audit(postgres_url, tenant, 51, 260, processes=2)
    assert part == await ledger.verify(51, 260)
    assert part.before == (await ledger.read(49, 1))[0].digest
    for position in (350, 301, 201, 200, 100):
        await superuser.execute("UPDATE events SET actor = 'nobody' WHERE position = %s", (position,))
        with pytest.raises(BrokenChain, match=f"position {position}:"):
            await audit(postgres_url, tenant, processes=2)
    await superuser.execute("UPDATE events SET digest = sha256(digest) WHERE position = 99")
    with pytest.raises(BrokenChain, match="position 99:"):
        await audit(postgres_url, tenant, processes=2)


async def test_verifying_while_others_append_ends_and_holds(ledger: Ledger, postgres_url: str, tenant: str) -> None:
    await ledger.append(append("workflow-a", 0, 500))
    appending = await_all(ledger)
    for _ in range(10):
        assert (await ledger.verify()).events >= 500
        assert (await audit(postgres_url, tenant, processes=1)).events >= 500
        await anext(appending)
    assert (await ledger.verify()).events == 510


async def await_all(ledger: Ledger) -> AsyncIterator[None]:
    for version in range(10):
        await ledger.append(append("workflow-b", version))
        yield


async def test_a_ledger_that_is_not_there_is_not_made(postgres_url: str, ledger: Ledger) -> None:
    with pytest.raises(NoLedger, match="nobody"):
        await audit(postgres_url, "nobody")
    async with await psycopg.AsyncConnection.connect(postgres_url) as connection:
        found = await connection.execute("SELECT FROM pg_namespace WHERE nspname = 'cairn_nobody'")
        assert await found.fetchone() is None
    with pytest.raises(LedgerUnavailable, match="Postgres does not answer"):
        await audit("postgresql://localhost:1/none", "main")
