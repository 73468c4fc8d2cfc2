"""Full text over workflows, tasks, asks and agents: what they are called, were told, said, asked, failed with, left.

A query finds whole documents (`search_fold`), each of bounded size. They are gone through from the newest on, in windows
that hold at least a page of what matches, or everything; what matches best in a window comes first. So a page of what
all documents have costs no more than one of what a few have.
"""

import asyncio
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import msgspec

from domain.events import (
    CallReserved,
    CallSettled,
    ReportRefused,
    RetryScheduled,
    TaskDispatched,
    TaskHeld,
    TaskPrioritised,
    TaskQueued,
    TaskStarted,
    UsageCorrected,
    WorkflowStarted,
)
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.rows import load, store
from projections.search_fold import Changes, Document, Indexed, Key, indexed
from projections.search_query import BadQuery, DocumentStatus, DocumentType, Query, parse
from projections.search_text import Term, snippet
from projections.sql import statements

__all__ = ["BadQuery", "Cursor", "Hit", "Search", "parse", "search"]

WORKFLOW, AGENT = "workflow-", "agent-"
SQL = statements("search")
_FIND = SQL.pop("find")
SQL |= {
    "find_newest": _FIND.replace("{number}", "number"),
    "find_all": _FIND.replace("{number}", "number + 0"),  # which no index has: only that of the words is left
}
WINDOW = 1_000
"""Documents that match, of which the best come first; so many are ranked."""
LARGEST = 2**63 - 1
REACH = 1_000
"""Documents that a first window has. If they are not enough for a page what is looked for is no common word."""
CURSOR_PATTERN = r"[0-9]{1,19}(?:\.[0-9]{1,19}){3}"
STORED_CHARACTERS = 200_000
"""Of documents that one statement writes."""
WORDLESS = (
    CallReserved, CallSettled, ReportRefused, RetryScheduled, TaskDispatched, TaskHeld, TaskPrioritised,
    TaskQueued, TaskStarted, UsageCorrected,
)  # fmt: skip
"""Events that change no document."""


_LOADED = msgspec.json.Decoder(list[Document])


class Hit(msgspec.Struct):
    """What was found: `ask` and `agent` are None if it is none, `position` that of the event that made it.

    `snippet` is a part of what it says `where`, in pieces: the second, and every other one from there, is what was
    looked for.
    """

    type: DocumentType
    title: str
    status: DocumentStatus
    position: int
    workflow: str | None = None
    task: str | None = None
    ask: str | None = None
    agent: str | None = None
    role: str | None = None
    where: str | None = None
    snippet: list[str] = []


class Cursor(NamedTuple):
    """Where a page ends: in the window of the documents from `least` to `newest`, after the one of this rank and number.
    A window that was not begun has no `least`: 0."""

    newest: int = LARGEST
    least: int = 0
    rank: int = LARGEST
    number: int = LARGEST

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @classmethod
    def read(cls, text: str) -> Self:
        """ValueError if it is none that `search` gave."""
        if not re.fullmatch(CURSOR_PATTERN, text) or max(found := cls(*map(int, text.split(".")))) > LARGEST:
            raise ValueError("the `next` of the page before")
        return found


FIRST = Cursor()


class _Ranked(msgspec.Struct):
    rank: int
    document: Document


class _Page(msgspec.Struct):
    """`matching` of the window match, as far as was looked; `oldest` is the last of them."""

    matching: int
    oldest: int | None
    documents: list[_Ranked]


_PAGE = msgspec.json.Decoder(_Page)


async def search(
    connection: Connection, query: Query, *, limit: int = 20, after: Cursor = FIRST
) -> tuple[list[Hit], Cursor | None]:
    """A page, and after what the next one begins; None if there is none. A page may have fewer than `limit`."""
    newest = min(after.newest, await _last(connection))
    given = {**query._asdict(), "newest": newest, "rank": after.rank, "number": after.number, "limit": limit + 1}
    least = after.least or max(1, newest - REACH + 1)
    page = await _page(connection, given | {"least": least, "window": WINDOW})
    if page.matching <= limit and least > 1 and not after.least:
        least = 1
        page = await _page(connection, given | {"least": least, "window": WINDOW})
    if page.matching == WINDOW and page.oldest:
        least = page.oldest  # the rest of the window was not looked at
    found = page.documents[:limit]
    following = None
    if len(page.documents) > limit:
        following = Cursor(newest, least, found[-1].rank, found[-1].document.number)
    elif least > 1:
        following = Cursor(least - 1)
    return [_hit(one.document, query.terms) for one in found], following


