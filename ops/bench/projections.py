"""`cairn bench projections`: how fast each view is rebuilt from the ledger, beside the one that is read.

A Postgres of its own in a temporary data directory, fsync on; the ledger holds workflows that ran side by side, as the
rules make them: each task dispatched, started and completed. The ledger is also read and decoded without any view.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

from domain.commands import ReportCompleted, ReportStarted, StartWorkflow, WorkflowCommand
from domain.events import WorkflowEvent
from domain.outcome import Result
from domain.plan import Plan, Task
from domain.state import Workflow, replay
from domain.workflow import decide
from ledger.append import Append, NewEvent
from ledger.audit import reader
from ledger.codec import event_id
from ledger.ledger import Ledger
from ops.bench.ledger import servers
from ops.bench.usage import machine
from ops.garbage import collect_seldom
from ops.views import VIEWS
from projections.batches import history
from projections.shadow import BATCH_EVENTS, shadowed

TENANT = "bench"
TASKS = 40
WORKFLOWS = 50
"""At once."""
NOW = 1_800_000_000.0

Show = Callable[[dict[str, Any]], None]


async def main(events: int, show: Show) -> int:
    show({"bench": "this machine", **await asyncio.to_thread(machine)})
    async with servers(bus=False) as own:
        dsn = own.database_url
        async with Ledger.open(dsn, tenant=TENANT) as ledger:
            await _fill(ledger, events)
            head = (await ledger.head()).position
        collect_seldom()
        async with reader(dsn, TENANT) as ledger_of:
            begun = time.perf_counter()
            async for batch in history(ledger_of.read, 0, BATCH_EVENTS):
                for recorded in batch:
                    _ = recorded.event
            show(_rate("read and decode", head, begun))
            for name, view in VIEWS.items():
                async with shadowed(dsn, TENANT, view()) as shadow:
                    begun = time.perf_counter()
                    built = await shadow.build(ledger_of.read, head)
                    show(_rate(f"rebuild {name}", built, begun))
    return 0


def _rate(bench: str, events: int, begun: float) -> dict[str, Any]:
    seconds = time.perf_counter() - begun
    return {"bench": bench, "events": events, "seconds": round(seconds, 3), "events_per_s": round(events / seconds)}


async def _fill(ledger: Ledger, events: int) -> None:
    """At least so many, of workflows that take turns."""
    names, position = count(1), 0
    while position < events:
        running = [_workflow(f"w{next(names)}") for _ in range(WORKFLOWS)]
        while running:
            found = [(one, next(one, None)) for one in running]
            running = [one for one, append in found if append]
            done = await asyncio.gather(*(ledger.append(append) for _, append in found if append))
            position = max([position, *(recorded[-1].position for recorded in done)])


def _workflow(name: str) -> Iterator[Append]:
    """What is appended in the course of one workflow."""
    state, version = Workflow(), 0
    for command in _commands(name, state):
        recorded: list[WorkflowEvent] = decide(state, command)
        replay(recorded, state)
        id = uuid4()
        new = [NewEvent(event, event_id(id, n), "bench", name, str(id)) for n, event in enumerate(recorded)]
        yield Append(f"workflow-{name}", version, new)
        version += len(new)


def _commands(name: str, state: Workflow) -> Iterator[WorkflowCommand]:
    tasks = tuple(
        Task(id=f"t{n}", title=f"Task {n}", dependencies=(f"t{n - 8}",) if n >= 8 else ()) for n in range(TASKS)
    )
    yield StartWorkflow(now=NOW, workflow=name, plan=Plan(id=name, title="Bench", tasks=tasks))
    for task in tasks:
        run = state.tasks[task.id].run
        assert run is not None
        said: dict[str, Any] = {"now": NOW, "task": task.id, "run": run.id, "token": run.token, "agent": "coder-1"}
        yield ReportStarted(**said)
        yield ReportCompleted(**said, result=Result("It is done.", "0" * 40, ("src/main.py",)))
