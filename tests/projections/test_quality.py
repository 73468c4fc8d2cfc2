"""How good the work was: the view counts what the domain's own fold knows, whose work it was, and in any batches."""

from collections import Counter, defaultdict
from random import Random
from typing import Any

import pytest
from histories import Decision, history
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from stage import Sliced, opened, projected, record, tables
from test_spend import Aged

from domain.events import (
    AttemptFailed,
    RetryScheduled,
    TaskBranched,
    TaskCompleted,
    TaskFailed,
    TaskReported,
    TaskVerified,
)
from domain.state import NOT_ITS_FAULT, TaskState, Workflow, evolve
from ledger.ledger import Ledger
from projections.project import Projection
from projections.quality import Standard, Standards, quality

TABLES = ("quality", "quality_findings", "quality_tasks")
SUMS = ("verified", "passed", "accepted", "first", "failed", "retries", "branches", "covered")


def worked(task: TaskState) -> list[str]:
    """The roles of its attempts."""
    return [run.role for run in task.runs if run.purpose == "work"]


class Told:
    """What a workflow's events say, judged by the state before each of them."""

    def __init__(self) -> None:
        self.state = Workflow()
        self.sums: dict[str, Counter[str]] = defaultdict(Counter)
        self.found: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
        self.coverage: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._told: set[str] = set()
        self._bad: set[str] = set()

    def see(self, event: Any, position: int) -> None:
        if task := self.state.tasks.get(getattr(event, "task", "")):
            roles = worked(task)
            if roles:
                self._count(task, event, roles[-1], position)
        evolve(self.state, event)

    def _count(self, task: TaskState, event: Any, role: str, position: int) -> None:
        sums, planned = self.sums[role], not task.depth
        match event:
            case TaskReported(run=run, result=result) | TaskCompleted(run=run, result=result):
                if run not in self._told and run in [one.id for one in task.runs]:
                    self._told.add(run)
                    self.found[role].update((one.kind, one.severity) for one in result.findings)
                if isinstance(event, TaskCompleted) and planned:
                    sums["accepted"] += 1
                    sums["first"] += task.spec.id not in self._bad and not event.waived_by
            case TaskFailed() if planned:
                sums["failed"] += 1
            case AttemptFailed(failure=failure) if failure.type not in NOT_ITS_FAULT:
                self._bad.add(task.spec.id)
            case TaskVerified(passed=passed, receipts=receipts):
                branch = self.state.tasks.get(task.made)
                maker = worked(branch)[-1] if branch else role
                self.sums[maker].update(verified=1, passed=int(passed))
                told = [one.coverage for one in receipts if one.coverage is not None]
                self.sums[maker]["covered"] += len(told)
                self.coverage[maker] += [(position, one) for one in told]
            case RetryScheduled(by=""):
                sums["retries"] += 1
            case TaskBranched():
                sums["branches"] += 1

    def same(self, role: str, row: Standard) -> None:
        assert {name: getattr(row, name) for name in SUMS} == {name: self.sums[role][name] for name in SUMS}, role
        found = {(kind, grave): n for kind, by in row.findings.items() for grave, n in by.items()}
        assert found == self.found[role]
        told = [one for _, one in sorted(self.coverage[role])]
        assert row.coverage_last == (told[-1] if told else None)
        assert row.coverage_mean == (pytest.approx(sum(told) / len(told), abs=0.01) if told else None)
        assert row.pass_rate == (round(row.passed / row.verified, 6) if row.verified else None)


@settings(max_examples=8, deadline=None, phases=[Phase.generate])
@given(
    seed=st.integers(0, 2**32), steps=st.integers(1, 120), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4)
)
async def test_the_sums_are_those_of_the_domains_fold_at_every_position(
    postgres_url: str, seed: int, steps: int, sizes: list[int]
) -> None:
    await check(postgres_url, history(Random(seed), 3, steps), sizes)


async def check(url: str, decisions: list[Decision], sizes: list[int]) -> None:
    async with opened(url) as (ledger, connections):
        head, told = (await record(ledger, decisions))[-1], defaultdict[str, Told](Told)
        seen = 0

        async def stands(position: int) -> None:
            nonlocal seen
            await _see(ledger, told, seen, position)
            seen = position
            async with connections.connection() as connection:
                rows = await quality(connection, ("workflow", "role"))
                whole = await quality(connection, ())
            known = {
                (state.state.id, role)
                for state in told.values()
                for role in state.sums
                if any(state.sums[role].values())
            }
            assert known <= {(row.workflow, row.role) for row in rows}
            for row in rows:
                told[f"workflow-{row.workflow}"].same(row.role or "", row)
            for name in SUMS:
                assert sum(getattr(row, name) for row in whole) == sum(getattr(row, name) for row in rows)

        await projected(Projection(connections, Standards()), Sliced(Aged(ledger), sizes, stands), head)  # type: ignore[arg-type]
        in_slices = await tables(connections, TABLES)
        for _ in range(2):
            projection = Projection(connections, Standards())
            await projected(projection, Aged(ledger), head)
            assert await tables(connections, TABLES) == in_slices
            await projection.rebuild()


async def _see(ledger: Ledger, told: dict[str, Told], after: int, position: int) -> None:
    for one in await ledger.read(after, 10_000, to=position):
        told[one.stream].see(one.event, one.position)
