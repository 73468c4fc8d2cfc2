"""Carries the ledger into JetStream: what lies between the stream's last sequence and the ledger's head.

There is no cursor: the stream's own end is where to go on. Every batch says which sequence it expects to follow, so any
number of relays may run at once; whoever is late is refused. A refusal, a timeout or a duplicate proves nothing about
what the stream holds, so after each of them, and every few idle seconds, the relay goes and looks: it compares the
stream's last message with the ledger's event at that position.

- equal: go on behind it. A stream that lost its end is filled up again at the same sequences.
- no stream: create it so that sequence = position, from the start of a bounded window.
- contradiction (another event there, or more messages than the ledger has events): what contradicts is copied into
  quarantine, the ledger's epoch is raised, the stream is given up, and one of the new epoch is filled. Postgres is the
  truth; this is logged, never silent.

What contradicts the ledger further back is found by `ledger.scrub`, and is given up in the same way.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from time import monotonic
from uuid import UUID

import structlog
from structlog.contextvars import bind_contextvars

from ledger.announce import Announcement, announce
from ledger.errors import BrokenChain, LedgerUnavailable, SegmentUnreadable
from ledger.handed import Handed
from ledger.offer import offering
from ledger.ports import Bus
from ledger.quarantine import keep
from ledger.recorded import Recorded
from ledger.rows import Head
from ledger.stream import Refusal, create, delete, look, message, stream_config, stream_name, streams_of

BATCH_EVENTS = 1_000
BATCH_BYTES = 4 * 1024 * 1024
POLL_SECONDS = 0.25
LOOK_SECONDS = 5.0
"""A relay that has nothing to publish looks at the stream this often: whoever waits for it is waiting for us."""
GAP_SECONDS = 0.01
SOME_EVENTS, MANY_EVENTS = 12, 128
LINGER_SECONDS = 0.005
"""After a batch of so many events the next is let grow: the server's cost is by the batch. Larger ones grow by themselves."""
AWAY_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.0)
WINDOW_EVENTS = 500_000
"""A stream that is created anew begins so many events before the head; older ones are read from Postgres."""
NO_ATOMIC = 10174

log = structlog.get_logger(__name__)
_level = logging.getLogger(__name__)


