"""Opens and shuts the roles' consumers of dispatches, as the queue says: what is paused is handed to nobody.

A dispatch stays in its stream meanwhile, so that tasks without a limit need no claim. After a resume at a rate of r
dispatches a minute no more than r times the minutes since then are handed out in all, until nothing is left waiting for
a role; then its consumers are free, all together. What was counted stands in the consumers' own metadata, so any number
of servers agree, and a restart begins nothing anew. Counted is what JetStream has delivered: a shut consumer may still
have some under way, which the next ones wait longer for.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import structlog

from domain.claims import TENANT
from domain.queue import Queue, Ramp
from domain.state import OFFER_SECONDS
from handlers.execute import Executor
from handlers.identity import role_of
from handlers.kinds import QUEUE
from handlers.roster import ACK_PENDING, SHUT_UNTIL
from ledger.errors import LedgerUnavailable
from ledger.ledger import Ledger
from ledger.ports import Bus

log = structlog.get_logger()

MARK = "cairn-ramp"
"""In a consumer's metadata: of which ramp it is, and what it had delivered before it; once it is free `done`, and what it
delivered under it."""
LOOK_SECONDS = 1.0
"""How often it is looked for consumers that should be shut and are not: NATS may have been away, or wiped."""
RAMP_SECONDS = 0.05
DONE = "done"


class _Consumer(NamedTuple):
    """One of those that hand out dispatches of a role: each to agents that have other capabilities."""

    name: str
    role: str
    config: dict[str, Any]
    shut: bool
    pending: int
    delivered: int


class Valve:
    """Run `run()` beside the work; `bell` is rung when something was paused or resumed."""

    def __init__(self, bus: Bus, ledger: Ledger, executor: Executor, now: Callable[[], float] = time.time) -> None:
        self._bus, self._ledger, self._executor, self._now = bus, ledger, executor, now
        self._turn = asyncio.Lock()
        self._held: dict[str, float] = {}
        self._opened: set[str] = set()
        """The streams whose consumers are all free; nothing has to be looked at."""
        self.bell = asyncio.Event()
        self.version = 0
        """Of the queue's stream, as it is known to be at least."""

    async def run(self) -> None:
        while True:
            self.bell.clear()
            pause = LOOK_SECONDS
            try:
                pause = await self.set()
            except (ConnectionError, TimeoutError, LookupError, ValueError, LedgerUnavailable) as away:
                log.warning("valve.wait", why=str(away))
            try:
                async with asyncio.timeout(pause):
                    await self.bell.wait()
            except TimeoutError:
                continue

    async def set(self) -> float:
        """Sets every consumer as it should be now; after how many seconds to look again.

        ConnectionError, TimeoutError and LookupError when NATS is not able to.
        """
        async with self._turn:
            queue = await self._executor.state(self._ledger.tenant, QUEUE, self.version)
            stream = await self._stream()
            if not queue.paused and not queue.ramps and stream in self._opened:
                return LOOK_SECONDS
            self._opened.clear()
            names = await self._names(stream)
            consumers = [found for name, role in names if (found := await self._look(stream, name, role))]
            ramped = [one for one in consumers if self._shut_or_free(queue, one) is None]
            for one in consumers:
                shut = self._shut_or_free(queue, one)
                if shut is not None and shut != one.shut:
                    await self._shut(stream, one, shut)
            held = {*queue.paused, *(ramp[0] for one in ramped if (ramp := _ramp_of(queue, one.role)))}
            self._held |= dict.fromkeys(held, self._now() + OFFER_SECONDS)
            if ramped:
                await self._ramp(stream, queue, [one for one in consumers if not queue.holds_back(one.role)])
            elif not queue.paused:
                self._opened.add(stream)
        return RAMP_SECONDS if ramped else LOOK_SECONDS

    def unanswered(self) -> list[str]:
        """The roles (`TENANT`: all) whose offers nobody could take of late: that is no reason to make them again."""
        now = self._now()
        self._held = {role: until for role, until in self._held.items() if until > now}
        return list(self._held)

    async def holds_back(self, role: str) -> bool:
        """Whether a consumer of this role has to begin shut: it is opened by the next look if it may be."""
        queue = await self._executor.state(self._ledger.tenant, QUEUE, self.version)
        held = queue.holds_back(role) or _ramp_of(queue, role) is not None
        if held:
            self._opened.clear()
            self.bell.set()
        return held

    def _shut_or_free(self, queue: Queue, consumer: _Consumer) -> bool | None:
        """None: it is for the rate to say."""
        if queue.holds_back(consumer.role):
            return True
        ramp = _ramp_of(queue, consumer.role)
        return False if ramp is None or _mark(consumer)[:2] == (_name(*ramp), DONE) else None

    async def _ramp(self, stream: str, queue: Queue, consumers: list[_Consumer]) -> None:
        """Each ramp, a role's or the tenant's, lets its consumers deliver what it has room for, together."""
        by_ramp: dict[tuple[str, Ramp], list[_Consumer]] = {}
        for one in consumers:
            if found := _ramp_of(queue, one.role):
                by_ramp.setdefault(found, []).append(one)
        for (scope, ramp), members in by_ramp.items():
            name, spent, under = _name(scope, ramp), dict[str, int](), list[_Consumer]()
            for one in members:
                marked, done, count = _mark(one)
                if marked != name:
                    await self._note(stream, one, f"{name} {one.delivered}", max(1, int(ramp.rate // 600)))
                    count = one.delivered
                spent[one.name] = count if (marked, done) == (name, DONE) else one.delivered - count
                if (marked, done) != (name, DONE):
                    under.append(one)
            room = ramp.rate * (self._now() - ramp.since) / 60 - sum(spent.values())
            waiting = sorted((one for one in under if one.pending), key=lambda one: spent[one.name])
            while (
                waiting and room >= 1
            ):  # as many at once as there is room for: none waits until another has nothing left
                some, waiting = waiting[: int(room)], waiting[int(room) :]
                room -= await self._let_through(stream, some, int(room))
            for one in waiting:
                if not one.shut:
                    await self._shut(stream, one, True)
            behind = {one.role for one in under if one.pending}
            for one in under:
                if one.pending:
                    continue
                if one.role in behind:
                    if not one.shut:
                        await self._shut(stream, one, True)
                elif not one.shut:
                    await self._note(stream, one, f"{name} {DONE} {spent[one.name]}", ACK_PENDING)
                elif room >= 1:
                    await self._shut(stream, one, False)  # whatever comes is counted at the next look

    async def _let_through(self, stream: str, consumers: list[_Consumer], most: int) -> int:
        """Opens consumers until they have delivered so many together; how many they did."""
        for one in consumers:
            await self._shut(stream, one, False)
        until = self._now() + RAMP_SECONDS
        passed, left = dict[str, int](), {one.name for one in consumers}
        while sum(passed.values()) < most and left and self._now() < until:
            for one in consumers:
                if look := await self._look(stream, one.name, one.role):
                    passed[one.name] = look.delivered - one.delivered
                if look is None or not look.pending:
                    left.discard(one.name)
        for one in consumers:
            if one.name in left:
                await self._shut(stream, one, True)
        return sum(passed.values())

    async def _stream(self) -> str:
        if self._ledger.relay is None:
            raise LookupError("this ledger has no bus")
        return await self._ledger.relay.stream()

    async def _names(self, stream: str) -> list[tuple[str, str]]:
        """The consumers that hand out dispatches, each with its role."""
        names: list[str] = []
        while page := (await self._bus.api(f"CONSUMER.NAMES.{stream}", {"offset": len(names)})).get("consumers"):
            names += page
        return [(name, role) for name in names if (role := role_of(self._ledger.tenant, name))]

    async def _look(self, stream: str, name: str, role: str) -> _Consumer | None:
        info = await self._bus.api(f"CONSUMER.INFO.{stream}.{name}")
        if "error" in info:
            return None
        return _Consumer(
            name, role, info["config"], bool(info.get("paused")), info["num_pending"],
            info["delivered"]["consumer_seq"],
        )  # fmt: skip

    async def _shut(self, stream: str, consumer: _Consumer, shut: bool) -> None:
        body = {"pause_until": SHUT_UNTIL} if shut else {}
        answer = await self._bus.api(f"CONSUMER.PAUSE.{stream}.{consumer.name}", body)
        if "error" in answer:
            raise LookupError(f"the consumer {consumer.name} is gone: {answer['error']}")

    async def _note(self, stream: str, consumer: _Consumer, mark: str, at_once: int) -> None:
        config = consumer.config | {
            "metadata": {**consumer.config.get("metadata", {}), MARK: mark},
            "max_ack_pending": at_once,
        }
        await self._bus.ensure_consumer(stream, config)


def _ramp_of(queue: Queue, role: str) -> tuple[str, Ramp] | None:
    """The ramp that a role is under: its own or the tenant's, whichever began later."""
    found = [(scope, queue.ramps[scope]) for scope in (TENANT, role) if scope in queue.ramps]
    return max(found, key=lambda one: one[1].since, default=None)


def _name(scope: str, ramp: Ramp) -> str:
    return f"{scope or '*'}@{ramp.since!r}"


def _mark(consumer: _Consumer) -> tuple[str, str, int]:
    """The ramp that it was under last, DONE if it is free again, and a count: see MARK."""
    name, _, rest = consumer.config.get("metadata", {}).get(MARK, "").partition(" ")
    done, _, count = rest.rpartition(" ")
    return name, done, int(count or 0)
