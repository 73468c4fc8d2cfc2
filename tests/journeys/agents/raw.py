"""An agent that speaks the protocol itself, and badly: `raw.py ROLE NAME MODE`.

`mute` takes a dispatch and is gone without a word. `huge` answers it with a result of 5 MB that no check of the SDK has
seen, `forge` with receipts of tests that it has not run.
"""

import asyncio
import json
import sys
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from cairn.bus import Bus
from cairn.config import connection

ROLE, NAME, MODE = sys.argv[1:4]
RECEIPT = {
    "cmd": "test -s t1-1.txt", "exit_code": 0, "timed_out": False, "duration_seconds": 0.1, "isolation": "trust me",
    "commit": None, "output_bytes": 0, "output_sha256": "0" * 64,
}  # fmt: skip


async def main() -> None:
    where = connection()
    async with Bus.connect(where.nats_url, name=NAME) as bus:
        asked = await bus.request("cairn.main.join", json.dumps({"role": ROLE, "agent": NAME}).encode())
        seat = json.loads(asked.data)
        async with aclosing(bus.pull(seat["stream"], seat["consumer"], batch=1)) as pulled:
            async for messages in pulled:
                for message in messages:
                    if MODE == "mute":
                        return
                    task = json.loads(message.data)["data"]
                    await bus.store(f"cairn.main.in.{NAME}", report(task))
                    await bus.ack(message)


def report(task: dict[str, Any]) -> bytes:
    body = {
        "id": str(uuid4()), "workflow": task["workflow"],
        "task": task["task"], "run": task["run"], "token": task["token"], "agent": NAME,
        "verdict": f"cairn.main.verdict.{NAME}",
    }  # fmt: skip
    match MODE:
        case "huge":
            body |= {"kind": "completed", "result": {"data": "x" * 5_000_000}}
        case "forge":
            body |= {"kind": "verified", "receipts": [RECEIPT]}
    return json.dumps([body]).encode()


asyncio.run(main())
