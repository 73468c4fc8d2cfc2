"""Agents come and say that they live: `join` gives a role its consumer of dispatches, `beat` keeps leases.

Agents never create consumers. A role's consumer begins at the oldest dispatch of that role that nobody has started, so
that one lost with the bus comes back where it must. Heartbeats are not events; whoever holds no lease any more is told.
"""

from typing import Annotated, Protocol

import msgspec
import structlog

from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger
from ledger.ports import Bus, Message

log = structlog.get_logger()

ACK_WAIT_SECONDS = 5
"""A dispatch that was taken and not begun by then goes to another agent."""
ACK_PENDING = 100_000
SHUT_UNTIL = "2262-01-01T00:00:00Z"
"""A consumer that hands out nothing does so until it is told otherwise."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """One lease as an agent names it in its heartbeat."""

    workflow: str
    run: str
    token: int


class Leases(Protocol):
    async def beat(self, held: list[Held]) -> list[Held]:
        """Notes that these are alive; returns those that are no longer the current ones."""
        ...

    async def first_offer(self, role: str) -> int:
        """The position from which dispatches of the role may be open: nothing open lies before it.

        LedgerUnavailable when nobody can tell.
        """
        ...


class Gate(Protocol):
    async def holds_back(self, role: str) -> bool:
        """Whether a new consumer of this role hands out nothing before it is opened."""
        ...


class Join(msgspec.Struct):
    role: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9_-]{0,62}$")]
    agent: str
    capacity: int = 1


class Beat(msgspec.Struct):
    agent: str
    runs: list[Held] = []


class Roster:
    def __init__(self, bus: Bus, ledger: Ledger, leases: Leases, gate: Gate, tenant: str) -> None:
        self._bus, self._ledger, self._leases, self._gate, self._tenant = bus, ledger, leases, gate, tenant

    async def open(self) -> None:
        await self._bus.subscribe(f"cairn.{self._tenant}.join", self._join)
        await self._bus.subscribe(f"cairn.{self._tenant}.beat", self._beat)

    async def _join(self, message: Message) -> None:
        try:
            join = msgspec.json.decode(message.data, type=Join)
            stream = await self._stream()
            await self._ensure(stream, join.role)
        except (ValueError, RecursionError, LookupError, ConnectionError, TimeoutError, LedgerUnavailable) as error:
            log.warning("roster.join_failed", why=str(error))
            return  # the agent asks again
        log.info("agent.joined", agent=join.agent, role=join.role, capacity=join.capacity)
        await self._reply(message, {"stream": stream, "consumer": f"role-{join.role}"})

    async def _stream(self) -> str:
        if self._ledger.relay is None:
            raise LookupError("this ledger has no bus")
        return await self._ledger.relay.stream()

    async def _ensure(self, stream: str, role: str) -> None:
        if "error" not in await self._bus.api(f"CONSUMER.INFO.{stream}.role-{role}"):
            return
        shut = {"pause_until": SHUT_UNTIL} if await self._gate.holds_back(role) else {}
        await self._bus.ensure_consumer(
            stream,
            {
                **shut,
                "durable_name": f"role-{role}",
                "filter_subject": f"cairn.{self._tenant}.evt.workflow.*.task.dispatched.{role}",
                "ack_policy": "explicit",
                "ack_wait": ACK_WAIT_SECONDS * 10**9,
                "max_ack_pending": ACK_PENDING,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": max(1, await self._leases.first_offer(role)),
            },
        )

    async def _beat(self, message: Message) -> None:
        try:
            beat = msgspec.json.decode(message.data, type=Beat)
        except (ValueError, RecursionError) as error:
            log.warning("roster.bad_beat", why=str(error))
            return
        await self._reply(message, {"void": await self._leases.beat(beat.runs)})

    async def _reply(self, message: Message, body: dict[str, object]) -> None:
        if message.reply:
            await self._bus.publish(message.reply, msgspec.json.encode(body))
