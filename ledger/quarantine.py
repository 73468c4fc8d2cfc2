"""What contradicted the ledger, kept for people to look at before its stream is given up: `<TENANT>_QUARANTINE`.

Every message there has the bytes that were found, and in its headers from which stream, sequence and subject it comes
and why it was refused. It is bounded (the oldest go first), no one reads it, and nothing is ever taken back from it.
"""

from contextlib import aclosing
from typing import Any

from ledger.announce import Announcement
from ledger.compare import Difference, differences
from ledger.ports import Bus
from ledger.stream import State
from ledger.verify import Read

AROUND_EVENTS = 10_000
"""So far before and behind the place that was noticed others are looked for."""
KEPT_MESSAGES = 20_000
KEPT_BYTES = 32 * 1024 * 1024
AT_ONCE = 10
HEADER_BYTES = 4_096
"""More than our headers of one message take."""


def quarantine_config(tenant: str) -> dict[str, Any]:
    return {
        "name": f"{tenant.upper()}_QUARANTINE",
        "description": f"Messages that contradicted the ledger of the tenant {tenant}, kept for inspection.",
        "subjects": [f"cairn.{tenant}.quarantine"],
        "retention": "limits",
        "storage": "file",
        "discard": "old",
        "max_msgs": KEPT_MESSAGES,
        "max_bytes": KEPT_BYTES,
        "metadata": {"owner": "cairn", "tenant": tenant},
    }


async def keep(
    bus: Bus, tenant: str, config: dict[str, Any], state: State, read: Read, position: int
) -> tuple[int, Difference | None]:
    """Copies what contradicts the ledger around a position of the stream; how many messages that were, and the first
    difference. What two relays copy at once is there once. ValueError, with the reason, if it cannot be kept."""
    first, last = max(state.first, position - AROUND_EVENTS), min(state.last, position + AROUND_EVENTS)
    _accepted(await bus.ensure_stream({**quarantine_config(tenant), "num_replicas": config["num_replicas"]}))
    kept: list[Difference] = []
    count, earliest = 0, None
    async with aclosing(differences(bus, config, tenant, read, first, last)) as found:
        async for difference in found:
            earliest = earliest or difference
            if difference.message is not None:
                kept.append(difference)
            if len(kept) == AT_ONCE:
                count += await _store(bus, tenant, config["name"], kept)
    return count + await _store(bus, tenant, config["name"], kept), earliest


async def _store(bus: Bus, tenant: str, stream: str, kept: list[Difference]) -> int:
    """Stores them, and empties the list."""
    letters = [_letter(tenant, stream, one, bus.max_payload) for one in kept]
    kept.clear()
    if letters:
        _accepted(await bus.store_batch(letters))
    return len(letters)


def _letter(tenant: str, stream: str, difference: Difference, max_payload: int) -> Announcement:
    message = difference.message
    assert message is not None
    headers = {
        "Nats-Msg-Id": f"{stream}-{difference.position}",
        "Cairn-Stream": stream,
        "Cairn-Sequence": str(difference.position),
        "Cairn-Subject": message.subject,
        "Cairn-Bytes": str(len(message.data)),
        "Cairn-Why": " ".join(difference.why.split())[:500],
    }
    return f"cairn.{tenant}.quarantine", message.data[: max_payload - HEADER_BYTES], headers


def _accepted(answer: dict[str, Any]) -> None:
    if error := answer.get("error"):
        raise ValueError(f"JetStream does not take it: {error.get('description')} (err_code {error.get('err_code')})")
