"""An event as the ledger holds it: the envelope, the exact bytes, and the digest that chains it to all before."""

from datetime import datetime
from functools import cached_property
from uuid import UUID

from msgspec import Struct

from domain.events import Event
from ledger.codec import chain, decode


class Recorded(Struct, frozen=True, dict=True):
    """One event. `recorded_at` is UTC with microseconds; `state` the bytes as they were written; `digest` 32 bytes.

    Two are equal if every field is. `dict=True` is what lets the decoded event be kept.
    """

    position: int
    stream: str
    version: int
    type: str
    id: UUID
    recorded_at: datetime
    correlation_id: str | None
    causation_id: str | None
    actor: str
    traceparent: str | None
    state: bytes
    digest: bytes

    @cached_property
    def event(self) -> Event:
        """The event itself, decoded once. UnknownEvent if a newer program wrote it."""
        return decode(self.position, self.type, self.state)

    def continues(self, previous: bytes) -> bool:
        """Whether the digest is that of this event after a ledger whose digest was `previous`."""
        return self.digest == chain(previous, self.envelope, self.state)

    @property
    def envelope(self) -> tuple[object, ...]:
        """What the digest covers besides the state, in the order in which it is hashed."""
        return (
            self.position,
            self.stream,
            self.version,
            self.type,
            self.id,
            self.recorded_at,
            self.correlation_id,
            self.causation_id,
            self.actor,
            self.traceparent,
        )
