"""`cairn up`."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ops.cli.place import HERE, Place
from ops.cli.stop import FAILED, INTERRUPTED, Stop
from ops.cli.text import say

if TYPE_CHECKING:
    from ops.serve import Up
    from ops.settings import Settings


def command(
    *, listen: str | None = None, tenant: str | None = None, testers: int = 1, paused: bool = False, place: Place = HERE
) -> int:
    """Start the system and keep it running until Ctrl-C; what was in flight goes on where it was.

    Parameters
    ----------
    listen
        Where the gateway listens, as 127.0.0.1:8700 (CAIRN_LISTEN).
    tenant
        Whose ledger this is (CAIRN_TENANT). Several at once share servers, each with a data directory of its own.
    testers
        How many testers to start; each is a process of its own.
    paused
        Hand out nothing before `cairn resume --tenant`: to look around after an incident.
    """
    from ops.logs import begin

    settings = place.settings(listen=listen, tenant=tenant)
    begin(settings, "cairn")
    try:
        import uvloop
    except ImportError:
        run: Callable[[Coroutine[None, None, int]], int] = asyncio.run
    else:
        run = uvloop.run
    try:
        return run(_up(settings, testers, paused))
    except asyncio.CancelledError:  # a signal before it was up
        return INTERRUPTED


async def _up(settings: "Settings", testers: int, paused: bool) -> int:
    from ops.serve import up

    sandbox = await _sandbox(settings) if testers else "no tester here"

    def ready(where: "Up") -> None:
        for text in six_lines(where, settings, sandbox):
            say(text)

    return await up(settings, tell=say, ready=ready, testers=testers, paused=paused)


async def _sandbox(settings: "Settings") -> str:
    """What tests will run under. A tester that cannot start would leave every plan waiting without a word."""
    from gateway.sandbox import choose
    from handlers.ports import SandboxBroken

    try:
        return (await choose(settings.sandbox, image=settings.sandbox_image)).isolation
    except SandboxBroken as broken:
        fix = "cairn doctor; or, with testers elsewhere, cairn up --testers 0"
        raise Stop(FAILED, "no test can be run here", str(broken), fix) from None


def six_lines(where: "Up", settings: "Settings", sandbox: str) -> list[str]:
    """What a person wants to know of a system that is up. The NATS URL is shown without its secret."""
    nats = urlsplit(where.nats_url)
    return [
        f"gateway   {where.url}",
        f"data      {settings.data_dir}",
        f"Postgres  {_without_password(where.database_url)}",
        f"NATS      {nats.scheme}://{nats.hostname}:{nats.port or 4222}",
        f"sandbox   {sandbox}",
        f"stop      Ctrl-C, or: kill {where.pid}",
    ]


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":***@") if parts.password else url
