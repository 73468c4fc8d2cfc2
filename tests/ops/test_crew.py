"""Our own agents: started again when they die, ended when we end."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ops import crew as module
from ops.crew import Crew

SECONDS = 20.0


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is run instead of our interpreter: it counts its starts, then does what `behave` says."""
    script = tmp_path / "agent.sh"
    script.write_text('#!/bin/sh\necho "$$ $*" >> starts\n. ./behave\n')
    script.chmod(0o755)
    monkeypatch.setattr(module.sys, "executable", str(script))
    return script


@pytest.fixture
async def crew(python: Path, tmp_path: Path) -> AsyncIterator[Crew]:
    crew = Crew(tmp_path, {"PATH": os.environ["PATH"]})
    yield crew
    await crew.stop()


def starts(folder: Path) -> list[str]:
    file = folder / "starts"
    return file.read_text().splitlines() if file.exists() else []


async def started(folder: Path, count: int) -> int:
    """The process id of the last one, once so many were started."""
    async with asyncio.timeout(SECONDS):
        while len(starts(folder)) < count:
            await asyncio.sleep(0.01)
    return int(starts(folder)[-1].split()[0])


async def test_an_agent_that_was_killed_is_started_again(crew: Crew, tmp_path: Path) -> None:
    (tmp_path / "behave").write_text("exec sleep 60")
    keeping = asyncio.create_task(crew.keep("tester-1", ["--role", "tester"]))
    os.kill(await started(tmp_path, 1), signal.SIGKILL)
    again = await started(tmp_path, 2)
    assert starts(tmp_path)[-1].endswith("-m cairn agent --role tester")
    assert not keeping.done()
    await crew.stop()
    await asyncio.wait_for(keeping, SECONDS)
    assert not Path(f"/proc/{again}").exists()


async def test_one_that_keeps_dying_is_tried_ever_more_slowly(
    crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await real(0)

    (tmp_path / "behave").write_text("echo why >&2; exit 3")
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    keeping = asyncio.create_task(crew.keep("tester-1", []))
    async with asyncio.timeout(SECONDS):
        while len(pauses) < 6:
            await real(0.01)
    monkeypatch.undo()
    keeping.cancel()
    assert pauses[:6] == [0.5, 1.0, 2.0, 5.0, 5.0, 5.0]
    assert "why" in (tmp_path / "log" / "tester-1.log").read_text()


async def test_stopping_is_gentle_first_and_then_certain(
    crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP", (module.Step(signal.SIGTERM, 0.3), module.Step(signal.SIGKILL, 2.0)))
    (tmp_path / "behave").write_text("trap 'echo asked >> asked' TERM\necho >> ready\nwhile :; do sleep 0.05; done")
    keeping = [asyncio.create_task(crew.keep(f"tester-{number}", [])) for number in range(2)]
    await started(tmp_path, 2)
    pids = [int(line.split()[0]) for line in starts(tmp_path)]
    async with asyncio.timeout(SECONDS):
        while not (tmp_path / "ready").exists() or (tmp_path / "ready").read_text() != "\n\n":
            await asyncio.sleep(0.01)
    began = time.monotonic()
    await crew.stop()
    assert time.monotonic() - began < 2
    await asyncio.wait_for(asyncio.gather(*keeping), SECONDS)
    assert (tmp_path / "asked").read_text() == "asked\n" * 2
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert len(starts(tmp_path)) == 2, "none was started again"


async def test_stopping_before_the_next_try_starts_nothing(crew: Crew, tmp_path: Path) -> None:
    (tmp_path / "behave").write_text("exit 3")
    keeping = asyncio.create_task(crew.keep("tester-1", []))
    await started(tmp_path, 1)
    async with asyncio.timeout(SECONDS):
        while crew._children[0].pid is not None:
            await asyncio.sleep(0.01)
    await crew.stop()
    count = len(starts(tmp_path))
    await asyncio.wait_for(keeping, SECONDS)
    assert len(starts(tmp_path)) == count
