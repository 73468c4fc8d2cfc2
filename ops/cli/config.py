"""`cairn config`."""

from cyclopts import App

from ops.cli.place import HERE, Place
from ops.cli.rows import Output, emit

command = App(name="config", help="The settings, and where each comes from.", help_format="plaintext", version_flags=())


@command.command
def show(*, output: Output = "table", place: Place = HERE) -> None:
    """Every setting, its value and where it came from; secrets are masked."""
    settings = place.settings()
    rows = [
        {"setting": name, "value": value, "from": settings.origins[name]} for name, value in settings.shown().items()
    ]
    emit(rows, output, ("setting", "value", "from"))
