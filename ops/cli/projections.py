"""`cairn projections`."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, Parameter

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, Output, document, emit
from ops.cli.servers import servers
from ops.cli.stop import CONFLICT, FAILED, NOT_FOUND, OK, USAGE, Stop
from ops.cli.text import line, took

if TYPE_CHECKING:
    from ledger.postgres import Connection
    from projections.shadow import Difference

T = TypeVar("T")

command = App(
    name="projections",
    help="The views: how far each is, and building one again from the ledger.",
    help_format="plaintext",
    version_flags=(),
)
LISTED = ("name", "version", "position", "behind", "halted", "rows", "bytes")
LAGGING = ("name", "position", "behind", "seconds", "halted")


@command.command(name="ls")
def listed(*, tenant: str | None = None, output: Output = "table", place: Place = HERE) -> int:
    """The views: where each stands, how many events it is behind, why it is halted, and how large it is.

    Parameters
    ----------
    tenant
        Whose views (CAIRN_TENANT).
    """
    from ledger.names import views_of
    from ops.views import VIEWS
    from projections.standing import behind
    from projections.tables import made_by, size

    schema = views_of(place.settings(tenant=tenant).tenant)

    async def look(connection: "Connection") -> list[dict[str, Any]]:
        found = []
        for lag in await behind(connection):
            tables = made_by(VIEWS[lag.name]().sql["create"]) if lag.name in VIEWS else []
            rows, of_it = await size(connection, schema, tables)
            found.append({**lag._asdict(), "rows": rows, "bytes": of_it})
        return found

    emit(_asked(place, tenant, look), output, LISTED)
    return OK


@command.command
def lag(*, tenant: str | None = None, output: Output = "table", place: Place = HERE) -> int:
    """How far each view is behind the ledger: in events, and for how many seconds what it lacks has been there.

    Exit code 1 if one is halted.

    Parameters
    ----------
    tenant
        Whose views (CAIRN_TENANT).
    """
    from projections.standing import behind

    async def look(connection: "Connection") -> list[dict[str, Any]]:
        return [found._asdict() for found in await behind(connection)]

    rows = _asked(place, tenant, look)
    emit(rows, output, LAGGING)
    return FAILED if any(row["halted"] is not None for row in rows) else OK


@command.command
def rebuild(
    name: str,
    *,
    shadow: Annotated[bool, Parameter(negative=(), help="Build it, and leave the live one as it is.")] = False,
    diff: Annotated[
        bool, Parameter(negative=(), help="With --shadow: print what differs; exit code 1 if anything does.")
    ] = False,
    tenant: str | None = None,
    output: Document = "text",
    place: Place = HERE,
) -> int:
    """Build a view again from the whole ledger, beside the live one, compare the two, and put it in the live one's place.

    Works while the system is up: whoever reads sees the one or the other. Exit code 1 if an event cannot be folded; then
    all stays as it is.

    Parameters
    ----------
    name
        The view, as `cairn projections ls` has it.
    tenant
        Whose view (CAIRN_TENANT).
    """
    from ops.views import VIEWS

    if diff and not shadow:
        raise Stop(USAGE, "--diff goes with --shadow", fix=f"cairn projections rebuild {name} --shadow --diff")
    if name not in VIEWS:
        raise Stop(NOT_FOUND, f"there is no view {name!r}", f"there are: {', '.join(VIEWS)}", "cairn projections ls")
    position, events, seconds, found = asyncio.run(_rebuilt(name, place, tenant, shadow=shadow))
    rate = round(events / seconds) if seconds else 0
    if output == "json":
        document(
            {"view": name, "position": position, "events": events, "seconds": round(seconds, 3), "events_per_s": rate,
             "swapped": not shadow, "differences": [one._asdict() for one in found]}
        )  # fmt: skip
    else:
        for one in found if diff else ():
            print(line(f"{one.table} {one.key} {one.column}: live {_said(one.live)}, shadow {_said(one.shadow)}"))
        print(f"rebuilt   {name}: {events:,} events, up to position {position:,}")
        print(f"rate      {rate:,} events/s, {took(seconds)}")
        print(f"compared  {len(found):,} values differ{'' if shadow else ': the rebuilt ones are in place'}")
    return FAILED if shadow and diff and found else OK


async def _rebuilt(
    name: str, place: Place, tenant: str | None, *, shadow: bool
) -> "tuple[int, int, float, list[Difference]]":
    """The position it was built to, how many events and seconds that took, and what differed."""
    import psycopg

    from ledger.audit import reader
    from ops.garbage import collect_seldom
    from ops.views import VIEWS
    from projections.shadow import Busy, shadowed
    from projections.standing import Halted

    settings = place.settings(tenant=tenant)
    collect_seldom()
    async with servers(settings, bus=False) as here:
        try:
            async with (
                reader(here.database_url, settings.tenant, settings.archive) as ledger,
                shadowed(here.database_url, settings.tenant, VIEWS[name]()) as built,
            ):
                begun = time.perf_counter()
                events = await built.build(ledger.read, (await ledger.head()).position)
                seconds = time.perf_counter() - begun
                found = await built.compare(ledger.read)
                if not shadow:
                    await built.replace(ledger.read)
                return built.position, events, seconds, found
        except Busy as busy:
            raise Stop(CONFLICT, str(busy), fix="cairn projections ls") from None
        except Halted as halted:
            why = f"position {halted.position}: {halted.reason}"
            raise Stop(FAILED, f"{name} cannot be rebuilt: all stays as it is", why, "upgrade the program") from None
        except psycopg.errors.InsufficientPrivilege as error:
            fix = "run it as a user who may: GRANT CREATE ON DATABASE ... TO ..."
            raise Stop(FAILED, "a shadow needs a schema of its own", str(error).strip(), fix) from None


def _asked(place: Place, tenant: str | None, look: "Callable[[Connection], Awaitable[T]]") -> T:
    """Of Postgres, with the rights of the views."""
    settings = place.settings(tenant=tenant)

    async def ask() -> T:
        from ledger.postgres import connect

        async with (
            servers(settings, bus=False) as here,
            await connect(here.database_url, settings.tenant, views=True) as connection,
        ):
            return await look(connection)

    return asyncio.run(ask())


def _said(value: str | None) -> str:
    return "nothing" if value is None else repr(value)
