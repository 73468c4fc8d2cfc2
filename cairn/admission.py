"""How an agent comes to NATS: under a user of its own, which the system makes for it, or as NATS_URL says."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from cairn.bus import Bus
from cairn.calls import Conflict, Unauthorized, Unreachable
from cairn.config import Connection
from cairn.sync import SyncClient


@asynccontextmanager
async def admitted(where: Connection, role: str, name: str, capabilities: Sequence[str] = ()) -> AsyncIterator[Bus]:
    """A connection for the agent of this role and name. ConnectionError when there is no system; Conflict (`cairn.calls`)
    when the name is that of an agent of another role, or NATS_URL is another agent's."""
    url = where.nats_url
    if not url:
        try:
            url = (await asyncio.to_thread(SyncClient(where).admit, name, role, capabilities))["nats_url"]
        except (Unreachable, Unauthorized) as error:
            raise ConnectionError(error.detail) from error
    user = urlsplit(url).username or ""
    if user.startswith(f"{where.tenant}.") and user != f"{where.tenant}.{name}":
        raise Conflict("not_its_user", 0, f"NATS_URL is for the agent {user.partition('.')[2]}, and this one is {name}")
    async with Bus.connect(url, name=name, inbox=f"_INBOX.{where.tenant}.{name}") as bus:
        yield bus
