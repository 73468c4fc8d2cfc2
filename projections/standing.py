"""Where each view stands, and why it does not go on: the rows beside which `projections.project` moves its cursors."""

from typing import NamedTuple, Self

import psycopg

from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.sql import statements

SQL = statements("projections")


class Halted(Exception):
    """View `view` cannot go beyond `position`, its first event that cannot be folded; its tables stand before it."""

    def __init__(self, view: str, position: int, reason: str) -> None:
        super().__init__(
            f"view {view} halted at position {position}: {reason}"
            "\n  fix: mend the view or upgrade the program; nothing is lost, it continues there at the next start"
        )
        self.view, self.position, self.reason = view, position, reason

    @classmethod
    def at(cls, view: str, recorded: Recorded, error: Exception) -> Self:
        reason = f"{type(error).__name__}: {error} (a {recorded.type} of {recorded.stream})"
        return cls(view, recorded.position, reason)


class Outdated(Exception):
    """A newer program has made the view's tables: two programs would drop each other's in turns."""

    def __init__(self, view: str, found: int, version: int) -> None:
        super().__init__(
            f"view {view}: its tables are of version {found}, this program has version {version}"
            "\n  fix: upgrade this program, or end it"
        )


class Standing(NamedTuple):
    """Where a view stands: `halted` is why it cannot be folded beyond `position`, None if it goes on. `built` counts how
    often its tables were made."""

    name: str
    version: int
    position: int
    halted: str | None
    built: int = 0


async def standings(connection: Connection) -> list[Standing]:
    """All views that were ever made here, by name; none before the first was."""
    try:
        found = await connection.execute(SQL["standings"], prepare=True)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return []
    return [Standing(*row) for row in await found.fetchall()]


async def standing(connection: Connection, view: str) -> Standing | None:
    """None if it was never made."""
    row = await (await connection.execute(SQL["read"], {"name": view})).fetchone()
    return Standing(*row) if row else None


class Lag(NamedTuple):
    """How far a view is `behind`, in events; `seconds` since the first of them was recorded, None if it was archived."""

    name: str
    version: int
    position: int
    behind: int
    seconds: float | None
    halted: str | None


async def behind(connection: Connection) -> list[Lag]:
    """Of all views that were ever made here, by name; none before the first was."""
    try:
        found = await connection.execute(SQL["behind"], prepare=True)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn):
        return []
    return [Lag(*row) for row in await found.fetchall()]
