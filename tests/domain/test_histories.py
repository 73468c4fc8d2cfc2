"""Whatever happens, in whatever order: random plans under random, stale and hostile commands, then agents that persist.

Every decision is watched by a `Witness` that keeps its own books of the events and compares them with the state.
It is long because every test needs all of it: the plans, the moves, the witness and those that persist.
"""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from spec import NOW, start

from domain.claims import ENDS_RUN
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
    RaiseBudget,
    Redispatch,
    Report,
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
from domain.events import (
    AskAnswered,
    AskExpired,
    AskOpened,
    AskVoided,
    AttemptFailed,
    ReportRefused,
    RetryScheduled,
    TaskAsked,
    TaskCancelled,
    TaskCompleted,
    TaskDispatched,
    TaskEdited,
    TaskExcused,
    TaskFailed,
    TaskHeld,
    TaskQueued,
    TaskReported,
    TaskVerified,
    WorkflowEvent,
)
from domain.failures import FAILURE_TYPES
from domain.outcome import Failure, Finding, Receipt, Result
from domain.plan import AcceptanceCriteria, Approvals, Budget, Edit, Escalation, Route, Task, Test
from domain.plan import Retry as Backoff
from domain.state import (
    CLOSED,
    PASSED,
    TRANSITIONS,
    WORKFLOW_TRANSITIONS,
    Ask,
    TaskState,
    Workflow,
    evolve,
    replay,
    waiting,
)
from domain.usage import Spent
from domain.workflow import decide

ROOT = Path(__file__).parents[2]
WELL = 1
BAD = [2, 10, 11, 12, *range(14, 24)]
"""Tests that fail, and reports of every failure that an agent may report."""
MOST_STEPS = 3_000
"""Far more than the longest history a plan of five tasks can have: beyond it, it does not end."""

MOST_ANSWERS = 30
"""People who are asked again and again leave it to the default some day: else it is they who keep it from ending."""

Move = tuple[str, int, int]
MOVES = st.tuples(
    st.sampled_from(
        ["start", "admit", "grant", "started", "completed", "failed", "verified", "offer", "lease", "timeout", "retry"]
        * 4
        + ["answer", "asked"] * 4
        + ["noted", "used", "reserve", "settle", "raise", "unanswered"] * 2
        + ["pause", "resume", "retry_now", "skip", "edit", "add", "split", "prioritise", "expire"]
        + ["cancel", "cancel_one", "restore", "out_of_time"]
    ),
    st.integers(0, 9),  # which of the tasks or asks
    st.integers(0, 9),  # up to 5 as honest agents do; 6 another agent, 7 another run, 8 an old token, 9 a false name
)


ROUTES = st.sampled_from(
    [
        "debugger",
        "debugger",
        Route("branch", "debugger"),
        Route("retry", retry=Backoff(0.0)),
        Route("route", "writer"),
        Route("ask"),
        Route("fail"),
    ]
)
BUDGETS = st.one_of(
    st.just(Budget()),
    st.builds(Budget, tokens=st.integers(1, 300), attempts=st.none() | st.integers(1, 5)),
    st.builds(Budget, seconds=st.just(90.0), usd=st.none() | st.just(1.0)),
)


@st.composite
def plans(draw: st.DrawFn) -> StartWorkflow:
    names = [f"t{n}" for n in range(draw(st.integers(1, 5)))]
    few = st.integers(0, 2)
    tasks = [
        Task(
            name,
            dependencies=tuple(draw(st.lists(st.sampled_from(names[:n]), max_size=3))) if n else (),
            acceptance_criteria=AcceptanceCriteria(
                tuple(Test(f"test {i}") for i in range(draw(few))), draw(st.sampled_from([None, None, "medium"]))
            ),
            max_attempts=draw(few) + 1,
            failure_routing=draw(st.dictionaries(st.sampled_from(FAILURE_TYPES), ROUTES)),
            max_debug_attempts=draw(few),
            max_branch_depth=draw(st.integers(0, 3)),
            flaky_reruns=draw(few),
            result_schema=draw(st.sampled_from([None, None, {"type": ["integer", "null"]}])),
            approval=tuple(draw(st.sets(st.sampled_from(["before_dispatch", "before_completion"])))),
            priority=draw(few),
            budget=draw(BUDGETS),
            resources=tuple(draw(st.sets(st.sampled_from(["repo:x", "db"])))),
            total_seconds=draw(st.sampled_from([None, 40.0])),
            group=draw(st.integers(0, 5)) == 0,
        )
        for n, name in enumerate(names)
    ]
    begin = start(
        *draw(st.permutations(tasks)),
        base=draw(st.sampled_from([None, "c0"])),
        escalation=Escalation(draw(st.sampled_from([0.0, 60.0])), draw(st.sampled_from(["fail", "accept"]))),
        approvals=Approvals(default=draw(st.sampled_from(["approve", "reject"]))),
        budget=draw(BUDGETS),
    )
    limited = tuple(draw(st.sets(st.sampled_from(["coder", "debugger"]))))
    return msgspec.structs.replace(begin, queued=draw(st.booleans()), limited_roles=limited)


