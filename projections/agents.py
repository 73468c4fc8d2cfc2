"""Who works here: a part of the board. Its tables stand in `board.sql`; when an agent was heard of is no fold."""

from collections.abc import Sequence

import msgspec

from domain.agents import Agent, evolve
from domain.events import AgentEvent
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.rows import load, store
from projections.sql import statements

STREAM = "agent-"
SQL = statements("agents")


class BoardAgent(Agent):
    """`changed_at`: when it came, was lost or came back; all times in seconds since the epoch."""

    changed_at: float = 0.0


class AgentDetail(BoardAgent):
    """`holding`: runs that it has begun and not ended."""

    heard_at: float | None = None
    holding: int = 0


class Lack(msgspec.Struct, frozen=True):
    """A run that is offered, and to nobody: no agent is there that takes work of its role and can do what it needs."""

    workflow: str
    task: str
    role: str
    capabilities: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.role} with {', '.join(self.capabilities)}" if self.capabilities else self.role


_ROWS = msgspec.json.Decoder(list[BoardAgent])
_DETAILS = msgspec.json.Decoder(list[AgentDetail])
_LACKS = msgspec.json.Decoder(list[Lack])


async def apply(connection: Connection, batch: Sequence[Recorded]) -> None:
    """Changes the rows of the agents that these events are about."""
    mine = [recorded for recorded in batch if recorded.stream.startswith(STREAM)]
    if not mine:
        return
    names = list({recorded.stream.removeprefix(STREAM) for recorded in mine})
    rows = {row.name: row for row in await load(connection, _ROWS, SQL["load"], names=names) or ()}
    for recorded in mine:
        row = rows.setdefault(recorded.stream.removeprefix(STREAM), BoardAgent())
        event: AgentEvent = recorded.event  # type: ignore[assignment]  # of this stream's kind
        evolve(row, event)
        row.changed_at = recorded.recorded_at.timestamp()
    await store(connection, SQL["store"], rows.values())


async def agents(connection: Connection, limit: int = 1_000) -> list[AgentDetail]:
    """All that have not left, those that are there first."""
    return await load(connection, _DETAILS, SQL["agents"], limit=limit) or []


async def lacking(connection: Connection, workflows: Sequence[str], tasks: Sequence[str] | None = None) -> list[Lack]:
    """What of these workflows (None: whatever task, else of these names) waits on a slot that no agent could give now."""
    names = None if tasks is None else list(tasks)
    return await load(connection, _LACKS, SQL["lacking"], workflows=list(workflows), tasks=names) or []


async def heard(connection: Connection, agent: str, now: float) -> tuple[bool, bool]:
    """Notes that it lives; whether it was lost, and whether it is drained, as far as the board knows."""
    found = await connection.execute(SQL["heard"], {"agent": agent, "now": now}, prepare=True)
    row = await found.fetchone()
    return (row[0], row[1]) if row else (False, False)


async def others(connection: Connection, agent: str, runs: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
    """Which of these runs, each with its workflow before it, some other agent has begun."""
    given = {"agent": agent, "workflows": [workflow for workflow, _ in runs], "runs": [run for _, run in runs]}
    return {(row[0], row[1]) for row in await (await connection.execute(SQL["others"], given, prepare=True)).fetchall()}


async def silent(connection: Connection, before: float, listening_since: float) -> list[tuple[str, float]]:
    """Agents taken to be there that were not heard of since `before`, in which somebody listened; and since when."""
    given = {"before": before, "listening_since": listening_since}
    return [(row[0], row[1]) for row in await (await connection.execute(SQL["silent"], given, prepare=True)).fetchall()]
