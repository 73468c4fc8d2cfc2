"""`cairn resume`."""

from ops.cli.pause import whom
from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.text import clean


def command(
    *,
    role: str | None = None,
    tenant: bool = False,
    rate: float | None = None,
    reason: str = "",
    output: Document = "text",
    place: Place = HERE,
) -> None:
    """Hand out work again, to a role or to all: at once, or gradually.

    Parameters
    ----------
    role
        To the agents of this role.
    tenant
        To all agents.
    rate
        So many dispatches a minute, until nothing waits any more.
    reason
        Recorded with it.
    """
    of = whom(role, tenant)
    told = place.client().resume_dispatch(role, rate, reason)
    if output == "json":
        document(told)
    else:
        how = f" at {rate:g} a minute" if rate else ""
        print(clean(f"resumed {of}{how}" if told["position"] else f"{of} was not paused"))
