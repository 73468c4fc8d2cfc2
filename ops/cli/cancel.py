"""`cairn cancel`."""

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.text import clean


def command(workflow: str, /, *, reason: str = "", output: Document = "text", place: Place = HERE) -> None:
    """End a workflow: what runs is stopped, what has completed stays.

    Parameters
    ----------
    workflow
        Its id, as `cairn ls` lists it.
    reason
        Recorded with it.
    """
    cancelled = place.client().cancel(workflow, reason)
    if output == "json":
        document(cancelled)
    else:
        print(clean(f"cancelled {workflow} at position {cancelled['position']}"))
