"""A disk that fills up under Postgres or under NATS: what was answered stays, what was not is asked again, nothing else."""

import asyncio
import os
from pathlib import Path

import pytest

from cairn.bus import Bus
from ledger.ledger import Ledger
from ops.embedded import Embedded
from tests.chaos.worker import append_of
from tests.ledger.appends import assert_both_logs_equal, until

PAD = 8_000
EVENTS = 50


def fill_up(disk: Path) -> Path:
    """All but the last few pages."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
        os.posix_fallocate(file.fileno(), 0, free - 256 * 1024)
    return filler


async def append_until(ledger: Ledger, enough: asyncio.Event) -> list[int]:
    """The positions that were answered, of appends one after another."""
    answered: list[int] = []
    while not enough.is_set():
        name = f"{len(answered)}-{'x' * PAD}"
        recorded = await ledger.append(append_of(name, "workflow-disk", len(answered), 1))
        answered += [event.position for event in recorded]
    return answered


@pytest.mark.parametrize("store", ["postgres", "nats"])
async def test_a_full_disk_holds_up_and_loses_nothing(small_disk: Path, data_dir: Path, store: str) -> None:
    (small_disk / store).mkdir(parents=True)
    data = data_dir / "data"
    data.mkdir()
    if store == "nats":
        (data / "nats").symlink_to(small_disk / "nats")
    servers = Embedded(small_disk / "data", nats_url="nats://unused") if store == "postgres" else Embedded(data)
    buses = Embedded(data, database_url="postgresql://unused") if store == "postgres" else servers
    both = {servers, buses}
    for one in both:
        await one.start()
    watching = [asyncio.create_task(one.watch()) for one in both]
    try:
        async with (
            Bus.connect(buses.nats_url, name="full") as bus,
            Ledger.open(servers.database_url, tenant="full", bus=bus) as ledger,
        ):
            assert ledger.relay
            enough = asyncio.Event()
            appending = asyncio.create_task(append_until(ledger, enough))
            await until(lambda: ledger.relay.last >= EVENTS)
            filler = fill_up(small_disk)
            before = ledger.relay.last
            await held_up(ledger, store)
            filler.unlink()
            await until(lambda: ledger.relay.last > before + 2 * EVENTS)
            enough.set()
            answered = await appending
            assert answered == list(range(1, len(answered) + 1))
            await assert_both_logs_equal(ledger, bus)
    finally:
        for task in watching:
            task.cancel()
        for one in both:
            await one.stop()


async def held_up(ledger: Ledger, store: str) -> None:
    """Returns when the store has taken nothing for a second."""
    assert ledger.relay
    while True:
        before = ledger.relay.head if store == "postgres" else ledger.relay.last
        await asyncio.sleep(1.0)
        if before == (ledger.relay.head if store == "postgres" else ledger.relay.last):
            return