class Witness:
    """Folds events into the state one by one and holds every promise against them."""

    def __init__(self) -> None:
        self.state = Workflow()
        self.commands: list[WorkflowCommand] = []
        self.events: list[WorkflowEvent] = []
        self.tokens: dict[str, int] = {}
        self.last_token = 0
        self.timers: dict[str, int] = {}
        self.asks: dict[str, str] = {}
        self.claims: dict[str, str] = {}
        self.outcomes: Counter[tuple[str, str]] = Counter()

    def see(self, command: WorkflowCommand) -> list[WorkflowEvent]:
        before = msgspec.json.encode(self.state)
        self.commands.append(command)
        try:
            events = decide(self.state, command)
        except Refused:
            events = []
        assert msgspec.json.encode(self.state) == before, "decide changed the state"
        self._outcome_is_fenced(command, events)
        for event in events:
            self._fold(event)
        self._branches_are_bounded()
        self.events += events
        self._books_agree()
        return events

    def _outcome_is_fenced(self, command: WorkflowCommand, events: list[WorkflowEvent]) -> None:
        """Only the last token given out for a task is believed, and each run has one outcome."""
        ends_a_run = isinstance(
            command, ReportCompleted | ReportFailed | ReportVerified | ReportAsked | ExpireLease | ExpireRun
        )
        if not ends_a_run or not events or isinstance(events[0], ReportRefused):
            return
        assert command.token == self.tokens[command.task]
        run = self.state.tasks[command.task].run
        assert run is not None
        self.outcomes[command.task, run.id] += 1
        assert self.outcomes[command.task, run.id] == 1

    def _fold(self, event: WorkflowEvent) -> None:
        before = {name: task.status for name, task in self.state.tasks.items()}
        was_whole = self.state.status
        if isinstance(event, TaskDispatched):
            assert event.token > self.last_token
            self.last_token = self.tokens[event.task] = event.token
            self.timers.pop(event.task, None)
            assert all(before[need] in PASSED for need in self.state.tasks[event.task].spec.dependencies)
        assert evolve(self.state, event) is self.state
        match event:
            case RetryScheduled(task=name, attempt=attempt, due=due):
                self.timers[name] = attempt
                assert due >= NOW
            case TaskQueued(task=name, run=run):
                self.timers.pop(name, None)
                self.claims[name] = run
            case AskOpened(ask=ask, task=name):
                self.asks[ask] = name
                self.timers.pop(name, None)
            case AskAnswered(ask=ask) | AskExpired(ask=ask) | AskVoided(ask=ask):
                del self.asks[ask]
            case (
                TaskHeld(task=name)
                | TaskCompleted(task=name)
                | TaskCancelled(task=name)
                | TaskExcused(task=name)
                | TaskFailed(task=name)
            ):
                self.timers.pop(name, None)
            case TaskEdited(task=name) if self.state.tasks[name].missing:
                self.timers.pop(name, None)
        if self.state.status != was_whole:
            assert self.state.status in WORKFLOW_TRANSITIONS[was_whole], (
                f"{was_whole} -> {self.state.status} by {event}"
            )
        if isinstance(event, ENDS_RUN):
            self.claims.pop(event.task, None)  # type: ignore[attr-defined]
        self._claims_are_of_those_who_wait_or_work()
        for name, task in self.state.tasks.items():
            was = before.get(name, "pending")
            changed = was != task.status or (isinstance(event, TaskDispatched) and event.task == name)
            assert not changed or task.status in TRANSITIONS[was], f"{name}: {was} -> {task.status} by {event}"

    def _branches_are_bounded(self) -> None:
        """No task has more branches than it may, none is deeper, and none outlives who waits for it."""
        tasks = self.state.tasks
        under = Counter(task.spec.parent_id for task in tasks.values() if task.depth)
        for name, task in tasks.items():
            assert task.branches == under[name] <= task.spec.max_debug_attempts
            assert task.depth <= task.spec.max_branch_depth
            assert len(task.red) <= task.spec.flaky_reruns + 1
            if task.depth:
                assert task.depth == tasks[task.spec.parent_id or ""].depth + 1 == name.count(".")
                root = tasks[name.partition(".")[0]]
                assert task.status in CLOSED or root.status not in CLOSED

    def _claims_are_of_those_who_wait_or_work(self) -> None:
        """What is freed at ENDS_RUN and only there is held exactly as long as it is needed."""
        for name, task in self.state.tasks.items():
            spec, run = task.spec, task.run.id if task.run and task.run.purpose == "work" else None
            if task.status == "queued":
                run = f"{name}/{task.attempt + 1}"
            limited = spec.resources or spec.agent_role in self.state.limited_roles
            assert self.claims.get(name) == (run if limited else None), f"{name} is {task.status}"

    def _books_agree(self) -> None:
        tasks = self.state.tasks
        unfinished = [task for task in tasks.values() if task.status not in CLOSED]
        assert self.state.open == len(unfinished)
        for task in unfinished:
            assert len(self.waits_on(task)) == 1, f"{task.spec.id} is {task.status}, waits on {self.waits_on(task)}"
        planned = {task.status for task in tasks.values() if not task.depth}
        good = not planned & {"failed", "skipped", "cancelled"}
        at_work = "queued" if self.state.status == "queued" else "running"
        assert at_work == "running" or planned <= {"pending", "cancelled"}, "nothing of it begins before it is admitted"
        expected = "unknown" if not tasks else at_work if unfinished else "completed" if good else "failed"
        assert self.state.status in (expected, "cancelled", "timed_out")
        assert expected != at_work or self.state.status == at_work
        assert self.state.clock.halts == len(self.asks) + self.state.paused or not unfinished

    def waits_on(self, task: TaskState) -> list[str]:
        name = task.spec.id
        waits = [f"dependency {need}" for need in task.spec.dependencies if self.state.tasks[need].status not in CLOSED]
        return [
            *waits[:1],
            *(["run"] if task.run else []),
            *(["slot"] if task.status == "queued" else []),
            *(["place"] if self.state.status == "queued" and not waits else []),
            *(["timer"] if name in self.timers else []),
            *(["slot"] if task.held else []),
            *(f"ask {ask}" for ask, asker in self.asks.items() if asker == name),
            *(f"branch {it.spec.id}" for it in self.state.tasks.values()
              if it.depth and waiting(self.state, it) is task and it.status not in CLOSED),
        ]  # fmt: skip


