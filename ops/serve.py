"""The composition root: the only place that knows everyone. Nothing connects before `up` is called.

Start: Postgres and NATS (embedded, or yours), the ledger with its relay, the views, the inbox, the clock, the gateway,
then our own agents. Stop, in reverse: agents hand back what they run, the gateway closes, the ledger finishes what it
has taken, NATS and Postgres end last. What becomes of a component that fails stands in `ops.components`; what was
committed is there at the next start.
"""

import asyncio
import errno
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from uuid import uuid4

import msgspec
from aiohttp import web

from cairn.bus import Bus
from cairn.repository import Repository
from domain.claims import Limits, PauseDispatch
from gateway.agents import Agents
from gateway.connection import Runner
from gateway.http import application
from handlers.audits import Audits
from handlers.branches import Branches
from handlers.deadlines import Deadlines
from handlers.execute import Executor
from handlers.inbox import Inbox
from handlers.registry import Registry
from handlers.roster import Roster
from handlers.slots import Slots
from handlers.valve import Valve
from ledger.cancel import until_one_ends
from ledger.ledger import Ledger
from ledger.postgres import pool
from ops.adapters import Cursor, Refs, Timers
from ops.components import Component, Components
from ops.crew import Crew
from ops.embedded import embedded
from ops.garbage import collect_seldom
from ops.logs import LINES
from ops.masks import hide
from ops.prices import read as read_prices
from ops.settings import Settings, child_environment
from ops.settings import secrets as known_secrets
from ops.views import VIEWS
from projections.project import Projection

READERS = 7
"""Besides those that the views write on."""
PORTS = 20
"""Ports that are tried, from the configured one on."""
SHUTDOWN_SECONDS = 1.0


class Up(msgspec.Struct, frozen=True):
    """What a running system tells its own user's programs: `up.json` in the data directory, readable only by them."""

    pid: int
    url: str
    token: str
    nats_url: str
    database_url: str
    tenant: str
    repository: str


async def up(
    settings: Settings,
    *,
    tell: Callable[[str], None],
    ready: Callable[[Up], None] | None = None,
    testers: int = 1,
    paused: bool = False,
) -> int:
    """Runs the system until SIGINT or SIGTERM, then drains it. `ready` is called once all of it answers.

    `paused`: nothing is handed out to any agent until somebody resumes it.

    Raises what made it impossible: ServerFailed, AlreadyRunning, OSError for a port that is taken, MigrationError; and
    CancelledError when the signal comes while the servers start, which can take as long as a recovery does.
    """
    prices = read_prices(settings.prices)
    stop, starting = asyncio.Event(), asyncio.current_task()

    def on_signal() -> None:
        if starting is not None and not stop.is_set():
            starting.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(embedded(settings, tell))
        bus = await stack.enter_async_context(Bus.connect(servers.nats_url, name="cairn"))
        ledger = await stack.enter_async_context(
            Ledger.open(servers.database_url, tenant=settings.tenant, bus=bus, archive=settings.archive)
        )
        starting = None
        readers = await stack.enter_async_context(
            pool(servers.database_url, settings.tenant, size=READERS + len(VIEWS), views=True)
        )
        executor = Executor(ledger)
        views = {name: Projection(readers, view()) for name, view in VIEWS.items()}
        recovery = views["recovery"]
        for projection in views.values():
            await projection.install()
        timers = Timers(readers, recovery, ledger, bus)
        valve = Valve(bus, ledger, executor)
        deadlines = Deadlines(timers, executor, unanswered=valve.unanswered)
        limits = Limits(settings.max_workflows, settings.role_slots)
        slots = Slots(ledger, executor, Cursor(readers, "slots"), limits, valve)
        registry = Registry(executor, timers, settings.lease_seconds)
        roster = Roster(bus, ledger, timers, registry, valve, settings.tenant)
        if paused:
            await slots.dispatch(uuid4(), "cairn up", PauseDispatch(now=time.time(), by="cairn up", reason="--paused"))
        await slots.open()
        artifacts = await Repository.create(settings.artifacts)
        components = Components()
        stack.push_async_callback(components.stop)
        components.start(
            Component("servers", servers.watch, "ends"),
            *(Component(f"view {name}", partial(view.run, ledger)) for name, view in views.items()),
            Component("deadlines", deadlines.run),
            Component("deadlines' bell", partial(_ring, recovery, deadlines.bell)),
            Component("registry", registry.run),
            Component("valve", valve.run),
            Component("slots", slots.run),
            Component("branches", lambda: Branches(ledger, Refs(), Cursor(readers, "branches")).run()),
            Component("inbox", lambda: Inbox(bus, executor, settings.tenant).run()),
            Component("audits", Audits(ledger, executor, settings.audit_hours).run),
        )

        async def serve() -> None:
            await roster.open()
            token = secrets.token_urlsafe(32)
            hide([token, *known_secrets(servers.nats_url, servers.database_url)])
            app = application(
                executor=executor, ledger=ledger, views=views, pool=readers, bus=bus, token=token,
                agents=Agents(settings.tenant, registry, readers, servers.admit, roster.tell_drained),
                version=metadata.version("cairn"), lease_seconds=settings.lease_seconds, prices=prices,
                slots=slots, max_queued=settings.max_queued, max_streams=settings.max_streams,
                sla_seconds=settings.sla_seconds, hosts=[settings.listen.rpartition(":")[0].strip("[]")],
                faults=components.faults, log_lines=LINES,
            )  # fmt: skip
            async with listening(app, settings.listen, tell) as url:
                where = Up(
                    os.getpid(),
                    url,
                    token,
                    servers.nats_url,
                    servers.database_url,
                    settings.tenant,
                    str(artifacts.path),
                )
                file = settings.data_dir / "up.json"
                _write_private(file, msgspec.json.encode(where))
                crew = Crew(settings.data_dir, child_environment(settings))
                keep = (partial(crew.keep, f"tester-{n + 1}", ["--role", "tester"]) for n in range(testers))
                components.start(*(Component(f"tester {n + 1}", one) for n, one in enumerate(keep)))
                collect_seldom()
                if ready is not None:
                    ready(where)
                await stop.wait()
                tell("stopping: agents hand back what they run, then everything ends in order")
                await crew.stop()
                file.unlink(missing_ok=True)

        await until_one_ends(serve(), components.failed())
    return 0


@asynccontextmanager
async def listening(app: web.Application, listen: str, tell: Callable[[str], None]) -> AsyncIterator[str]:
    """Serves the gateway on `host:port`, or on the next free port when that one is taken; its URL."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")  # as an IPv6 address is written before a port
    runner = Runner(app, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        taken = None
        for candidate in range(int(port), int(port) + PORTS if int(port) else 1):
            try:
                await web.TCPSite(runner, host, candidate).start()
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise OSError(f"cannot listen on {listen}: {error.strerror}; set CAIRN_LISTEN") from error
                taken = error
        else:
            raise OSError(
                errno.EADDRINUSE, f"ports {port} to {candidate} of {host} are taken: set CAIRN_LISTEN"
            ) from taken
        bound = runner.addresses[0][1]
        if taken is not None:
            tell(f"port {port} is taken: listening on {bound}")
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}"
    finally:
        await runner.cleanup()


async def _ring(view: Projection, bell: asyncio.Event) -> None:
    """Deadlines may have come or gone with every step of their view."""
    while True:
        await view.moved()
        bell.set()


def _write_private(file: Path, content: bytes) -> None:
    partial = file.with_suffix(".new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
    partial.replace(file)
