"""The gateway over a real ledger, board and bus, on a free port; and the little that tests do to it from outside."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import aiohttp
import msgspec
import psycopg
from aiohttp import web
from psycopg import sql

from cairn.bus import Bus
from cairn.config import Connection
from domain.commands import ReportCompleted
from domain.outcome import Result
from gateway.agents import Agents
from gateway.connection import Runner
from gateway.http import application
from handlers.execute import Executor, Order
from handlers.kinds import WORKFLOW
from handlers.registry import Registry
from handlers.roster import Roster
from handlers.valve import Valve
from ledger.cancel import end
from ledger.ledger import Ledger
from ledger.names import schema_of, views_of
from ledger.postgres import Pool, pool
from ledger.stream import streams_of
from ops.adapters import Timers
from ops.embedded import Embedded
from projections.board import Board
from projections.project import Projection
from projections.quality import Standards
from projections.recovery import Recovery
from projections.spend import Spending

TOKEN = "a-token-for-tests"
PLAN: dict[str, Any] = {"id": "demo", "title": "Demo", "tasks": [{"id": "a"}, {"id": "b", "dependencies": ["a"]}]}
ASKING: dict[str, Any] = {"id": "asking", "tasks": [{"id": "a", "approval": ["before_dispatch"]}]}


class Served(NamedTuple):
    url: str
    ledger: Ledger
    executor: Executor
    board: Projection
    recovery: Projection
    views: tuple[Projection, ...]
    pool: Pool
    bus: Bus
    where: Connection
    agents: Agents

    def application(self, **more: Any) -> web.Application:
        return application(
            executor=self.executor, ledger=self.ledger, board=self.board, views=self.views,
            pool=self.pool, bus=self.bus, agents=self.agents, token=TOKEN, version="0.0.test", **more,
        )  # fmt: skip

    async def head(self) -> int:
        return (await self.ledger.head()).position

    async def finish(self, workflow: str) -> None:
        """Does what agents would do, until nothing is left to do."""
        while runs := [task.run for task in (await self.executor.state(workflow, WORKFLOW)).tasks.values() if task.run]:
            for run in runs:
                name = run.id.partition("/")[0]
                done = ReportCompleted(
                    now=time.time(), task=name, run=run.id, token=run.token, agent="ann", result=Result("done")
                )
                await self.executor.execute(workflow, Order(uuid4(), done, "ann"))


@asynccontextmanager
async def served(
    postgres_url: str, nats_url: str, tenant: str, *, admin_url: str | None = None
) -> AsyncIterator[Served]:
    """`admin_url` reaches the same Postgres when `postgres_url` is about to fail."""
    try:
        async with Bus.connect(nats_url, name="test-gateway") as bus:
            async with (
                Ledger.open(postgres_url, tenant=tenant, bus=bus) as ledger,
                pool(postgres_url, tenant, size=10, views=True) as readers,
            ):
                board, recovery = Projection(readers, Board()), Projection(readers, Recovery())
                views = (board, recovery, Projection(readers, Spending()), Projection(readers, Standards()))
                for view in views:
                    await view.install()
                projecting = [asyncio.create_task(view.run(ledger)) for view in views]
                where = Connection(nats_url, "", TOKEN, tenant, Path("/nonexistent"))
                executor = Executor(ledger)
                agents = _agents(executor, ledger, board, readers, bus, nats_url)
                system = Served("", ledger, executor, board, recovery, views, readers, bus, where, agents)
                async with listening(system) as url:
                    where = msgspec.structs.replace(where, url=url)
                    yield system._replace(url=url, where=where)
                await end(projecting)
            with suppress(ConnectionError, TimeoutError):  # a stream reserves its room on the disk
                for name in await streams_of(bus, tenant):
                    await bus.api(f"STREAM.DELETE.{name}")
    finally:
        async with await psycopg.AsyncConnection.connect(admin_url or postgres_url, autocommit=True) as connection:
            schemas = sql.Identifier(schema_of(tenant)), sql.Identifier(views_of(tenant))
            await connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {}, {} CASCADE").format(*schemas))


def _agents(executor: Executor, ledger: Ledger, board: Projection, readers: Pool, bus: Bus, nats_url: str) -> Agents:
    """As where NATS is the user's own: whoever is let in gets its URL."""
    timers = Timers(readers, board, ledger, bus)
    registry, valve = Registry(executor, timers), Valve(bus, ledger, executor)
    own = Embedded(Path("/nonexistent"), database_url="postgresql://unused", nats_url=nats_url)
    roster = Roster(bus, ledger, timers, registry, valve, ledger.tenant)
    return Agents(ledger.tenant, registry, readers, own.admit, roster.tell_drained)


@asynccontextmanager
async def listening(system: Served, port: int = 0) -> AsyncIterator[str]:
    """A gateway of this system; its URL."""
    runner = Runner(system.application(), shutdown_timeout=5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def served_in_thread(postgres_url: str, nats_url: str, tenant: str) -> Iterator[tuple[Served, Any]]:
    """The same in a thread of its own, for tests that block; with `call(coroutine)`, which runs it there."""
    loop, started, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    found: list[Served] = []

    async def serve() -> None:
        try:
            async with served(postgres_url, nats_url, tenant) as system:
                found.append(system)
                started.set()
                await stop.wait()
        finally:
            started.set()

    serving = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    serving.start()
    started.wait(30)
    try:
        yield found[0], lambda coroutine: asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)
    finally:
        loop.call_soon_threadsafe(stop.set)
        serving.join(30)
        loop.close()


@asynccontextmanager
async def asking(url: str, **headers: str) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(url, headers={"Authorization": f"Bearer {TOKEN}", **headers}) as session:
        yield session


class Line:
    """A TCP line to an address, which a test can cut. `budgets` says after how many answered bytes each call is cut."""

    def __init__(self, connect: Any, budgets: Iterator[int] | None = None) -> None:
        self._connect, self._budgets = connect, budgets
        self.cuts = 0
        self._open: set[asyncio.StreamWriter] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield self._server.sockets[0].getsockname()[1]
        finally:
            self.cut()
            await self._server.wait_closed()

    def cut(self) -> None:
        """From now on nobody gets through."""
        self._server.close()
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await self._connect()
        if not self._server.is_serving():  # it was cut meanwhile
            for one in (writer, back):
                one.transport.abort()
            return
        self._open |= {writer, back}
        budget = next(self._budgets) if self._budgets else 2**62
        pumps = [asyncio.create_task(_pump(reader, back, 2**62)), asyncio.create_task(_pump(there, writer, budget))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        self.cuts += 1
        for pump in pumps:
            pump.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        for one in (writer, back):
            self._open.discard(one)
            one.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int) -> None:
    while budget and (some := await reader.read(min(65_536, budget))):
        writer.write(some)
        await writer.drain()
        budget -= len(some)
