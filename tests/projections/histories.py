"""Random histories, as the rules make them: random plans, agents, failures, deadlines, answers, cancels, restores."""

from random import Random

from domain.commands import (
    Answer,
    Cancel,
    ExpireAsk,
    ExpireLease,
    ExpireRun,
    Redispatch,
    ReportAsked,
    ReportCompleted,
    ReportFailed,
    ReportStarted,
    ReportVerified,
    Restore,
    Retry,
    StartWorkflow,
    WorkflowCommand,
)
from domain.events import WorkflowEvent
from domain.failures import FAILURE_TYPES
from domain.outcome import Failure, Receipt, Result
from domain.plan import AcceptanceCriteria, Edit, Escalation, Plan, Task, Test
from domain.state import TaskState, Workflow, replay
from domain.workflow import decide

NOW = 1_800_000_000.0
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
        events = decide(state, command) if command else []
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
            dependencies=tuple(random.sample(names[:n], random.randint(0, min(n, 2)))),
            acceptance_criteria=AcceptanceCriteria((Test("make test"),) if random.random() < 0.5 else ()),
            max_attempts=random.randint(1, 3),
            failure_routing={kind: "debugger" for kind in FAILURE_TYPES if random.random() < 0.5},
            max_debug_attempts=random.randint(0, 2),
            max_branch_depth=random.randint(0, 2),
            approval=tuple(when for when in ("before_dispatch", "before_completion") if random.random() < 0.2),
            priority=random.randint(-2, 2),
        )
        for n, task in enumerate(names)
    ]
    ending = Escalation(due_seconds=random.choice([0.0, 60.0]), default=random.choice(["fail", "accept"]))
    plan = Plan(id=name, title=random.choice(NASTY), objective="o", tasks=tuple(tasks), escalation=ending)
    return StartWorkflow(now=now, workflow=name, plan=plan, base="c0", repository="/r", lease_seconds=20.0)


def _command(random: Random, state: Workflow, now: float) -> WorkflowCommand | None:
    """What somebody might do next about a task or an ask of this workflow, now and then something that is too late."""
    if state.status != "running":
        return None
    if random.random() < 0.01:
        return Cancel(now=now, by="pat", reason=random.choice(NASTY))
    if random.random() < 0.01:
        return Restore(now=now, skipped=100, repository="/restored")
    tasks = [task for task in state.tasks.values() if task.run or task.ask or task.status == "retrying"]
    task = random.choice(tasks or list(state.tasks.values()))
    if task.ask:
        ask = state.asks[task.ask]
        if random.random() < 0.15:
            return ExpireAsk(now=ask.due or now, ask=task.ask)
        choice = random.choice(ask.options or ("because",))
        more = {
            "reassign": {"role": "writer" if task.spec.agent_role == "coder" else "coder"},
            "edit": {"edit": Edit(description=f"at {now}")},
        }
        told = more.get(choice, {}) if ask.kind == "escalation" else {}
        words = {"because": random.choice(NASTY), "instructions": random.choice(NASTY)}
        return Answer(now=now, ask=task.ask, shown=ask.shown, choice=choice, by="pat", **words, **told)
    if task.status == "retrying":
        return Retry(now=now, task=task.spec.id, attempt=task.attempt + 1)
    return _about_run(random, task, now) if task.run else None


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
    if chance < 0.4:
        return ReportStarted(**who)
    if chance < 0.55:
        failure = Failure(random.choice(FAILURE_TYPES), random.choice(NASTY), random.choice(NASTY))
        return ReportFailed(failure=failure, **who)
    if run.purpose == "work" and chance < 0.65:
        return ReportAsked(question=random.choice(NASTY[1:]), options=random.choice([(), ("this", "that")]), **who)
    if run.purpose == "work":
        commit = random.choice([None, f"c{run.token}"])
        result = Result(random.choice(NASTY), commit, (random.choice(NASTY),), {"k": random.choice(NASTY)})
        return ReportCompleted(result=result, **who)
    assert task.result is not None
    code = random.choice([0, 0, 1, 127, None])
    output = random.choice(NASTY)
    receipts = (
        Receipt("make test", code, code is None, 0.25, "process", task.result.commit, len(output), "0", output),
    )
    return ReportVerified(receipts=receipts, **who)
