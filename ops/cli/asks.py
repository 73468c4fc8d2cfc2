"""`cairn asks`."""

from datetime import UTC, datetime
from typing import Any, Literal

from ops.cli.place import HERE, Place
from ops.cli.rows import Output, document, emit
from ops.cli.text import clean, line, took

SHOWN = ("ask", "task", "kind", "state", "question", "options", "due")
FIELDS = ("workflow", "ask", "task", "kind", "state", "question", "options", "default", "who", "opened_at", "due",
          "closed_at", "choice", "answered_by", "because", "shown")  # fmt: skip


def command(
    ask: str | None = None,
    /,
    *,
    workflow: str | None = None,
    state: Literal["open", "answered", "expired", "voided", "any"] = "open",
    limit: int = 50,
    output: Output = "table",
    place: Place = HERE,
) -> None:
    """What people are asked, the oldest first; or one ask with all it is about, and the diff of its commits.

    Parameters
    ----------
    ask
        The workflow and which of its asks, as demo/ask-1.
    workflow
        Only those of this workflow.
    state
        Only those that are so.
    limit
        At most so many, up to 1,000.
    """
    if ask is not None:
        _one(ask, output, place)
        return
    rows = place.client().asks(workflow=workflow, state=state, limit=limit)
    emit(rows, output, FIELDS if output == "csv" else SHOWN, cells)


def _one(name: str, output: str, place: Place) -> None:
    import asyncio

    from msgspec.structs import asdict

    from ops.cli.question import diff, find, named, question, said

    workflow, ask = named(name)
    found = find(place.client(), workflow, ask)
    if output != "table":
        document(asdict(found.ask))
        return
    for text in question(workflow, found.ask):
        print(text)
    if patches := asyncio.run(diff(found)):
        print(clean(patches).rstrip())
    print(f"  {line(said(found.ask))}")


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table: the ask as `cairn answer` takes it, and how long there is left to answer."""
    left = "" if row["due"] is None or row["state"] != "open" else took(row["due"] - datetime.now(UTC).timestamp())
    return [
        f"{row['workflow']}/{row['ask']}", row["task"], row["kind"], row["state"], line(row["question"], 50),
        line("|".join(row["options"]), 40), left,
    ]  # fmt: skip
