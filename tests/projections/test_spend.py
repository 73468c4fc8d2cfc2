"""What was spent: it agrees with the board, with the books of the budgets and with itself, whatever has happened.

It is long because each of the three is counted anew here, in another way than the view does it.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import combinations
from random import Random
from typing import Any

import msgspec
import pytest
from histories import NOW, Decision, history
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from stage import Sliced, opened, projected, record, tables
from test_views import Fold, Together

from domain.budget import NOTHING, Amount
from domain.commands import (
    Report,
    ReportCompleted,
    ReportFailed,
    ReportReserve,
    ReportSettle,
    ReportUsage,
    ReportVerified,
    Retry,
    StartWorkflow,
)
from domain.events import CallReserved, CallSettled, TaskDispatched, UsageCorrected
from domain.outcome import Failure, Receipt, Result
from domain.plan import AcceptanceCriteria, Budget, Plan, Task, Test
from domain.state import Workflow, replay
from domain.usage import Spent
from domain.workflow import decide
from ledger.ledger import Ledger
from ledger.postgres import Connection
from ledger.recorded import Recorded
from projections.board import Board, BoardDetail, workflow
from projections.project import Projection
from projections.spend import By, Spend, Spending, place, spend
from projections.spend_fold import COUNTS, SpentTask, named, root
from projections.used import Rollup, used

TABLES = ("spend", "spend_tasks")
ALL: tuple[By, ...] = ("workflow", "role", "model", "day")
COARSER = [by for n in range(4) for by in combinations(ALL, n)]
ZERO = Spend(None, None, None, None, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
UNTOLD_OF_TASKS = ("accepted", "accepted_attempts", "accepted_seconds", "accepted_cost_usd", "accepted_cost_unknown")


class Aged:
    """A ledger whose events lie hours apart."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def read(self, after: int, limit: int) -> list[Recorded]:
        return [
            msgspec.structs.replace(
                one, recorded_at=datetime.fromtimestamp(NOW, UTC) + timedelta(hours=5 * one.position)
            )
            for one in await self._ledger.read(after, limit)
        ]

    async def follow(self, after: int) -> AsyncIterator[list[Recorded]]:
        async for batch in Sliced(self, [1_000]).follow(after):  # type: ignore[arg-type]
            yield batch


class Called:
    """What calls have reserved and used, by workflow and run: all of it, and as a budget's books have it."""

    def __init__(self) -> None:
        self.reserved: dict[tuple[str, str, str], Amount] = {}
        self.settled: dict[tuple[str, str], Amount] = defaultdict(Amount)
        self.booked: dict[tuple[str, str], Amount] = defaultdict(Amount)
        self.ended_when_corrected: set[tuple[str, str]] = set()

    def see(self, workflow: str, event: Any, ended: bool) -> None:
        match event:
            case TaskDispatched(run=run):
                self.booked.pop((workflow, run), None)
            case CallReserved(run=run, call=call, tokens=tokens, usd=usd):
                self.reserved[workflow, run, call] = Amount(tokens, usd)
            case CallSettled(run=run, call=call, tokens=tokens, usd=usd):
                was = self.reserved[workflow, run, call]
                self.settled[workflow, run] += Amount(tokens or 0, usd or 0.0)
                told = Amount(was.tokens if tokens is None else tokens, was.usd if usd is None else usd)
                self.booked[workflow, run] += told
            case UsageCorrected(run=run) if ended:
                self.ended_when_corrected.add((workflow, run))


