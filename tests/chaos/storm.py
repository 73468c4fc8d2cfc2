"""A storm: two writers and a follower at work on one ledger while kill -9 and worse come down on everything.

What happens when is drawn from the seed, counted in events and not in seconds; how far a process has come in its work
when it is hit is left to chance. NATS is also rolled back to an earlier copy of its store: what a disk that lied about
its syncs leaves after a power loss. At the end everything runs again, is stopped in peace, and both logs are read whole.
"""

import asyncio
import os
import random
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import psycopg

from cairn.bus import Bus
from ledger.codec import event_id
from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger
from ledger.recorded import Recorded
from ops.embedded import Embedded
from ops.embedded.nats import Nats
from ops.embedded.postgres import Postgres
from tests.chaos.worker import command_of, perform, seen
from tests.cluster import fast_disk, with_cluster
from tests.forks import FORKS
from tests.ledger.appends import all_of, assert_both_logs_equal

SECONDS = 60.0
"""Longer than any recovery takes; a storm that waits for so long has found something stuck."""
FAULTS = ("writer", "writer", "writer", "follower", "postgres", "postgres backend", "nats", "nats rolled back", "clock")
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


class Storm:
    """`servers` are shared by storms one after another; each has a tenant of its own."""

    def __init__(self, seed: int, servers: Embedded, folder: Path) -> None:
        self._dice, self._servers, self._folder = random.Random(seed), servers, folder
        self.tenant = f"storm{seed}"
        self._workers: dict[str, ForkServerProcess] = {}
        self._clocks: dict[str, str] = {}
        self.faults: Counter[str] = Counter()

    async def run(self) -> "Storm":
        try:
            async with Ledger.open(self._servers.database_url, tenant=self.tenant) as ledger:
                for name in ("ann", "bob", "follower"):
                    self._start(name)
                await self._grown(ledger, 50)
                for fault in self._dice.choices(FAULTS, k=self._dice.randint(3, 6)):
                    await self._grown(ledger, self._dice.randint(5, 300))
                    await self._strike(fault, ledger)
                    self.faults[fault] += 1
                await self._grown(ledger, 100)
                await self._everyone_at_work(ledger)
            await self._stop()
            await self._judge()
        finally:
            for name in self._workers:
                self._kill(name)
        return self

    async def _strike(self, fault: str, ledger: Ledger) -> None:
        postgres, nats = self._servers.postgres, self._servers.nats
        assert postgres
        assert nats
        match fault:
            case "writer" | "clock":
                name = self._dice.choice(("ann", "bob"))
                if fault == "clock":
                    self._clocks[name] = self._dice.choice(("-2h", "-3d", "+1d"))
                self._kill(name)
                self._start(name)
            case "follower":
                self._kill("follower")
                self._start("follower")
            case "postgres":
                await self._kill_server(postgres)
            case "postgres backend":
                await self._kill_backend()
            case "nats":
                await self._kill_server(nats)
            case "nats rolled back":
                store, copy = nats.folder / "jetstream", self._folder / "jetstream"
                shutil.rmtree(copy, ignore_errors=True)
                await self._kill_server(nats, lambda: shutil.copytree(store, copy))
                await self._grown(ledger, self._dice.randint(5, 300))
                await self._kill_server(nats, lambda: (shutil.rmtree(store), shutil.copytree(copy, store)))

    async def _kill_server(self, server: Postgres | Nats, meanwhile: Callable[[], object] = lambda: None) -> None:
        assert server.child.pid
        os.kill(server.child.pid, signal.SIGKILL)
        await server.child.exited()
        meanwhile()
        await server.start()

    async def _kill_backend(self) -> None:
        """kill -9 of one process of Postgres: the others end too, and it recovers."""
        async with await psycopg.AsyncConnection.connect(self._servers.database_url) as connection:
            rows = await connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            pids = sorted(pid for (pid,) in await rows.fetchall())
        if pids:
            os.kill(self._dice.choice(pids), signal.SIGKILL)

    def _start(self, name: str) -> None:
        what = "follow" if name == "follower" else "write"
        where = [self._servers.database_url, self.tenant, self._servers.nats_url]
        arguments = (what, *where, str(self._folder / f"{name}.txt"), name)
        clock = self._clocks.get(name)
        fake = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": clock, "FAKETIME_DONT_FAKE_MONOTONIC": "1"} if clock else {}
        work = (arguments, self._folder / f"{name}.log", fake if FAKETIME.exists() else {})
        worker = FORKS.Process(target=perform, args=work)
        worker.start()
        self._workers[name] = worker

    def _kill(self, name: str) -> None:
        self._workers[name].kill()
        self._workers[name].join()

    async def _grown(self, ledger: Ledger, events: int) -> None:
        """Returns when so many more are recorded; who died of a server that was away is started again."""
        goal = 0
        async with asyncio.timeout(SECONDS):
            while True:
                self._revive()
                try:
                    position = (await ledger.head()).position
                except LedgerUnavailable:
                    position = 0
                goal = goal or (position and position + events)
                if goal and position >= goal:
                    return
                await asyncio.sleep(0.01)

    def _revive(self) -> None:
        for name, worker in self._workers.items():
            if worker.exitcode is not None:
                self._start(name)

    async def _everyone_at_work(self, ledger: Ledger) -> None:
        """Each writer is told something new, and the follower sees the ledger as it stands now."""
        before = {name: self._told(name) for name in ("ann", "bob")}
        head = (await ledger.head()).position
        async with asyncio.timeout(SECONDS):
            while any(self._told(name) <= told for name, told in before.items()) or self._followed() < head:
                self._revive()
                await asyncio.sleep(0.02)

    def _told(self, name: str) -> int:
        file = self._folder / f"{name}.txt"
        return sum(not line.startswith("try") for line in file.read_text().split("\n")) if file.exists() else 0

    def _followed(self) -> int:
        lines = seen(self._folder / "follower.txt")
        return lines[-1][0] if lines else 0

    async def _stop(self) -> None:
        """The writers first, so that the follower can see the end."""
        for name in ("ann", "bob"):
            writer = self._workers.pop(name)  # nobody is to start it again
            writer.terminate()
            writer.join()
        async with Ledger.open(self._servers.database_url, tenant=self.tenant) as ledger:
            head = (await ledger.head()).position
        async with asyncio.timeout(SECONDS):
            while self._followed() < head:
                self._revive()
                await asyncio.sleep(0.02)
        self._kill("follower")

    async def _judge(self) -> None:
        async with (
            Bus.connect(self._servers.nats_url, name="judge") as bus,
            Ledger.open(self._servers.database_url, tenant=self.tenant, bus=bus) as ledger,
        ):
            await assert_both_logs_equal(ledger, bus)
            recorded = await all_of(ledger)
        self._nothing_lost(recorded)
        assert seen(self._folder / "follower.txt") == [(event.position, event.digest.hex()) for event in recorded], (
            "the follower saw each event once, in order"
        )
        versions: Counter[str] = Counter()
        for event in recorded:
            versions[event.stream] += 1
            assert event.version == versions[event.stream]

    def _nothing_lost(self, recorded: list[Recorded]) -> None:
        """Every command that was answered is there as answered, every refused one absent, the others whole or absent."""
        positions = {event.id: event.position for event in recorded}
        for name in ("ann", "bob"):
            for line in (self._folder / f"{name}.txt").read_text().split("\n"):
                verdict, *words = line.split() or [""]
                if verdict == "recorded":
                    command, *told = words
                    assert [positions[event_id(command_of(command), n)] for n in range(len(told))] == [*map(int, told)]
                elif verdict == "refused":
                    assert event_id(command_of(words[0]), 0) not in positions, line


@asynccontextmanager
async def servers() -> AsyncIterator[tuple[Embedded, Path]]:
    """A Postgres and a NATS to be killed, and a folder for diaries."""
    folder = Path(tempfile.mkdtemp(prefix="cairn-chaos-", dir=fast_disk()))
    folder.chmod(0o711)
    running = Embedded(with_cluster(folder / "data"), tell=lambda _: None)
    try:
        await running.start()
        yield running, folder
    finally:
        await running.stop()
        shutil.rmtree(folder)


async def story(seed: int, running: Embedded, folder: Path) -> Storm:
    place = folder / f"seed{seed}"
    place.mkdir()
    return await Storm(seed, running, place).run()
