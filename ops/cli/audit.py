"""`cairn audit`."""

import asyncio
import sys
import time
from typing import Annotated

from cyclopts import App, Parameter

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.servers import servers
from ops.cli.stop import FAILED, OK, Stop
from ops.cli.text import took

From = Annotated[int, Parameter(name="--from", help="The first position.")]
To = Annotated[int | None, Parameter(name="--to", help="The last position; without it, the last there is.")]

command = App(
    name="audit", help="Whether what happened is still what was recorded.", help_format="plaintext", version_flags=()
)


@command.command
def verify(
    *, tenant: str | None = None, first: From = 1, to: To = None, output: Document = "text", place: Place = HERE
) -> int:
    """Compute the digest of every event again, and name the first position that is not as it was recorded.

    Exit code 1 if there is one. Works on the system that is up, or on what a stopped one left.

    Parameters
    ----------
    tenant
        Whose ledger (CAIRN_TENANT).
    """
    from ledger.errors import BrokenChain

    settings = place.settings(tenant=tenant)
    begun = time.monotonic()

    async def check() -> tuple[int, int, str]:
        from ledger.audit import audit

        async with servers(settings, bus=False) as here:
            nonlocal begun
            begun = time.monotonic()
            verified = await audit(
                here.database_url, settings.tenant, first, to, archive=settings.archive, told=_progress
            )
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


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == of else ""
        print(f"\r{done:,} of {of:,} events verified", end=end, file=sys.stderr, flush=True)
