"""What each open task waits on: a dependency, a slot, a lease, a timer or an ask; and which of it falls due when.

Times are seconds since the epoch. The rows are a fold of the ledger; that an agent was *heard of* is not, it stands in
the unlogged table `presence`, which a crash of Postgres empties. The view `orphans` names every open task that waits
on nothing, or on what will not come: there is none.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.limits import SQL as LIMITS
from projections.limits import Limits
from projections.project import View
from projections.recovery_fold import Changes, Flow, Kind, Wait
from projections.rows import load, text
from projections.sql import statements

STREAM = "workflow-"
SQL = statements("recovery")
SQL |= {name: f"{SQL[name]};\n{LIMITS[name]}" for name in ("create", "drop")}
LIMIT = 1_000
KEPT_WAITS = 50_000
"""Of workflows that no event of the batch is about; each holds an open task's row in memory."""


class Due(msgspec.Struct, frozen=True):
    """Something to be decided on now. `token`, `run` and `role` are None for a retry, `attempt` its next one; `ask` is
    the one whose deadline has passed.

    A limit is the end of all the time that a workflow has, or, if it names one, a task.
    """

    workflow: str
    task: str
    kind: Literal["offer", "lease", "timeout", "retry", "limit", "ask"]
    due: float
    attempt: int | None = None
    token: int | None = None
    run: str | None = None
    role: str | None = None
    agent: str | None = None
    ask: str | None = None


class Orphan(msgspec.Struct, frozen=True):
    """A task and what is wrong with its wait; `kind` is None if it has none."""

    workflow: str
    task: str
    kind: Kind | None
    why: str


class Standing(msgspec.Struct, frozen=True):
    """How many orphans there are, and how many tasks wait, by the kind of what they wait on."""

    orphans: int
    waits: dict[Kind, int]


class Lease(NamedTuple):
    """What an agent says it holds."""

    workflow: str
    run: str
    token: int


_DUE = msgspec.json.Decoder(list[Due])
_WAITS = msgspec.json.Decoder(list[Wait])
_ORPHANS = msgspec.json.Decoder(list[Orphan])
_STANDING = msgspec.json.Decoder(Standing)


class Recovery(View):
    """The view. One instance belongs to one projection.

    The waits of workflows are kept for the next batch: nobody else changes them, or the projection's cursor would have
    moved and the view been told to forget.
    """

    name = "recovery"
    version = 1
    sql = SQL

    def __init__(self) -> None:
        self._flows: dict[str, Flow] = {}
        self._limits = Limits()

    def forget(self) -> None:
        self._flows.clear()
        self._limits.forget()

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        mine = [
            (recorded.stream.removeprefix(STREAM), recorded) for recorded in batch if recorded.stream.startswith(STREAM)
        ]
        await self._load(connection, mine)
        changes = Changes(self._flows)
        for name, recorded in mine:
            changes.fold(name, recorded)
        await self._store(connection, changes)
        await self._limits.apply(connection, mine)
        self._let_go(changes.seen)

    async def _store(self, connection: Connection, changes: Changes) -> None:
        if not changes.seen:
            return
        gone = [key for key, wait in changes.waits.items() if wait is None]
        put = [wait for wait in changes.waits.values() if wait]
        given = {
            "workflows": [name for name, _ in gone], "tasks": [task for _, task in gone],
            "seen": list(changes.seen), "last": list(changes.seen.values()), "rows": text(put),
        }  # fmt: skip
        await connection.execute(SQL["keep"], given, prepare=True)
        for wait in put:
            wait.needs = None

    async def _load(self, connection: Connection, mine: list[tuple[str, Recorded]]) -> None:
        started = {name for name, recorded in mine if recorded.version == 1}
        if wanted := {name for name, _ in mine} - self._flows.keys() - started:
            found: dict[str, list[Wait]] = {name: [] for name in wanted}
            for wait in await load(connection, _WAITS, SQL["load"], workflows=list(wanted)) or ():
                found[wait.workflow].append(wait)
            self._flows |= {name: Flow(name, waits) for name, waits in found.items()}

    def _let_go(self, touched: Iterable[str]) -> None:
        """What is over, and of the rest what was not touched for longest."""
        for name in touched:
            flow = self._flows.pop(name)
            if flow.waits:
                self._flows[name] = flow
        idle = len(self._flows.keys() - set(touched))
        kept = sum(len(flow.waits) for flow in self._flows.values())
        for name in list(self._flows)[:idle]:
            if kept <= KEPT_WAITS:
                break
            kept -= len(self._flows.pop(name).waits)


async def due(
    connection: Connection,
    now: float,
    listening_since: float = 0.0,
    limit: int = LIMIT,
    unanswered: Collection[str] = (),
) -> list[Due]:
    """What has fallen due, the longest overdue first; offers to the `unanswered` roles ("": to all) left out.

    An agent is lost when its lease has run out and it was not heard of for the length of a lease, in which somebody
    listened: `listening_since` is when this process began to take heartbeats (or Postgres came back, without them).
    """
    asked = {"now": now, "listening_since": listening_since, "limit": limit, "unanswered": list(unanswered)}
    return await load(connection, _DUE, SQL["due"], **asked) or []


async def next_due(
    connection: Connection, listening_since: float = 0.0, unanswered: Collection[str] = ()
) -> float | None:
    """When `due` will next find something if nothing is heard until then; None if nothing waits."""
    found = await connection.execute(
        SQL["next_due"], {"listening_since": listening_since, "unanswered": list(unanswered)}, prepare=True
    )
    row = await found.fetchone()
    return row[0] if row else None


async def first_offer(connection: Connection, role: str) -> int:
    """No dispatch to `role` that nobody has started lies before this position: a lost consumer begins again there."""
    row = await (await connection.execute(SQL["first_offer"], {"role": role}, prepare=True)).fetchone()
    return row[0] if row else 1


async def beat(connection: Connection, leases: Iterable[Lease], now: float) -> None:
    """The agents that hold these were heard of at `now`."""
    if heard := set(leases):
        await connection.execute(SQL["beat"], _columns(heard) | {"now": now}, prepare=True)


async def held(connection: Connection, leases: Iterable[Lease]) -> set[Lease]:
    """Those that are offered or leased under this very token; the agents of the others can stop.

    True at the view's position: wait until it has `reached` the ledger's head as it was when the agents spoke, or a
    lease that was given out a moment ago seems void.
    """
    found = await connection.execute(SQL["held"], _columns(set(leases)), prepare=True)
    return {Lease(*row) for row in await found.fetchall()}


async def sweep(connection: Connection, before: float) -> int:
    """Forgets heartbeats before that time of whoever holds nothing; the number of rows that went."""
    return (await connection.execute(SQL["sweep"], {"before": before})).rowcount


async def orphans(connection: Connection) -> list[Orphan]:
    """Judged are the workflows that this view and the board have seen equally far: the others are just moving."""
    return await load(connection, _ORPHANS, SQL["orphans"]) or []


async def standing(connection: Connection) -> Standing:
    """As of one moment."""
    found = await load(connection, _STANDING, SQL["standing"])
    assert found is not None
    return found


def _columns(leases: set[Lease]) -> dict[str, Any]:
    return {
        "workflows": [lease.workflow for lease in leases],
        "runs": [lease.run for lease in leases],
        "tokens": [lease.token for lease in leases],
    }
