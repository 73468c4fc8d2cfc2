"""`cairn bench search`: how long a page takes, over the documents of so many tasks, and how long these took to fold.

A Postgres of its own; the events are made here and handed to the view as a ledger would. What is more than FOLDED_TASKS
is copies of their documents, under names of their own.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count, islice
from random import Random
from typing import Any
from uuid import UUID

from domain.events import AttemptFailed, Event, TaskCompleted, WorkflowStarted
from domain.outcome import Failure, Result
from domain.plan import Plan, Task
from ledger.codec import encode
from ledger.ledger import Ledger
from ledger.postgres import pool
from ledger.recorded import Recorded
from ops.bench.ledger import servers
from ops.bench.usage import cpu_seconds, machine
from projections.project import Projection
from projections.search import Cursor, Search, parse, search

TENANT = "search"
WORKFLOW_TASKS = 1_000
BATCH_EVENTS = 1_000
FOLDED_TASKS = 10_000
COPIES = """INSERT INTO search_documents
SELECT number + %(folded)s::bigint * %(copy)s, position, type, workflow || '-' || %(copy)s, task,
       name, title, status, role, agents, failures, texts, words
FROM search_documents WHERE number <= %(folded)s"""
TURNS = 15
WORDS = 20_000
QUERIES = {
    "a rare word": "needle17",
    "an identifier": "src/module_77/handler_3.py",
    "a word that one document in ten has": "common1",
    "a word that all have": "everywhere",
    "words that most have": "everywhere always task",
    "a phrase": '"everywhere always"',
    "a prefix of many": "w1*",
    "fields and a word": "status:completed role:coder failure:timeout common1",
    "all but one": "everywhere -needle17",
    "words that seldom meet": "common1 common2 common3 common4 common5",
    "fields only": "type:task status:completed",
}

Show = Callable[[dict[str, Any]], None]


async def main(tasks: int, show: Show) -> int:
    show({"bench": "this machine", **machine()})
    async with servers(bus=False) as given:
        async with Ledger.open(given.database_url, tenant=TENANT):
            pass
        async with pool(given.database_url, TENANT, size=2, views=True) as connections:
            view = Search()
            await Projection(connections, view).install()
            events, begun = 0, time.perf_counter()
            ours = time.process_time()
            async with connections.connection() as connection:
                happened = _events(min(tasks, FOLDED_TASKS))
                while batch := list(islice(happened, BATCH_EVENTS)):
                    async with connection.transaction():
                        await view.apply(connection, batch)
                    events += len(batch)
                seconds, own = time.perf_counter() - begun, time.process_time() - ours
                server = connection.info.backend_pid
                postgres = cpu_seconds(server)["own"]
                folded = await (await connection.execute("SELECT max(number) FROM search_documents")).fetchone()
                assert folded
                for copy in range(1, -(-tasks // FOLDED_TASKS)):
                    await connection.execute(COPIES, {"copy": copy, "folded": folded[0]})
                await connection.execute("ANALYZE search_documents")
                sizes = "SELECT count(*), pg_total_relation_size('search_documents') FROM search_documents"
                found = await (await connection.execute(sizes)).fetchone()
                assert found
                figures = {
                    "documents": found[0], "mb": round(found[1] / 1e6), "events_per_s": round(events / seconds),
                    "cpu_us_per_event": {"own": round(own / events * 1e6),
                                         "postgres": round(postgres / events * 1e6)},
                }  # fmt: skip
                show({"bench": "search, folded", "tasks": tasks, **figures})
                for name, text in QUERIES.items():
                    query, took = parse(text), []
                    used = time.process_time() + cpu_seconds(server)["own"]
                    for _ in range(TURNS):
                        begun = time.perf_counter()
                        hits, following = await search(connection, query)
                        took.append((time.perf_counter() - begun) * 1e3)
                    used = time.process_time() + cpu_seconds(server)["own"] - used
                    begun = time.perf_counter()
                    await search(connection, query, after=following or Cursor())
                    second = (time.perf_counter() - begun) * 1e3
                    show({
                        "bench": f"search, {name}", "hits": len(hits), "p50_ms": round(statistics.median(took), 1),
                        "worst_ms": round(max(took), 1), "next_page_ms": round(second, 1), "cpu_ms": round(used / TURNS * 1e3, 1),
                    })  # fmt: skip
    return 0


def _events(tasks: int) -> Iterator[Recorded]:
    """Workflows of WORKFLOW_TASKS each; every tenth task fails, the others complete."""
    random, position = Random(7), count(1)
    for number in range(0, tasks, WORKFLOW_TASKS):
        workflow = f"flow-{number}"
        names = [f"t{n}" for n in range(min(WORKFLOW_TASKS, tasks - number))]
        specs = tuple(
            Task(name, title=f"Task {number + n} everywhere always", description=_text(random, number + n, 80))
            for n, name in enumerate(names)
        )
        plan = Plan(id=workflow, title=f"Flow {number}", objective=_text(random, number, 20), tasks=specs)
        happened: list[Event] = [WorkflowStarted(workflow, plan)]
        for n, name in enumerate(names):
            if n % 10 == 0:
                failure = Failure("timeout", _text(random, number + n, 10), _text(random, number + n, 40))
                happened.append(AttemptFailed(name, f"{name}/1", 1, failure, "ann"))
            result = Result(_text(random, number + n, 20), f"c{n}", (f"src/module_{n}/handler_{n % 9}.py",), {"n": n})
            happened.append(TaskCompleted(name, f"{name}/1", f"agent-{n % 40}", result))
        for version, event in enumerate(happened, 1):
            at, place = datetime.now(UTC), next(position)
            tag = str(event.__struct_config__.tag)
            yield Recorded(
                place, f"workflow-{workflow}", version, tag, UUID(int=place), at, None, None, "bench", None,
                encode(event), b"",
            )  # fmt: skip


def _text(random: Random, number: int, length: int) -> str:
    """Words as texts have them, few of them often and many seldom; some of the task's own."""
    often = [f"common{n}" for n in range(1, 11) if random.random() < 0.1]
    return " ".join([*(f"w{int(WORDS ** random.random())}" for _ in range(length)), *often, f"needle{number}"])
