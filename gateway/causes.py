"""What led to an event, as far as the ledger tells.

A command's later events follow from its first. That one follows from what happened last, before the command, to the same
run; if there was nothing, to the same ask; if there was nothing either, to the same task; and a workflow's other events
from its start. The start of a workflow, and what no workflow holds, has no cause here: who wanted it is its `actor`.
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
    if (first := await _first_of_command(ledger, event)).position < event.position:
        return first
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


async def _first_of_command(ledger: Ledger, event: Recorded) -> Recorded:
    try:
        answer = await ledger.find_command(UUID(event.causation_id or ""))
    except ValueError:  # no command of ours
        return event
    return answer[0] if answer else event


class _About(Struct):
    task: str | None = None
    run: str | None = None
    ask: str | None = None


_about = json.Decoder(_About).decode
