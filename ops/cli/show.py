"""`cairn show`."""

from datetime import UTC, datetime

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document


def command(workflow: str, /, *, output: Document = "text", place: Place = HERE) -> None:
    """One workflow: the tree of its tasks, every attempt, why tests failed, what a person is asked, commits.

    Parameters
    ----------
    workflow
        Its id, as `cairn ls` lists it.
    """
    found = place.client().workflow(workflow)
    if output == "json":
        document(found)
        return
    import msgspec

    from ops.cli.board import board
    from ops.cli.report import details
    from ops.cli.screen import out
    from projections.board_rows import BoardDetail

    detail, now = msgspec.convert(found, BoardDetail), datetime.now(UTC)
    console = out()
    for text in board(detail, now, console.width if console.is_terminal else 0):
        console.print(text, no_wrap=True, crop=False, highlight=False, soft_wrap=True)
    for each in details(detail, now):
        print(each)
