"""What an operator does to a workflow: `cairn cancel, retry, skip, edit, add, split, prioritise`.

One file, for they are one thing: a name, a reason that is recorded, and the position at which it happened.
"""

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.text import clean

Workflow = Annotated[str, Parameter(help="Its id, as `cairn ls` lists it.")]
Task = Annotated[str, Parameter(help="Its id, as `cairn show` lists it.")]
Because = Annotated[str, Parameter(name=["--because", "--reason"], help="The reason; it is recorded.")]
Tasks = Annotated[Path, Parameter(help="JSON: a task, a list of tasks, or a plan; - for standard input.")]


def cancel(
    workflow: Workflow, task: Task | None = None, /, *, because: Because = "", output: Document = "text",
    place: Place = HERE,
) -> None:  # fmt: skip
    """End a workflow: what runs is stopped, what has completed stays. Or end one task of it, and skip what needs it."""
    about = workflow if task is None else f"{task} of {workflow}"
    told("cancelled", about, place.client().cancel(workflow, because, task=task), output)


def retry(
    workflow: Workflow, task: Task, /, *, because: Because = "", output: Document = "text", place: Place = HERE
) -> None:
    """Begin the next attempt of a task now, whatever is left of its backoff."""
    told("retried", f"{task} of {workflow}", place.client().retry(workflow, task, because), output)


def skip(
    workflow: Workflow, task: Task, /, *, because: Because = "", output: Document = "text", place: Place = HERE
) -> None:
    """Do without a task: what depends on it goes on without its result."""
    told("skipped", f"{task} of {workflow}", place.client().skip(workflow, task, because), output)


def edit(
    workflow: Workflow,
    task: Task,
    /,
    *,
    set: Annotated[tuple[str, ...], Parameter(name="--set")],
    because: Because = "",
    output: Document = "text",
    place: Place = HERE,
) -> None:
    """Change a task that is not under way.

    Parameters
    ----------
    set
        FIELD=VALUE, as often as there are fields: JSON as a plan has it, or a text.
    """
    changes = dict(_field(one) for one in set)
    told("edited", f"{task} of {workflow}", place.client().edit(workflow, task, changes, because), output)


def add(
    workflow: Workflow, tasks: Tasks, /, *, because: Because = "", output: Document = "text", place: Place = HERE
) -> None:
    """Add tasks to a workflow that runs; they may depend on what is in it."""
    new = _tasks(tasks)
    told(f"added {len(new)} to", workflow, place.client().add(workflow, new, because), output)


def split(
    workflow: Workflow,
    task: Task,
    parts: Tasks,
    /,
    *,
    replace: bool = False,
    because: Because = "",
    output: Document = "text",
    place: Place = HERE,
) -> None:
    """Split a task that is not under way into parts: it waits for them, then is carried out.

    Parameters
    ----------
    replace
        Nothing of it is left to do then: it completes with its parts, after its tests, if it has any.
    """
    said = place.client().split(workflow, task, _tasks(parts), because, replace=replace)
    told("split", f"{task} of {workflow}", said, output)


def prioritise(
    workflow: Workflow, task: Task, priority: int, /, *, because: Because = "", output: Document = "text",
    place: Place = HERE,
) -> None:  # fmt: skip
    """Say how urgent a task is: of those that are ready, the higher number goes first."""
    said = place.client().prioritise(workflow, task, priority, because)
    told("prioritised", f"{task} of {workflow}", said, output)


def told(what: str, about: str, answer: dict[str, Any], output: str) -> None:
    if output == "json":
        document(answer)
    else:
        print(clean(f"{what} {about} at position {answer['position']}"))


def _field(text: str) -> tuple[str, Any]:
    import msgspec

    from ops.cli.stop import USAGE, Stop

    name, equals, value = text.partition("=")
    if not equals:
        raise Stop(USAGE, f"--set {text!r} is no FIELD=VALUE", fix="write it as --set description='Do it well.'")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value


def _tasks(file: Path) -> list[Any]:
    import msgspec

    from ops.cli.stop import USAGE, Stop
    from ops.cli.validate import read

    try:
        found = msgspec.json.decode(read(file))
    except msgspec.DecodeError as error:
        raise Stop(
            USAGE, f"{file} is not JSON: {error}", fix="name a file with a task, a list of tasks, or a plan"
        ) from None
    tasks = found.get("tasks", found) if isinstance(found, dict) else found
    return tasks if isinstance(tasks, list) else [tasks]
