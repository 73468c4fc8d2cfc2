"""A bus, a ledger with a relay, and an executor of a tenant of its own, on the session's real servers."""

from collections.abc import AsyncIterator

import pytest

from cairn.bus import Bus
from handlers.execute import Executor
from ledger.ledger import Ledger


@pytest.fixture
async def bus(nats_url: str, tenant: str) -> AsyncIterator[Bus]:
    async with Bus.connect(nats_url) as bus:
        yield bus
        for name in (await bus.api("STREAM.NAMES"))["streams"] or ():
            if name.startswith(f"{tenant.upper()}_"):
                await bus.api(f"STREAM.DELETE.{name}")


@pytest.fixture
async def ledger(postgres_url: str, tenant: str) -> AsyncIterator[Ledger]:
    """Without a bus."""
    async with Ledger.open(postgres_url, tenant=tenant) as ledger:
        yield ledger


@pytest.fixture
def executor(ledger: Ledger) -> Executor:
    return Executor(ledger)
