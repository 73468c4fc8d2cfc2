"""`cairn pause`."""

from typing import Any

from ops.cli.acts import Because, Workflow, told
from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.stop import USAGE, Stop
from ops.cli.text import clean


def command(
    workflow: Workflow | None = None, /, *, role: str | None = None, tenant: bool = False, because: Because = "",
    output: Document = "text", place: Place = HERE,
) -> None:  # fmt: skip
    """Dispatch nothing new: of a workflow, to a role, or at all. What is under way goes on and may report.

    Parameters
    ----------
    role
        To the agents of this role.
    tenant
        To all agents.
    """
    of = whom(workflow, role, tenant)
    if workflow:
        told("paused", workflow, place.client().pause(workflow, because), output)
    else:
        said = place.client().pause_dispatch(role, because)
        show(
            said, f"paused {of}: nothing new is handed out" if said["position"] else f"{of} was paused already", output
        )


def whom(workflow: str | None, role: str | None, tenant: bool) -> str:
    if (workflow is not None) + (role is not None) + tenant != 1:
        what = "what is meant is a workflow, a role, or the whole tenant"
        raise Stop(USAGE, what, fix="give one of WORKFLOW, --role ROLE and --tenant")
    return workflow or (f"role {role}" if role else "the tenant")


def show(said: dict[str, Any], sentence: str, output: str) -> None:
    if output == "json":
        document(said)
    else:
        print(clean(sentence))
