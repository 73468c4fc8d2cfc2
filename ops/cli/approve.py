"""`cairn approve`."""

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
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
    """Give or refuse an approval: of exactly what is printed. `cairn answer` answers every kind of ask.

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
    from ops.cli.question import find, question

    client = place.client()
    found = find(client, workflow, ask, shown).ask
    for text in question(workflow, found):
        say(text)
    choice = "reject" if refuse else "approve"
    answered = client.answer(workflow, ask, choice=choice, shown=found.shown, because=because)
    if output == "json":
        document({**answered, "ask": ask, "choice": choice})
    else:
        print(clean(f"{'refused' if refuse else 'approved'} {ask} of {workflow} at position {answered['position']}"))
