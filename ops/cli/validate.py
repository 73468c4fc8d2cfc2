"""`cairn validate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ops.cli.rows import Document, document
from ops.cli.stop import OK, USAGE, Stop
from ops.cli.text import clean, plural, say

if TYPE_CHECKING:
    from domain.validate import Problem

PlanFile = Annotated[Path, Parameter(name="PLAN", help="The plan's JSON file, - for standard input.")]


def command(plan: PlanFile, /, *, output: Document = "text") -> int:
    """Check a plan without running it; exit code 2 if it has problems."""
    from domain.validate import problems

    found = problems(read(plan))
    if output == "json":
        document({"valid": not found, "problems": found})
    elif found:
        tell(plan, found)
    else:
        print(f"{clean(str(plan))} is valid")
    return USAGE if found else OK


def read(plan: Path) -> bytes:
    """The bytes of a plan. Raises Stop when there is no such file."""
    try:
        return plan.read_bytes()
    except OSError as error:
        raise Stop(
            USAGE, f"the plan {plan} cannot be read: {error.strerror}", fix="name a file, as plan.json"
        ) from None


def tell(plan: Path, found: "list[Problem]") -> None:
    """Every problem on stderr, with its JSON pointer."""
    for problem in found:
        say(f"{plan}#{problem}")
    say(f"cairn: {plan} has {plural(len(found), 'problem')}; nothing was recorded")
