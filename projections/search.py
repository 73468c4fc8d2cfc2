"""Full text over workflows, tasks, asks and agents: what they are called, were told, said, asked, failed with, left.

A query finds whole documents (`search_fold`), each of bounded size. What matches best of the newest WINDOW that match
comes first, then what matches best of the next: a page costs the same however much matches.
"""

import re
from collections.abc import Sequence
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
from projections.search_fold import PLACES, Changes, Document, Key
from projections.search_query import BadQuery, DocumentStatus, DocumentType, Query, parse
from projections.search_text import Term, snippet
from projections.sql import statements

__all__ = ["BadQuery", "Cursor", "Hit", "Search", "parse", "search"]

WORKFLOW, AGENT = "workflow-", "agent-"
SQL = statements("search")
WINDOW = 1_000
LARGEST = 2**63 - 1
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
    """Where a page ends: of those up to the document `newest`, after the one of this rank and id."""

    newest: int = LARGEST
    rank: int = LARGEST
    id: int = LARGEST

    def __str__(self) -> str:
        return ".".join(map(str, self))

    @classmethod
    def read(cls, text: str) -> Self:
        """ValueError if it is none that `search` gave."""
        if not re.fullmatch(r"[0-9]{1,19}(\.[0-9]{1,19}){2}", text, re.ASCII):
            raise ValueError("the `next` of the page before")
        found = cls(*map(int, text.split(".")))
        if max(found) > LARGEST:
            raise ValueError("the `next` of the page before")
        return found


FIRST = Cursor()


class _Ranked(msgspec.Struct):
    rank: int
    document: Document


class _Page(msgspec.Struct):
    least: int | None
    documents: list[_Ranked]


_PAGE = msgspec.json.Decoder(_Page)


async def search(
    connection: Connection, query: Query, *, limit: int = 20, after: Cursor = FIRST
) -> tuple[list[Hit], Cursor | None]:
    """A page, and after what the next one begins; None if there is none. A page may have fewer than `limit`."""
    given = {"all": query.all, "ranked": query.ranked, "window": WINDOW, "limit": limit + 1, **after._asdict()}
    page = await load(connection, _PAGE, SQL["find"], **given)
    assert page is not None
    found = page.documents[:limit]
    following = None
    if len(page.documents) > limit:
        following = Cursor(after.newest, found[-1].rank, found[-1].document.id)
    elif page.least is not None:
        following = Cursor(page.least - 1)
    return [_hit(one.document, query.terms) for one in found], following


def _hit(it: Document, terms: Sequence[Term]) -> Hit:
    ask, agent = (it.name if it.type == kind else None for kind in ("ask", "agent"))
    task = it.task if it.type in ("task", "ask") else None
    hit = Hit(it.type, it.title, it.status, it.id >> PLACES, it.workflow or None, task, ask, agent, it.role or None)
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
        changes = Changes(await self._load(connection, mine))
        for stream, recorded in mine:
            changes.fold(stream, recorded)
        await store(connection, SQL["store"], [document.index() for document in changes.changed.values()])

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
