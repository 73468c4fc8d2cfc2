"""The server looks at its own ledger: now and then the digests of what came since the last time are computed again,
and what was found is recorded in the stream `ledger-<tenant>`.

An audit goes on from the digest that the one before has recorded, not from the one that stands in the table by now. It
reads a little at a time and rests in between, so that nobody waits for it. A file of the archive that cannot be read is
no answer: it is tried again, and until then the last success grows old.
"""

import asyncio
import time
from collections.abc import Sequence
from uuid import uuid4

import structlog

from domain.events import LedgerAudited
from handlers.execute import Executor
from ledger.errors import BrokenChain, LedgerUnavailable, SegmentUnreadable, WrongVersion
from ledger.ledger import Ledger
from ledger.recorded import Recorded
from ledger.verify import GENESIS, Verified

log = structlog.get_logger()

ACTOR = "audit"
BEGIN_SECONDS = 300.0
"""So long after its start a server leaves the ledger to those who have to catch up."""
SLICE_EVENTS = 500
REST = 9.0
"""After each slice it rests so many times as long as that took."""
LOOK_SECONDS = 600.0
AGAIN_SECONDS = 60.0
HOUR_SECONDS = 3_600.0


def stream_of(tenant: str) -> str:
    return f"ledger-{tenant}"


class Audits:
    """Run `await audits.run()` beside everything else; every `hours`, 0: never. Several servers do no harm."""

    def __init__(
        self, ledger: Ledger, executor: Executor, hours: float, *, begin_seconds: float = BEGIN_SECONDS
    ) -> None:
        self._ledger, self._executor = ledger, executor
        self._hours, self._begin_seconds = hours, begin_seconds
        self._stream = stream_of(ledger.tenant)

    async def run(self) -> None:
        if not self._hours:
            return
        await asyncio.sleep(self._begin_seconds)
        while True:
            try:
                pause = await self._due_in()
                if pause <= 0:
                    await self.audit()
                    continue
            except (LedgerUnavailable, SegmentUnreadable, WrongVersion) as away:
                log.warning("audit.waits", why=str(away))
                pause = AGAIN_SECONDS
            await asyncio.sleep(min(pause, LOOK_SECONDS))

    async def audit(self) -> LedgerAudited:
        """Looks at what came since the last success, and records what was found."""
        last = next((event for _, event in reversed(await self._before()) if event.ok), None)
        found = await self._look(last.position if last else 0, bytes.fromhex(last.digest) if last else GENESIS)
        await self._executor.note(self._stream, uuid4(), found, ACTOR)
        if found.ok:
            log.info("audit.done", position=found.position, events=found.checked_events)
        else:
            log.critical("audit.broken", position=found.position, reason=found.reason)
        return found

    async def _look(self, after: int, digest: bytes) -> LedgerAudited:
        at, until = after, (await self._ledger.head()).position
        try:
            while at < until:
                begun = time.monotonic()
                verified = await self._ledger.verify(at + 1, min(at + SLICE_EVENTS, until))
                if verified.before != digest:
                    why = f"its digest is {verified.before.hex()}, and {digest.hex()} was verified"
                    raise BrokenChain(at, why)
                at, digest = verified.position, verified.digest
                await asyncio.sleep(REST * (time.monotonic() - begun))
        except BrokenChain as broken:
            return failed(broken, after)
        return passed(Verified(at - after, at, digest))

    async def _due_in(self) -> float:
        """Seconds, after the last audit, whoever made it and whatever it found."""
        before = await self._before()
        if not before:
            return 0.0
        return before[-1][0].recorded_at.timestamp() + self._hours * HOUR_SECONDS - time.time()

    async def _before(self) -> Sequence[tuple[Recorded, LedgerAudited]]:
        recorded = await self._ledger.read_stream(self._stream)
        return [(one, one.event) for one in recorded if isinstance(one.event, LedgerAudited)]


def passed(verified: Verified) -> LedgerAudited:
    """What is recorded of an audit that found nothing."""
    return LedgerAudited(
        position=verified.position, ok=True, checked_events=verified.events, digest=verified.digest.hex()
    )


def failed(broken: BrokenChain, after: int = 0) -> LedgerAudited:
    """What is recorded of an audit of all after a position."""
    checked = max(broken.position - after, 0)
    return LedgerAudited(position=broken.position, ok=False, checked_events=checked, reason=broken.why)
