"""`cairn events`."""

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
    after: int = 0,
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
        Only of this type, or of a pattern as 'task.*'.
    after
        Only after this position.
    follow
        Go on until Ctrl-C.
    """
    client = place.client()
    if workflow and not follow and not any(client.events(workflow=workflow, type="workflow.started")):
        raise Stop(NOT_FOUND, f"there is no workflow {workflow}", fix="cairn ls")
    found = client.events(after, workflow=workflow, type=type, follow=follow)
    if output == "text":
        for event in found:
            print(happened(event), flush=follow)
    elif output == "json" and follow:
        raise Stop(USAGE, "-o json ends with a bracket, --follow never ends", fix="use -o jsonl")
    else:
        emit(found, output, COLUMNS)
