"""Processes that a storm kills: they write down what they ask and what they are told, in a file that outlives them.

    worker.py write  DSN TENANT NATS_URL FILE NAME    appends to streams of its own and to one that all append to
    worker.py follow DSN TENANT NATS_URL FILE         follows from where the file ends

A line is written in one go before the next step: kill -9 loses the step, not the line.
"""

import asyncio
import os
import random
import sys
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from uuid import UUID, uuid5

from cairn.bus import Bus
from domain.events import TaskStarted
from ledger.append import Append, NewEvent
from ledger.codec import event_id
from ledger.errors import AlreadyRecorded, LedgerUnavailable, WrongVersion
from ledger.ledger import Ledger
from ledger.recorded import Recorded

COMMANDS = UUID("9d6e5a1e-6f5c-4c55-9d5e-2f0c6f1b3c11")
ROOT = Path(__file__).parents[2]
WRITERS = 6
SHARED = "workflow-shared"


def command_of(name: str) -> UUID:
    return uuid5(COMMANDS, name)


def append_of(name: str, stream: str, expected: int, count: int) -> Append:
    """The command `name`: `count` events after `expected`."""
    command = command_of(name)
    event = TaskStarted(task=name, run=f"{name}/1", agent="ann", lease_until=30.0, timeout_at=1800.0)
    news = [NewEvent(event, event_id(command, index), "ann", stream, str(command)) for index in range(count)]
    return Append(stream, expected, news)


class Diary:
    """A file of lines; the last may be torn where its writer was killed."""

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if not file.read_bytes().endswith(b"\n") and file.stat().st_size:
            self.say("")

    def say(self, *words: object) -> None:
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


async def write(ledger: Ledger, diary: Diary, name: str) -> None:
    dice = random.Random(name)
    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            stream = SHARED if number == 0 else f"workflow-{name}-{number}"
            group.create_task(_write(ledger, diary, f"{name}-{os.getpid()}-{number}", stream, dice))


async def _write(ledger: Ledger, diary: Diary, name: str, stream: str, dice: random.Random) -> None:
    """Asks again, with the same id, until it is told: recorded, or in the way of another."""
    number, version = 0, len(await _patiently(ledger, stream))
    while True:
        number += 1
        command, count = f"{name}-{number}", dice.choice((1, 1, 1, 2, 5))
        diary.say("try", command)
        while True:
            try:
                recorded = await ledger.append(append_of(command, stream, version, count))
            except AlreadyRecorded as before:
                recorded = before.recorded
            except LedgerUnavailable:
                continue
            except WrongVersion as wrong:
                diary.say("refused", command)
                version = wrong.actual
                break
            diary.say("recorded", command, *(event.position for event in recorded))
            version = recorded[-1].version
            break


async def _patiently(ledger: Ledger, stream: str) -> list[Recorded]:
    while True:
        try:
            return await ledger.read_stream(stream)
        except LedgerUnavailable:
            await asyncio.sleep(0.05)


async def follow(ledger: Ledger, diary: Diary, after: int) -> None:
    async with aclosing(ledger.follow(after)) as batches:
        async for events in batches:
            for event in events:
                diary.say(event.position, event.digest.hex())


def seen(file: Path) -> list[tuple[int, str]]:
    """What a follower has written down; a torn line is none."""
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [(int(line.split()[0]), line.split()[1]) for line in lines if len(line.split()) == 2 and len(line) > 64]


def perform(arguments: tuple[str, ...], log: Path, environment: Mapping[str, str]) -> None:
    """`main` in this process; with an `environment`, in a program that is loaded with it."""
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if environment:
        os.chdir(ROOT)
        argv = [sys.executable, "-m", "tests.chaos.worker", *arguments]
        os.execve(sys.executable, argv, {**os.environ, **environment})
    asyncio.run(main(*arguments))


async def main(what: str, dsn: str, tenant: str, nats_url: str, file: str, name: str = "") -> None:
    path = Path(file)
    after = seen(path)[-1][0] if what == "follow" and seen(path) else 0
    diary = Diary(path)
    async with Bus.connect(nats_url, name="chaos") as bus, Ledger.open(dsn, tenant=tenant, bus=bus) as ledger:
        await (write(ledger, diary, name) if what == "write" else follow(ledger, diary, after))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
