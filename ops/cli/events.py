"""`cairn events`."""

from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Literal

from cyclopts import Parameter

from ops.cli.happened import happened
from ops.cli.place import HERE, Place
from ops.cli.rows import emit
from ops.cli.stop import NOT_FOUND, USAGE, Stop

Form = Annotated[
    Literal["text", "json", "jsonl", "csv"], Parameter(name=["--output", "-o"], help="The form of what is printed.")
]
COLUMNS = ("sequence", "time", "type", "subject", "actor", "data", "id", "correlationid", "causationid", "digest")


def command(
    *,
    workflow: str | None = None,
    type: str | None = None,
    task: str | None = None,
    agent: str | None = None,
    actor: str | None = None,
    correlation: str | None = None,
    causation: str | None = None,
    since: Annotated[datetime | None, Parameter(name="--from")] = None,
    to: datetime | None = None,
    q: str | None = None,
    after: int = 0,
    limit: int | None = None,
    order: Literal["asc", "desc"] = "asc",
    follow: bool = False,
    output: Form = "text",
    place: Place = HERE,
) -> None:
    """What happened, in order, from the beginning; with --follow also what happens from now on.

    Parameters
    ----------
    workflow
        Only of this one.
    type
        Only of this type, or of several and of patterns, as 'task.*,workflow.failed'.
    task
        Only about the task of this name.
    agent
        Only about this agent or its work.
    actor
        Only what this one caused.
    correlation
        Only with this correlation id.
    causation
        Only with this causation id: what one command led to.
    since
        Only what was recorded at or after this time, as 2026-11-22T10:30:00; local, if it has no time zone.
    to
        Only what was recorded before this time.
    q
        Only what has all these words in its texts.
    after
        Only after this position; with --order desc, before it.
    limit
        No more than so many.
    order
        desc: the newest first.
    follow
        Go on until Ctrl-C.
    """
    client = place.client()
    if follow and order == "desc":
        raise Stop(USAGE, "--order desc ends at the first event, --follow never ends", fix="leave one of them out")
    if output == "json" and follow:
        raise Stop(USAGE, "-o json ends with a bracket, --follow never ends", fix="use -o jsonl")
    if workflow and not follow and not any(client.events(workflow=workflow, type="workflow.started")):
        raise Stop(NOT_FOUND, f"there is no workflow {workflow}", fix="cairn ls")
    found = islice(
        client.events(
            after, follow=follow, newest_first=order == "desc", workflow=workflow, type=type, task=task, agent=agent,
            actor=actor, correlation=correlation, causation=causation, since=_moment(since), to=_moment(to), q=q,
        ),
        limit,
    )  # fmt: skip
    if output == "text":
        for event in found:
            print(happened(event), flush=follow)
    else:
        emit(found, output, COLUMNS)


def _moment(given: datetime | None) -> datetime | None:
    return given and given.astimezone(UTC)
