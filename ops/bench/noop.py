"""The agent of the benchmark: does nothing, at the whole real path's cost. At its end it prints, as one JSON line, how
long after their commit its dispatches reached it. Of its runs a part fails, which ones is a matter of their names.

A dispatch says when it was recorded; both clocks are this machine's.
"""

import hashlib
import json
import sys
import time
from datetime import datetime
from pathlib import Path

import msgspec

import cairn.agent
from cairn.bus import Message
from cairn.config import connection
from cairn.task import Failed, Task

CAPACITY = 500


class _When(msgspec.Struct):
    time: datetime


class Noop(cairn.agent.Agent):
    """Measures what it takes on."""

    def __init__(self) -> None:
        super().__init__("coder", capacity=CAPACITY)
        self.seconds: list[float] = []
        self._when = msgspec.json.Decoder(_When)

    def _take(self, message: Message, *rest: object) -> None:
        self.seconds.append(time.time() - self._when.decode(message.data).time.timestamp())
        super()._take(message, *rest)  # type: ignore[arg-type]


def _luck(task: Task) -> float:
    """0 to 1, the same for the same run."""
    digest = hashlib.sha256(f"{task.workflow}/{task.run}".encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32


def main() -> None:
    agent, failing = Noop(), float(sys.argv[2])

    @agent.task
    async def nothing(task: Task) -> None:
        if failing and (luck := _luck(task)) < failing:
            raise Failed("bad luck", type="test_failure" if luck < failing / 2 else "implementation_bug")

    agent.run(connection(Path(sys.argv[1])))
    seconds = sorted(agent.seconds)
    at = {f"p{share}": round(seconds[len(seconds) * share // 100] * 1000, 2) for share in (50, 99)} if seconds else {}
    print(json.dumps({"assigned": len(seconds), "assignment_ms": at}), flush=True)


if __name__ == "__main__":
    main()