class Relay:
    """`read(after, limit)` and `head()` ask Postgres; `next_epoch(given_up, next)` raises the ledger's epoch."""

    def __init__(
        self,
        bus: Bus,
        tenant: str,
        *,
        read: Callable[[int, int], Awaitable[list[Recorded]]],
        head: Callable[[], Awaitable[tuple[Head, UUID]]],
        next_epoch: Callable[[int, int], Awaitable[None]],
        replicas: int = 1,
    ) -> None:
        self._bus, self._tenant, self._replicas = bus, tenant, replicas
        self._read, self._ledger_head, self._next_epoch = read, head, next_epoch
        self._stream = ""
        self._epoch = 0
        self._looked = 0.0
        self._refused_at = -1
        self._atomic = True
        self._handed = Handed()
        self._work = asyncio.Event()
        self._advanced = asyncio.Event()
        self.last = 0
        """The last sequence known to be in the stream."""
        self.head = 0
        """The ledger's last position, as far as this relay knows."""

    @property
    def lag(self) -> int:
        """Events that are recorded and not in the stream, as far as this relay knows: what others record and publish
        it hears of within a quarter of a second. `measure` asks."""
        return max(0, self.head - self.last)

    async def measure(self) -> int:
        """How many events recorded by now are not in the stream, whoever relays them.

        TimeoutError or ConnectionError from NATS, LedgerUnavailable from Postgres, Refusal, ForeignStream.
        """
        head, origin = await self._ledger_head()
        state = await look(self._bus, stream_config(self._tenant, head.epoch, origin, self._replicas))
        return min(head.position, WINDOW_EVENTS) if state is None else max(0, head.position - state.last)

    def offer(self, events: Sequence[Recorded]) -> None:
        """This process has committed these: they need not be read again."""
        self._handed.add(events)
        self.head = max(self.head, events[-1].position)
        self._work.set()

    async def published(self, position: int) -> None:
        """Returns when the stream holds this position."""
        while self.last < position:
            await self._advanced.wait()

    async def stream(self) -> str:
        """The name of the stream of the present epoch."""
        head, _ = await self._ledger_head()
        return stream_name(self._tenant, head.epoch)

    async def run(self) -> None:
        """Publishes for ever; a bus, a Postgres, or a file of the archive that is away is waited for."""
        failures = 0
        bind_contextvars(tenant=self._tenant)
        while True:
            try:
                # A busy relay looks too: the epoch may have been raised elsewhere.
                if not self._stream or monotonic() - self._looked > LOOK_SECONDS:
                    await self._settle()
                if self.last >= self.head:
                    await self._wait()
                else:
                    events = await self._next()
                    if not await self._publish(events):
                        self._stream = ""
                    elif SOME_EVENTS < len(events) < MANY_EVENTS:
                        await asyncio.sleep(LINGER_SECONDS)
                failures = 0
            except (TimeoutError, ConnectionError, LedgerUnavailable, SegmentUnreadable, Refusal) as error:
                self._stream = ""
                if failures == 0:
                    log.warning("ledger.relay.waits", tenant=self._tenant, position=self.last, error=str(error))
                await asyncio.sleep(AWAY_SECONDS[min(failures, len(AWAY_SECONDS) - 1)])
                failures += 1

    async def _wait(self) -> None:
        self._work.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await self._work.wait()
                return
        head, _ = await self._ledger_head()
        self.head = max(self.head, head.position)
        # Others have recorded, and most likely published; or nothing happened for so long that the stream may be gone.
        if self.lag or head.epoch != self._epoch or monotonic() - self._looked > LOOK_SECONDS:
            there = self.last
            await self._settle()
            if self.last > there:  # whoever recorded them publishes them, and goes on
                self.head = self.last

    async def _next(self) -> list[Recorded]:
        """The events to publish next; from memory if this process has just committed them."""
        if 0 < self._handed.first - (self.last + 1) < BATCH_EVENTS:
            # Another process has committed the few that are missing and is about to publish them.
            await asyncio.sleep(GAP_SECONDS)
            await self._settle()
        return self._handed.after(self.last, BATCH_EVENTS, BATCH_BYTES) or await self._read(self.last, BATCH_EVENTS)

    async def _publish(self, events: list[Recorded]) -> bool:
        """Whether they are in the stream now, for certain."""
        batch, began = self._announced(events), monotonic()
        if not batch:
            self.head = self.last
            return True
        expected = self.last + len(batch)
        subject, body, headers = batch[0]
        batch[0] = subject, body, {**(headers or {}), "Nats-Expected-Stream": self._stream}
        # What is read again to fill a stream anew was offered long ago.
        with offering(events if self._handed.first == self.last + 1 else (), batch):
            if self._atomic:
                answer = await self._bus.store_batch(batch, expected_last=self.last)
                if answer.get("error", {}).get("err_code") == NO_ATOMIC:
                    self._atomic = False
            else:
                answer = await self._publish_singly(batch)
        if answer.get("seq") != expected or answer.get("stream") != self._stream or answer.get("duplicate"):
            log.debug("ledger.relay.looks", tenant=self._tenant, position=self.last, answer=answer)
            if self._refused_at == self.last:  # nobody was faster: this is no race, and trying at once again no use
                raise Refusal("an event", answer.get("error") or {"description": f"it answers {answer}"})
            self._refused_at = self.last
            return False
        self._refused_at = -1
        if _level.isEnabledFor(logging.DEBUG):
            took = round((monotonic() - began) * 1000, 1)
            log.debug("ledger.relay.published", position=expected, first=self.last + 1, events=len(batch), ms=took)
        self._advance(expected)
        return True

    async def _publish_singly(self, batch: list[Announcement]) -> dict[str, object]:
        """For servers without atomic batches: one by one, each only right after the one before."""
        answer: dict[str, object] = {}
        for expected, (subject, body, headers) in enumerate(batch, self.last):
            guard = {**(headers or {}), "Nats-Expected-Last-Sequence": str(expected)}
            answer = await self._bus.store(subject, body, guard)
            if answer.get("seq") != expected + 1:
                break
        return answer

    def _announced(self, events: list[Recorded]) -> list[Announcement]:
        batch: list[Announcement] = []
        size, limit = 0, self._bus.max_payload
        for recorded in events:
            announcement = announce(recorded, self._tenant, self._epoch, limit)
            size += len(announcement[1])
            if batch and size > BATCH_BYTES:
                break
            batch.append(announcement)
        return batch

    def _advance(self, last: int) -> None:
        self.last = last
        self._handed.forget(last)
        self._advanced.set()
        self._advanced = asyncio.Event()

    async def _settle(self) -> None:
        """Returns when the stream of the present epoch exists and its end was found equal to the ledger."""
        while not await self._settled():
            pass

    async def _settled(self) -> bool:
        # The order of these reads matters: a stream seen before the head was read cannot be of a later epoch, and a
        # message seen before the head was read cannot be of a later position, unless they contradict the ledger.
        streams = await streams_of(self._bus, self._tenant)
        head, origin = await self._ledger_head()
        config = stream_config(self._tenant, head.epoch, origin, self._replicas)
        for name, epoch in streams.items():
            if epoch > head.epoch:
                await self.give_up(epoch, head.position + 1, f"stream {name} is of a later epoch")
                return False
            if epoch < head.epoch:
                await look(self._bus, stream_config(self._tenant, epoch, origin, self._replicas))
                log.warning("ledger.relay.deleted", tenant=self._tenant, stream=name, epoch=head.epoch)
                await delete(self._bus, name)
        state = await look(self._bus, config)
        if state is None:
            first = max(1, head.position - WINDOW_EVENTS + 1)
            log.info("ledger.relay.created", tenant=self._tenant, stream=config["name"], first=first)
            await create(self._bus, config, first)
            return False
        held = await message(self._bus, config["name"], state.last) if state.messages else None
        now, _ = await self._ledger_head()
        if now.epoch != head.epoch:
            return False
        if state.last > now.position:
            why = f"it goes to {state.last}, the ledger to {now.position}"
            await self.give_up(head.epoch, now.position + 1, why)
            return False
        if held is not None:
            truth = await self._read(state.last - 1, 1)
            if not truth:
                raise BrokenChain(state.last, "it is missing, and all after it")
            if not _same(held, truth[0]):
                await self.give_up(head.epoch, state.last, f"sequence {state.last} holds another event")
                return False
        self._stream, self._epoch, self._atomic = config["name"], head.epoch, state.atomic
        self._looked = monotonic()
        self.head = max(self.head, now.position)
        self._advance(state.last)
        return True

    async def give_up(self, epoch: int, position: int, why: str) -> None:
        """The stream of this epoch contradicts the ledger at a position: it is replaced by one of the next epoch, once
        what contradicts is in quarantine. Nothing happens if somebody else has done so already."""
        head, origin = await self._ledger_head()
        if epoch < head.epoch:
            return
        config = stream_config(self._tenant, epoch, origin, self._replicas)
        about = log.bind(tenant=self._tenant, stream=config["name"], position=position)
        about.error("ledger.relay.contradiction", why=why)
        try:
            if (state := await look(self._bus, config)) is not None:
                kept, first = await keep(self._bus, self._tenant, config, state, self._read, position)
                about.warning("ledger.relay.quarantined", messages=kept, first=first and (first.position, first.why))
        except (LookupError, ValueError, SegmentUnreadable) as error:
            # A truth that stands still for its copy would be the greater loss.
            about.error("ledger.relay.not_quarantined", error=str(error))
        await self._next_epoch(head.epoch, epoch + 1)
        self._stream = ""

    async def rebuild(self) -> str:
        """Replaces the stream by one of the next epoch, filled from Postgres at the same sequences; its name, once it
        holds all that was recorded before. Whoever reads the old one is led to it. Waits for NATS and Postgres."""
        head, _ = await self._ledger_head()
        log.warning("ledger.relay.rebuilt", tenant=self._tenant, stream=stream_name(self._tenant, head.epoch))
        await self._next_epoch(head.epoch, head.epoch + 1)
        self._stream = ""
        while self._epoch <= head.epoch or self.last < head.position:
            await self._advanced.wait()
        return self._stream or stream_name(self._tenant, self._epoch)


def _same(held: Recorded | bytes, truth: Recorded) -> bool:
    """An announcement without its state is told by id and digest."""
    if isinstance(held, bytes):
        return False
    return held == truth if held.state else (held.id, held.digest) == (truth.id, truth.digest)
