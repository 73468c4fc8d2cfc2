"""What becomes of a component that fails, of the others, and of the process."""

import asyncio

import pytest

from ledger.cancel import end
from ledger.errors import BrokenChain
from ops import components as module
from ops.components import Component, Components, Failed

WAIT_SECONDS = 10.0


class Part:
    """Notes when it begins and ends; raises as often as it is told to."""

    def __init__(self, name: str, said: list[str], *faults: Exception) -> None:
        self.name, self._said, self._faults = name, said, list(faults)
        self.holds = asyncio.Event()

    async def run(self) -> None:
        self._said.append(f"{self.name} begins")
        try:
            if self._faults:
                raise self._faults.pop(0)
            self.holds.set()
            await asyncio.Event().wait()
        finally:
            self._said.append(f"{self.name} ends")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.01, 0.02))


async def held(*parts: Part) -> None:
    async with asyncio.timeout(WAIT_SECONDS):
        for part in parts:
            await part.holds.wait()


async def test_one_that_fails_is_begun_again_and_named_until_it_has_held_while_the_others_notice_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HELD_SECONDS", 0.3)
    said: list[str] = []
    steady, failing = Part("steady", said), Part("failing", said, ValueError("no"), KeyError("nor this"))
    running = Components()
    running.start(Component("steady", steady.run), Component("failing", failing.run))
    await held(steady, failing)
    assert said == ["steady begins", *["failing begins", "failing ends"] * 2, "failing begins"]
    assert running.faults == {"failing": "KeyError: 'nor this'"}
    async with asyncio.timeout(WAIT_SECONDS):
        while running.faults:
            await asyncio.sleep(0.01)
    await running.stop()


async def test_the_last_that_was_started_is_the_first_to_end() -> None:
    said: list[str] = []
    parts = [Part(name, said) for name in ("a", "b", "c")]
    running = Components()
    for part in parts:
        running.start(Component(part.name, part.run))
    await held(*parts)
    await running.stop()
    assert said == ["a begins", "b begins", "c begins", "c ends", "b ends", "a ends"]


@pytest.mark.parametrize("policy", ["restarts", "ends"])
async def test_a_contradiction_ends_the_process_as_it_is_whoever_meets_it(policy: str) -> None:
    said: list[str] = []
    broken = Part("broken", said, ExceptionGroup("in a group", [BrokenChain(7, "it is missing")]))
    running = Components()
    running.start(Component("broken", broken.run, policy))  # type: ignore[arg-type]
    with pytest.raises(BrokenChain, match="position 7: it is missing"):
        await asyncio.wait_for(running.failed(), WAIT_SECONDS)
    await running.stop()
    assert said == ["broken begins", "broken ends"]


async def test_one_that_may_not_be_begun_again_or_goes_on_failing_ends_the_process_with_its_reason() -> None:
    said: list[str] = []
    for policy, times in (("ends", 1), ("restarts", module.MOST_FAILURES)):
        said.clear()
        part = Part("part", said, *(ValueError(f"fault {n}") for n in range(1, 20)))
        running = Components()
        running.start(Component("part", part.run, policy))  # type: ignore[arg-type]
        with pytest.raises(Failed, match=f"part failed: ValueError: fault {times}$"):
            await asyncio.wait_for(running.failed(), WAIT_SECONDS)
        assert said.count("part begins") == times
        await running.stop()


async def test_who_waits_for_a_failure_can_stop_waiting() -> None:
    running = Components()
    waiting = asyncio.create_task(running.failed())
    await asyncio.sleep(0)
    await end([waiting])
    assert waiting.cancelled()