def told(state: Workflow, move: Move) -> WorkflowCommand:
    """The command a move stands for, in this state."""
    kind, which, how = move
    if kind == "start":
        return start(Task("again"))
    if kind in ACTS:
        return ACTS[kind](state, list(state.tasks)[which % len(state.tasks)], how)
    if kind == "restore":
        return Restore(now=NOW, skipped=100 + how, repository="/srv/restored.git")
    if kind == "raise":
        scopes = [*(state.books.accounts if state.books else ()), "role/nobody"]
        return RaiseBudget(now=NOW, scope=scopes[which % len(scopes)], amount=Budget(tokens=50), by="pat")
    if kind == "admit":
        return Admit(now=NOW)
    if kind == "answer":
        asks = [*state.asks.items(), ("ask-99", None)]
        name, ask = asks[which % len(asks)]
        return answer(state, name, ask, how, shown="f" * 64 if how == 9 else "")
    if kind == "unanswered":
        return ExpireAsk(now=NOW + (how > 4) * 30 * 86_400, ask=f"ask-{which}")
    wanted = {"retry": "retrying", "grant": "queued"}.get(kind)
    likely = [task for task in state.tasks.values() if (task.status == wanted if wanted else task.run)]
    tasks = likely or [*state.tasks.values()]
    task = tasks[which % len(tasks)]
    name, run = ("ghost", None) if how == 9 else (task.spec.id, task.run)
    token = (run.token if run else state.tokens) - (how == 8)
    if kind == "grant":
        return Grant(now=NOW, task=name, run=f"{name}/{task.attempt + (0 if how == 8 else 1)}")
    if kind == "retry":
        return Retry(now=NOW, task=name, attempt=task.attempt + (0 if how == 8 else 1))
    if kind in DEADLINES:
        return DEADLINES[kind](now=NOW, task=name, token=token)
    who = {"task": name, "token": token, "run": "t0/9" if how == 7 or not run else run.id}
    honest = "tess" if run and run.purpose == "verify" else "ann"
    return outcome(task, kind, how, **who, agent="mallory" if how == 6 else honest)


