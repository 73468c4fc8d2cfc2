"""An outcome stays on the agent's disk until it is judged, however long that takes and whoever dies in between.

It is long because it begins with the other side of an outbox, and there are many ways to die.
"""

import asyncio
import fcntl
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cairn import outbox as module
from cairn.bus import Bus
from cairn.outbox import Outbox, owing

SECONDS = 20.0

ANOTHER_PROCESS = """
import asyncio, sys
from pathlib import Path
from cairn.bus import Bus
from cairn.outbox import Outbox

async def main():
    async with Bus.connect(sys.argv[1]) as bus:
        outbox = Outbox(bus, sys.argv[2], "coder", sys.argv[3], Path(sys.argv[4]))
        running = asyncio.create_task(outbox.run())
        for number in range(int(sys.argv[5])):
            outbox.report("w", {"kind": "completed", "result": {"summary": str(number)}}, keep=True)
        while outbox._waiting:
            await asyncio.sleep(0.01)
        print("sent", flush=True)
        await running

asyncio.run(main())
"""


class Judge:
    """The other side: what arrives in the inbox, and verdicts on it."""

    def __init__(self, bus: Bus, tenant: str) -> None:
        self.bus, self.tenant, self.stream = bus, tenant, f"{tenant.upper()}_INBOX"
        self.arrived: list[dict[str, Any]] = []
        self.letters: list[list[dict[str, Any]]] = []

    async def open(self) -> None:
        subjects = [f"cairn.{self.tenant}.in.>"]
        await self.bus.ensure_stream({"name": self.stream, "subjects": subjects, "allow_atomic": True})
        await self.bus.ensure_consumer(self.stream, {"durable_name": "judge", "ack_policy": "explicit"})

    async def wait(self, count: int) -> list[dict[str, Any]]:
        """Reads until so many different reports have arrived."""
        async with asyncio.timeout(SECONDS):
            async for messages in self.bus.pull(self.stream, "judge", wait_seconds=0.3):
                for message in messages:
                    self.letters.append(json.loads(message.data))
                    self.arrived += self.letters[-1]
                    await self.bus.ack(message)
                if len({one["id"] for one in self.arrived}) >= count:
                    return self.arrived
        raise AssertionError

    async def judge(self, *reports: dict[str, Any], accepted: bool = True) -> None:
        for report in reports:
            await self.bus.publish(
                f"cairn.{self.tenant}.verdict.{report['agent']}",
                json.dumps([{"id": report["id"], "accepted": accepted}]).encode(),
            )


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    async with Bus.connect(nats_url) as bus:
        yield bus


@pytest.fixture
async def judge(bus: Bus, tenant: str) -> AsyncIterator[Judge]:
    judge = Judge(bus, tenant)
    await judge.open()
    yield judge
    await bus.api(f"STREAM.DELETE.{judge.stream}")


@asynccontextmanager
async def running(outbox: Outbox) -> AsyncIterator[Outbox]:
    task = asyncio.create_task(outbox.run())
    try:
        yield outbox
        assert not task.done(), "the outbox has ended"
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def outcome(summary: str = "done") -> dict[str, Any]:
    return {"kind": "completed", "result": {"summary": summary}}


async def emptied(outbox: Outbox) -> None:
    async with asyncio.timeout(SECONDS):
        await outbox.emptied()


