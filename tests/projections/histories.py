"""Random histories, as the rules make them: random plans, agents, failures, deadlines, answers, cancels, restores."""

from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

from domain.commands import (
    AddTasks,
    Admit,
    Answer,
    Cancel,
    EditTask,
    ExpireAsk,
    ExpireLease,
    ExpireRun,
    ExpireTask,
    ExpireWorkflow,
    Grant,
    Pause,
    Prioritise,
    Redispatch,
    ReportAsked,
    ReportCompleted,
    ReportFailed,
    ReportNoted,
    ReportReserve,
    ReportSettle,
    ReportStarted,
    ReportUsage,
    ReportVerified,
    Restore,
    Resume,
    Retry,
    RetryNow,
    Skip,
    SplitTask,
    StartWorkflow,
    WorkflowCommand,
)
from domain.errors import Refused
from domain.events import WorkflowEvent
from domain.failures import FAILURE_TYPES
from domain.outcome import SEVERITIES, Failure, Finding, Receipt, Result
from domain.plan import AcceptanceCriteria, Budget, Edit, Escalation, Plan, Route, Task, Test
from domain.state import TaskState, Workflow, replay
from domain.usage import Price, Prices, Spent
from domain.workflow import decide
from ledger.codec import encode
from ledger.recorded import Recorded

NOW = 1_800_000_000.0
PRICES = Prices("2026-11-01", {"m": Price(3.0, 15.0, 0.3, 3.75)})
ROUTES = ("debugger", "debugger", "coder", Route("route", "writer"))
NASTY = ("", "fine", "NUL \0 and \\u0000 and \\\0", "quote \" ' {} %s %(x)s", "\U0001f600 \ud7ff ", "tail" * 1500)

Decision = tuple[str, list[WorkflowEvent]]


def history(random: Random, workflows: int, steps: int) -> list[Decision]:
    """Decisions of several workflows, interleaved: (workflow, its events). None is empty."""
    states: dict[str, Workflow] = {}
    decisions: list[Decision] = []
    for number in range(workflows):
        states[f"w{number}"] = Workflow()
    for step in range(steps):
        name = random.choice(list(states))
        state, now = states[name], NOW + step
        command = _command(random, state, now) if state.id else _start(random, name, now)
        try:
            events = decide(state, command) if command else []
        except Refused:
            continue
        if events:
            replay(events, state)
            decisions.append((name, events))
    return decisions


def _start(random: Random, name: str, now: float) -> StartWorkflow:
    names = [f"t{n}" for n in range(random.randint(1, 6))]
    tasks = [
        Task(
            id=task,
            title=random.choice(NASTY),
            agent_role=random.choice(["coder", "writer"]),
            capabilities=random.choice([(), ("gpu",), ("gpu", "python")]),
            dependencies=tuple(random.sample(names[:n], random.randint(0, min(n, 2)))),
            acceptance_criteria=AcceptanceCriteria(
                (Test("make test"),) if random.random() < 0.5 else (), random.choice([None, None, "high"])
            ),
            max_attempts=random.randint(1, 3),
            failure_routing={kind: random.choice(ROUTES) for kind in FAILURE_TYPES if random.random() < 0.5},
            max_debug_attempts=random.randint(0, 2),
            max_branch_depth=random.randint(0, 2),
            approval=tuple(when for when in ("before_dispatch", "before_completion") if random.random() < 0.2),
            priority=random.randint(-2, 2),
            resources=("repo:x",) if random.random() < 0.2 else (),
            weight=random.choice([1.0, 1.0, 3.5]),
            parent_id=random.choice(names[:n]) if n and random.random() < 0.4 else None,
            group=random.random() < 0.2,
            total_seconds=random.choice([None, None, 30.0]),
        )
        for n, task in enumerate(names)
    ]
    limit = random.choice([1800.0, 60.0, None])
    budget = random.choice([Budget(), Budget(tokens=random.randint(1, 60), attempts=9), Budget(seconds=30.0)])
    ending = Escalation(due_seconds=random.choice([0.0, 60.0]), default=random.choice(["fail", "accept"]))
    of_roles = {"writer": Budget(tokens=100, usd=5.0)} if random.random() < 0.3 else {}
    plan = Plan(
        id=name, title=random.choice(NASTY), objective="o", tasks=tuple(tasks), budget=budget, timeout_seconds=limit,
        escalation=ending, role_budgets=of_roles,
    )  # fmt: skip
    return StartWorkflow(
        now=now, workflow=name, plan=plan, base="c0", prices=PRICES, repository="/r", lease_seconds=20.0,
        queued=random.random() < 0.3, limited_roles=("writer",) if random.random() < 0.5 else (),
    )  # fmt: skip


