"""`cairn answer`."""

from typing import Annotated, Any

from cyclopts import Parameter

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.stop import USAGE, Stop
from ops.cli.text import clean, say


def command(
    ask: str,
    /,
    *,
    choose: Annotated[str, Parameter(required=True)],
    because: str = "",
    instructions: str = "",
    role: str | None = None,
    edit: str | None = None,
    shown: str | None = None,
    output: Document = "text",
    place: Place = HERE,
) -> None:
    """Answer what a workflow asks: an approval, a question of an agent, or how to go on where everything was tried.

    Parameters
    ----------
    ask
        The workflow and which of its asks, as demo/ask-1; `cairn asks` lists them.
    choose
        One of its options, any words if it has none.
    because
        The reason, which is recorded with the answer.
    instructions
        What the agents of the task are to be told from now on.
    role
        With `--choose reassign`: who is to do it.
    edit
        With `--choose edit`: what is to be done instead, as JSON with any of description, inputs and
        tests: {"tests": [{"cmd": "pytest"}]}.
    shown
        The sha256 of what you have seen before: if something else is asked by now, nothing is answered.
    """
    from ops.cli.question import find, named, question

    changes = _edit(edit)
    workflow, name = named(ask)
    client = place.client()
    found = find(client, workflow, name, shown).ask
    for text in question(workflow, found):
        say(text)
    answered = client.answer(
        workflow, name, choice=choose, shown=found.shown, because=because, instructions=instructions, role=role,
        edit=changes,
    )  # fmt: skip
    if output == "json":
        document({**answered, "ask": name, "choice": choose})
    else:
        print(clean(f"answered {name} of {workflow} with {choose} at position {answered['position']}"))


def _edit(given: str | None) -> dict[str, Any] | None:
    import msgspec

    try:
        return None if given is None else msgspec.json.decode(given, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeEncodeError) as error:
        example = """--edit '{"description": "..."}'"""
        raise Stop(USAGE, f"--edit is no JSON object: {error}", fix=example) from None
