"""`cairn audit`."""

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

from cyclopts import App, Parameter

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.servers import servers
from ops.cli.stop import FAILED, OK, USAGE, Stop
from ops.cli.text import took

if TYPE_CHECKING:
    from domain.events import LedgerAudited
    from ops.settings import Settings

ACTOR = "cairn audit"

From = Annotated[int, Parameter(name="--from", help="The first position.")]
Record = Annotated[bool, Parameter(negative="", help="Keep what was found as an event of the ledger.")]
To = Annotated[int | None, Parameter(name="--to", help="The last position; without it, the last there is.")]

command = App(
    name="audit", help="Whether what happened is still what was recorded.", help_format="plaintext", version_flags=()
)


@command.command
def verify(
    *,
    tenant: str | None = None,
    first: From = 1,
    to: To = None,
    record: Record = False,
    output: Document = "text",
    place: Place = HERE,
) -> int:
    """Compute the digest of every event again, and name the first position that is not as it was recorded.

    Exit code 1 if there is one. Works on the system that is up, or on what a stopped one left. What is recorded
    is what the metrics tell, and where the server goes on when it looks by itself (CAIRN_AUDIT_HOURS).

    Parameters
    ----------
    tenant
        Whose ledger (CAIRN_TENANT).
    """
    from ledger.errors import BrokenChain

    if record and (first > 1 or to is not None):
        raise Stop(USAGE, "only an audit of the whole ledger is recorded", fix="cairn audit verify --record")
    settings = place.settings(tenant=tenant)
    begun = time.monotonic()

    async def check() -> tuple[int, int, str]:
        from handlers.audits import failed, passed
        from ledger.audit import audit

        async with servers(settings, bus=False) as here:
            nonlocal begun
            begun = time.monotonic()
            try:
                verified = await audit(
                    here.database_url, settings.tenant, first, to, archive=settings.archive, told=_progress
                )
            except BrokenChain as broken:
                if record:
                    await _record(settings, here.database_url, failed(broken))
                raise
            if record:
                await _record(settings, here.database_url, passed(verified))
        return verified.events, verified.position, verified.digest.hex()

    try:
        events, position, digest = asyncio.run(check())
    except BrokenChain as broken:
        if output == "text":
            fix = f"cairn events --after {max(broken.position - 1, 0)} shows what stands there; a backup has what stood"
            raise Stop(FAILED, str(broken), fix=fix) from None
        document({"tenant": settings.tenant, "broken": {"position": broken.position, "why": broken.why}})
        return FAILED
    seconds = time.monotonic() - begun
    rate = round(events / seconds)
    if output == "json":
        document(
            {"tenant": settings.tenant, "events": events, "position": position, "digest": digest,
             "seconds": round(seconds, 3), "events_per_second": rate, "broken": None}
        )  # fmt: skip
    else:
        print(f"verified  {events:,} events of {settings.tenant}, up to position {position:,}")
        print(f"digest    {digest}")
        print(f"rate      {rate:,} events/s, {took(seconds)}")
    return OK


async def _record(settings: "Settings", database_url: str, found: "LedgerAudited") -> None:
    from handlers.audits import stream_of
    from handlers.execute import Executor
    from ledger.ledger import Ledger

    async with Ledger.open(database_url, tenant=settings.tenant, archive=settings.archive) as ledger:
        await Executor(ledger).note(stream_of(settings.tenant), uuid4(), found, ACTOR)


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == of else ""
        print(f"\r{done:,} of {of:,} events verified", end=end, file=sys.stderr, flush=True)
