"""`cairn queue`."""

from typing import Any

from ops.cli.place import HERE, Place
from ops.cli.rows import Output, document, emit
from ops.cli.text import clean

SHOWN = ("workflow", "task", "role", "resources", "priority", "granted")


def command(*, output: Output = "table", place: Place = HERE) -> None:
    """Who has a place, a slot or a resource, who waits for one in which order, and what is paused."""
    queue = place.client().queue()
    if output == "json":
        document(queue)
        return
    if output == "table":
        for one in queue["paused"]:
            what = f"role {one['role']}" if one["role"] else "everything"
            print(clean(f"{what} was paused by {one['by']}{': ' if one['reason'] else ''}{one['reason']}"))
        for one in queue["rates"]:
            print(clean(f"{'role ' + one['role'] if one['role'] else 'everything'}: {one['rate']:g} a minute"))
    emit([_row(one) for one in queue["claims"]], output, SHOWN)


def _row(claim: dict[str, Any]) -> dict[str, Any]:
    resources = ", ".join(claim.get("resources", ()))
    return {**dict.fromkeys(SHOWN, ""), "priority": 0, **claim, "resources": resources}
