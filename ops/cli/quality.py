"""`cairn quality`."""

from collections.abc import Sequence
from typing import Any

from ops.cli.place import HERE, Place
from ops.cli.rows import Output, emit

FIELDS = (
    "verified", "passed", "pass_rate", "accepted", "first", "failed", "first_pass_rate", "retries", "branches",
    "covered", "coverage_last", "coverage_mean", "findings",
)  # fmt: skip
SHOWN = ("tests_passed", "accepted", "at_first", "failed", "retries", "branches", "coverage", "findings")


def command(
    *,
    by: str = "role",
    since: str | None = None,
    until: str | None = None,
    workflow: str | None = None,
    role: str | None = None,
    output: Output = "table",
    place: Place = HERE,
) -> None:
    """How good the work was: runs of tests that passed, tasks that were accepted, at their first attempt, or failed; the
    last coverage of lines and the mean; findings by kind and severity.

    Parameters
    ----------
    by
        What to add up by: any of workflow, role, day, with commas.
    since
        From this day on (UTC), as 2026-11-22.
    until
        Up to this day.
    workflow
        Only this one.
    role
        Only the work of this role.
    """
    rows = place.client().quality(by.split(","), since=since, until=until, workflow=workflow, role=role)
    named = [name for name in ("day", "workflow", "role") if name in by.split(",")]
    emit(rows, output, (*named, *(FIELDS if output == "csv" else SHOWN)), lambda row: cells(row, named))


def cells(row: dict[str, Any], named: Sequence[str]) -> list[str]:
    """A row of the table."""
    last, mean = row["coverage_last"], row["coverage_mean"]
    found = [
        f"{number} {severity} {kind}" for kind, by in row["findings"].items() for severity, number in by.items()
    ]  # fmt: skip
    return [
        *(row[name] for name in named), f"{row['passed']}/{row['verified']}", str(row["accepted"]), str(row["first"]),
        str(row["failed"] or ""), str(row["retries"] or ""), str(row["branches"] or ""),
        "" if last is None else f"{last:g} % (mean {mean:g} %)", ", ".join(found),
    ]  # fmt: skip
