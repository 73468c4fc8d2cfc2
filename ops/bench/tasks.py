"""`cairn bench tasks`: no-op tasks over the whole real path, everything on this machine, fsync on.

A system of its own in a temporary data directory: Postgres, NATS, the server and one agent as processes of their own.
A workflow is a chain of tasks, so a task begins only when the one before it has been reported, decided, committed and
announced. Clocks run from the first submission to the last `workflow.completed` seen on the event stream.
"""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cairn.client import Client
from cairn.config import connection
from ops.bench.usage import cpu_seconds, machine, memory_mb
from ops.settings import Settings, child_environment

READY_SECONDS = 60.0
CHAIN = 10
LARGE = 10_000
HELP_RUNS = 7


def chains(name: str, tasks: int, length: int) -> dict[str, Any]:
    """A plan of chains of no-op tasks of role coder."""
    return {
        "id": name,
        "tasks": [
            {"id": f"t{n}", "agent_role": "coder", "dependencies": [f"t{n - 1}"] if n % length else []}
            for n in range(tasks)
        ],
    }


async def main(workflows: int | None, tasks: int | None, show: Callable[[dict[str, Any]], None]) -> int:
    """One shape if given, else all that the README quotes. One call of `show` each."""
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # what it started ends with it
    if workflows is not None or tasks is not None:
        show(await measure(workflows or 1, tasks or CHAIN, tasks or CHAIN))
        return 0
    show({"bench": "this machine", **await asyncio.to_thread(machine)})
    show(await measure(200, CHAIN, CHAIN))
    show(await measure(1, 200, 200))
    small = await measure(LARGE // CHAIN, CHAIN, CHAIN)
    large = await measure(1, LARGE, CHAIN)
    show(small)
    show(large)
    ratio = large["ms_per_task"] / small["ms_per_task"]
    show({"bench": "cost per task, one workflow of 10,000 to 1,000 of 10", "ratio": round(ratio, 2)})
    show({"bench": "cairn --help", "ms": await asyncio.to_thread(_help_ms)})
    return 0


async def measure(workflows: int, tasks: int, length: int) -> dict[str, Any]:
    """Runs that many workflows of that many tasks at once, in a fresh system."""
    async with system() as (folder, server, agent), Client(connection(folder)) as client:
        while {one["role"] for one in await client.agents()} != {"coder", "tester"}:  # nobody comes in the middle of it
            await asyncio.sleep(0.05)
        await completed(client, [chains("warm", CHAIN, CHAIN)])
        plans = [chains(f"w{n}", tasks, length) for n in range(workflows)]
        before, begun = _cpu(server.pid, agent.pid), time.perf_counter()
        events = await completed(client, plans)
        seconds, after = time.perf_counter() - begun, _cpu(server.pid, agent.pid)
        memory = {"server": memory_mb(server.pid), "agent": memory_mb(agent.pid)}
        agent.send_signal(signal.SIGTERM)
        out, _ = await asyncio.to_thread(agent.communicate, timeout=30)
    total = workflows * tasks
    return {
        "bench": "tasks", "workflows": workflows, "tasks": tasks, "seconds": round(seconds, 3),
        "tasks_per_s": round(total / seconds), "ms_per_task": round(seconds / total * 1000, 3), "events": events,
        "assignment_ms": json.loads(out.splitlines()[-1])["assignment_ms"], "memory_mb": memory,
        "cpu_us_per_task": {name: round((after[name] - before[name]) / total * 1e6) for name in after},
    }  # fmt: skip


async def completed(client: Client, plans: list[dict[str, Any]]) -> int:
    """Submits them all at once and waits until each has completed; the position of the last event."""
    missing = {plan["id"] for plan in plans}
    before = 0
    async for event in client.events(0, type="workflow.completed"):
        before = int(event["sequence"])

    async def watch() -> int:
        last = before
        async for event in client.events(before, type="workflow.completed", follow=True):
            missing.discard(event["data"]["workflow"])
            last = int(event["sequence"])
            if not missing:
                return last
        return last

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(client.submit(plan) for plan in plans))
    return await watching - before


@asynccontextmanager
async def system(
    failing: float = 0.0,
) -> AsyncIterator[tuple[Path, subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """A data directory, the process of `cairn up`, and that of an agent of which so large a part of the runs fails."""
    folder = Path(tempfile.mkdtemp(prefix="cairn-bench-"))
    folder.chmod(0o711)
    environment = child_environment(Settings(data_dir=folder, listen="127.0.0.1:0"))
    log = (folder / "bench.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "cairn", "up"], env=environment, stdout=log, stderr=log, process_group=0
    )
    agent: subprocess.Popen[bytes] | None = None
    try:
        async with asyncio.timeout(READY_SECONDS):
            while not (folder / "up.json").exists():
                if server.poll() is not None:
                    raise RuntimeError(f"the server did not start:\n{(folder / 'bench.log').read_text()[-2000:]}")
                await asyncio.sleep(0.05)
        agent = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("noop.py"), str(folder), str(failing)], stdout=subprocess.PIPE, stderr=log,
            env={**environment, "PYTHONPATH": str(Path(__file__).parents[2])}, process_group=0,
        )  # fmt: skip
        yield folder, server, agent
    finally:
        for process in (agent, server):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGTERM)
                await asyncio.to_thread(process.wait, 30)
        log.close()
        shutil.rmtree(folder)


def _cpu(server: int, agent: int) -> dict[str, float]:
    used = cpu_seconds(server)
    return {
        "server": used["own"], "agent": cpu_seconds(agent)["own"], "postgres": used["postgres"],
        "nats": used["nats-server"],
    }  # fmt: skip


def _help_ms() -> float:
    times = []
    for _ in range(HELP_RUNS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-P", "-m", "cairn", "--help"], capture_output=True, check=True)
        times.append(time.perf_counter() - begun)
    return round(sorted(times)[len(times) // 2] * 1000, 1)
