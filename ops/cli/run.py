"""`cairn run`."""

import asyncio
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from cyclopts import Parameter

from ops.cli.place import HERE, Place
from ops.cli.rows import Document, document
from ops.cli.stop import FAILED, INTERRUPTED, OK, USAGE, Stop
from ops.cli.text import say
from ops.cli.validate import PlanFile, read, tell

if TYPE_CHECKING:
    from cairn.calls import Submitted
    from domain.plan import Plan
    from ops.cli.system import System
    from ops.settings import Settings


class Base(NamedTuple):
    """Where all work starts from."""

    repository: str
    commit: str


def command(
    plan: PlanFile,
    /,
    *,
    repo: Path | None = None,
    id: str | None = None,
    watch: Annotated[bool, Parameter(negative="--detach")] = True,
    yes: bool = False,
    scripted: Path | None = None,
    output: Document = "text",
    place: Place = HERE,
) -> int:
    """Carry out a plan. Joins the system that is up, or starts one and stops it at the end.

    Exit code 0 when the workflow completed, 1 when it failed or was cancelled, 5 when it waits for a person and there
    is no terminal to ask at.

    Parameters
    ----------
    repo
        A Git repository of yours: work starts from its HEAD. Without it, from the plan's workspace folder.
    id
        What the workflow is called; without it, as the plan, with a number behind it if that is taken.
    watch
        Stay until it ends and show what happens (the default); or leave it to the system and return at once.
    yes
        Approve whatever the workflow asks.
    scripted
        The folder of an example's patches: scripted agents play every role of the plan.
    """
    from domain.plan import ID_PATTERN
    from domain.validate import parse, problems

    raw = read(plan)
    if found := problems(raw):
        tell(plan, found)
        return USAGE
    if yes and not watch:
        raise Stop(USAGE, "--yes and --detach are both given", "nobody would be there to approve", "leave one out")
    if id is not None and not re.search(ID_PATTERN, id):
        raise Stop(USAGE, f"--id {id!r}: at most 63 of a-z, 0-9, _ and -, the first a letter or a digit")
    settings, parsed = place.settings(), parse(raw)
    if scripted is not None and not scripted.is_dir():
        raise Stop(USAGE, f"--scripted {scripted} is no folder", fix="name the folder of an example's patches")
    given = asyncio.run(_head(repo)) if repo is not None else None

    from ops.cli.system import System

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever ends us ends what we have started
    with System(settings) as system:
        base = given or asyncio.run(
            _imported(parsed, plan.parent if plan.is_file() else Path(), system.artifacts, id or parsed.id)
        )
        started = system.client.submit(raw, id=id, repository=base.repository, base=base.commit)
        if scripted is not None:
            system.play(roles(parsed), scripted.resolve())
        if not watch:
            system.stays = True
            if output == "json":
                document(started)
            else:
                print(started.workflow)
            say(f"{started.workflow} is started; watch it: cairn watch {started.workflow}{_how_to_stop(system)}")
            return OK
        return _watch(system, started, settings, yes, output)


def _watch(system: "System", started: "Submitted", settings: "Settings", yes: bool, output: Document) -> int:
    from ops.cli.ask import Asker
    from ops.cli.follow import follow
    from ops.cli.place import terminal
    from ops.cli.report import repository_of, summary
    from ops.cli.screen import screen

    workflow, seen = started.workflow, terminal(settings)
    say(f"{workflow} is started at position {started.position}")
    try:
        with screen(seen) as view:
            detail = follow(
                system.client,
                workflow,
                started.position,
                view,
                Asker(system.client, yes=yes, terminal=seen),
                system.lost,
            )
    except KeyboardInterrupt:
        if system.own:
            say(f"\nstopping the system; {workflow} goes on where it was at the next `cairn up`")
        else:
            say(f"\n{workflow} goes on; watch it: cairn watch {workflow}, end it: cairn cancel {workflow}")
        return INTERRUPTED
    except Stop as stopped:
        if stopped.code != FAILED:
            system.stays = True
            say(f"the system stays up{_how_to_stop(system)}" if system.own else f"{workflow} goes on")
        raise
    others = system.joined(workflow)
    system.stays = bool(others)
    if output == "json":
        document(system.client.workflow(workflow))
    else:
        for text in summary(detail, repository_of(detail), up=system.stays or not system.own):
            print(text)
    if others:
        say(f"the system stays up for {', '.join(others)}{_how_to_stop(system)}")
    return OK if detail.workflow.status == "completed" else FAILED


def roles(plan: "Plan") -> list[str]:
    """Every role that the plan's tasks and their branches need, but the tester, who is no matter of a script."""
    named = {task.agent_role for task in plan.tasks}
    routes = [route for task in plan.tasks for route in task.failure_routing.values()]
    named.update(route for route in routes if isinstance(route, str))
    named.update(route.role for route in routes if not isinstance(route, str) and route.role)
    return sorted(named - {"tester"})


async def _head(path: Path) -> Base:
    from cairn.git import GitError
    from cairn.repository import Repository

    try:
        repository = await Repository.open(path)
        return Base(str(repository.path), await repository.head())
    except GitError as error:
        raise Stop(USAGE, f"--repo {path}: {error}") from None


async def _imported(plan: "Plan", folder: Path, artifacts: Path, workflow: str) -> Base:
    """The plan's workspace as a first commit; an empty one without a workspace."""
    from cairn.repository import Repository

    workspace = folder / plan.workspace if plan.workspace is not None else None
    if workspace is not None and not workspace.is_dir():
        raise Stop(USAGE, f"the plan's workspace {workspace} is no folder", fix="correct `workspace` in the plan")
    repository = await Repository.create(artifacts)
    message = f"Start of {plan.title or plan.id}"
    commit = await repository.import_folder(workspace, message=message, ref=f"refs/cairn/{workflow}/+base")
    return Base(str(repository.path), commit)


def _how_to_stop(system: "System") -> str:
    return f"; stop the system: kill {system.pid}" if system.own else ""
