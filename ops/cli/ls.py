"""`cairn ls`."""

from datetime import UTC, datetime
from typing import Any

from ops.cli.place import HERE, Place
from ops.cli.rows import Output, emit
from ops.cli.text import between, line

SHOWN = ("workflow", "status", "tasks", "branches", "asks", "lacking", "started_at", "took", "title")
FIELDS = ("workflow", "status", "tasks", "completed", "failed", "branches", "asks", "lacking", "started_at", "ended_at",
          "title", "paused", "progress", "first", "last")  # fmt: skip


def command(*, limit: int = 50, status: str | None = None, output: Output = "table", place: Place = HERE) -> None:
    """List the workflows, newest first; under LACKING the roles that one waits for and that nobody here has.

    Parameters
    ----------
    limit
        At most so many, up to 1,000.
    status
        Only those that are running, waiting, paused, completed, failed, cancelled or timed_out.
    """
    emit(place.client().workflows(limit, status=status), output, FIELDS if output == "csv" else SHOWN, cells)


def cells(row: dict[str, Any]) -> list[str]:
    """A row of the table: how many of the tasks are done, and times as people read them."""
    started, ended = datetime.fromisoformat(row["started_at"]), row.get("ended_at")
    until = datetime.fromisoformat(ended) if ended else datetime.now(UTC)
    status = row["status"] + (", paused" if row["paused"] and not ended else "")
    return [
        row["workflow"], status, f"{row['completed']}/{row['tasks']}", str(row["branches"] or ""),
        str(row["asks"] or ""), ", ".join(row.get("lacking", ())), f"{started.astimezone():%Y-%m-%d %H:%M:%S}",
        between(started, until), line(row["title"], 60),
    ]  # fmt: skip