def by_the_board(details: Sequence[BoardDetail], called: Called) -> dict[tuple[str, ...], Spend]:
    """The finest sums there are, but for those of tasks."""
    found: dict[tuple[str, ...], Spend] = {}
    for detail in details:
        for one in detail.attempts:
            if one.outcome is None or one.usage is None or one.ended_at is None:
                continue
            work, told, calls = one.purpose == "work", one.usage, called.settled[one.workflow, one.run]
            model = named(told.model or "") if work else ""
            key = one.ended_at.date().isoformat(), one.workflow, one.role, model
            row = found.setdefault(key, msgspec.structs.replace(
                ZERO, day=one.ended_at.date(), workflow=one.workflow, role=one.role, model=model or None,
                **dict.fromkeys(UNTOLD_OF_TASKS),
            ))  # fmt: skip
            if not work:
                row.test_seconds += told.seconds
                continue
            row.attempts += 1
            row.seconds += told.seconds
            for kind in ("input_total", "cache_read", "cache_write", "output"):
                setattr(row, kind, getattr(row, kind) + (getattr(told, kind) or 0))
            if told.tokens is None:
                row.tokens_unknown += 1
                row.calls_tokens += calls.tokens
            if told.cost_usd is None:
                row.cost_unknown += 1
                row.calls_usd += calls.usd
            elif told.cost_source == "reported":
                row.cost_reported_usd += told.cost_usd
            else:
                row.cost_computed_usd += told.cost_usd
    return found


def near(row: Spend) -> dict[str, Any]:
    return {
        name: pytest.approx(value) if isinstance(value, float) else value
        for name, value in msgspec.structs.asdict(row).items()
    }


def assert_as_used(row: Spend, told: Rollup) -> None:
    assert (row.attempts, row.attempts - row.tokens_unknown) == (told.attempts, told.tokens_known)
    assert row.attempts - row.cost_unknown == told.cost_known
    assert row.seconds + row.test_seconds == pytest.approx(told.seconds)
    tokens = row.input_total, row.cache_read, row.cache_write, row.output
    assert tokens == (told.input_total, told.cache_read, told.cache_write, told.output)
    assert row.cost_reported_usd + row.cost_computed_usd == pytest.approx(told.cost_usd)


def assert_accepted(row: Spend, detail: BoardDetail) -> None:
    """What it cost to have tasks done: of those that somebody worked on, everything."""
    worked_on = {root(one.task) for one in detail.attempts if one.purpose == "work"}
    done = {it.task for it in detail.tasks if not it.depth and it.status == "completed"} & worked_on
    told = [used(detail).tasks[name] for name in done]
    assert (row.accepted, row.accepted_attempts) == (len(done), sum(one.attempts for one in told))
    assert row.accepted_seconds == pytest.approx(sum(one.seconds for one in told))
    assert row.accepted_cost_usd == pytest.approx(sum(one.cost_usd for one in told))
    unknown = sum(one.attempts - one.cost_known for one in told)
    assert row.accepted_cost_unknown == unknown
    if not done or unknown:
        assert row.cost_per_accepted_usd is None
    else:
        assert row.cost_per_accepted_usd == pytest.approx(sum(one.cost_usd for one in told) / len(done))


def assert_booked(state: Workflow, detail: BoardDetail, called: Called, whole: Spend, roles: dict[str, Spend]) -> None:
    """What is known the books have as it is told; what is not, they count as it was reserved, which is no less."""
    books, runs = state.books, {one.run: one for one in detail.attempts}
    if books is None:
        return
    for run, (counted, _) in books.counted.items():
        told, key = runs[run].usage, (state.id, run)
        assert told is not None and counted.seconds == pytest.approx(told.seconds)
        least = NOTHING if key in called.ended_when_corrected else called.booked[key]
        if told.tokens is not None:
            assert counted.tokens == max(told.tokens, least.tokens)
        if told.cost_usd is not None:
            assert counted.usd == pytest.approx(max(told.cost_usd, least.usd))
    for scope, account in books.accounts.items():
        if scope.startswith("task/"):
            continue
        row = whole if scope == "workflow" else roles.get(scope.removeprefix("role/"), ZERO)
        of_scope = [
            one for one in detail.attempts if scope in ("workflow", f"role/{one.role}") and one.purpose == "work"
        ]
        out = sum(one.outcome is None for one in of_scope)
        assert account.attempts == row.attempts + out
        assert account.used.seconds == pytest.approx(row.seconds)
        assert account.used.tokens >= row.calls_tokens


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 90), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
async def test_the_sums_are_those_of_the_board_and_of_the_books_at_every_position(
    postgres_url: str, seed: int, steps: int, sizes: list[int]
) -> None:
    await check(postgres_url, history(Random(seed), 3, steps), sizes)


