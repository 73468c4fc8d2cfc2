"""The Postgres and NATS that a command works on directly: those of the system that is up, or else the settings' own,
started for as long as the command takes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from ops.cli.stop import CONFLICT, NOT_FOUND, Stop
from ops.cli.text import say

if TYPE_CHECKING:
    from ops.settings import Settings


class Servers(NamedTuple):
    database_url: str
    nats_url: str


@asynccontextmanager
async def servers(settings: "Settings", *, bus: bool = True) -> AsyncIterator[Servers]:
    """Without `bus` NATS is not started, and its URL may be empty. Stop if there is nothing here yet."""
    from ops.embedded import AlreadyRunning, embedded

    if settings.database_url and (settings.nats_url or not bus):
        yield Servers(settings.database_url, settings.nats_url or "")
        return
    if not settings.database_url and not (settings.data_dir / "postgres").is_dir():
        raise Stop(NOT_FOUND, f"there is no ledger in {settings.data_dir}", fix="cairn up")
    try:
        async with embedded(settings, say) as own:
            yield Servers(own.database_url, own.nats_url)
    except AlreadyRunning as running:
        try:
            found = msgspec.json.decode((settings.data_dir / "up.json").read_bytes(), type=dict[str, str | int])
        except FileNotFoundError:
            raise Stop(CONFLICT, str(running), "it is starting, or stopping") from None
        yield Servers(str(found["database_url"]), str(found["nats_url"]))
