"""`cairn cancel`."""

from ops.cli.place import HERE, Place
from ops.cli.text import clean


def command(workflow: str, /, *, reason: str = "", place: Place = HERE) -> None:
    """End a workflow: what runs is stopped, what has completed stays.

    Parameters
    ----------
    workflow
        Its id, as `cairn ls` lists it.
    reason
        Recorded with it.
    """
    position = place.client().cancel(workflow, reason)["position"]
    print(clean(f"cancelled {workflow} at position {position}"))