async def check(url: str, decisions: list[Decision], sizes: list[int]) -> None:
    async with opened(url) as (ledger, connections):
        head, fold, called = (await record(ledger, decisions))[-1], Fold(ledger), Called()
        seen = 0

        async def stands(position: int) -> None:
            nonlocal seen
            for one in await ledger.read(seen, 10_000, to=position):
                await fold.to(one.position)
                state = fold.states[one.stream]
                task = state.tasks.get(getattr(one.event, "task", ""))
                run = getattr(one.event, "run", None)
                called.see(state.id, one.event, bool(task and run in [ended.id for ended in task.ended]))
            seen = position
            async with connections.connection() as connection:
                details = [await workflow(connection, state.id) for state in fold.states.values()]
                assert all(details)
                await compare(connection, [it for it in details if it], called, fold, position)

        view = Together(Board(), Spending())
        await projected(Projection(connections, view), Sliced(Aged(ledger), sizes, stands), head)  # type: ignore[arg-type]
        in_slices = await tables(connections, TABLES)
        for _ in range(2):
            projection = Projection(connections, Spending())
            await projected(projection, Aged(ledger), head)
            assert await tables(connections, TABLES) == in_slices
            await projection.rebuild()


async def compare(
    connection: Connection, details: list[BoardDetail], called: Called, fold: Fold, position: int
) -> None:
    expected = by_the_board(details, called)
    found = {tuple(place(row)): row for row in await spend(connection, ALL)}
    assert found.keys() == expected.keys()
    for key, row in found.items():
        assert msgspec.structs.asdict(row) == near(expected[key]), key
    by = COARSER[position % len(COARSER)]
    rows = await spend(connection, by)
    assert sum(row.attempts for row in rows) == sum(row.attempts for row in found.values()), by
    assert [place(row) for row in rows] == sorted(place(row) for row in rows)
    for row in rows:
        here = [it for it in found.values() if all(getattr(it, name) == getattr(row, name) for name in by)]
        assert row.output == sum(it.output for it in here)
        assert row.cost_reported_usd == pytest.approx(sum(it.cost_reported_usd for it in here))
    whole = {row.workflow: row for row in await spend(connection)}
    by_role = await spend(connection, ("workflow", "role"))
    for detail in details:
        state = fold.states[f"workflow-{detail.workflow.workflow}"]
        row = whole.get(state.id, ZERO)
        assert_as_used(row, used(detail).workflow)
        assert_accepted(row, detail)
        roles = {it.role or "": it for it in by_role if it.workflow == state.id}
        assert_booked(state, detail, called, row, roles)


async def test_a_page_goes_on_after_the_last_row_of_the_one_before(postgres_url: str) -> None:
    async with opened(postgres_url) as (ledger, connections):
        head = (await record(ledger, history(Random(5), 3, 200)))[-1]
        await projected(Projection(connections, Spending()), Aged(ledger), head)
        async with connections.connection() as connection:
            whole = await spend(connection, ALL)
            assert len(whole) > 5
            pages, after = list[Spend](), list[str]()
            while page := await spend(connection, ALL, limit=2, after=after):
                pages += page
                after = place(page[-1])
            assert pages == whole
            days = [row.day for row in whole if row.day]
            some = await spend(connection, ALL, since=days[1], until=days[-2])
            assert some == [row for row in whole if row.day and days[1] <= row.day <= days[-2]]
            [role] = {row.role for row in await spend(connection, ALL, role="coder")}
            assert role == "coder"
            assert [row.model for row in await spend(connection, ("model",), model="m")] == ["m"]


TESTED = AcceptanceCriteria((Test("make test"),))


def day(number: int) -> str:
    return date(2026, 11, number).isoformat()


