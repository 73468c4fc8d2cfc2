"""`cairn letters`."""

import asyncio
import base64
from typing import Any

from ops.cli.place import HERE, Place
from ops.cli.rows import Output, emit
from ops.cli.servers import servers

SHOWN = ("letter", "time", "bytes", "why", "begins")
BEGINS = 60
"""Bytes of a letter that are shown."""


def command(*, tenant: str | None = None, limit: int = 50, output: Output = "table", place: Place = HERE) -> None:
    """The dead letters: what came in from agents and could not be read, and why; the newest last.

    Each is kept on NATS as it came, until somebody removes it there; none holds anything up.

    Parameters
    ----------
    tenant
        Whose (CAIRN_TENANT).
    limit
        At most so many, the newest.
    """
    settings = place.settings(tenant=tenant)

    async def look() -> list[dict[str, Any]]:
        from cairn.bus import Bus

        name = f"{settings.tenant.upper()}_DEAD"
        async with servers(settings) as here, Bus.connect(here.nats_url, name="cairn-letters") as bus:
            state = (await bus.api(f"STREAM.INFO.{name}")).get("state", {"last_seq": 0})
            numbers = range(max(state.get("first_seq", 1), state["last_seq"] - limit + 1), state["last_seq"] + 1)
            found = [await bus.api(f"STREAM.MSG.GET.{name}", {"seq": number}) for number in numbers]
        return [_row(one["message"]) for one in found if "message" in one]

    emit(asyncio.run(look()), output, SHOWN)


def _row(message: dict[str, Any]) -> dict[str, Any]:
    body = base64.b64decode(message.get("data", ""))
    headers = base64.b64decode(message.get("hdrs", "")).decode(errors="replace")
    why = next((one.partition(": ")[2] for one in headers.split("\r\n") if one.startswith("Cairn-Why: ")), "")
    row = {"letter": message["seq"], "time": message["time"], "bytes": len(body), "why": why}
    return row | {"begins": body[:BEGINS].decode(errors="replace")}
