"""`cairn bench`."""

import asyncio
import json
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

command = App(name="bench", help="How fast it is here.", help_format="plaintext", version_flags=())

Output = Annotated[Literal["text", "json"], Parameter(name=["--output", "-o"])]


@command.command
def tasks(*, workflows: int | None = None, tasks: int | None = None, output: Output = "json") -> int:
    """Tasks a second over the whole real path, with agents that do nothing.

    Parameters
    ----------
    workflows
        How many at once. Without this and the next, all that the README quotes is measured.
    tasks
        How many each has.
    output
        json: one JSON line a figure.
    """
    from ops.bench.tasks import main

    return asyncio.run(main(workflows, tasks, _show(output)))


@command.command
def failures(*, workflows: int | None = None, tasks: int | None = None, output: Output = "json") -> int:
    """Tasks a second when every fifth run fails and is tried again or mended; exit 1 if anything is left standing.

    Parameters
    ----------
    workflows
        How many at once.
    tasks
        How many each has.
    output
        json: one JSON line a figure.
    """
    from ops.bench.failures import main

    return asyncio.run(main(workflows, tasks, _show(output)))


@command.command
def ledger(*, events: int = 200_000, output: Output = "json") -> int:
    """The event log alone: append, relay, follow, read, verify, beside the raw limits of this machine.

    Parameters
    ----------
    events
        How large the ledger is filled to see that the cost of an event does not grow.
    output
        json: one JSON line a figure.
    """
    from ops.bench.ledger import main

    return asyncio.run(main(events, _show(output)))


@command.command
def projections(*, events: int = 200_000, output: Output = "json") -> int:
    """Events a second when a view is rebuilt from the ledger, view by view.

    Parameters
    ----------
    events
        How many the ledger holds.
    output
        json: one JSON line a figure.
    """
    from ops.bench.projections import main

    return asyncio.run(main(events, _show(output)))


@command.command
def gateway(
    *,
    parts: str = "latency,workflow,queries,clients",
    rates: tuple[int, ...] = (1_000, 5_000),
    seconds: float = 10.0,
    tasks: int = 10_000,
    events: int = 2_000_000,
    clients: int = 1_000,
    workflows: int = 200,
    turns: int = 3,
    output: Output = "json",
) -> int:
    """How soon and how fast one sees what happens: events to board and followers, pages of tasks and of events.

    Parameters
    ----------
    parts
        Which of them, separated by commas.
    rates
        latency: events a second.
    seconds
        latency: for how long at each rate.
    tasks
        workflow: how many it has.
    events
        queries: how many the ledger has.
    clients
        clients: how many follow.
    workflows
        clients: of ten tasks each, in a turn.
    turns
        clients: how often with and without them.
    output
        json: one JSON line a figure.
    """
    from ops.bench.gateway import Sizes, main, parsed

    sizes = Sizes(rates, seconds, tasks, events, clients, workflows, turns)
    return asyncio.run(main(parsed(parts), sizes, _show(output)))


@command.command
def search(*, tasks: int = 200_000, output: Output = "json") -> int:
    """How long a page of what is searched for takes, over the documents of many tasks.

    Parameters
    ----------
    tasks
        How many.
    output
        json: one JSON line a figure.
    """
    from ops.bench.search import main

    return asyncio.run(main(tasks, _show(output)))


def _show(output: str) -> Any:
    def show(figures: dict[str, Any]) -> None:
        if output == "json":
            print(json.dumps(figures), flush=True)
        else:
            name, *rest = figures.items()
            print(f"{name[1]}: " + ", ".join(f"{key} {value}" for key, value in rest), flush=True)

    return show