def _command(random: Random, state: Workflow, now: float) -> WorkflowCommand | None:
    """What somebody might do next about a task or an ask of this workflow, now and then something that is too late."""
    if state.status == "queued" and random.random() < 0.8:
        return Admit(now=now)
    if state.status not in ("queued", "running"):
        return None
    if random.random() < 0.01:
        return Cancel(now=now, by="pat", reason=random.choice(NASTY))
    if random.random() < 0.01:
        return Restore(now=now, skipped=100, repository="/restored")
    if random.random() < 0.25:
        return _act(random, state, now)
    tasks = [task for task in state.tasks.values() if task.run or task.ask or task.status in ("retrying", "queued")]
    task = random.choice(tasks or list(state.tasks.values()))
    if random.random() < 0.03 and task.runs:
        run = random.choice(task.runs)
        told = Spent(model="m", input_total=random.randint(0, 9), output=random.choice([None, 7]), cost_usd=0.25)
        who = {"now": now, "task": task.spec.id, "run": run.id, "token": run.token}
        return ReportUsage(agent=run.agent or "ann", spent=told, why=random.choice(NASTY), **who)
    if task.ask:
        ask = state.asks[task.ask]
        if random.random() < 0.15:
            return ExpireAsk(now=ask.due or now, ask=task.ask)
        choice = random.choice([*(ask.options or ("because",)), *ask.options[:1]])
        more = {
            "reassign": {"role": "writer" if task.spec.agent_role == "coder" else "coder"},
            "edit": {"edit": Edit(description=f"at {now}")},
        }
        told = more.get(choice, {}) if ask.kind == "escalation" else {}
        words = {"because": random.choice(NASTY), "instructions": random.choice(NASTY)}
        return Answer(now=now, ask=task.ask, shown=ask.shown, choice=choice, by="pat", **words, **told)
    if task.status == "queued":
        return Grant(now=now, task=task.spec.id, run=f"{task.spec.id}/{task.attempt + 1}")
    if task.status == "retrying":
        return Retry(now=now, task=task.spec.id, attempt=task.attempt + 1)
    return _about_run(random, task, now) if task.run else None


def _act(random: Random, state: Workflow, now: float) -> WorkflowCommand:
    by: dict[str, Any] = {"now": now, "by": "pat", "reason": random.choice(NASTY)}
    name, new = random.choice(list(state.tasks)), f"n{len(state.tasks)}"
    parts = Task(new, weight=2.5, title=random.choice(NASTY)), Task(f"{new}x", dependencies=(new,), parent_id=new)
    return random.choice(
        [
            Pause(**by),
            *[Resume(**by)] * 3,
            Cancel(task=name, **by),
            Skip(task=name, **by),
            RetryNow(task=name, **by),
            Prioritise(task=name, priority=random.randint(-9, 9), **by),
            EditTask(task=name, changes={"title": random.choice(NASTY[1:2]), "agent_role": "writer"}, **by),
            EditTask(task=name, changes={"capabilities": ["rust"]}, **by),
            AddTasks(tasks=parts, **by),
            SplitTask(task=name, parts=parts, replace=random.random() < 0.5, **by),
            ExpireTask(now=now, task=name),
            ExpireWorkflow(now=now),
        ]
    )


def _about_run(random: Random, task: TaskState, now: float) -> WorkflowCommand:
    run = task.run
    assert run is not None
    token = run.token - (random.random() < 0.05)
    deadline = {"now": now, "task": task.spec.id, "token": token}
    who = {**deadline, "run": run.id, "agent": run.agent or random.choice(["ann", "bob"])}
    chance = random.random()
    if chance < 0.05:
        return Redispatch(**deadline)
    if chance < 0.1:
        return ExpireLease(**deadline)
    if chance < 0.15:
        return ExpireRun(**deadline)
    if chance < 0.38:
        return ReportStarted(**who)
    if chance < 0.4:
        return ReportNoted(key="tried", value=random.choice(NASTY)[:1000], **who)
    if chance < 0.45:
        call = f"c{random.randint(0, 2)}"
        if random.random() < 0.5:
            return ReportReserve(call=call, tokens=random.choice([None, 5, 50]), **who)
        return ReportSettle(call=call, spent=Spent(input_total=random.choice([None, 5]), output=1), **who)
    if chance < 0.55:
        failure = Failure(random.choice(FAILURE_TYPES), random.choice(NASTY), random.choice(NASTY))
        spent = random.choice([None, Spent(turns=1), Spent(model=random.choice(NASTY), input_total=3, output=4)])
        return ReportFailed(failure=failure, spent=spent, **who)
    if run.purpose == "work" and chance < 0.65:
        spent = random.choice([None, Spent(model="m", input_total=3, output=4)])
        options = random.choice([(), ("this", "that")])
        return ReportAsked(question=random.choice(NASTY[1:]), options=options, spent=spent, **who)
    if run.purpose == "work":
        commit = random.choice([None, f"c{run.token}"])
        found = tuple(
            Finding(random.choice(["security", "lint"]), random.choice(SEVERITIES), random.choice(NASTY))
            for _ in range(random.choice([0, 0, 1, 3]))
        )
        result = Result(random.choice(NASTY), commit, (random.choice(NASTY),), {"k": random.choice(NASTY)}, found)
        spent = random.choice([None, Spent(input_total=9, output=1, cost_usd=0.1), Spent(model="m", output=2)])
        return ReportCompleted(result=result, spent=spent, **who)
    assert task.result is not None
    code = random.choice([0, 0, 1, 127, None])
    output = random.choice(NASTY)
    receipts = (
        Receipt(
            "make test", code, code is None, 0.25, "process", task.result.commit, len(output), "0", output,
            coverage=random.choice([None, 12.5, 80.0]),
        ),
    )  # fmt: skip
    return ReportVerified(receipts=receipts, **who)


def recorded(event: WorkflowEvent, position: int) -> Recorded:
    """As a ledger would hand it out."""
    tag, at = str(type(event).__struct_config__.tag), datetime.fromtimestamp(NOW, UTC)
    return Recorded(
        position, "workflow-w", position, tag, UUID(int=position), at, None, None, "t", None, encode(event), b""
    )  # fmt: skip
