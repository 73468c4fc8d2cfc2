"""The metrics are what anybody can count in the ledger, whatever the batches were, after restarts and rebuilds."""

from collections.abc import Sequence
from datetime import UTC
from random import Random
from uuid import uuid4

from histories import NASTY, Decision, history
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from stage import Sliced, opened, projected, record, tables
from tally import Key, counted_by_hand

from domain.budget import KINDS
from domain.commands import Cancel, ReportCompleted, ReportStarted, ReportUsage, StartWorkflow
from domain.events import (
    AgentJoined,
    Event,
    LedgerAudited,
)
from domain.outcome import Result
from domain.plan import Budget, Plan, Task
from domain.state import CLOSED, Workflow, evolve
from domain.usage import Spent
from domain.workflow import decide
from handlers.execute import Executor
from ledger.append import Append, NewEvent
from ledger.codec import event_id
from ledger.ledger import Ledger
from ledger.postgres import Pool
from ledger.recorded import Recorded
from projections.board import Board
from projections.figures import NAMES, OTHER
from projections.metrics import Metrics, asked, counted
from projections.project import Projection
from projections.recovery import Recovery

TABLES = ("metrics", "metrics_ended", "metrics_names", "metrics_flows", "metrics_tasks")
UNDER_WAY = ("metrics_flows", "metrics_tasks")


async def rows(connections: Pool) -> dict[Key, int]:
    async with connections.connection() as connection:
        found = await counted(connection, [1])
        ended = await connection.execute("SELECT outcome, seconds::text, workflows FROM metrics_ended")
        took: dict[Key, int] = {("ended", (row[0], row[1])): row[2] for row in await ended.fetchall()}
    return took | {(row.name, row.labels): int(row.value) for row in found.rows}


async def everything(ledger: Ledger) -> list[Recorded]:
    return await ledger.read(0, 100_000)


@settings(max_examples=12, deadline=None, phases=[Phase.generate])
@given(
    seed=st.integers(0, 2**32), steps=st.integers(1, 150), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4)
)
async def test_what_is_counted_is_what_happened_whatever_the_batches_and_after_a_rebuild(
    postgres_url: str, seed: int, steps: int, sizes: list[int]
) -> None:
    async with opened(postgres_url) as (ledger, connections):
        head = (await record(ledger, history(Random(seed), 4, steps)))[-1]
        by_hand = counted_by_hand(await everything(ledger))
        first = Projection(connections, Metrics())
        await first.install()
        await projected(first, Sliced(ledger, sizes), head // 2)
        await projected(Projection(connections, Metrics()), Sliced(ledger, [1]), head)  # after a restart
        in_slices = await tables(connections, TABLES)
        assert await rows(connections) == by_hand, f"seed {seed}, steps {steps}"
        await first.rebuild()
        await projected(Projection(connections, Metrics()), ledger, head)
        assert await tables(connections, TABLES) == in_slices, f"seed {seed}, steps {steps}"


@settings(max_examples=6, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32))
async def test_what_is_kept_of_a_workflow_is_what_the_domain_knows_and_goes_when_it_ends(
    postgres_url: str, seed: int
) -> None:
    async with opened(postgres_url) as (ledger, connections):
        decisions = history(Random(seed), 3, 80)
        await record(ledger, decisions)
        states: dict[str, Workflow] = {}
        for name, events in decisions:
            for event in events:
                evolve(states.setdefault(name, Workflow()), event)
        await projected(Projection(connections, Metrics()), Sliced(ledger, [7, 1, 3]), (await ledger.head()).position)
        async with connections.connection() as connection:
            found = await connection.execute("SELECT workflow, task, role, run, ask FROM metrics_tasks")
            assert set(await found.fetchall()) == {
                (
                    name,
                    task.spec.id,
                    task.spec.agent_role,
                    task.run and task.run.id,
                    task.ask and state.asks[task.ask].kind,
                )
                for name, state in states.items()
                for task in state.tasks.values()
                if task.status not in CLOSED
            }, f"seed {seed}"
            shares = await connection.execute("SELECT workflow, used FROM metrics_flows")
            kept = dict(await shares.fetchall())
        assert kept.keys() == {name for name, state in states.items() if state.status in ("queued", "running")}
        for name, used in kept.items():
            assert (used is None) == (states[name].books is None)
            assert used == share(states[name]), f"seed {seed}"
        ends = [(name, decide(state, Cancel(now=9e9, by="pat"))) for name, state in states.items() if name in kept]
        await end(ledger, ends)
        await projected(Projection(connections, Metrics()), ledger, (await ledger.head()).position)
        assert await tables(connections, UNDER_WAY) == {table: [] for table in UNDER_WAY}


