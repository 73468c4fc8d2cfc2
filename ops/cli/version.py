"""`cairn version`."""

import platform
from importlib.metadata import version

from ops.cli.rows import Document, document


def command(*, output: Document = "text") -> None:
    """Print the version of this program and of the Python it runs on."""
    told = {"name": "cairn", "version": version("cairn"), "python": platform.python_version()}
    if output == "json":
        document(told)
    else:
        print(f"{told['name']} {told['version']} (Python {told['python']})")
