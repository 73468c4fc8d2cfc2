"""A tenant's stream as somebody else filled it: what relays and comparisons have to notice."""

from collections.abc import Sequence
from typing import Any

from appends import everything_in
from msgspec.structs import replace

from cairn.bus import Bus
from ledger.announce import announce
from ledger.ledger import Ledger
from ledger.recorded import Recorded
from ledger.stream import create, stream_config, stream_name


async def stream_by_hand(
    ledger: Ledger, bus: Bus, events: Sequence[Recorded], *, first: int = 1, without: int | None = None
) -> str:
    """The stream of the ledger's epoch with these events, the first at the sequence `first`; one may be deleted from
    its middle again. Its name."""
    head, origin = await ledger._head_and_origin()
    config: dict[str, Any] = stream_config(ledger.tenant, head.epoch, origin, 1)
    await create(bus, {**config, "deny_delete": without is None}, first)
    for event in events:
        answer = await bus.store(*announce(event, ledger.tenant, head.epoch, bus.max_payload))
        assert "error" not in answer
    name = stream_name(ledger.tenant, head.epoch)
    if without is not None:
        assert (await bus.api(f"STREAM.MSG.DELETE.{name}", {"seq": without}))["success"]
        assert "error" not in await bus.api(f"STREAM.UPDATE.{name}", config)
    return name


def forged(event: Recorded) -> Recorded:
    """Another event at the same place."""
    return replace(event, actor="mallory")


async def quarantined(bus: Bus, tenant: str) -> list[tuple[dict[str, str], bytes]]:
    """Headers and bytes of what is in quarantine."""
    kept = await everything_in(bus, f"{tenant.upper()}_QUARANTINE")
    return [(message.headers or {}, message.data) for message in kept]
