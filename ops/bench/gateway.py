"""`cairn bench gateway`: from a fact to whoever looks, everything on this machine, fsync on.

Servers are processes of their own in a temporary data directory, and so are those who follow the events. What is
compared is measured in turns, within one run.
"""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

from cairn.client import Client
from cairn.config import Connection, connection
from ops.bench import queries
from ops.bench.ledger import child
from ops.bench.tasks import chains, completed, system
from ops.bench.usage import machine, memory_mb
from ops.bench.writers import spread

Part = Literal["latency", "workflow", "queries", "clients"]
PARTS: tuple[Part, ...] = ("latency", "workflow", "queries", "clients")
PLAN_TASKS = 50
"""Of the plans that are submitted at a rate: one more events than that each."""
CHAIN = 10
READS = 100
PAGE = 100
SEEN_BY_ALL = "type=workflow.*"
"""What many clients follow, as a list of workflows on a screen does."""

Show = Callable[[dict[str, Any]], None]


class Sizes(NamedTuple):
    rates: Sequence[int] = (1_000, 5_000)
    """Events a second."""
    seconds: float = 10.0
    tasks: int = 10_000
    events: int = 2_000_000
    clients: int = 1_000
    workflows: int = 200
    turns: int = 3


async def main(parts: Sequence[Part], sizes: Sizes, show: Show) -> int:
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)  # what it started ends with it
    show({"bench": "this machine", **await asyncio.to_thread(machine)})
    if "latency" in parts:
        for rate in sizes.rates:
            show(await _latency(rate, sizes.seconds))
    if "workflow" in parts:
        show(await _workflow(sizes.tasks))
    if "queries" in parts:
        for figures in await queries.measure(sizes.events):
            show(figures)
    if "clients" in parts:
        show(await _clients(sizes))
    return 0


async def _latency(rate: int, seconds: float) -> dict[str, Any]:
    """Plans are submitted, whose tasks are dispatched to nobody: how long after an event was recorded a follower has it,
    and how long after a command was answered the board's row of its workflow has been read at its position."""
    async with system() as (folder, _, agent), Client(connection(folder)) as client:
        agent.terminate()
        await asyncio.to_thread(agent.wait)
        board: list[float] = []
        async with _watching(connection(folder), 1, "") as watched, asyncio.TaskGroup() as group:
            pause, begun = (PLAN_TASKS + 1) / rate, time.perf_counter()
            count = int(seconds / pause)
            for number in range(count):
                await asyncio.sleep(max(0.0, begun + number * pause - time.perf_counter()))
                group.create_task(_submitted(client, number, board))
            submitted = time.perf_counter() - begun
        seen = watched[0]
    return {
        "bench": "event to board and follower", "paced_per_s": rate,
        "events_per_s": round(count * (PLAN_TASKS + 1) / submitted), "seen": seen["events"],
        "follower_p50_ms": seen["p50_ms"], "follower_p99_ms": seen["p99_ms"],
        **{f"board_{name}": value for name, value in spread(board).items()},
    }  # fmt: skip


async def _submitted(client: Client, number: int, board: list[float]) -> None:
    plan = {"id": f"w{number}", "tasks": [{"id": f"t{n}", "agent_role": "coder"} for n in range(PLAN_TASKS)]}
    answer = await client.submit(plan)
    begun = time.perf_counter()
    await client.tasks(answer.workflow, limit=1, at_least=answer.position)
    board.append(time.perf_counter() - begun)


async def _workflow(tasks: int) -> dict[str, Any]:
    """The first page and following pages of a large workflow that nobody works on."""
    async with system() as (folder, _, agent), Client(connection(folder)) as client:
        agent.terminate()
        await asyncio.to_thread(agent.wait)
        position = (await client.submit(chains("large", tasks, CHAIN))).position
        await client.tasks("large", limit=1, at_least=position)
        first, following, after = [], [], None
        for _ in range(READS):
            begun = time.perf_counter()
            await client.tasks("large", limit=PAGE)
            first.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            after = (await client.tasks("large", after=after, limit=PAGE))["next"]
            following.append(time.perf_counter() - begun)
    return {
        "bench": "page of a workflow's tasks", "tasks": tasks, "page": PAGE, **spread(first),
        **{f"following_{name}": value for name, value in spread(following).items()},
    }  # fmt: skip


async def _clients(sizes: Sizes) -> dict[str, Any]:
    """Tasks a second with nobody who follows and with many, in turns; and the server's memory."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    async with system() as (folder, server, _), Client(connection(folder)) as client:
        while {one["role"] for one in await client.agents()} != {"coder", "tester"}:
            await asyncio.sleep(0.05)
        await completed(client, [chains("warm", CHAIN, CHAIN)])
        await _rate(client, "before", sizes.workflows)
        alone = memory_mb(server.pid)
        connected = memory = 0
        for turn in range(sizes.turns):
            rates[False].append(await _rate(client, f"a{turn}", sizes.workflows))
            before = memory_mb(server.pid)
            async with _watching(connection(folder), sizes.clients, SEEN_BY_ALL) as watched:
                memory = max(memory, memory_mb(server.pid) - before)
                rates[True].append(await _rate(client, f"b{turn}", sizes.workflows))
            connected = watched[0]["connected"]
        most = memory_mb(server.pid)
    ratios = sorted(some / none for some, none in zip(rates[True], rates[False], strict=True))
    return {
        "bench": "followers", "clients": sizes.clients, "connected_at_the_end": connected,
        "memory_mb": {"before": alone, "for_clients": memory, "at_the_end": most},
        "tasks_per_s_alone": [round(rate) for rate in rates[False]],
        "tasks_per_s_followed": [round(rate) for rate in rates[True]], "ratio_median": round(ratios[len(ratios) // 2], 2),
    }  # fmt: skip


async def _rate(client: Client, name: str, workflows: int) -> float:
    plans = [chains(f"{name}-{n}", CHAIN, CHAIN) for n in range(workflows)]
    begun = time.perf_counter()
    await completed(client, plans)
    return workflows * CHAIN / (time.perf_counter() - begun)


@asynccontextmanager
async def _watching(where: Connection, clients: int, query: str) -> AsyncIterator[list[dict[str, Any]]]:
    """So many follow; afterwards, what they saw."""
    seen: list[dict[str, Any]] = []
    async with child("watchers", where.url, where.token, clients, query) as outcome:
        yield seen
        seen.append(await outcome())


def parsed(parts: str) -> tuple[Part, ...]:
    """ValueError for one that there is not."""
    wanted = tuple(part for part in PARTS if part in parts.split(","))
    if unknown := {*parts.split(",")} - {*PARTS}:
        raise ValueError(f"{', '.join(sorted(unknown))}: parts are {json.dumps(PARTS)}")
    return wanted
