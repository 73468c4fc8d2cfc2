"""`cairn bench`."""

import asyncio

from cyclopts import App

command = App(name="bench", help="How fast it is here.", help_format="plaintext", version_flags=())


@command.command
def tasks(*, workflows: int | None = None, tasks: int | None = None) -> int:
    """Tasks a second over the whole real path, with agents that do nothing; the figures as JSON lines.

    Parameters
    ----------
    workflows
        How many at once. Without this and the next, all that the README quotes is measured.
    tasks
        How many each has.
    """
    from ops.bench.tasks import main

    return asyncio.run(main(workflows, tasks))
