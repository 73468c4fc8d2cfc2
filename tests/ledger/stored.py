"""Events as the `eventsourcing` library hands them to a recorder."""

from uuid import UUID

from eventsourcing.persistence import StoredEvent

TOPIC = "dogs:Dog.TrickAdded"


def stored(originator: UUID | str, version: int, state: bytes = b"{}", topic: str = TOPIC) -> StoredEvent:
    return StoredEvent(originator, version, topic, state)
