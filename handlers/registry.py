"""Which agents there are. What they say of themselves becomes events of their streams; that they live does not.

Nobody works for a silent agent: whoever is not heard of for the length of a lease is lost, until it is heard again.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID, uuid4

import structlog

from domain.agents import Agent, claim
from domain.commands import AgentCommand, Drain, Hear, Join, Leave, Miss
from domain.errors import Full
from handlers.execute import Executor, Order
from handlers.identity import Speaker
from handlers.kinds import AGENT
from ledger.errors import LedgerUnavailable, WrongVersion
from ledger.recorded import Recorded

log = structlog.get_logger()

LOOK_SECONDS = 1.0
"""How often the silent ones are looked for."""
LEAST_LEASE_SECONDS = 3.0


class Standing(NamedTuple):
    """What the view knows of an agent. One that it has not seen yet is neither."""

    lost: bool = False
    drained: bool = False


class Silent(NamedTuple):
    agent: str
    heard_at: float


class Presence(Protocol):
    """What is heard of agents, and remembered of them. LedgerUnavailable when nobody can tell."""

    async def heard(self, agent: str) -> Standing: ...

    async def silent(self, now: float, lease_seconds: float) -> Sequence[Silent]:
        """Those that are taken to be there and were not heard of for so long, in which somebody listened."""
        ...


class Registry:
    """Run `await registry.run()` beside the roster, which tells it what agents say."""

    def __init__(
        self, executor: Executor, presence: Presence, lease_seconds: float = 30.0, now: Callable[[], float] = time.time
    ) -> None:
        self._executor, self._presence, self._now = executor, presence, now
        self.lease_seconds = max(lease_seconds, LEAST_LEASE_SECONDS)
        """For how long an agent may be silent."""

    async def join(self, who: Speaker, capacity: int, capabilities: tuple[str, ...], version: str) -> Agent:
        """The agent as it is from now on. Conflict when its name is another role's."""
        await self._presence.heard(who.agent)
        join = Join(
            now=self._now(),
            agent=who.agent,
            role=who.role,
            capacity=capacity,
            capabilities=capabilities,
            version=version,
        )
        await self._do(who.agent, join)
        return await self._executor.state(who.agent, AGENT)

    async def heard(self, who: Speaker) -> Standing:
        standing = await self._presence.heard(who.agent)
        if standing.lost:
            await self._do(who.agent, Hear(now=self._now()))
        return standing

    async def leave(self, who: Speaker) -> None:
        await self._do(who.agent, Leave(now=self._now()))

    async def claim(self, who: Speaker) -> None:
        """Conflict when the name is that of an agent of another role."""
        claim(await self._executor.state(who.agent, AGENT), who.agent, who.role)

    async def drain(self, agent: str, id: UUID, by: str, reason: str) -> list[Recorded]:
        """NotFound, or Conflict when it has left."""
        return await self._executor.execute(agent, Order(id, Drain(now=self._now(), by=by, reason=reason), by), AGENT)

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except (LedgerUnavailable, WrongVersion, Full) as away:
                log.warning("registry.waits", why=str(away))
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Records who was lost."""
        for one in await self._presence.silent(self._now(), self.lease_seconds):
            await self._do(one.agent, Miss(now=self._now(), heard_at=one.heard_at), "clock/agent")

    async def _do(self, agent: str, command: AgentCommand, actor: str = "") -> None:
        order = Order(uuid4(), command, actor or f"agent/{agent}")  # a repeat finds that it is so already
        await self._executor.execute(agent, order, AGENT)
