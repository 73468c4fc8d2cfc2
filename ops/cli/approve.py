"""`cairn approve`."""

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.stop import CONFLICT, NOT_FOUND, Stop
from ops.cli.text import clean, say


def command(
    workflow: str,
    ask: str,
    /,
    *,
    refuse: bool = False,
    because: str = "",
    shown: str | None = None,
    output: Document = "text",
    place: Place = HERE,
) -> None:
    """Answer what a workflow asks: approves exactly what is printed, or refuses it.

    Parameters
    ----------
    workflow
        The workflow that asks.
    ask
        Which of its asks, as ask-1; `cairn show` lists them.
    refuse
        Say no.
    because
        The reason, which is recorded with the answer.
    shown
        The sha256 of what you have seen before: if something else is asked by now, nothing is answered.
    """
    import msgspec

    from ops.cli.report import question
    from projections.board_rows import BoardDetail

    client = place.client()
    detail = msgspec.convert(client.workflow(workflow), BoardDetail)
    found = next((one for one in detail.asks if one.ask == ask), None)
    if found is None:
        known = ", ".join(one.ask for one in detail.asks) or "none"
        raise Stop(NOT_FOUND, f"workflow {workflow} has no ask {ask}, it has: {known}", fix=f"cairn show {workflow}")
    if shown is not None and shown != found.shown:
        why = f"what is asked has the sha256 {found.shown}, not {shown}"
        raise Stop(CONFLICT, f"{ask} of {workflow} is not what you were shown", why, f"cairn show {workflow}")
    for text in question(workflow, found):
        say(text)
    answered = client.answer(workflow, ask, approved=not refuse, shown=found.shown, because=because)
    if output == "json":
        document({**answered, "ask": ask, "approved": not refuse})
    else:
        print(clean(f"{'refused' if refuse else 'approved'} {ask} of {workflow} at position {answered['position']}"))