def parts(state: Workflow, how: int) -> tuple[Task, ...]:
    """New tasks, some of which depend on each other, on what is there, on what is gone."""
    there = list(state.tasks)[how % len(state.tasks)]
    first = Task(f"n{len(state.tasks)}", dependencies=(there,) if how % 2 else (), priority=how, group=how == 4)
    return first, Task(f"m{len(state.tasks)}", dependencies=(first.id,), parent_id=first.id)


BY: dict[str, Any] = {"now": NOW, "by": "pat"}
ACTS: dict[str, Callable[[Workflow, str, int], WorkflowCommand]] = {
    "cancel": lambda state, name, how: Cancel(**BY),
    "cancel_one": lambda state, name, how: Cancel(task=name, **BY),
    "pause": lambda state, name, how: Pause(**BY),
    "resume": lambda state, name, how: Resume(**BY),
    "retry_now": lambda state, name, how: RetryNow(task=name, **BY),
    "skip": lambda state, name, how: Skip(task=name, **BY),
    "edit": lambda state, name, how: EditTask(task=name, changes={"description": f"{how}", "total_seconds": 9}, **BY),
    "add": lambda state, name, how: AddTasks(tasks=parts(state, how), **BY),
    "split": lambda state, name, how: SplitTask(task=name, parts=parts(state, how), replace=how % 2 == 0, **BY),
    "prioritise": lambda state, name, how: Prioritise(task=name, priority=how, **BY),
    "expire": lambda state, name, how: ExpireTask(task=name, now=NOW + how * 10),
    "out_of_time": lambda state, name, how: ExpireWorkflow(now=NOW + how * 250),
}


def answer(state: Workflow, name: str, ask: Ask | None, how: int, shown: str = "") -> Answer:
    """One of the options, with what it takes; whoever is asked an open question says something."""
    options = (ask and ask.options) or ("because",)
    choice = options[how % len(options)]
    by = {"now": NOW, "ask": name, "shown": shown or (ask.shown if ask else "f" * 64), "by": "pat"}
    if ask is None or ask.kind != "escalation":
        return Answer(choice=choice, **by)
    role = "writer" if state.tasks[ask.task].spec.agent_role == "coder" else "coder"
    tests = tuple(Test(f"test {i}") for i in range(how % 3))
    edit = Edit(f"as {name} has it", {"how": how}, tests) if choice == "edit" else None
    return Answer(choice=choice, instructions=f"{how}", role=role if choice == "reassign" else None, edit=edit, **by)


DEADLINES: dict[str, type[Redispatch | ExpireLease | ExpireRun]] = {
    "offer": Redispatch, "lease": ExpireLease, "timeout": ExpireRun,
}  # fmt: skip


def outcome(task: TaskState, kind: str, how: int, /, **who: Any) -> Report:
    match kind:
        case "started":
            return ReportStarted(now=NOW, **who)
        case "noted":
            return ReportNoted(now=NOW, key=f"k{how % 3}", value=how, **who)
        case "used":
            return ReportUsage(now=NOW, spent=Spent(input_total=how, output=1 if how % 2 else None), **who)
        case "reserve":
            return ReportReserve(now=NOW, call=f"c{how % 4}", tokens=20 * how if how % 3 else None, **who)
        case "settle":
            return ReportSettle(now=NOW, call=f"c{how % 4}", spent=Spent(input_total=10 * how, output=0), **who)
    if kind == "completed":
        commit = None if how % 3 == 0 else f"c{who['token']}"
        found = (
            (Finding("security", "high", "a key in a file"), Finding("lint", "low", "a long line")) if how == 3 else ()
        )
        result = Result("done", commit, data="odd" if how == 5 else None, findings=found)
        return ReportCompleted(now=NOW, result=result, **who)
    if kind == "failed":
        return ReportFailed(now=NOW, failure=Failure(FAILURE_TYPES[how % len(FAILURE_TYPES)], "it broke"), **who)
    if kind == "asked":
        return ReportAsked(now=NOW, question=f"q{how}", options=("this", "that")[: how % 3], **who)
    commit = task.result.commit if task.result and how != 5 else "another"
    codes = [0, 0, 1, None, 127, 0][how % 6]
    tests = task.spec.acceptance_criteria.tests
    return ReportVerified(
        now=NOW, receipts=tuple(Receipt(it.cmd, codes, False, 1.0, "process", commit, 0, "0") for it in tests), **who
    )


