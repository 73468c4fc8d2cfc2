"""`cairn watch`."""

import time
from datetime import UTC, datetime
from typing import Annotated, Literal

from cyclopts import Parameter

from ops.cli.place import HERE, Place
from ops.cli.stop import FAILED, OK
from ops.cli.text import say

LOOK_SECONDS = 1.0
Form = Annotated[
    Literal["text", "jsonl"],
    Parameter(name=["--output", "-o"], help="What is seen, on stderr; or the events on stdout, one JSON line each."),
]


def command(workflow: str | None = None, /, *, output: Form = "text", place: Place = HERE) -> int:
    """Show one workflow live until it ends, exit code 0 if it completed; without a name all of them, until Ctrl-C.

    Parameters
    ----------
    workflow
        Its id, as `cairn ls` lists it.
    """
    settings, client = place.settings(), place.client()
    from ops.cli.place import terminal

    seen = terminal(settings)
    if workflow is None:
        return _all(place, seen, output)
    from ops.cli.follow import follow
    from ops.cli.question import answer_command
    from ops.cli.screen import JsonLines, screen
    from projections.board_rows import BoardAsk, BoardDetail

    def answer(detail: BoardDetail, ask: BoardAsk) -> None:
        name = detail.workflow.workflow
        say(f"{name} asks a person about {ask.task}; look and answer: {answer_command(name, ask)}")

    with JsonLines() if output == "jsonl" else screen(seen) as view:
        detail = follow(client, workflow, 0, view, answer)
    say(f"{workflow} {detail.workflow.status}; more: cairn show {workflow}")
    return OK if detail.workflow.status == "completed" else FAILED


def _all(place: Place, seen: bool, output: str) -> int:
    client = place.client()
    if output == "jsonl" or not seen:
        from ops.cli.happened import happened
        from ops.cli.rows import json_line

        newest = client.workflows(1)
        for event in client.events(newest[0]["last"] if newest else 0, follow=True):
            print(json_line(event) if output == "jsonl" else happened(event), flush=True)
        return OK
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    from ops.cli.ls import SHOWN, cells
    from ops.cli.rows import table

    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, screen=False) as live:
        while True:
            rows = [cells(row) for row in client.workflows(max(console.height - 4, 1))]
            head = [name.upper().replace("_", " ") for name in SHOWN]
            lines = [text[: console.width] for text in table(head, rows)]
            live.update(Text("\n".join([*lines, "", f"{datetime.now(UTC).astimezone():%H:%M:%S}"])), refresh=True)
            time.sleep(LOOK_SECONDS)
