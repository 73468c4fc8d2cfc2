"""Both logs are equal, or the first difference is named: its position, and why."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from appends import SECONDS, append, fill, started
from by_hand import forged, stream_by_hand
from msgspec.structs import replace

from cairn.bus import Bus
from domain.events import TaskDispatched
from ledger import compare as comparing
from ledger import relay
from ledger.announce import announce, subject_for
from ledger.append import Append, NewEvent
from ledger.codec import encode
from ledger.compare import Compared, compare, differences
from ledger.ledger import Ledger
from ledger.recorded import Recorded
from ledger.stream import stream_config, stream_name


@pytest.fixture
async def relayed(postgres_url: str, tenant: str, bus: Bus) -> AsyncIterator[Ledger]:
    async with Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger:
        yield ledger


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no relay is at work nothing is worth waiting for."""
    monkeypatch.setattr(comparing, "PATIENCE_SECONDS", 0.2)


async def compared(ledger: Ledger, bus: Bus, first: int = 1, last: int | None = None) -> Compared:
    async with asyncio.timeout(SECONDS):
        return await compare(ledger.read, ledger._head_and_origin, bus, ledger.tenant, first, last)


async def difference(ledger: Ledger, bus: Bus, first: int = 1, last: int | None = None) -> tuple[int, str]:
    found = (await compared(ledger, bus, first, last)).difference
    assert found is not None
    return found.position, found.why


async def test_both_logs_are_equal_whole_and_in_part(
    relayed: Ledger, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "PATIENCE_SECONDS", SECONDS)
    monkeypatch.setattr(comparing, "BATCH", 64)
    await relayed.append(append("workflow-a", 0, 700))
    name = stream_name(relayed.tenant, 1)
    assert await compared(relayed, bus) == Compared(name, 1, 700, 0, None)
    assert await compared(relayed, bus, 65, 300) == Compared(name, 65, 300, 0, None)
    assert await compared(relayed, bus, 690, 9_999) == Compared(name, 690, 700, 0, None)
    assert await compared(relayed, bus, 701) == Compared(name, 701, 700, 0, None)


async def test_what_is_being_recorded_meanwhile_is_waited_for(
    relayed: Ledger, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "PATIENCE_SECONDS", SECONDS)
    appending = asyncio.create_task(fill(relayed, "workflow-a", 300))
    lasts = []
    while not appending.done():
        found = await compared(relayed, bus)
        assert found.difference is None
        lasts.append(found.last)
    await appending
    assert lasts == sorted(lasts) and lasts[-1] > 0


async def test_what_lies_before_the_window_is_counted(
    relayed: Ledger, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "PATIENCE_SECONDS", SECONDS)
    monkeypatch.setattr(relay, "WINDOW_EVENTS", 10)
    await relayed.append(append("workflow-a", 0, 50))
    assert relayed.relay is not None
    name = await relayed.relay.rebuild()
    assert await compared(relayed, bus) == Compared(name, 41, 50, 40, None)
    assert await compared(relayed, bus, 31, 45) == Compared(name, 41, 45, 10, None)
    assert await compared(relayed, bus, 1, 20) == Compared(name, 41, 20, 20, None)
    assert (await compared(relayed, bus, 10, 5)).before == 0, "what nobody asked for is not counted"


async def test_an_event_too_large_for_a_message_is_told_by_its_digest(
    relayed: Ledger, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "PATIENCE_SECONDS", SECONDS)
    large = NewEvent(started(agent="x" * bus.max_payload), append("workflow-a", 0).events[0].id, "ann")
    await relayed.append(Append("workflow-a", 0, [large]))
    assert (await compared(relayed, bus)).difference is None


@pytest.mark.parametrize("place", [1, 7, 20])
async def test_another_event_at_a_sequence_is_found(ledger: Ledger, bus: Bus, place: int) -> None:
    events = await fill(ledger, "workflow-a", 20)
    others = [forged(event) if event.position == place else event for event in events]
    await stream_by_hand(ledger, bus, others)
    position, why = await difference(ledger, bus)
    assert position == place and "the same event, altered" in why
    assert (await compared(ledger, bus)).last == place - 1
    if place > 1:
        assert (await compared(ledger, bus, 1, place - 1)).difference is None
    if place < 20:
        assert (await compared(ledger, bus, place + 1)).difference is None


async def test_a_digest_alone_is_a_difference(ledger: Ledger, bus: Bus) -> None:
    events = await fill(ledger, "workflow-a", 3)
    await stream_by_hand(ledger, bus, [events[0], replace(events[1], digest=bytes(32)), events[2]])
    assert (await difference(ledger, bus))[0] == 2