class Story:
    """A workflow, and the rows of its tasks."""

    def __init__(self, *tasks: Task) -> None:
        self.state, self.tasks = Workflow(), dict[str, SpentTask]()
        self.do(StartWorkflow(now=NOW, workflow="w", plan=Plan(id="w", tasks=tasks)), 1)

    def do(self, command: Any, on: int) -> None:
        for event in decide(self.state, command):
            replay([event], self.state)
            if isinstance(event, COUNTS):
                name = root(event.task)
                self.tasks.setdefault(name, SpentTask("w", name)).fold(event, day(on))

    def say(self, kind: type[Report], run: str, on: int, **said: Any) -> None:
        task = self.state.tasks[run.partition("/")[0]]
        token = next(one.token for one in task.runs if one.id == run)
        agent = "tess" if kind is ReportVerified else "ann"
        self.do(kind(now=NOW, task=task.spec.id, run=run, token=token, agent=agent, **said), on)

    def work(self, run: str, spent: Spent, on: int) -> None:
        self.say(ReportCompleted, run, on, result=Result("done", "c1"), spent=spent)

    def verify(self, run: str, code: int, on: int) -> None:
        receipt = Receipt("make test", code, False, 1.0, "process", "c1", 0, "0")
        self.say(ReportVerified, run, on, receipts=(receipt,))


def test_late_numbers_stand_with_the_day_role_and_model_of_their_run() -> None:
    told = Story(Task("a"))
    told.work("a/1", Spent(input_total=10, output=1), on=1)
    told.say(ReportUsage, "a/1", 9, spent=Spent(model="m", input_total=20, output=2, cost_usd=0.5))
    [(key, sums)] = [(key, sums) for key, sums in told.tasks["a"].shares().items() if sums.attempts]
    assert (key.role, key.model, key.day) == ("coder", "m", day(1))
    assert (sums.input_total, sums.cost_reported, sums.cost_unknown) == (20, Decimal("0.5"), 0)


def test_what_calls_have_used_stands_for_an_attempt_that_never_said_its_sum() -> None:
    told = Story(Task("a", budget=Budget(tokens=1_000, usd=9.0)))
    told.say(ReportReserve, "a/1", 1, call="c", tokens=100)
    told.say(ReportSettle, "a/1", 1, call="c", spent=Spent(input_total=50, output=5, cost_usd=0.25))
    told.say(ReportFailed, "a/1", 2, failure=Failure("agent_error", "no"))
    [sums] = told.tasks["a"].shares().values()
    assert (sums.tokens_unknown, sums.cost_unknown, sums.calls_tokens, sums.calls_usd) == (1, 1, 55, Decimal("0.25"))
    told.say(ReportUsage, "a/1", 3, spent=Spent(input_total=60, output=6))
    [sums] = told.tasks["a"].shares().values()
    assert (sums.tokens_unknown, sums.input_total, sums.calls_tokens) == (0, 60, 0)
    assert (sums.cost_unknown, sums.calls_usd) == (1, Decimal("0.25"))


def test_a_task_costs_what_all_its_attempts_and_branches_cost_on_the_day_it_was_accepted() -> None:
    told = Story(Task("a", failure_routing={"test_failure": "debugger"}, acceptance_criteria=TESTED), Task("b"))
    told.work("b/1", Spent(cost_usd=9.0), on=1)
    told.say(ReportFailed, "a/1", 1, failure=Failure("agent_error", "no"), spent=Spent(cost_usd=1.0))
    told.do(Retry(now=NOW, task="a", attempt=2), 2)
    told.work("a/2", Spent(cost_usd=2.0), on=2)
    told.verify("a/verify.1", 1, on=2)
    told.work("a.fix1/1", Spent(cost_usd=4.0), on=3)
    assert not any(sums.accepted for sums in told.tasks["a"].shares().values())
    told.verify("a/verify.2", 0, on=4)
    [(key, sums)] = [(key, sums) for key, sums in told.tasks["a"].shares().items() if sums.accepted]
    assert (key.role, key.model, key.day) == ("coder", "", day(4))
    assert (sums.accepted, sums.accepted_attempts, sums.accepted_cost, sums.accepted_unknown) == (1, 3, 7, 0)
