"""Events as they were once written, read as what they are called today. The bytes in the ledger stay as they are.

A tag is a promise: a new field has a default and needs nothing here; a new meaning, or a field that is no more, is a
new tag. The old one then leaves `domain/events.py` and gets a function here, from its JSON to that of what replaced it:

    def _started(old: Json) -> Json:
        return {**old, "type": "task.started.2", "lease_seconds": old["lease_until"] - old["at"]}

    UPCASTS = {"task.started": _started}

What it returns may itself be old: then the function of that tag is next. Golden files of the old tag stay and are read
by these functions in the tests.
"""

from collections.abc import Callable, Mapping
from typing import Any

Json = dict[str, Any]
Upcasts = Mapping[str, Callable[[Json], Json]]

UPCASTS: Upcasts = {}
"""From a tag that is no more to the function that reads it."""


def upcast(old: Json, upcasts: Upcasts) -> Json:
    """What an old event is called today; as it is if it has no function."""
    while (read := upcasts.get(old["type"])) is not None:
        old = read(old)
    return old