def share(state: Workflow) -> float | None:
    if state.books is None:
        return None
    found = [0.0]
    for account in state.books.accounts.values():
        spent = {kind: getattr(account.used, kind) for kind in KINDS} | {"attempts": account.attempts}
        found += [spent[kind] / limit for kind in spent if (limit := getattr(account.limit, kind))]
    return max(found)


async def end(ledger: Ledger, decisions: Sequence[Decision]) -> None:
    for name, events in decisions:
        stream, command = f"workflow-{name}", uuid4()
        version = len(await ledger.read_stream(stream))
        new = [NewEvent(event, event_id(command, n), "tests") for n, event in enumerate(events)]
        await ledger.append(Append(stream, version, new))


async def test_of_two_hundred_roles_and_models_fifty_have_a_series_and_the_rest_one_together(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, connections):
        plan = Plan(id="wide", tasks=tuple(Task(f"t{n}", agent_role=f"role-{n}") for n in range(200)))
        state, events = Workflow(), []
        for event in decide(state, StartWorkflow(now=1.0, workflow="wide", plan=plan)):
            evolve(state, event)
            events.append(event)
        for n in range(200):
            run = state.tasks[f"t{n}"].run
            assert run is not None
            spent = Spent(model=f"{NASTY[2]}-{n}" + "x" * 200, input_total=10, output=1)
            done = ReportCompleted(
                now=2.0, task=f"t{n}", run=run.id, token=run.token, agent="ann", result=Result("done"), spent=spent
            )
            for event in decide(state, done):
                evolve(state, event)
                events.append(event)
        head = (await record(ledger, [("wide", events)]))[-1]
        await projected(Projection(connections, Metrics()), Sliced(ledger, [90]), head)
        found = await rows(connections)
        attempts = {labels[0]: value for (name, labels), value in found.items() if name == "cairn_attempts_total"}
        own = {f"role-{n}" for n in range(NAMES)}
        assert attempts == dict.fromkeys(own, 1) | {OTHER: 200 - NAMES}
        models = {labels[1] for name, labels in found if name == "cairn_cost_usd_total" or name == "cairn_tokens_total"}
        assert len(models) == NAMES + 1 and OTHER in models
        tokens = sum(value for (name, _), value in found.items() if name == "cairn_tokens_total")
        assert tokens == 200 * 11


