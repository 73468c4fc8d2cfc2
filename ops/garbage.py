"""How often a process of ours looks for cycles to collect."""

import gc

COLLECT_AFTER = (100_000, 50, 50)
"""Allocations between collections of cycles. Events are many and hold none: at Python's default of 700 a fifth of the
server's time went into looking for them (`cairn bench tasks`)."""


def collect_seldom() -> None:
    """What is there now is taken to stay; what comes is looked through seldom."""
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)
