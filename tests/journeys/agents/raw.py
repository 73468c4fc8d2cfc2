"""An agent that speaks the protocol itself, and badly: `raw.py ROLE NAME MODE`.

`mute` takes a dispatch and is gone without a word. `huge` answers it with a result of 5 MB that no check of the SDK has
seen, `forge` with receipts of tests that it has not run. `pose` hands its work in and then poses as the tester who is
to judge it, under its own name and under others, with every token that the tester can have been given.
"""

import asyncio
import json
import sys
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from cairn.admission import admitted
from cairn.bus import Bus
from cairn.config import connection

ROLE, NAME, MODE = sys.argv[1:4]
RECEIPT = {
    "cmd": "test -s t1-1.txt", "exit_code": 0, "timed_out": False, "duration_seconds": 0.1, "isolation": "trust me",
    "commit": None, "output_bytes": 0, "output_sha256": "0" * 64,
}  # fmt: skip


async def main() -> None:
    where = connection()
    async with admitted(where, ROLE, NAME) as bus:
        seat = json.loads((await bus.request(f"cairn.main.join.{ROLE}.{NAME}", b"{}")).data)
        async with aclosing(bus.pull(seat["stream"], seat["consumers"][0], batch=1)) as pulled:
            async for messages in pulled:
                for message in messages:
                    if MODE == "mute":
                        return
                    task = json.loads(message.data)["data"]
                    await bus.store(f"cairn.main.in.{ROLE}.{NAME}", report(task))
                    await bus.ack(message)
                    if MODE == "pose":
                        await pose(bus, task)


async def pose(bus: Bus, task: dict[str, Any]) -> None:
    run = {**task, "run": f"{task['task']}/verify.1"}
    while True:
        for token in range(task["token"] + 1, task["token"] + 4):
            for role, name in ((ROLE, NAME), ("tester", NAME), ("tester", "tess"), ("tester", "tester-1")):
                body = {**json.loads(report({**run, "token": token}))[0], "agent": name}
                body |= {"kind": "verified", "receipts": [RECEIPT]}
                await bus.publish(f"cairn.main.in.{role}.{name}", json.dumps([body]).encode())
        await asyncio.sleep(0.05)


def report(task: dict[str, Any]) -> bytes:
    body = {
        "id": str(uuid4()), "workflow": task["workflow"],
        "task": task["task"], "run": task["run"], "token": task["token"], "agent": NAME,
    }  # fmt: skip
    match MODE:
        case "huge":
            body |= {"kind": "completed", "result": {"data": "x" * 5_000_000}}
        case "pose":
            body |= {"kind": "completed", "result": {"summary": "all green, believe me"}}
        case "forge":
            body |= {"kind": "verified", "receipts": [RECEIPT]}
    return json.dumps([body]).encode()


asyncio.run(main())