async def spawn(nats_url: str, tenant: str, name: str, journal: Path, count: int) -> asyncio.subprocess.Process:
    arguments = [nats_url, tenant, name, str(journal), str(count)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ANOTHER_PROCESS, *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert (await asyncio.wait_for(process.stdout.readline(), SECONDS)) == b"sent\n"
    return process


async def test_what_waits_together_travels_together_and_is_forgotten_once_judged(
    bus: Bus, judge: Judge, tenant: str, tmp_path: Path
) -> None:
    async with running(Outbox(bus, tenant, "coder", "ann", tmp_path / "ann.jsonl")) as outbox:
        for number in range(5):
            outbox.report("w", outcome(str(number)), keep=True)
        outbox.report("v", {"kind": "started"})
        reports = await judge.wait(6)
        assert len(judge.letters) == 1
        assert [(one["workflow"], one["kind"]) for one in reports] == [("w", "completed")] * 5 + [("v", "started")]
        assert [one["result"]["summary"] for one in reports[:5]] == list("01234")
        assert all(one["agent"] == "ann" for one in reports)
        await judge.judge(*judge.letters[0][:4])
        await judge.judge(judge.letters[0][4], accepted=False)
        await emptied(outbox)
    async with running(Outbox(bus, tenant, "coder", "ann", tmp_path / "ann.jsonl")) as outbox:
        await emptied(outbox)
    assert len(judge.arrived) == 6


async def test_an_outcome_is_sent_again_until_it_is_judged_also_by_an_agent_that_is_never_idle(
    bus: Bus, judge: Judge, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESEND_SECONDS", 0.2)
    async with running(Outbox(bus, tenant, "coder", "ann", tmp_path / "ann.jsonl")) as outbox:
        outbox.report("w", outcome(), keep=True)
        first = (await judge.wait(1))[0]

        async def chatter() -> None:
            while True:
                outbox.report("w", {"kind": "started"})
                await asyncio.sleep(0.02)

        busy = asyncio.create_task(chatter())
        async with asyncio.timeout(SECONDS):
            while sum(one["id"] == first["id"] for one in judge.arrived) < 3:
                await judge.wait(len({one["id"] for one in judge.arrived}) + 1)
        busy.cancel()
        await judge.judge(first)
        await emptied(outbox)


async def test_outcomes_outlive_a_kill_of_their_process(
    bus: Bus, judge: Judge, tenant: str, tmp_path: Path, nats_url: str
) -> None:
    journal = tmp_path / "ann.jsonl"
    process = await spawn(nats_url, tenant, "ann", journal, 5)
    before = list(await judge.wait(5))
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await judge.judge(before[0])  # nobody hears it: the next process asks again
    async with running(Outbox(bus, tenant, "coder", "ann", journal)) as outbox:
        judge.arrived.clear()
        after = await judge.wait(5)
        assert sorted(one["id"] for one in after) == sorted(one["id"] for one in before)
        await judge.judge(*after)
        await emptied(outbox)


async def test_what_an_agent_that_died_owes_is_sent_under_its_name_and_its_journal_removed(
    bus: Bus, judge: Judge, tenant: str, tmp_path: Path, nats_url: str
) -> None:
    journal = tmp_path / "dead.jsonl"
    process = await spawn(nats_url, tenant, "dead", journal, 3)
    before = [one["id"] for one in await judge.wait(3)]
    assert not owing(journal), "it was not dead yet"
    with pytest.raises(BlockingIOError):
        await Outbox(bus, tenant, "coder", "dead", journal).settle()
    process.send_signal(signal.SIGKILL)
    await process.wait()
    assert owing(journal)
    judge.arrived.clear()
    settling = asyncio.create_task(Outbox(bus, tenant, "coder", "dead", journal).settle())
    after = await judge.wait(3)
    assert sorted(one["id"] for one in after) == sorted(before)
    assert {one["agent"] for one in after} == {"dead"}
    assert not owing(journal) and journal.exists(), "somebody is at it"
    await judge.judge(*after)
    await asyncio.wait_for(settling, SECONDS)
    assert not journal.exists()


async def test_a_journal_that_owes_nothing_is_removed(bus: Bus, tenant: str, tmp_path: Path) -> None:
    async with running(Outbox(bus, tenant, "coder", "ann", tmp_path / "ann.jsonl")):
        while not (tmp_path / "ann.jsonl").exists():
            await asyncio.sleep(0.01)
    assert not owing(tmp_path / "ann.jsonl")
    assert not list(tmp_path.iterdir())


async def test_what_follows_a_torn_last_line_is_not_lost_with_it(
    bus: Bus, judge: Judge, tenant: str, tmp_path: Path
) -> None:
    journal = tmp_path / "ann.jsonl"
    whole = {"workflow": "w", "body": {"id": "00000000-0000-0000-0000-000000000001", **outcome()}}
    journal.write_bytes(json.dumps(whole).encode() + b'\n{"workflow":"w","body":{"id":"0000')
    async with running(Outbox(bus, tenant, "coder", "ann", journal)) as outbox:
        outbox.report("w", outcome("new"), keep=True)
        await judge.wait(2)
    judge.arrived.clear()
    async with running(Outbox(bus, tenant, "coder", "ann", journal)):
        assert {one["result"]["summary"] for one in await judge.wait(2)} == {"done", "new"}


async def test_what_nobody_could_take_in_is_in_the_journal_when_it_stops(
    bus: Bus, judge: Judge, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while the bus does not answer: the second outcome had not even been tried."""

    async def never(*_: Any, **__: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(bus, "store_batch", never)
    async with running(Outbox(bus, tenant, "coder", "ann", tmp_path / "ann.jsonl")) as outbox:
        outbox.report("w", outcome("1"), keep=True)
        async with asyncio.timeout(SECONDS):
            while outbox._waiting:
                await asyncio.sleep(0.01)
        outbox.report("w", outcome("2"), keep=True)
    monkeypatch.undo()
    async with running(Outbox(bus, tenant, "coder", "ann", tmp_path / "ann.jsonl")):
        assert {one["result"]["summary"] for one in await judge.wait(2)} == {"1", "2"}


async def test_reports_wait_for_an_inbox_that_is_not_there(bus: Bus, tenant: str, tmp_path: Path) -> None:
    async with running(Outbox(bus, tenant, "coder", "ann", tmp_path / "ann.jsonl")) as outbox:
        outbox.report("w", outcome(), keep=True)
        outbox.report("w", {"kind": "started"})
        await asyncio.sleep(0.3)  # some tries
        judge = Judge(bus, tenant)
        await judge.open()
        await judge.judge(*[one for one in await judge.wait(2) if one["kind"] == "completed"])
        await emptied(outbox)
    await bus.api(f"STREAM.DELETE.{judge.stream}")


async def test_many_large_outcomes_on_one_workflow_go_in_messages_that_the_server_takes(
    bus: Bus, judge: Judge, tenant: str, tmp_path: Path
) -> None:
    async with running(Outbox(bus, tenant, "coder", "ann", tmp_path / "ann.jsonl")) as outbox:
        for _ in range(300):
            outbox.report("w", outcome("x" * 60_000), keep=True)
        outbox.report("w", {"kind": "verified", "receipts": [{"output": "y" * 9_000_000}]}, keep=True)
        reports = await judge.wait(301)
        assert [one["kind"] for one in reports].count("completed") == 300
        told = next(one for one in reports if one["kind"] != "completed")
        assert told["kind"] == "failed" and told["failure"]["type"] == "invalid_result"
        await judge.judge(*reports)
        await emptied(outbox)


async def test_the_journal_does_not_grow_for_ever(
    bus: Bus, judge: Judge, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "JOURNAL_BYTES", 20_000)
    journal = tmp_path / "ann.jsonl"
    async with running(Outbox(bus, tenant, "coder", "ann", journal)) as outbox:
        sizes = []
        for number in range(40):
            outbox.report("w", outcome("x" * 1000), keep=True)
            await judge.judge((await judge.wait(number + 1))[-1])
            await emptied(outbox)
            sizes.append(journal.stat().st_size)
        assert max(sizes) < 25_000


async def test_two_agents_of_one_name_are_told_apart(
    bus: Bus, judge: Judge, tenant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TRIES", 2)
    journal = tmp_path / "ann.jsonl"
    async with running(Outbox(bus, tenant, "coder", "ann", journal)) as outbox:
        outbox.report("w", outcome(), keep=True)
        await judge.wait(1)
        with pytest.raises(BlockingIOError, match="another agent named ann is alive"):
            await asyncio.wait_for(Outbox(bus, tenant, "coder", "ann", journal).run(), SECONDS)


async def test_a_name_is_free_again_as_soon_as_its_process_has_ended(
    bus: Bus, judge: Judge, tenant: str, tmp_path: Path
) -> None:
    journal = tmp_path / "ann.jsonl"
    held = os.open(journal, os.O_CREAT | os.O_RDWR)
    fcntl.flock(held, fcntl.LOCK_EX)
    async with running(Outbox(bus, tenant, "coder", "ann", journal)) as outbox:
        outbox.report("w", outcome(), keep=True)
        journal.unlink()  # as whoever adopts it does
        os.close(held)
        await judge.wait(1)
        assert journal.stat().st_size > 0, "it writes into the file of that name, not into one that is gone"


async def test_a_question_is_kept_as_an_outcome_is_and_answered_by_its_verdict(
    bus: Bus, tenant: str, judge: Judge, tmp_path: Path
) -> None:
    journal = tmp_path / "ann.jsonl"
    async with running(Outbox(bus, tenant, "coder", "ann", journal)) as outbox:
        asked = [asyncio.create_task(outbox.ask("w", {"kind": "noted", "number": n})) for n in range(2)]
        first, second = sorted(await judge.wait(2), key=lambda one: one["number"])
        assert first["id"] in journal.read_text()
        await judge.judge(first)
        refused = {"id": second["id"], "accepted": False, "why": "too much"}
        await bus.publish(f"cairn.{tenant}.verdict.ann", json.dumps([refused]).encode())
        async with asyncio.timeout(SECONDS):
            assert await asyncio.gather(*asked) == ["", "too much"]
            await emptied(outbox)
