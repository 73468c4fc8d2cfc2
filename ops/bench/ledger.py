"""`cairn bench ledger`: the event log alone, beside the raw limits of the machine in the same run.

A Postgres and a NATS of its own in a temporary data directory, fsync on; writers and followers are processes of their
own. What is compared is measured within seconds of each other, and given as a ratio.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from cairn.bus import Bus
from ledger.audit import audit
from ledger.ledger import Ledger
from ops.bench.limits import limits, table_rate
from ops.bench.recorder import recorder_rates
from ops.bench.usage import machine
from ops.bench.writers import appended
from ops.embedded import Embedded

SECONDS = 3.0
SUSTAINED_SECONDS = 10.0
SUSTAINED_EVENTS_PER_S = (5_000, 7_500, 10_000)
SHAPES = ((1, 1), (8, 1), (64, 1), (1, 10), (8, 10), (64, 10), (8, 100), (64, 100))
"""Writers at once, events in an append."""
FILL_EVENTS = 1_000
MEASURED_APPENDS = 40
TURNS = 5

Show = Callable[[dict[str, Any]], None]


async def main(events: int, show: Show) -> int:
    """`events` is how large the ledger is filled to see that an append's cost does not grow."""
    show({"bench": "this machine", **await asyncio.to_thread(machine)})
    async with fresh_servers() as servers:
        dsn, nats_url = servers.database_url, servers.nats_url
        async with Bus.connect(nats_url, name="bench") as bus:
            raw = await limits(dsn, bus)
        show({"bench": "raw limits, rows a second", **raw})
        batch_ms = 100 / raw["jetstream_batches_100"] * 1e3
        alone: dict[int, float] = {}
        for writers, group in SHAPES:
            figures = await _append(dsn, f"w{writers}x{group}", writers, group)
            if group == 1:
                alone[writers] = figures["events_per_s"]
            show(figures)
        show(await _of_raw(dsn))
        show(await _append(dsn, "p4", 16, 1, processes=4))
        if rates := await asyncio.to_thread(recorder_rates, dsn, (8, 64)):
            ratios = {f"ours_to_theirs_{many}": round(alone[many] / rate, 1) for many, rate in rates.items()}
            show({"bench": "eventsourcing recorder", **{f"events_per_s_{n}": r for n, r in rates.items()}, **ratios})
        for rate in SUSTAINED_EVENTS_PER_S:
            show(await _sustained(dsn, nats_url, rate, batch_ms))
        await _grown(dsn, events, show)
    return 0


async def _append(dsn: str, tenant: str, writers: int, group: int, *, processes: int = 1) -> dict[str, Any]:
    async with AsyncExitStack() as stack:
        children = [
            await stack.enter_async_context(_child("writers", dsn, tenant, "-", writers, group, SECONDS, 0))
            for _ in range(processes)
        ]
        outcomes = await asyncio.gather(*(child() for child in children))
    rate = sum(outcome["events_per_s"] for outcome in outcomes)
    slowest = {name: max(outcome[name] for outcome in outcomes) for name in ("p50_ms", "p99_ms")}
    shape = {"bench": "append", "processes": processes, "writers": writers * processes, "events_in_append": group}
    return {**shape, "events_per_s": rate, **slowest}


