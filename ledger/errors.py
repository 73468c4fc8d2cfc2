"""What the ledger says when it cannot do as asked. Conflicts are answers; everything else is a fault."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ledger.recorded import Recorded


class LedgerError(Exception):
    """Any fault of the ledger."""


class Conflict(Exception):
    """The append was right when it was decided and is not any more; nothing of it was written. Load, decide again."""


class WrongVersion(Conflict):
    """The stream is not at the version that the append expected."""

    def __init__(self, stream: str, expected: int, actual: int) -> None:
        super().__init__(f"Wrong expected version: {expected} (stream {stream} is at version {actual}).")
        self.stream, self.expected, self.actual = stream, expected, actual


class AlreadyRecorded(Conflict):
    """The same command was recorded before; `recorded` is its first answer, whole and in order."""

    def __init__(self, recorded: "list[Recorded]") -> None:
        first = recorded[0]
        super().__init__(f"Already recorded: event {first.id} is at position {first.position} ({first.stream}).")
        self.recorded = recorded


class LedgerUnavailable(LedgerError):
    """Postgres did not answer in time. The message says whether the outcome is known; ids make asking again safe."""


class LedgerClosed(LedgerError):
    """The ledger is shutting down; what was to be appended was not written."""


class UnsafeServer(LedgerError):
    """Postgres is set up to lose what it has acknowledged."""


class MigrationError(LedgerError):
    """The schema in the database and the migrations in this program do not belong together."""


class NotRecordable(LedgerError, ValueError):
    """The append has a form that can never be recorded: a bad stream name, an unknown event, too many bytes."""


class UnknownEvent(LedgerError):
    """The ledger holds an event that this program does not know, or not in this shape: a newer one wrote it."""

    def __init__(self, position: int, tag: str, why: str = "") -> None:
        why = f" ({why})" if why else ""
        super().__init__(f"Position {position} holds {tag!r}, which this program does not know{why}: upgrade it.")
        self.position, self.tag = position, tag


class BrokenChain(LedgerError):
    """History was changed: at `position` the recorded digest is not that of the bytes before and in it."""

    def __init__(self, position: int, why: str) -> None:
        super().__init__(f"The ledger is not what was recorded: position {position}: {why}.")
        self.position, self.why = position, why


class NoLedger(LedgerError):
    """This Postgres holds no ledger of that tenant."""


class SegmentUnreadable(LedgerError):
    """Events are in a file of the archive that is missing or is not as it was written; the message names it."""


class SegmentUnwritable(LedgerError):
    """A file of the archive could not be written; the events stay where they are."""


class ArchiveBusy(LedgerError):
    """Somebody else is archiving this ledger."""


class NotOwner(LedgerError):
    """Only who owns a ledger's tables may move events out of them."""


class ForeignStream(LedgerError):
    """A JetStream stream with our name or subjects carries another ledger's events."""
