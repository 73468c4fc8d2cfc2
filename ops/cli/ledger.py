"""`cairn ledger`."""

import asyncio
import sys
import time

from cyclopts import App

from ops.cli.audit import From, To
from ops.cli.place import HERE, Place, terminal
from ops.cli.rows import Document, document
from ops.cli.servers import servers
from ops.cli.stop import FAILED, OK, USAGE, Stop
from ops.cli.text import took

command = App(
    name="ledger",
    help="The two logs: compare them, make the one on NATS anew.",
    help_format="plaintext",
    version_flags=(),
)


@command.command
def compare(
    *, tenant: str | None = None, first: From = 1, to: To = None, output: Document = "text", place: Place = HERE
) -> int:
    """Compare what JetStream holds with Postgres: the same event, by id and digest, at every sequence.

    Exit code 1 at the first difference.

    Parameters
    ----------
    tenant
        Whose ledger (CAIRN_TENANT).
    """
    from ledger.compare import Compared

    settings = place.settings(tenant=tenant)

    async def look() -> tuple[Compared, float]:
        from cairn.bus import Bus
        from ledger.audit import reader
        from ledger.compare import compare

        async with (
            servers(settings) as here,
            reader(here.database_url, settings.tenant, settings.archive) as ledger,
            Bus.connect(here.nats_url, name="cairn-compare") as bus,
        ):
            begun = time.monotonic()
            found = await compare(ledger.read, ledger.head_and_origin, bus, settings.tenant, first, to)
            return found, time.monotonic() - begun

    found, seconds = asyncio.run(look())
    events = max(0, found.last - found.first + 1)
    difference = found.difference
    if output == "json":
        document(
            {"tenant": settings.tenant, "stream": found.stream, "equal": difference is None, "events": events,
             "first": found.first, "last": found.last, "before_window": found.before, "seconds": round(seconds, 3),
             "difference": difference and {"position": difference.position, "why": difference.why}}
        )  # fmt: skip
        return OK if difference is None else FAILED
    if events:
        print(f"equal     {events:,} events, positions {found.first:,} to {found.last:,} of {found.stream}")
    else:
        print(f"equal     nothing was compared: {found.stream} holds none of these positions")
    if found.before:
        print(f"before    {found.before:,} positions lie before the stream's window; Postgres alone holds them")
    if difference is not None:
        what = f"{found.stream} differs at position {difference.position}: {difference.why}"
        raise Stop(FAILED, what, fix="cairn up fills what is missing; or, anew: cairn ledger rebuild-stream")
    print(f"took      {took(seconds)}")
    return OK


@command.command
def rebuild_stream(*, tenant: str | None = None, yes: bool = False, place: Place = HERE) -> int:
    """Give up the JetStream stream of events and fill one of the next epoch from Postgres, at the same sequences.

    Nothing is lost by it, and agents and followers move over by themselves.

    Parameters
    ----------
    tenant
        Whose ledger (CAIRN_TENANT).
    yes
        Do not ask.
    """
    settings = place.settings(tenant=tenant)
    if not yes:
        _ask(settings.tenant, terminal(settings))

    async def rebuild() -> tuple[str, int]:
        from cairn.bus import Bus
        from ledger.audit import reader
        from ledger.ledger import Ledger
        from ops.logs import configure

        configure("error")
        async with servers(settings) as here, Bus.connect(here.nats_url, name="cairn-rebuild") as bus:
            async with reader(here.database_url, settings.tenant):
                pass  # a tenant that is not there is not made
            async with Ledger.open(
                here.database_url, tenant=settings.tenant, bus=bus, archive=settings.archive
            ) as ledger:
                assert ledger.relay is not None
                return await ledger.relay.rebuild(), ledger.relay.last

    name, last = asyncio.run(rebuild())
    print(f"rebuilt   {name}, up to position {last:,}")
    return OK


def _ask(tenant: str, terminal: bool) -> None:
    if not terminal:
        raise Stop(USAGE, "there is no terminal to ask at", fix="cairn ledger rebuild-stream --yes")
    print(
        f"give up the stream of {tenant} and fill a new one from Postgres? [y]es: ", end="", file=sys.stderr, flush=True
    )
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Stop(FAILED, "nothing was done")
