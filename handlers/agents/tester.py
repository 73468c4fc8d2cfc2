"""The tester runs a task's acceptance tests on the exact commit and writes the receipts: the evidence that counts."""

import asyncio
import tempfile
from pathlib import Path

from cairn.agent import Agent
from cairn.task import Failed, Receipt, Task, Test
from domain.outcome import RECEIPTS_BYTES
from handlers.agents import coverage, junit, report
from handlers.ports import Limits, Sandbox, SandboxBroken

REPORT_CHARACTERS = 8_192
"""Of what its report says of failed tests."""
UNCOVERED_CHARACTERS = 300
OUTPUT_BYTES = 16_384
"""Of what one test prints; less where a task has many tests."""
LONGEST_CHARACTER_BYTES = 6
"""What JSON makes of one byte at most."""


def tester(sandbox: Sandbox, *, capacity: int = 2) -> Agent:
    agent = Agent("tester", capacity=capacity, commits=False)

    @agent.task
    async def verify(task: Task) -> list[Receipt]:
        if task.purpose != "verify":
            what = f"task {task.task} asks for work, and this tester runs acceptance tests only"
            raise Failed(f"{what}: give the task another agent_role", type="spec_mismatch")
        if task.path is not None:
            return [await _run(sandbox, test, task, task.path) for test in task.tests]
        with tempfile.TemporaryDirectory(prefix="cairn-") as folder:
            return [await _run(sandbox, test, task, Path(folder)) for test in task.tests]

    return agent


async def _run(sandbox: Sandbox, test: Test, task: Task, folder: Path) -> Receipt:
    # Half of the room is for the outputs and reports, the other for commands, hashes and names.
    share = RECEIPTS_BYTES // 2 // LONGEST_CHARACTER_BYTES // len(task.tests)
    told = min(REPORT_CHARACTERS, share // 4) if test.junit else 0
    limits = Limits(wall_seconds=test.timeout_seconds, output_bytes=min(OUTPUT_BYTES, share - told))
    for path in filter(None, (test.junit, test.coverage)):
        await asyncio.to_thread(report.discard, folder, path)
    try:
        seen = await sandbox.run(test.cmd, cwd=folder, limits=limits)
    except SandboxBroken as broken:
        raise Failed(str(broken), type="sandbox") from broken
    covered, uncovered = await asyncio.to_thread(_covered, folder, test.coverage) if test.coverage else (None, "")
    return Receipt(
        cmd=test.cmd,
        exit_code=seen.exit_code,
        timed_out=seen.timed_out,
        duration_seconds=round(seen.duration_seconds, 3),
        isolation=seen.isolation,
        commit=task.bases[0] if task.bases else None,
        output_bytes=seen.output_bytes,
        output_sha256=seen.output_sha256,
        output=seen.output,
        runtime=seen.runtime,
        report=await asyncio.to_thread(junit.read, folder, test.junit, told) if test.junit else None,
        coverage=covered,
        uncovered=uncovered,
    )


def _covered(folder: Path, path: str) -> tuple[float | None, str]:
    """The percentage, or why there is none."""
    try:
        return coverage.read(folder, path), ""
    except report.Unreadable as why:
        return None, f"{path}: {why}"[:UNCOVERED_CHARACTERS]