async def test_numbers_that_come_after_the_end_are_added_to_the_role_that_used_them(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, connections):
        state, decisions = Workflow(), list[Decision]()

        def then(*events: Event) -> None:
            for event in events:
                evolve(state, event)  # type: ignore[arg-type]
            decisions.append(("late", list(events)))  # type: ignore[arg-type]

        then(
            *decide(
                state,
                StartWorkflow(now=1.0, workflow="late", plan=Plan(id="p", tasks=(Task("a", agent_role="writer"),))),
            )
        )
        run = state.tasks["a"].run
        assert run is not None
        who = {"task": "a", "run": run.id, "token": run.token, "agent": "ann"}
        then(*decide(state, ReportStarted(now=2.0, **who)))
        for output in (5, 7):  # while it is out: its end has the sum
            then(*decide(state, ReportUsage(now=3.0, spent=Spent(model="m", input_total=1, output=output), **who)))
        then(*decide(state, ReportCompleted(now=4.0, result=Result("done"), **who)))
        assert state.status == "completed"
        for output in (10, 4):
            spent = Spent(model="m", input_total=1, output=output, cost_usd=0.5)
            then(*decide(state, ReportUsage(now=5.0, spent=spent, **who)))
        head = (await record(ledger, decisions))[-1]
        await projected(Projection(connections, Metrics()), Sliced(ledger, [2]), head)
        found = await rows(connections)
        assert found["cairn_tokens_total", ("writer", "m", "output")] == 10
        assert found["cairn_tokens_total", ("writer", "m", "input")] == 1
        assert found["cairn_cost_usd_total", ("writer", "m")] == 500_000_000
        assert ("cairn_usage_unknown_total", ("writer",)) not in found


async def test_how_long_workflows_took_can_be_asked_for_any_target(postgres_url: str) -> None:
    async with opened(postgres_url) as (_, connections):
        await Projection(connections, Metrics()).install()
        async with connections.connection() as connection:
            took = [("completed", 1, 4), ("completed", 120, 3), ("completed", 121, 2), ("failed", 5_000, 1)]
            for row in took:
                await connection.execute("INSERT INTO metrics_ended VALUES (%s, %s, %s)", row)
            for target, within in ((119, 4), (120, 7), (121, 9)):
                found = await counted(connection, [1, target, 3_600])
                completed = {bucket: number for outcome, bucket, number in found.ended if outcome == "completed"}
                assert sum(number for bucket, number in completed.items() if bucket <= 1) == within
                assert [row for row in found.ended if row[0] == "failed"] == [("failed", 3, 1)]


async def test_audits_and_agents_are_counted_and_what_is_so_now_is_asked(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, connections):
        executor = Executor(ledger)
        views = [Projection(connections, view) for view in (Board(), Recovery(), Metrics())]
        for audited in (
            LedgerAudited(position=7, ok=True, checked_events=7),
            LedgerAudited(position=3, ok=False, checked_events=2, reason="it is missing"),
        ):
            await executor.note("ledger-main", uuid4(), audited, "tests")
        joined = AgentJoined(agent="ann", role="coder")
        await ledger.append(Append("agent-ann", 0, [NewEvent(joined, uuid4(), "tests")]))
        plan = Plan(id="p", tasks=(Task("a"), Task("b", approval=("before_dispatch",))), budget=Budget(attempts=4))
        events = decide(Workflow(), StartWorkflow(now=1.0, workflow="w", plan=plan))
        head = (await record(ledger, [("w", events)]))[-1]
        for view in views:
            await projected(view, ledger, head)
        found = await rows(connections)
        audit = (await everything(ledger))[0]
        assert found["cairn_audit_verified_position", ()] == 7
        at = round(audit.recorded_at.replace(tzinfo=UTC).timestamp() * 1e6)
        assert found["cairn_audit_last_success_timestamp_seconds", ()] == at
        assert found["cairn_audit_failures_total", ()] == 1
        async with connections.connection() as connection:
            now = await asked(connection)
        assert now.position == head
        stands = sorted((view.name, view.position, view.halted) for view in now.views)
        assert stands == [(name, head, False) for name in ("board", "metrics", "recovery")]
        assert (now.workflows, now.waits, now.queue) == ({"waiting": 1}, {"slot": 1, "ask": 1}, {"coder": 1})
        assert now.asks == {"before_dispatch": 1}
        assert [(one.role, one.status, one.number) for one in now.agents] == [("coder", "here", 1)]
        assert now.budget == (0.25, 0, 0)
        assert now.oldest["lease"] is None and now.oldest["slot"] and now.oldest["ask"]
