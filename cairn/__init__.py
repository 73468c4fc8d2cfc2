"""The public package: write agents, and speak to a running Cairn.

Everything is imported when it is first asked for, so that `import cairn` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cairn.agent import Agent
    from cairn.calls import CairnError, Conflict, Invalid, NotFound, Submitted, Unauthorized, Unreachable
    from cairn.client import Client
    from cairn.sync import SyncClient
    from cairn.task import Answered, Asked, BudgetExceeded, Failed, Finding, Result, Task, Usage

__all__ = [
    "Agent",
    "Answered",
    "Asked",
    "BudgetExceeded",
    "CairnError",
    "Client",
    "Conflict",
    "Failed",
    "Finding",
    "Invalid",
    "NotFound",
    "Result",
    "Submitted",
    "SyncClient",
    "Task",
    "Unauthorized",
    "Unreachable",
    "Usage",
]

_HOMES = {
    "Agent": "agent",
    "Client": "client",
    "SyncClient": "sync",
    **dict.fromkeys(("Task", "Result", "Failed", "Asked", "Answered", "BudgetExceeded", "Finding", "Usage"), "task"),
    **dict.fromkeys(
        ("CairnError", "Conflict", "Invalid", "NotFound", "Submitted", "Unauthorized", "Unreachable"), "calls"
    ),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cairn' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"cairn.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
