"""Agents come, say that they live, and go: `join` gives an agent its place at its role's dispatches, `beat` keeps its
leases, `leave` is its goodbye.

Agents never create consumers. A role's consumer begins at the oldest dispatch of that role that nobody has started, so
that one lost with the bus comes back where it must. Heartbeats are not events; whoever holds no lease any more is told,
and so is whoever is to take no more work.
"""

from typing import Annotated, Protocol

import msgspec
import structlog

from domain.errors import Full, Refused
from handlers.identity import Capabilities, consumers, speaker
from handlers.registry import Registry
from ledger.errors import LedgerUnavailable, WrongVersion
from ledger.ledger import Ledger
from ledger.ports import Bus, Message

log = structlog.get_logger()

ACK_WAIT_SECONDS = 5
"""A dispatch that was taken and not begun by then goes to another agent."""
ACK_PENDING = 100_000
SHUT_UNTIL = "2262-01-01T00:00:00Z"
"""A consumer that hands out nothing does so until it is told otherwise."""
UNHEARD = (
    ValueError, RecursionError, LookupError, ConnectionError, TimeoutError, LedgerUnavailable, WrongVersion, Full,
)  # fmt: skip
"""After which an agent is not answered, and asks again."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """One lease as an agent names it in its heartbeat."""

    workflow: str
    run: str
    token: int


class Leases(Protocol):
    async def beat(self, agent: str, held: list[Held]) -> list[Held]:
        """Notes that these are alive, but for those that another agent has begun; returns those that are no longer the
        current ones."""
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


class Description(msgspec.Struct):
    """What an agent says of itself."""

    capacity: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1
    capabilities: Capabilities = ()
    version: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Beat(msgspec.Struct):
    runs: list[Held] = []


class Seat(msgspec.Struct, frozen=True):
    """Where an agent that joined pulls its work: these consumers of the stream, none while it is drained."""

    stream: str
    consumers: list[str]
    lease_seconds: float
    drained: bool


class TurnedAway(msgspec.Struct, frozen=True):
    """Why an agent may not join."""

    refused: str


class Pulse(msgspec.Struct, frozen=True):
    """The answer to a heartbeat: which of the leases it named are void, and whether it is to take no more."""

    void: list[Held]
    drained: bool


class Notice(msgspec.Struct, frozen=True):
    """What an agent has to know at once: it is to take no more work."""

    drained: bool = True


class Goodbye(msgspec.Struct, frozen=True):
    """That it was heard."""


class Roster:
    def __init__(self, bus: Bus, ledger: Ledger, leases: Leases, registry: Registry, gate: Gate, tenant: str) -> None:
        self._bus, self._ledger, self._leases, self._registry, self._tenant = bus, ledger, leases, registry, tenant
        self._gate = gate

    async def open(self) -> None:
        for verb, hear in (("join", self._join), ("beat", self._beat), ("leave", self._leave)):
            await self._bus.subscribe(f"cairn.{self._tenant}.{verb}.>", hear)

    async def tell_drained(self, agent: str) -> None:
        """It is told with its next heartbeat too; this is sooner."""
        await self._bus.publish(f"cairn.{self._tenant}.tell.{agent}", msgspec.json.encode(Notice()))

    async def _join(self, message: Message) -> None:
        try:
            who = speaker(message.subject)
            told = msgspec.json.decode(message.data, type=Description)
            stream = await self._stream()
            agent = await self._registry.join(who, told.capacity, told.capabilities, told.version)
            seats = {} if agent.drained else consumers(self._tenant, who.role, told.capabilities)
            for name, offered in seats.items():
                await self._ensure(stream, who.role, name, offered)
        except UNHEARD as error:
            log.warning("roster.join_failed", why=str(error))
            return
        except Refused as refusal:
            await self._reply(message, TurnedAway(str(refusal)))
            return
        await self._reply(message, Seat(stream, list(seats), self._registry.lease_seconds, agent.drained))

    async def _stream(self) -> str:
        if self._ledger.relay is None:
            raise LookupError("this ledger has no bus")
        return await self._ledger.relay.stream()

    async def _ensure(self, stream: str, role: str, name: str, offered: str) -> None:
        if "error" not in await self._bus.api(f"CONSUMER.INFO.{stream}.{name}"):
            return
        shut = {"pause_until": SHUT_UNTIL} if await self._gate.holds_back(role) else {}
        await self._bus.ensure_consumer(
            stream,
            {
                **shut,
                "durable_name": name,
                "filter_subject": f"cairn.{self._tenant}.evt.workflow.*.task.dispatched.{offered}",
                "ack_policy": "explicit",
                "ack_wait": ACK_WAIT_SECONDS * 10**9,
                "max_ack_pending": ACK_PENDING,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": await self._leases.first_offer(role),
            },
        )

    async def _beat(self, message: Message) -> None:
        try:
            who = speaker(message.subject)
            beat = msgspec.json.decode(message.data, type=Beat)
            standing = await self._registry.heard(who)
            void = await self._leases.beat(who.agent, beat.runs)
        except (Refused, *UNHEARD) as error:
            log.warning("roster.beat_failed", why=str(error))
            return
        await self._reply(message, Pulse(void, standing.drained))

    async def _leave(self, message: Message) -> None:
        try:
            await self._registry.leave(speaker(message.subject))
        except (Refused, *UNHEARD) as error:
            log.warning("roster.leave_failed", why=str(error))
            return
        await self._reply(message, Goodbye())

    async def _reply(self, message: Message, body: msgspec.Struct) -> None:
        if message.reply.startswith("_INBOX."):  # whoever asks chooses it: nothing of ours is to be sent as an answer
            await self._bus.publish(message.reply, msgspec.json.encode(body))
