"""Our own agents, each a process of its own: they can die without us, and are started again."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL, SIGTERM

import structlog

from ops.embedded.child import Child, Step

log = structlog.get_logger()

STOP = (Step(SIGTERM, 12.0), Step(SIGKILL, 2.0))
BACKOFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
QUICK_SECONDS = 10.0


class Crew:
    """Run `await crew.keep(name, arguments)` for each; `stop` ends them all, gently first."""

    def __init__(self, data_dir: Path, environment: dict[str, str]) -> None:
        self._data_dir, self._environment = data_dir, environment
        self._children: list[Child] = []
        self._stopping = False

    async def keep(self, name: str, arguments: Sequence[str]) -> None:
        """Keeps `cairn agent <arguments>` running until `stop`; one that keeps dying is tried ever more slowly."""
        child = Child(name, cwd=self._data_dir, log=self._data_dir / "log" / f"{name}.log", death_signal=SIGTERM)
        self._children.append(child)
        deaths = 0
        while not self._stopping:
            child.spawn([sys.executable, "-P", "-m", "cairn", "agent", *arguments], environment=self._environment)
            began = asyncio.get_running_loop().time()
            code = await child.exited()
            if self._stopping:
                return
            deaths = deaths + 1 if asyncio.get_running_loop().time() - began < QUICK_SECONDS else 0
            log.warning("agent.died", agent=name, code=code, log=str(child.log))
            await asyncio.sleep(BACKOFF_SECONDS[min(deaths, len(BACKOFF_SECONDS) - 1)])

    async def stop(self) -> None:
        self._stopping = True
        await asyncio.gather(*(child.end(STOP) for child in self._children))