async def test_a_message_under_another_subject_is_a_difference(ledger: Ledger, bus: Bus) -> None:
    """It reaches others than it should: the role is in the subject."""
    event = TaskDispatched("a", "t", "t/1", 1, "coder", token=1, due=1.0, lease_seconds=1.0, timeout_seconds=1.0)
    (recorded,) = await ledger.append(
        Append("workflow-a", 0, [NewEvent(event, append("workflow-a", 0).events[0].id, "ann")])
    )
    assert recorded.state == encode(event) and subject_for(recorded, ledger.tenant).endswith(".dispatched.coder")
    await stream_by_hand(ledger, bus, [])
    subject, body, headers = announce(recorded, ledger.tenant, 1, bus.max_payload)
    await bus.store(subject.replace(".coder", ".fixer"), body, headers)
    position, why = await difference(ledger, bus)
    assert position == 1 and "dispatched.fixer" in why


@pytest.mark.parametrize("noise", ["noise", "\0", '{"sequence":"0"}', "no number", "no digest", "too deep"])
async def test_what_is_no_announcement_is_a_difference(ledger: Ledger, bus: Bus, noise: str) -> None:
    events = await fill(ledger, "workflow-a", 2)
    await stream_by_hand(ledger, bus, events[:1])
    subject, body, headers = announce(events[1], ledger.tenant, 1, bus.max_payload)
    bodies = {
        "no number": body.replace(b'"sequence":"0', b'"sequence":"x'),
        "no digest": body.replace(b'"digest":"', b'"digest":"x'),
        "too deep": body.replace(b'"data":', b'"data":' + b"[" * 100_000),
    }
    await bus.store(subject, bodies.get(noise, noise.encode()), headers)
    position, why = await difference(ledger, bus)
    assert position == 2 and "no announcement" in why


async def test_a_message_that_is_missing_in_the_middle_is_found(ledger: Ledger, bus: Bus) -> None:
    await stream_by_hand(ledger, bus, await fill(ledger, "workflow-a", 20), without=8)
    assert await difference(ledger, bus) == (8, "it is missing in the stream")
    assert (await compared(ledger, bus, 1, 7)).difference is None


async def test_a_stream_that_goes_on_behind_the_ledger_is_found(ledger: Ledger, bus: Bus) -> None:
    events = await fill(ledger, "workflow-a", 5)
    await stream_by_hand(ledger, bus, [*events, replace(events[-1], position=6)])
    position, why = await difference(ledger, bus)
    assert position == 6 and "the ledger ends before it" in why
    assert (await compared(ledger, bus, 1, 5)).difference is None


async def test_a_stream_that_ends_before_the_ledger_or_is_not_there_is_found(ledger: Ledger, bus: Bus) -> None:
    events = await fill(ledger, "workflow-a", 5)
    assert await difference(ledger, bus) == (1, "there is no stream")
    await stream_by_hand(ledger, bus, events[:3])
    assert await difference(ledger, bus) == (4, "it is recorded, and not in the stream")
    assert (await compared(ledger, bus)).last == 3


async def test_an_empty_ledger_equals_no_stream(ledger: Ledger, bus: Bus) -> None:
    assert (await compared(ledger, bus)).difference is None


async def test_a_stream_that_is_lost_while_it_is_compared_is_no_difference(
    ledger: Ledger, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can tell then, and it is asked again: the next time it is whole."""
    monkeypatch.setattr(comparing, "BATCH", 5)
    events = await fill(ledger, "workflow-a", 40)
    name = await stream_by_hand(ledger, bus, events)
    _, origin = await ledger._head_and_origin()
    config = stream_config(ledger.tenant, 1, origin, 1)
    again = [events[:20], events]

    async def read(after: int, limit: int) -> list[Recorded]:
        if again and after > 0:
            await bus.api(f"STREAM.DELETE.{name}")
            await stream_by_hand(ledger, bus, again.pop(0))
        return await ledger.read(after, limit)

    with pytest.raises(LookupError):
        async with aclosing(differences(bus, config, ledger.tenant, read, 1, 40)) as found:
            await anext(found, None)
    with pytest.raises(LookupError, match="lost what it held"):
        async with aclosing(differences(bus, config, ledger.tenant, ledger.read, 1, 40)) as found:
            await anext(found, None)
    async with asyncio.timeout(SECONDS):
        compared = await compare(read, ledger._head_and_origin, bus, ledger.tenant, 2, 40)
    assert (compared.difference, compared.last, again) == (None, 40, [])
