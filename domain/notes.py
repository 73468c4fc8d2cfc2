"""The scratchpad of a task: what fits into it."""

import re
from typing import Any

import msgspec

from domain.state import TaskState

NOTE_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NOTES, NOTE_BYTES = 32, 4_096
"""Of a task's scratchpad: its keys, and the JSON of one value."""


def unfit(task: TaskState, key: str, value: Any) -> str:
    """Why a note cannot be taken; empty if it can."""
    if not NOTE_KEY.fullmatch(key):
        return f"{key[:80]!r} is no key of a note: it takes 1 to 63 letters, digits, '.', '_' and '-'"
    if (size := len(msgspec.json.encode(value))) > NOTE_BYTES:
        return f"note {key} has {size} bytes, the limit is {NOTE_BYTES}: put it into a file of the work tree"
    if key not in task.notes and len(task.notes) >= NOTES:
        return f"task {task.spec.id} has {NOTES} notes, which is the limit: write over one of them"
    return ""
