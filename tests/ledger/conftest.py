"""A bus, and a ledger of a tenant of its own, on the session's real servers."""

from collections.abc import AsyncIterator

import pytest

from cairn.bus import Bus
from ledger.ledger import Ledger
from ledger.stream import delete, streams_of


@pytest.fixture
async def bus(nats_url: str, tenant: str) -> AsyncIterator[Bus]:
    async with Bus.connect(nats_url) as bus:
        yield bus
        for name in await streams_of(bus, tenant):
            await delete(bus, name)


@pytest.fixture
async def ledger(postgres_url: str, tenant: str) -> AsyncIterator[Ledger]:
    """Without a bus: Postgres alone is what the contract of append and read rests on."""
    async with Ledger.open(postgres_url, tenant=tenant) as ledger:
        yield ledger
