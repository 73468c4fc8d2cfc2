"""Whose data an event holds, and what is left of the event when that person's key is erased."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import Mapper, MapperDeserialisationError, ProgrammingError, StoredEvent

T = TypeVar("T")

_SUBJECT: ContextVar[str] = ContextVar("subject")


class KeyErased(Exception):
    """The data was encrypted with a key that does not exist any more: its subject was erased."""


@dataclass(frozen=True)
class Erased:
    """Stands for an event whose state nobody can read any more. An aggregate is not changed by it: one of which
    nothing else is left does not exist (AggregateNotFoundError); a projection may register what it does then."""

    originator_id: UUID | str
    originator_version: int
    topic: str

    def mutate(self, aggregate: T) -> T:
        return aggregate


@contextmanager
def about(subject: str) -> Iterator[None]:
    """What is encrypted inside of this block is this subject's data."""
    token = _SUBJECT.set(subject)
    try:
        yield
    finally:
        _SUBJECT.reset(token)


def present_subject() -> str:
    """The subject of the innermost `about`. ProgrammingError outside of all."""
    try:
        return _SUBJECT.get()
    except LookupError:
        raise ProgrammingError(
            "Nobody said whose data this is: map events with SubjectMapper, or encrypt inside of about(subject)."
        ) from None


class SubjectMapper(Mapper[Any]):
    """The mapper of applications on the ledger."""

    def subject(self, domain_event: DomainEventProtocol[Any]) -> str:
        """Whose data the event holds: by default, each aggregate is a subject of its own. Overridden (and named in
        MAPPER_TOPIC) where it is otherwise; snapshots are asked about too. Choose ids, never names or addresses."""
        return str(domain_event.originator_id)

    def to_stored_event(self, domain_event: DomainEventProtocol[Any]) -> StoredEvent:
        with about(self.subject(domain_event)):
            return super().to_stored_event(domain_event)

    def to_domain_event(self, stored_event: StoredEvent) -> DomainEventProtocol[Any]:
        try:
            return super().to_domain_event(stored_event)
        except MapperDeserialisationError as error:
            if isinstance(error.__cause__, KeyErased):
                return Erased(stored_event.originator_id, stored_event.originator_version, stored_event.topic)
            raise
