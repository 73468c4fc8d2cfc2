"""`cairn pause`."""

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.stop import USAGE, Stop
from ops.cli.text import clean


def command(
    *, role: str | None = None, tenant: bool = False, reason: str = "", output: Document = "text", place: Place = HERE
) -> None:
    """Hand out nothing more, to a role or to anybody; what runs goes on.

    Parameters
    ----------
    role
        To the agents of this role.
    tenant
        To all agents.
    reason
        Recorded with it.
    """
    of = whom(role, tenant)
    told = place.client().pause_dispatch(role, reason)
    if output == "json":
        document(told)
    else:
        print(clean(f"paused {of}: nothing new is handed out" if told["position"] else f"{of} was paused already"))


def whom(role: str | None, tenant: bool) -> str:
    if (role is None) != tenant:
        raise Stop(USAGE, "what is meant is either a role or the whole tenant", fix="give --role ROLE or --tenant")
    return f"role {role}" if role else "the tenant"
