"""`cairn search`."""

from typing import Any

from ops.cli.place import HERE, Place
from ops.cli.rows import Output, emit
from ops.cli.text import line

FIELDS = ("type", "workflow", "task", "ask", "agent", "status", "role", "title", "where", "snippet", "position")
MOST_HITS = 100


def command(*words: str, limit: int = 20, output: Output = "table", place: Place = HERE) -> None:
    """Find workflows, tasks, asks and agents by what they are called, were told, said, asked or failed with.

    All words have to be there; "a phrase", prefix*, field:value with the fields workflow, task, role, agent, status,
    type and failure; a word that must not be there follows `--` with a - before it: cairn search -- timeout -role:tester

    Parameters
    ----------
    words
        What to look for.
    limit
        At most so many.
    """
    client, text = place.client(), " ".join(f'"{word}"' if " " in word and '"' not in word else word for word in words)
    hits, after = list[dict[str, Any]](), None
    while len(hits) < limit:
        page = client.search(text, limit=min(limit - len(hits), MOST_HITS), after=after)
        hits += page["hits"]
        if (after := page["next"]) is None:
            break
    if output == "table":
        _show(hits)
    else:
        emit(hits, output, FIELDS)


def _show(hits: list[dict[str, Any]]) -> None:
    """What it is, how it stands, and below it the place, with what was looked for set off."""
    from rich.text import Text

    from ops.cli.screen import out

    console = out()
    for hit in hits:
        what = "/".join(name for name in (hit["workflow"], hit["task"], hit["ask"]) if name) or hit["agent"]
        head = Text.assemble(
            (hit["type"], "dim"), " ", (line(what), "bold"), f"  {hit['status']}  {line(hit['title'], 60)}"
        )
        console.print(head, highlight=False, soft_wrap=True)
        if hit["snippet"]:
            text = Text(f"    {hit['where']}: ", style="dim")
            for number, piece in enumerate(hit["snippet"]):
                said = " ".join(line(f"|{piece}|").split())[1:-1]
                text.append(said, style="bold yellow" if number % 2 else "")
            console.print(text, highlight=False, soft_wrap=True)
