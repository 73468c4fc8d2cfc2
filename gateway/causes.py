"""What led to an event, as far as the ledger tells.

A command begins with what happened to one task, or to the workflow; each later event of it follows from the last one
before it that is about the same as the first. The first follows from what happened last, before the command, to the
same run; if there was nothing, to the same ask; if there was nothing either, to the same task; and a workflow's other
events from its start. The start of a workflow, and what no workflow holds, has no cause here: who wanted it is its `actor`.
"""

from uuid import UUID

from msgspec import Struct, json

from gateway.event_pages import EventPages
from ledger.filters import Filter
from ledger.ledger import Ledger
from ledger.recorded import Recorded

MOST_CAUSES = 50
LOOKED_AT_EVENTS = 100
"""Of what happened to a task, before an event, so many are compared."""


async def causes_of(ledger: Ledger, pages: EventPages, event: Recorded) -> list[Recorded]:
    """Its cause, the cause of that, and so on, at most MOST_CAUSES."""
    found: list[Recorded] = []
    while len(found) < MOST_CAUSES:
        cause = await _cause_of(ledger, pages, found[-1] if found else event)
        if cause is None:
            break
        found.append(cause)
    return found


async def _cause_of(ledger: Ledger, pages: EventPages, event: Recorded) -> Recorded | None:
    earlier = [one for one in await _command_of(ledger, event) if one.position < event.position]
    if earlier:
        subject = _about(earlier[0].state).task
        return next(one for one in reversed(earlier) if _about(one.state).task == subject)
    kind, _, workflow = event.stream.partition("-")
    if kind != "workflow":
        return None
    about = _about(event.state)
    if about.task is not None:
        wanted = Filter(workflow=workflow, task=about.task)
        before = (await pages.backward(wanted, event.position, LOOKED_AT_EVENTS)).events
        same_run = (one for one in before if about.run and _about(one.state).run == about.run)
        same_ask = (one for one in before if about.ask and _about(one.state).ask == about.ask)
        for cause in (*same_run, *same_ask, *before):
            return cause
    (start,) = await ledger.read_stream(event.stream, limit=1)
    return start if start.position < event.position else None


async def _command_of(ledger: Ledger, event: Recorded) -> list[Recorded]:
    try:
        return await ledger.find_command(UUID(event.causation_id or ""))
    except ValueError:  # no command of ours
        return []


class _About(Struct):
    task: str | None = None
    run: str | None = None
    ask: str | None = None


_about = json.Decoder(_About).decode
