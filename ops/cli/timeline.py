"""`cairn timeline`."""

import time

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document


def command(workflow: str, /, *, output: Document = "text", place: Place = HERE) -> None:
    """One workflow as a Gantt chart: what each task waited on from when to when, branches under what they mend.

    Parameters
    ----------
    workflow
        Its id, as `cairn ls` lists it.
    """
    found = place.client().timeline(workflow)
    if output == "json":
        document(found)
        return
    import msgspec

    from ops.cli.gantt import gantt
    from ops.cli.screen import out
    from projections.timeline_rows import TimelinePage

    console = out()
    for text in gantt(msgspec.convert(found, TimelinePage), time.time(), console.width if console.is_terminal else 100):
        console.print(text, no_wrap=True, crop=False, highlight=False, soft_wrap=True)
