"""The agent of the benchmark: does nothing, at the whole real path's cost. At its end it prints, as one JSON line, how
long after their commit its dispatches reached it.

A dispatch says when it was recorded; both clocks are this machine's.
"""

import json
import sys
import time
from datetime import datetime
from pathlib import Path

import msgspec

import cairn.agent
from cairn.bus import Message
from cairn.config import connection

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


def main() -> None:
    agent = Noop()

    @agent.task
    async def nothing(task: object) -> None:
        """No work."""

    agent.run(connection(Path(sys.argv[1])))
    seconds = sorted(agent.seconds)
    at = {f"p{share}": round(seconds[len(seconds) * share // 100] * 1000, 2) for share in (50, 99)} if seconds else {}
    print(json.dumps({"assigned": len(seconds), "assignment_ms": at}), flush=True)


if __name__ == "__main__":
    main()
