"""Readiness tells the truth within a second of Postgres or NATS going away, be it dead or silent; all comes back by itself."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from .stage import System, layers, system

TRUTH_SECONDS = 1.0


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family(int(child)))]


def signalled(pid: int, number: int) -> None:
    for one in family(pid):
        os.kill(one, number)


def failing(stage: System) -> tuple[bool, set[str], float]:
    """Whether it is ready, what is not, and how long the answer took."""

    async def ask() -> tuple[bool, set[str], float]:
        url = f"{stage.where().url}/readyz?verbose=1"
        async with aiohttp.ClientSession() as session:
            begun = time.monotonic()
            async with session.get(url) as response:
                found = await response.json(content_type=None)
                assert found["ready"] == (response.status == 200)
                bad = {name for name, check in found["checks"].items() if not check["ok"]}
                return found["ready"], bad, time.monotonic() - begun

    return asyncio.run(ask())


@pytest.mark.parametrize("name", ["postgres", "nats"])
def test_a_server_that_falls_silent_is_seen_within_a_second_and_so_is_its_coming_back(name: str) -> None:
    with system() as stage:
        stage.agent("worker", "coder", "ann")
        server: Callable[[], int] = {"postgres": stage.postmaster, "nats": stage.nats_server}[name]
        workflow = stage.submit(layers(f"silent-{name}", 1, 2, 1))
        stage.reached(6)
        stopped = server()
        signalled(stopped, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            while failing(stage)[0]:
                assert time.monotonic() - begun < TRUTH_SECONDS
            for _ in range(3):
                ready, names, took = failing(stage)
                assert not ready and name in names
                assert took < TRUTH_SECONDS
        finally:
            signalled(stopped, signal.SIGCONT)
        stage.until(lambda: failing(stage)[0], "all of it answers again")
        assert stage.finished(workflow) == "completed"
        assert stage.alive()
        stage.intact()


@pytest.mark.parametrize("name", ["postgres", "nats"])
def test_a_server_that_dies_is_seen_within_a_second_and_is_there_again_by_itself(name: str) -> None:
    with system() as stage:
        stage.agent("worker", "coder", "ann")
        server: Callable[[], int] = {"postgres": stage.postmaster, "nats": stage.nats_server}[name]
        workflow = stage.submit(layers(f"dead-{name}", 1, 2, 1))
        stage.reached(6)
        os.kill(dead := server(), signal.SIGKILL)
        seen = failing(stage)
        assert seen[2] < TRUTH_SECONDS
        assert (not seen[0] and name in seen[1]) or server() != dead, seen
        stage.until(lambda: failing(stage)[0], "all of it answers again")
        assert stage.finished(workflow) == "completed"
        assert stage.alive()
        stage.intact()
