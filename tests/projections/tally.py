"""The metrics counted by hand: from the events of a ledger and the domain's own fold of them, and nothing else."""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from math import ceil

from domain.events import (
    AskOpened,
    AttemptFailed,
    Event,
    RetryScheduled,
    TaskAsked,
    TaskBranched,
    TaskCompleted,
    TaskDispatched,
    TaskEdited,
    TaskHeld,
    TaskQueued,
    TaskReported,
    TaskStarted,
    TaskVerified,
    UsageCorrected,
    WorkflowStarted,
)
from domain.state import CLOSED, Run, Workflow, evolve
from domain.usage import Spent, Usage
from ledger.recorded import Recorded
from projections.figures import FIGURES
from projections.metrics_fold import CLOSES, CLOSES_ASK, ENDS

Key = tuple[str, tuple[str, ...]]


def counted_by_hand(recorded: Iterable[Recorded]) -> dict[Key, int]:
    """From the events and the domain's own fold of them; nobody else has a role or a model of more than a few."""
    found: Counter[Key] = Counter()
    states: dict[str, Workflow] = {}
    begun: dict[str, datetime] = {}
    first: dict[tuple[str, str], datetime] = {}
    since: dict[tuple[str, str], datetime] = {}
    for one in recorded:
        event, at = one.event, one.recorded_at
        found["cairn_events_total", (one.type,)] += 1
        if not one.stream.startswith("workflow-"):
            continue
        state = states.setdefault(one.stream, Workflow())
        name = getattr(event, "task", "")
        task = state.tasks.get(name)
        run, role, status = (task.run, task.spec.agent_role, task.status) if task else (None, "", "")
        ask = state.asks[task.ask].kind if task and task.ask else None
        key = one.stream, name
        evolve(state, event)  # type: ignore[arg-type]
        if isinstance(event, WorkflowStarted):
            begun[one.stream] = at
        if isinstance(event, TaskHeld | TaskQueued | TaskDispatched):
            since.setdefault(key, at)
        if isinstance(event, TaskDispatched):
            first.setdefault(key, at)
        if isinstance(event, TaskStarted) and run:
            observe(found, "cairn_task_wait_seconds", at - since.pop(key), run.role)
        if isinstance(event, AskOpened | TaskEdited):
            since.pop(key, None)
        if run and state.tasks[name].run is None:
            since.pop(key, None)
            found["cairn_attempts_total", (run.role, ended(event, run))] += 1
            used: Usage | None = getattr(event, "usage", None)
            spend(found, run.role, used, None)
            if run.purpose == "work" and run.agent and (used is None or used.tokens is None):
                found["cairn_usage_unknown_total", (run.role,)] += 1
        if isinstance(event, UsageCorrected) and not (run and run.id == event.run):
            spend(found, event.role, event.now, event.was)
        if run and state.tasks[name].run is None and isinstance(event, TaskReported | TaskCompleted):
            for finding in event.result.findings if event.run == run.id else ():
                found["cairn_findings_total", (finding.kind, finding.severity)] += 1
        for receipt in event.receipts if isinstance(event, TaskVerified) else ():
            if receipt.coverage is not None:
                found["cairn_coverage_percent", (role,)] = round(receipt.coverage * 100)
        if isinstance(event, TaskVerified):
            found["cairn_verifications_total", (role, "passed" if event.passed else "failed")] += 1
        if isinstance(event, RetryScheduled) and not event.by:
            found["cairn_retries_total", (role,)] += 1
        if isinstance(event, TaskBranched):
            found["cairn_branches_total", (event.branch.agent_role,)] += 1
        if type(event) in CLOSES_ASK and ask:
            found["cairn_asks_total", (ask, CLOSES_ASK[type(event)])] += 1
        if task and status not in CLOSED and task.status in CLOSED:
            outcome = CLOSES[type(event)]
            found["cairn_tasks_total", (role, outcome)] += 1
            if ask and type(event) not in CLOSES_ASK:
                found["cairn_asks_total", (ask, "voided")] += 1
            if key in first:
                observe(found, "cairn_task_duration_seconds", at - first[key], role, outcome)
        if type(event) in ENDS:
            took = (at - begun[one.stream]).total_seconds()
            found["cairn_workflows_total", (ENDS[type(event)],)] += 1
            found["cairn_workflow_duration_seconds", (ENDS[type(event)], "sum")] += round(took * 1e6)
            found["ended", (ENDS[type(event)], str(ceil(took)))] += 1
    return {key: value for key, value in found.items() if value or key[1][-1:] == ("sum",) or "coverage" in key[0]}


def ended(event: Event, run: Run) -> str:
    if isinstance(event, AttemptFailed):
        return {"agent_lost": "lost", "timeout": "timed_out"}.get(event.failure.type, "failed")
    if isinstance(event, TaskAsked):
        return "asked"
    own = getattr(event, "run", None) == run.id
    return "succeeded" if own else "cancelled"


def observe(found: Counter[Key], name: str, took: timedelta, *labels: str) -> None:
    seconds = took.total_seconds()
    bound = next((f"{bound:g}" for bound in FIGURES[name].bounds if seconds <= bound), "+Inf")
    found[name, (*labels, bound)] += 1
    found[name, (*labels, "sum")] += round(seconds * 1e6)


def spend(found: Counter[Key], role: str, now: Spent | None, was: Spent | None) -> None:
    def of(told: Spent | None) -> dict[str, int]:
        if told is None:
            return dict.fromkeys(("input", "cache_read", "cache_write", "output"), 0)
        cached = (told.cache_read or 0) + (told.cache_write or 0)
        return {
            "input": max((told.input_total or 0) - cached, 0), "output": told.output or 0,
            "cache_read": told.cache_read or 0, "cache_write": told.cache_write or 0,
        }  # fmt: skip

    if now is None:
        return
    model = (now.model or "unknown")[:100].replace("\0", "\ufffd")
    before = of(was)
    for kind, tokens in of(now).items():
        found["cairn_tokens_total", (role, model, kind)] += max(tokens - before[kind], 0)
    more = round((now.cost_usd or 0) * 1e9) - round(((was and was.cost_usd) or 0) * 1e9)
    found["cairn_cost_usd_total", (role, model)] += max(more, 0)
