"""Text that is safe to show, and short forms of what people look at. What agents and plans say is never trusted."""

import re
import sys
from datetime import datetime

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""All that moves the cursor, colours, rings, hides or reorders: C0 without tab and new line, C1, bidi marks."""


def clean(text: str) -> str:
    """Control characters become visible escapes; new lines and tabs stay."""
    return _CONTROL.sub(
        lambda found: f"\\x{ord(found[0]):02x}" if ord(found[0]) < 256 else f"\\u{ord(found[0]):04x}", text
    )


def line(text: str, width: int = 0) -> str:
    """Safe, on one line, and cut to `width` characters (0: not cut)."""
    flat = " ".join(clean(text).split())
    return flat if not width or len(flat) <= width else flat[: width - 1] + "…"


def took(seconds: float) -> str:
    """A duration as people say it: 0.4 s, 12 s, 3 m 05 s, 2 h 10 m."""
    seconds = max(seconds, 0.0)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} m"


def between(start: datetime | None, end: datetime | None) -> str:
    """Empty if it has not begun."""
    return took((end - start).total_seconds()) if start and end else ""


def plural(count: int, noun: str, many: str = "") -> str:
    return f"{count} {noun if count == 1 else many or noun + 's'}"


def commit(name: str | None) -> str:
    return clean(name[:10]) if name else ""


def say(text: str) -> None:
    """To stderr: what is no data."""
    print(clean(text), file=sys.stderr, flush=True)
