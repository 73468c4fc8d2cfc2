"""`cairn resume`."""

from ops.cli.acts import Because, Workflow, told
from ops.cli.pause import show, whom
from ops.cli.place import HERE, Place
from ops.cli.rows import Document
from ops.cli.stop import USAGE, Stop


def command(
    workflow: Workflow | None = None, /, *, role: str | None = None, tenant: bool = False, rate: float | None = None,
    because: Because = "", output: Document = "text", place: Place = HERE,
) -> None:  # fmt: skip
    """Go on after a pause: what has become ready is dispatched, the most urgent first; at once, or gradually.

    Parameters
    ----------
    role
        To the agents of this role.
    tenant
        To all agents.
    rate
        So many dispatches a minute, until nothing waits any more; of a role or the tenant.
    """
    of = whom(workflow, role, tenant)
    if workflow:
        if rate is not None:
            raise Stop(USAGE, "a workflow goes on at once", fix="give --rate with --role ROLE or --tenant")
        told("resumed", workflow, place.client().resume(workflow, because), output)
    else:
        said, how = place.client().resume_dispatch(role, rate, because), f" at {rate:g} a minute" if rate else ""
        show(said, f"resumed {of}{how}" if said["position"] else f"{of} was not paused", output)