async def _of_raw(dsn: str) -> dict[str, Any]:
    """64 writers beside raw `unnest` of 64 rows, in turns, because the machine has other moods from second to second."""
    ratios = []
    for turn in range(TURNS):
        raw = await table_rate(dsn, 64)
        ratios.append((await _append(dsn, f"turn{turn}", 64, 1))["events_per_s"] / raw)
    ratios.sort()
    return {
        "bench": "64 writers of raw unnest of 64 rows", "turns": TURNS, "least": round(ratios[0], 2),
        "median": round(ratios[TURNS // 2], 2), "most": round(ratios[-1], 2),
    }  # fmt: skip


async def _sustained(dsn: str, nats_url: str, rate: int, batch_ms: float) -> dict[str, Any]:
    """Events at a steady pace: how long after its commit an append is in JetStream, and how long after it was recorded
    another process has seen it, the commit and the way there included. A lag is also given in *batches*: how often an
    idle server would have stored an atomic batch of 100 in that time, `batch_ms` each, which is the disk's doing."""
    async with AsyncExitStack() as stack:
        tenant = f"at{rate}"
        arguments = (dsn, tenant, nats_url)
        paced = (8, 10, SUSTAINED_SECONDS, rate)
        writer = await stack.enter_async_context(_child("writers", *arguments, *paced))
        follower = await stack.enter_async_context(_child("follower", *arguments))
        wrote = await writer()
        async with Ledger.open(dsn, tenant=tenant) as ledger:
            head = (await ledger.head()).position
        saw = await follower()
    return {
        "bench": "relay and follow", "paced_per_s": rate, "events_per_s": wrote["events_per_s"],
        "append_p50_ms": wrote["p50_ms"], "append_p99_ms": wrote["p99_ms"], "relay_p50_ms": wrote["relay"]["p50_ms"],
        "relay_p99_ms": wrote["relay"]["p99_ms"], "relay_p99_batches": round(wrote["relay"]["p99_ms"] / batch_ms, 1),
        "seen": saw["events"], "head": head, "seen_p50_ms": saw["p50_ms"],
        "seen_p99_ms": saw["p99_ms"],
    }  # fmt: skip


async def _grown(dsn: str, events: int, show: Show) -> None:
    """Fills a ledger and shows what an append costs on the way; then what reading it costs."""
    async with Ledger.open(dsn, tenant="grown") as ledger:
        position = 0
        for size in sorted({10_000 * 10**power for power in range(4) if 10_000 * 10**power < events} | {events}):
            while position < size:
                await asyncio.gather(*(_fill(ledger, position + FILL_EVENTS * n) for n in range(4)))
                position += FILL_EVENTS * 4
            begun = time.perf_counter()
            for _ in range(MEASURED_APPENDS):
                await _fill(ledger, position)
                position += FILL_EVENTS
            cost = (time.perf_counter() - begun) / (MEASURED_APPENDS * FILL_EVENTS)
            show({"bench": "append to a ledger of", "events": size, "us_per_event": round(cost * 1e6, 1)})
        begun = time.perf_counter()
        async with aclosing(ledger.follow(0)) as batches:
            seen = 0
            while seen < position:
                seen += len(await anext(batches))
        show({"bench": "follow from the start", "events_per_s": round(seen / (time.perf_counter() - begun))})
        begun = time.perf_counter()
        verified = await ledger.verify()
        show({"bench": "verify in one process", "events_per_s": round(verified.events / (time.perf_counter() - begun))})
        begun = time.perf_counter()
        verified = await audit(dsn, "grown")
        show({"bench": "audit verify", "events_per_s": round(verified.events / (time.perf_counter() - begun))})


async def _fill(ledger: Ledger, number: int) -> None:
    await ledger.append(appended(f"workflow-{number}", 0, FILL_EVENTS))


@asynccontextmanager
async def fresh_servers() -> AsyncIterator[Embedded]:
    folder = Path(tempfile.mkdtemp(prefix="cairn-bench-"))
    folder.chmod(0o711)
    servers = Embedded(folder, tell=lambda _: None)
    try:
        await servers.start()
        yield servers
    finally:
        await servers.stop()
        shutil.rmtree(folder)


@asynccontextmanager
async def _child(module: str, *arguments: object) -> AsyncIterator[Callable[[], Any]]:
    """A process of `ops.bench`, ready. What is yielded begins it (or, of a follower, ends it) and gives its figures."""
    child = await asyncio.to_thread(_spawn, module, arguments)

    def outcome() -> dict[str, Any]:
        out, _ = child.communicate("go\n", timeout=120)
        figures: dict[str, Any] = json.loads(out.splitlines()[-1])
        return figures

    try:
        yield lambda: asyncio.to_thread(outcome)
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()


def _spawn(module: str, arguments: tuple[object, ...]) -> "subprocess.Popen[str]":
    child = subprocess.Popen(
        [sys.executable, "-m", f"ops.bench.{module}", *map(str, arguments)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert child.stdout
    if child.stdout.readline() != "ready\n":
        raise RuntimeError(f"ops.bench.{module} did not start")
    return child
