"""`cairn version`."""

import platform
from importlib.metadata import version


def command() -> None:
    """Print the version of this program and of the Python it runs on."""
    print(f"cairn {version('cairn')} (Python {platform.python_version()})")
