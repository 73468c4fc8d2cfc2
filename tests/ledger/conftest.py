"""A bus, and a ledger of a tenant of its own, on the session's real servers."""

from collections.abc import AsyncIterator, Iterator

import psycopg
import pytest
from users import login

from cairn.bus import Bus
from ledger.eventsourcing import Factory
from ledger.eventsourcing.recorders import LedgerApplicationRecorder
from ledger.ledger import Ledger
from ledger.postgres import Connection
from ledger.stream import delete, streams_of


@pytest.fixture
async def bus(nats_url: str, tenant: str) -> AsyncIterator[Bus]:
    async with Bus.connect(nats_url) as bus:
        yield bus
        for name in (*await streams_of(bus, tenant), f"{tenant.upper()}_QUARANTINE"):
            await delete(bus, name)


@pytest.fixture
async def ledger(postgres_url: str, tenant: str) -> AsyncIterator[Ledger]:
    """Without a bus: Postgres alone is what the contract of append and read rests on."""
    async with Ledger.open(postgres_url, tenant=tenant) as ledger:
        yield ledger


@pytest.fixture
def es_env(postgres_url: str, tenant: str) -> dict[str, str]:
    """What an application of the `eventsourcing` library is started with."""
    return {"PERSISTENCE_MODULE": "ledger.eventsourcing", "DATABASE_URL": postgres_url, "CAIRN_TENANT": tenant}


@pytest.fixture
def recorder(es_env: dict[str, str]) -> Iterator[LedgerApplicationRecorder]:
    factory = Factory(es_env)
    yield factory.application_recorder()
    factory.close()


@pytest.fixture
async def admin(postgres_url: str) -> AsyncIterator[Connection]:
    """A superuser, who acts as no role."""
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def owner(postgres_url: str, admin: Connection, tenant: str) -> str:
    """A URL whose user may create schemas and no roles."""
    await admin.execute(f"CREATE ROLE owner_{tenant} LOGIN; GRANT CREATE ON DATABASE postgres TO owner_{tenant}")
    return login(postgres_url, f"owner_{tenant}")
