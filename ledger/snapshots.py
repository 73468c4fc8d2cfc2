"""States of long streams, kept so that they need not be folded from their first event. Never needed, never trusted far.

A snapshot names the code that folded it and the digest of the last event in it. One by other code, or of a history that
is not this one (a database restored to the past), is passed over, and the stream read whole. They are written in the
background, by no one's leave: what cannot be written now is lost, and a newer one is written later.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import psycopg
import structlog

from ledger.errors import LedgerUnavailable
from ledger.postgres import Connection
from ledger.recorded import Recorded
from ledger.sql import SQL

WAITING = 8
"""Snapshots in memory on their way to Postgres; the next one is not made."""

_HERE = Path(__file__).parent
FOLDING = (
    *sorted((_HERE.parent / "domain").glob("*.py")),
    *(_HERE / name for name in ("codec.py", "snapshots.py", "upcast.py")),
)
"""Every file that can change what a stream folds to, and some that cannot: to read a stream once more is cheap."""

log = structlog.get_logger(__name__)

S = TypeVar("S")

_encode = msgspec.json.Encoder().encode


def code_of(files: Iterable[Path] = FOLDING) -> str:
    """The fingerprint of the code that folds: another one for any other byte in these files, or another decoder."""
    parts = [msgspec.__version__.encode(), *(file.read_bytes() for file in files)]
    return sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest()


CODE = code_of()
"""Of the code that runs here, taken when it was imported: later there may be newer files on the disk."""


class _Waiting(NamedTuple):
    version: int
    digest: bytes
    state: bytes


class Snapshots:
    """`reading` lends a connection, `read_stream` is the ledger's. Run `run()` beside the work."""

    def __init__(
        self,
        reading: Callable[[], AbstractAsyncContextManager[Connection]],
        read_stream: Callable[[str, int], Awaitable[list[Recorded]]],
    ) -> None:
        self._reading, self._read_stream = reading, read_stream
        self._code = CODE
        self._waiting: dict[str, _Waiting] = {}
        self._work = asyncio.Event()

    def offer(self, last: Recorded, state: Any) -> None:
        """Keeps the state as it is now, after the event `last`, if there is time to. Costs its encoding, no I/O."""
        if len(self._waiting) < WAITING:
            self._waiting[last.stream] = _Waiting(last.version, last.digest, _encode(state))
            self._work.set()

    async def load(self, stream: str, kind: type[S]) -> tuple[S | None, list[Recorded]]:
        """A snapshot (a state of that `kind`) and the stream from the event on that is the last one in it; or None, and
        the whole stream."""
        async with self._reading() as connection:
            found = await connection.execute(
                SQL["snapshot"], {"stream": stream, "code": self._code}, prepare=True, binary=True
            )
            row = await found.fetchone()
        if row is not None:
            version, digest, encoded = row
            recorded = await self._read_stream(stream, version - 1)
            try:
                state = msgspec.json.decode(encoded, type=kind)
            except ValueError as error:  # also of what is no UTF-8
                log.warning("ledger.snapshot.unreadable", stream=stream, version=version, why=str(error))
            else:
                if recorded and recorded[0].digest == digest:
                    return state, recorded
                log.warning("ledger.snapshot.of_another_history", stream=stream, version=version)
        return None, await self._read_stream(stream, 0)

    async def run(self) -> None:
        """Writes what is offered, for ever."""
        while True:
            await self._work.wait()
            while self._waiting:
                stream, waiting = next(iter(self._waiting.items()))
                try:
                    await self._keep(stream, waiting)
                except (LedgerUnavailable, psycopg.errors.ReadOnlySqlTransaction) as error:
                    log.warning("ledger.snapshot.lost", stream=stream, version=waiting.version, why=str(error))
                if self._waiting[stream] is waiting:
                    del self._waiting[stream]
            self._work.clear()

    async def _keep(self, stream: str, waiting: _Waiting) -> None:
        async with self._reading() as connection:
            await connection.execute(
                SQL["keep_snapshot"], {"stream": stream, "code": self._code, **waiting._asdict()}, prepare=True
            )
