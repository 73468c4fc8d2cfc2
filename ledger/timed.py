"""Every statement with its name and how long it took, in the log, where `ledger.timed` is at debug when a connection
is made; elsewhere connections have the driver's own cursors, and nothing is measured.

Parameters are never told: they hold what people and agents have written.
"""

import logging
from collections.abc import Mapping
from time import monotonic
from typing import Any, Self

import structlog
from psycopg import AsyncCursor, Cursor
from psycopg.rows import TupleRow

log = structlog.get_logger(__name__)
_level = logging.getLogger(__name__)
_names: dict[str, str] = {}
OPENING_CHARACTERS = 60


def name(statements: Mapping[str, str], source: str) -> None:
    """These are told as `<source>.<name>`."""
    _names.update({text.strip(): f"{source}.{name}" for name, text in statements.items()})


def wanted() -> bool:
    return _level.isEnabledFor(logging.DEBUG)


def told(query: Any, began: float, rows: int, failed: BaseException | None = None) -> None:
    """A statement that began at `began` (`time.monotonic`) has ended."""
    text = (query if isinstance(query, str) else query.decode() if isinstance(query, bytes) else repr(query)).strip()
    if not text:  # a pool asks whether a connection lives
        return
    known = _names.get(text) or " ".join(text[:OPENING_CHARACTERS].split())
    error = {"error": type(failed).__name__} if failed else {}
    log.debug("sql", statement=known, ms=round((monotonic() - began) * 1000, 2), rows=rows, **error)


class AsyncTimed(AsyncCursor[TupleRow]):
    async def execute(self, query: Any, *arguments: Any, **more: Any) -> Self:
        began, failed = monotonic(), None
        try:
            return await super().execute(query, *arguments, **more)
        except BaseException as error:
            failed = error
            raise
        finally:
            told(query, began, self.rowcount, failed)


class Timed(Cursor[TupleRow]):
    def execute(self, query: Any, *arguments: Any, **more: Any) -> Self:
        began, failed = monotonic(), None
        try:
            return super().execute(query, *arguments, **more)
        except BaseException as error:
            failed = error
            raise
        finally:
            told(query, began, self.rowcount, failed)


def cursors() -> dict[str, Any]:
    """What a connection for asynchronous code is to be made with."""
    return {"cursor_factory": AsyncTimed} if wanted() else {}


def blocking_cursors() -> dict[str, Any]:
    """The same for threads."""
    return {"cursor_factory": Timed} if wanted() else {}
