"""`cairn spend`."""

from collections.abc import Sequence
from typing import Any

from ops.cli.place import HERE, Place
from ops.cli.rows import Output, emit

FIELDS = (
    "attempts", "seconds", "test_seconds", "input_total", "cache_read", "cache_write", "output", "tokens_unknown",
    "cost_reported_usd", "cost_computed_usd", "cost_unknown", "calls_tokens", "calls_usd", "accepted",
    "accepted_attempts", "accepted_seconds", "accepted_cost_usd", "accepted_cost_unknown", "cost_per_accepted_usd",
)  # fmt: skip
SHOWN = ("attempts", "seconds", "input", "output", "reported", "computed", "unknown", "accepted", "cost_per_task")


def command(
    *,
    by: str = "workflow",
    since: str | None = None,
    until: str | None = None,
    workflow: str | None = None,
    role: str | None = None,
    model: str | None = None,
    output: Output = "table",
    place: Place = HERE,
) -> None:
    """What was spent: working time, tokens, dollars that agents reported, dollars computed from prices, and of how many
    attempts the cost is unknown. A task's cost is that of all attempts at it and at its branches.

    Parameters
    ----------
    by
        What to add up by: any of workflow, role, model, day, with commas.
    since
        From this day on (UTC), as 2026-11-22.
    until
        Up to this day.
    workflow
        Only this one.
    role
        Only of agents of this role.
    model
        Only this one.
    """
    rows = place.client().spend(by.split(","), since=since, until=until, workflow=workflow, role=role, model=model)
    named = [name for name in ("day", "workflow", "role", "model") if name in by.split(",")]
    emit(rows, output, (*named, *(FIELDS if output == "csv" else SHOWN)), lambda row: cells(row, named))


def cells(row: dict[str, Any], named: Sequence[str]) -> list[str]:
    """A row of the table; what nobody knows is a question mark."""
    per = row["cost_per_accepted_usd"]
    return [
        *(row[name] or "?" for name in named), str(row["attempts"]), f"{row['seconds'] + row['test_seconds']:.1f}",
        str(row["input_total"]), str(row["output"]), f"{row['cost_reported_usd']:.4f}",
        f"{row['cost_computed_usd']:.4f}", str(row["cost_unknown"] or ""), str(row["accepted"] or ""),
        "" if not row["accepted"] else "?" if per is None else f"{per:.4f}",
    ]  # fmt: skip
