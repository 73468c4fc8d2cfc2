"""`cairn tenant`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cyclopts import App

from ops.cli.place import HERE, Place
from ops.cli.rows import Output, emit
from ops.cli.stop import USAGE, Stop

T = TypeVar("T")
FIELDS = ("name", "position", "epoch", "events", "size_bytes")

command = App(
    name="tenant", help="Ledgers side by side on the same servers.", help_format="plaintext", version_flags=()
)


@command.command
def create(name: str, /, *, place: Place = HERE) -> None:
    """Make a tenant, or bring one up to date; the user that DATABASE_URL names will own its tables.

    Parameters
    ----------
    name
        A letter, then at most 40 of a-z, 0-9 and _.
    """
    from ledger import tenants
    from ledger.names import schema_of

    try:
        schema = schema_of(name)
    except ValueError as error:
        raise Stop(USAGE, str(error), fix="cairn tenant create team_one") from None
    applied = _asked(place, lambda url: tenants.create(url, name))
    print(f"tenant {name}: schema {schema} {f'has {len(applied)} new migrations' if applied else 'is up to date'}")


@command.command
def ls(*, output: Output = "table", place: Place = HERE) -> None:
    """List the tenants: where each ledger stands, how many events Postgres holds, and their size on disk."""
    from ledger import tenants

    emit([tenant._asdict() for tenant in _asked(place, tenants.tenants)], output, FIELDS)


def _asked(place: Place, ask: Callable[[str], Awaitable[T]]) -> T:
    """What the Postgres of the settings answers."""
    from ops.cli.servers import servers

    async def asked() -> T:
        async with servers(place.settings(), bus=False) as known:
            return await ask(known.database_url)

    return asyncio.run(asked())
