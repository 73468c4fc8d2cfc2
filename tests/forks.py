"""Processes of a test's own, to be killed: each begins as a copy of one that has imported all they need.

`FORKS.Process(target=, args=)` is a process like any other; only the 0.8 s of CPU that its imports take are spent once.
"""

from multiprocessing import get_context

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["tests.chaos.worker", "tests.ledger.archiving"])
