"""`cairn budget`."""

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.text import clean


def command(
    workflow: str,
    scope: str = "workflow",
    /,
    *,
    tokens: int | None = None,
    usd: float | None = None,
    seconds: float | None = None,
    attempts: int | None = None,
    because: str = "",
    output: Document = "text",
    place: Place = HERE,
) -> None:
    """Add to a budget; tasks that waited for it go on.

    Parameters
    ----------
    workflow
        Its id, as `cairn ls` lists it.
    scope
        Whose budget: workflow, role/<role> or task/<id>.
    tokens
        How many more.
    usd
        How many dollars more.
    seconds
        How much more working time.
    attempts
        How many more.
    because
        The reason, which is recorded with it.
    """
    amount = {"tokens": tokens, "usd": usd, "seconds": seconds, "attempts": attempts}
    given = {name: value for name, value in amount.items() if value is not None}
    raised = place.client().raise_budget(workflow, scope, because=because, **given)
    if output == "json":
        document(raised)
    else:
        print(clean(f"raised the budget of {scope} in {workflow} at position {raised['position']}"))
