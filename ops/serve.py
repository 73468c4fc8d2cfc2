"""The composition root: the only place that knows everyone. Nothing connects before `up` is called.

Start: Postgres and NATS (embedded, or yours), the ledger with its relay, the views, the inbox, the clock, the gateway,
then our own agents. Stop, in reverse: agents hand back what they run, the gateway closes, the ledger finishes what it
has taken, NATS and Postgres end last. One component that fails takes all down together, with its reason; what was
committed is there at the next start.
"""

import asyncio
import os
import secrets
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import msgspec
import structlog

from cairn.bus import Bus
from cairn.git import GitError
from cairn.repository import Repository
from handlers.branches import Branches, BranchStuck
from handlers.deadlines import Deadlines
from handlers.execute import Executor
from handlers.inbox import Inbox
from handlers.roster import Roster
from ledger.ledger import Ledger
from ledger.postgres import pool
from ops.crew import Crew
from ops.embedded import embedded
from ops.settings import Settings
from ops.timers import Timers
from projections.board import Board
from projections.due import Due
from projections.project import Projection

log = structlog.get_logger()

READERS = 6


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
    settings: Settings, *, tell: Callable[[str], None], ready: Callable[[Up], None] | None = None, testers: int = 1
) -> int:
    """Runs the system until SIGINT or SIGTERM, then drains it. `ready` is called once all of it answers.

    Raises what made it impossible: ServerFailed, AlreadyRunning, OSError for a port that is taken, MigrationError.
    """
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(embedded(settings, tell))
        bus = await stack.enter_async_context(Bus.connect(servers.nats_url, name="cairn"))
        ledger = await stack.enter_async_context(Ledger.open(servers.database_url, tenant=settings.tenant, bus=bus))
        readers = await stack.enter_async_context(pool(servers.database_url, settings.tenant, size=READERS))
        executor = Executor(ledger)
        board, due = Projection(readers, Board()), Projection(readers, Due())
        for projection in (board, due):
            await projection.install()
        timers = Timers(readers, due, settings.lease_seconds)
        deadlines = Deadlines(timers, executor)
        due.on_moved(deadlines.bell.set)
        artifacts = await Repository.create(settings.data_dir / "artifacts.git")
        async with asyncio.TaskGroup() as group:
            jobs = [
                group.create_task(job)
                for job in (
                    servers.watch(),
                    board.run(ledger),
                    due.run(ledger),
                    Inbox(bus, executor, settings.tenant).run(),
                    deadlines.run(),
                    Branches(ledger, Refs(), BranchCursor(readers)).run(),
                )
            ]
            await Roster(bus, ledger, timers, settings.tenant).open()
            token = secrets.token_urlsafe(32)
            url = await stack.enter_async_context(listening(settings, executor, ledger, board, readers, token))
            where = Up(
                os.getpid(), url, token, servers.nats_url, servers.database_url, settings.tenant, str(artifacts.path)
            )
            file = settings.data_dir / "up.json"
            _write_private(file, msgspec.json.encode(where))
            crew = Crew(settings.data_dir, settings.environment())
            jobs += [group.create_task(crew.keep(f"tester-{n + 1}", ["--role", "tester"])) for n in range(testers)]
            if ready is not None:
                ready(where)
            await stop.wait()
            tell("stopping: agents hand back what they run, then everything ends in order")
            await crew.stop()
            file.unlink(missing_ok=True)
            for job in jobs:
                job.cancel()
    return 0


def _write_private(file: Path, content: bytes) -> None:
    partial = file.with_suffix(".new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
    partial.replace(file)