async def _page(connection: Connection, given: dict[str, Any]) -> _Page:
    """Postgres reckons what it takes to read a row, not what it takes to read its words, which are kept apart: it would
    go through the words of all documents where a look into their index tells which few there are."""
    async with connection.transaction():
        few = given["newest"] - given["least"] < REACH
        await connection.execute(SQL["plan"], {"bitmaps": "off" if few else "on"}, prepare=True)
        name = "find_newest" if few else "find_all"
        found = await (await connection.execute(SQL[name], given, prepare=False)).fetchone()
    assert found
    return _PAGE.decode(found[0])


async def _last(connection: Connection) -> int:
    found = await (await connection.execute(SQL["last"], prepare=True)).fetchone()
    assert found
    last: int = found[0]
    return last


def _hit(it: Document, terms: Sequence[Term]) -> Hit:
    ask, agent = (it.name if it.type == kind else None for kind in ("ask", "agent"))
    task = it.task if it.type in ("task", "ask") else None
    hit = Hit(it.type, it.title, it.status, it.position, it.workflow or None, task, ask, agent, it.role or None)
    most = -1
    for where, text in it.texts:
        count, pieces = snippet(text, terms)
        if count > most:
            most, hit.where, hit.snippet = count, where, pieces
    return hit


class Search:
    """The view. It remembers nothing: the documents that a batch changes are read, and written once."""

    name = "search"
    version = 1
    sql = SQL
    pace_seconds = 1.0

    def forget(self) -> None:
        pass

    async def apply(self, connection: Connection, batch: Sequence[Recorded]) -> None:
        mine = [
            (recorded.stream.removeprefix(WORKFLOW) if recorded.stream.startswith(WORKFLOW) else "", recorded)
            for recorded in batch
            if recorded.stream.startswith((WORKFLOW, AGENT)) and not isinstance(recorded.event, WORDLESS)
        ]
        if not mine:
            return
        changes = Changes(await self._load(connection, mine), await _last(connection))
        for stream, recorded in mine:
            changes.fold(stream, recorded)
        for some in _some(changes.changed.values()):
            # A plan of thousands of long texts takes seconds to cut into words: others go on meanwhile.
            await store(connection, SQL["store"], await asyncio.to_thread(_indexed, some))

    async def _load(self, connection: Connection, mine: list[tuple[str, Recorded]]) -> dict[Key, dict[str, Document]]:
        """The documents that these events change, unless they make them."""
        started = {name for name, recorded in mine if isinstance(recorded.event, WorkflowStarted)}
        keys = {_key(name, recorded) for name, recorded in mine if not name or name not in started}
        found: dict[Key, dict[str, Document]] = {}
        if keys:
            wanted = {"workflows": [name for name, _ in keys], "tasks": [task for _, task in keys]}
            for it in await load(connection, _LOADED, SQL["load"], **wanted) or ():
                found.setdefault((it.workflow, it.task), {})[it.name] = it
        return found


def _key(workflow: str, recorded: Recorded) -> Key:
    """Of the documents that the event may change."""
    event: Any = recorded.event
    return (workflow, getattr(event, "task", "")) if workflow else ("", event.agent)


def _some(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """All of them, STORED_CHARACTERS at a time."""
    some, characters = list[Document](), 0
    for document in documents:
        some.append(document)
        characters += sum(len(text) for _, text in document.texts)
        if characters > STORED_CHARACTERS:
            yield some
            some, characters = [], 0
    if some:
        yield some


def _indexed(documents: list[Document]) -> list[Indexed]:
    return [indexed(document) for document in documents]
