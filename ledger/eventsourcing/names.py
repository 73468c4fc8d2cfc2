"""Where the events of an `eventsourcing` application stand in the ledger: the stream `es-<application>-<originator>`.

Both names are written with a-z, 0-9 (and '-' in the originator's); any other byte of theirs is '_' and two hex digits.
A UUID stands as it is, so does `order-42`.
"""

import re
from typing import Literal, NamedTuple
from uuid import UUID

from eventsourcing.persistence import ProgrammingError

_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789")
_ESCAPED = re.compile(rb"_([0-9a-f]{2})")


class Names(NamedTuple):
    """`application` is in lower case, as the library names its tables; `ids` says what the originators' ids are."""

    application: str
    ids: Literal["uuid", "text"]

    @property
    def prefix(self) -> str:
        """What the names of all streams of the application, and of no other, begin with."""
        return f"es-{_escaped(self.application, _PLAIN)}-"

    def stream(self, originator: UUID | str) -> str:
        """ProgrammingError if the id is not of the type that the application was set up with."""
        if not isinstance(originator, UUID if self.ids == "uuid" else str):
            raise ProgrammingError(
                f"originator id {originator!r} is no {self.ids}: set ORIGINATOR_ID_TYPE to uuid or to text"
            )
        return self.prefix + _escaped(str(originator), _PLAIN | {ord("-")})

    def originator(self, stream: str) -> UUID | str:
        """The id behind the name of a stream of this application."""
        name = stream.removeprefix(self.prefix)
        if self.ids == "uuid":
            return UUID(name)
        return _ESCAPED.sub(lambda found: bytes.fromhex(found[1].decode()), name.encode()).decode()


def _escaped(text: str, plain: frozenset[int]) -> str:
    return "".join(chr(byte) if byte in plain else f"_{byte:02x}" for byte in text.encode())
