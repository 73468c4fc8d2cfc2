"""The queue as the board shows it: what is claimed and by whom, what is paused, and what a claim waits for in words."""

from collections.abc import Iterable, Sequence

import msgspec

from domain.claims import (
    TENANT,
    ClaimFreed,
    ClaimGranted,
    ClaimQueued,
    RolePaused,
    RoleResumed,
    TenantPaused,
    TenantResumed,
)
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.rows import load, store
from projections.sql import statements

STREAM = "queue-"
SQL = statements("claims")
SHOWN_HOLDERS = 3


class BoardClaim(msgspec.Struct, gc=False):
    """`task` is empty for a workflow that claims its place; `queued` is the position at which it was claimed."""

    claim: str
    workflow: str
    task: str
    role: str
    resources: tuple[str, ...]
    priority: int
    queued: int
    granted: bool = False


class BoardPause(msgspec.Struct, gc=False):
    """`role` is empty for all of the tenant."""

    role: str
    by: str
    reason: str


class Blocked(msgspec.Struct):
    """A claim that waits, those of the others that hold what it needs, and what is paused of it."""

    claim: BoardClaim
    held: list[BoardClaim]
    ahead: int
    paused: list[BoardPause]


_BLOCKED = msgspec.json.Decoder(list[Blocked])


async def apply(connection: Connection, batch: Sequence[Recorded]) -> None:
    """Changes the tables by the events of the queue among these."""
    claims: dict[str, BoardClaim | None] = {}
    pauses: dict[str, BoardPause | None] = {}
    granted: list[str] = []
    for recorded in batch:
        match recorded.event:
            case ClaimQueued(claim=it):
                claims[it.id] = BoardClaim(
                    it.id, it.workflow, it.task, it.role, it.resources, it.priority, recorded.position
                )
            case ClaimGranted(claim=id):
                if row := claims.get(id):
                    row.granted = True
                else:
                    granted.append(id)
            case ClaimFreed(claim=id):
                claims[id] = None
            case TenantPaused(by=by, reason=reason):
                pauses[TENANT] = BoardPause(TENANT, by, reason)
            case RolePaused(role=role, by=by, reason=reason):
                pauses[role] = BoardPause(role, by, reason)
            case TenantResumed():
                pauses[TENANT] = None
            case RoleResumed(role=role):
                pauses[role] = None
    if granted:
        await connection.execute(SQL["grant_claims"], {"claims": granted})
    if claims:
        await connection.execute(SQL["drop_claims"], {"claims": list(claims)})
        await store(connection, SQL["store_claims"], [row for row in claims.values() if row])
    if pauses:
        await connection.execute(SQL["drop_pauses"], {"roles": list(pauses)})
        await store(connection, SQL["store_pauses"], [row for row in pauses.values() if row])


async def blocked(connection: Connection, workflow: str, tasks: Sequence[str]) -> dict[str, str]:
    """Of each of these tasks that waits for a slot (of the workflow itself under ""), what it waits for."""
    found = await load(connection, _BLOCKED, SQL["blocked"], workflow=workflow, tasks=["", *tasks]) or []
    return {one.claim.task: sentence(one) for one in found}


def sentence(one: Blocked) -> str:
    for pause in one.paused:
        what = f"role {pause.role}" if pause.role else "everything"
        return f"a slot: {what} was paused by {pause.by}" + (f": {pause.reason}" if pause.reason else "")
    if not one.claim.task:
        return f"a place: {_number(one.held, 'workflow')} at work, {one.ahead} before this one"
    holders = {name: it for it in one.held for name in it.resources if name in one.claim.resources}
    if holders:
        shown = [f"{name} is held by {holders[name].workflow}/{holders[name].task}" for name in sorted(holders)]
        return f"a slot: {_few(shown)}"
    if one.ahead:
        return f"a slot: {one.ahead} that need the same are before it"
    return f"a slot of role {one.claim.role}: {_number(one.held, 'task')} at work"


def _number(claims: Sequence[BoardClaim], what: str) -> str:
    return f"{len(claims)} {what}{'s' if len(claims) != 1 else ''}"


def _few(texts: Iterable[str]) -> str:
    all_of_them = list(texts)
    more = len(all_of_them) - SHOWN_HOLDERS
    return ", ".join(all_of_them[:SHOWN_HOLDERS]) + (f" and {more} more" if more > 0 else "")