def persist(witness: Witness, fate: list[int]) -> None:
    """Somebody always takes the next thing that is open, and always answers: well or badly as `fate` has it."""
    patience = MOST_ANSWERS
    for step in range(MOST_STEPS):
        if witness.state.status == "queued":
            assert witness.see(Admit(now=NOW))
        if witness.state.status != "running":
            return
        how = fate[step % len(fate)]
        open_tasks = [task for task in witness.state.tasks.values() if task.status not in CLOSED]
        task = next(it for it in open_tasks if not witness.waits_on(it)[0].startswith(("dependency", "branch")))
        if witness.state.paused:
            command: WorkflowCommand = Resume(**BY)
        elif task.run:
            kind = "verified" if task.run.purpose == "verify" else "completed"
            agent = task.run.agent or ("tess" if task.run.purpose == "verify" else "ann")
            who = {"task": task.spec.id, "run": task.run.id, "token": task.run.token, "agent": agent}
            bad = "asked" if how > 20 and kind == "completed" else "failed"
            command = outcome(task, bad if how > 9 else kind, how, **who)
        elif task.ask and (how == 7 or not patience):
            command = ExpireAsk(now=witness.state.asks[task.ask].due or NOW, ask=task.ask)
        elif task.ask:
            command, patience = answer(witness.state, task.ask, witness.state.asks[task.ask], how - 1), patience - 1
        elif task.status == "queued":
            command = Grant(now=NOW, task=task.spec.id, run=f"{task.spec.id}/{task.attempt + 1}")
        else:
            command = Retry(now=NOW, task=task.spec.id, attempt=task.attempt + 1)
        assert witness.see(command), f"{command} led to nothing"
    raise AssertionError(f"still running after {MOST_STEPS} steps")


def lived(plan: StartWorkflow, moves: list[Move], fate: list[int]) -> Witness:
    """A workflow from its start, through these moves, to its end."""
    witness = Witness()
    witness.see(plan)
    for move in moves:
        witness.see(told(witness.state, move))
    persist(witness, fate)
    return witness


FATES = st.lists(st.integers(0, 22), min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(plan=plans(), moves=st.lists(MOVES, max_size=30), fate=FATES)
def test_every_history_keeps_the_promises_and_comes_to_an_end(
    plan: StartWorkflow, moves: list[Move], fate: list[int]
) -> None:
    witness = lived(plan, moves, fate)
    assert witness.state.open == 0
    assert all(task.status in CLOSED for task in witness.state.tasks.values())

    stored = msgspec.json.decode(msgspec.json.encode(witness.events), type=list[WorkflowEvent])
    assert replay(stored) == witness.state, "what was stored folds to something else"
    again = Witness()
    for command in witness.commands:
        again.see(command)
    assert again.events == witness.events

    outcomes = TaskReported | TaskVerified | AttemptFailed | TaskAsked
    ends = [(type(it), it.run) for it in stored if isinstance(it, outcomes)]
    assert len(ends) == len(set(ends)), "a run ended twice"


@settings(max_examples=100, deadline=None)
@given(plan=plans())
def test_where_everybody_does_well_every_plan_completes(plan: StartWorkflow) -> None:
    witness = Witness()
    witness.see(plan)
    persist(witness, [WELL])
    assert witness.state.status == "completed"
    assert not any(isinstance(event, AttemptFailed) for event in witness.events)


@settings(max_examples=60, deadline=None)
@given(
    depth=st.integers(0, 4),
    width=st.integers(0, 2),
    attempts=st.integers(1, 2),
    fate=st.lists(st.sampled_from(BAD), min_size=1, max_size=6),
)
def test_where_nothing_succeeds_every_branch_that_is_allowed_is_tried_and_then_it_ends(
    depth: int, width: int, attempts: int, fate: list[int]
) -> None:
    routing: dict[str, str | Route] = dict.fromkeys(FAILURE_TYPES, "debugger")
    tested = AcceptanceCriteria((Test("make test"),))
    task = Task("a", acceptance_criteria=tested, failure_routing=routing, max_attempts=attempts,
                max_debug_attempts=width, max_branch_depth=depth)  # fmt: skip
    witness = lived(start(task), [], fate)
    tasks = witness.state.tasks
    assert witness.state.status == "failed"
    assert len(tasks) - 1 == sum(width**level for level in range(1, depth + 1))
    assert max(task.depth for task in tasks.values()) == (depth if width else 0)


SCRIPT = """
import msgspec, sys
sys.path.insert(0, "tests")
from spec import Task, completed, failed, given, start
needs = tuple(f"need{n}" for n in range(20))
story = given(start(*map(Task, needs), Task("last", dependencies=needs)), failed("need0/1", 1), completed("need1/1", 2))
print(msgspec.json.encode(story.state).decode())
"""


def test_another_process_computes_the_very_same_state() -> None:
    def computed(seed: str) -> str:
        command, env = [sys.executable, "-c", SCRIPT], {"PYTHONHASHSEED": seed}
        return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert computed("1") == computed("2")
