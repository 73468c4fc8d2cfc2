"""What a release wrote, kept for ever: `python -m ops.golden <release>` writes `schemas/golden/<release>/`, once.

`<tag>.jsonl` holds an event's bytes exactly as stored: a line with every field filled, and one with those only that it
cannot do without. `history.jsonl` is a small ledger with envelopes and digests, `states.json` what its streams fold to.
What an earlier release wrote the same way is not written again. Tests read all of it with today's code: an event that
changes its shape fails them until it has a new file, and one that can no longer be read fails them for good.
It is long because it tells a story in which every event there is happens.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import msgspec
from msgspec import NODEFAULT, Raw, Struct, inspect

from domain import agents, queue
from domain import commands as asked
from domain.claims import Claim, FreeClaim, Limits, PauseDispatch, PlaceClaim, QueueCommand, ResumeDispatch
from domain.commands import (
    AddTasks,
    Admit,
    Answer,
    Cancel,
    EditTask,
    ExpireAsk,
    ExpireWorkflow,
    Grant,
    Pause,
    Prioritise,
    RaiseBudget,
    Report,
    ReportAsked,
    ReportCompleted,
    ReportFailed,
    ReportNoted,
    ReportReserve,
    ReportSettle,
    ReportUsage,
    ReportVerified,
    Restore,
    Resume,
    Retry,
    Skip,
    StartWorkflow,
)
from domain.events import Event, LedgerAudited, LedgerRestored
from domain.outcome import Failure, Receipt, Result
from domain.plan import AcceptanceCriteria, Budget, Edit, Plan, Route, Task, Test
from domain.state import Workflow, evolve
from domain.usage import Price, Prices, Spent
from domain.workflow import decide
from ledger.append import Append, NewEvent, rows
from ledger.codec import EVENTS, chain, encode, event_id
from ledger.verify import GENESIS
from ops.schemas import FOLDER

S = TypeVar("S", bound=Struct)

GOLDEN = FOLDER / "schemas" / "golden"
SUMS = "SHA256SUMS"
"""In each folder, as `sha256sum -c` reads it."""
BEGUN = datetime(2026, 11, 1, 12, tzinfo=UTC)
STEP = timedelta(seconds=1.25)
PRICES = Prices("2026-11-01", {"some-model": Price(3.0, 15.0, 0.3, 3.75)})
SPENT = Spent(model="some-model", turns=3, input_total=1_000, cache_read=200, cache_write=100, output=500)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Line(Struct):
    """An event of `history.jsonl`: its envelope, the digest in hex, and `state`, the bytes as they were stored."""

    position: int
    stream: str
    version: int
    type: str
    id: UUID
    recorded_at: datetime
    correlation_id: str | None
    causation_id: str | None
    actor: str
    traceparent: str | None
    digest: str
    state: Raw


def sample(struct: type[S], *, full: bool) -> S:
    """One with every field filled, none of them with its default; or with the required ones only."""
    return msgspec.convert(_value(inspect.type_info(struct), "", full), struct)


def history() -> list[Line]:
    """A workflow that completes after detours, ones that ask, fail, are cancelled, restored: every event there is."""
    told, one = _Story(), Limits(max_workflows=1)
    tests = AcceptanceCriteria((Test("make test", 20.0),))
    told.start(
        "mended",
        Task(
            "a", acceptance_criteria=tests, failure_routing={"test_failure": "debugger"}, inputs={"n": [1, 2.5, None]}
        ),
        Task("b", dependencies=("a",), approval=("before_dispatch", "before_completion"), title="Grün"),
    )
    told.say(ReportNoted, "a", key="seen", value={"files": 2})
    told.report("a", result=Result("done", "c1", ("a.py",), {"lines": 3}), spent=SPENT)
    told.say(ReportUsage, "a", spent=msgspec.structs.replace(SPENT, output=700), why="the bill came later")
    told.report("a", receipts=(1,))
    told.report("a.fix1", result=Result("mended", "c2"))
    told.report("a", receipts=(0,))
    told.answer("ask-1", because="looks good")
    told.report("b", failure=Failure("agent_error", "it broke", "at line 7"))
    told.late("b", token=1)
    told.do(Retry(now=told.now, task="b", attempt=2), "clock/retry")
    told.report("b", result=Result("done"))
    told.answer("ask-2")
    told.start("rerouted", Task("a", failure_routing={"spec_mismatch": Route("route", "architect")}))
    told.report("a", failure=Failure("spec_mismatch", "it cannot be done"))
    told.start("spends", Task("a", budget=Budget(tokens=1_000, seconds=600.0)))
    told.say(ReportReserve, "a", call="one", tokens=800)
    told.say(ReportSettle, "a", call="one", spent=Spent(model="some-model", input_total=500, output=100))
    told.say(ReportReserve, "a", call="two", tokens=800)
    told.do(RaiseBudget(now=told.now, scope="task/a", amount=Budget(tokens=500), by="pat"), "pat")
    told.report("a", failure=Failure("budget", "a call of 800 tokens does not fit"))
    told.answer("ask-1", choice="raise", because="it is worth it")
    told.start("fails", Task("a", max_attempts=1), Task("b", dependencies=("a",)))
    told.report("a", failure=Failure("spec_mismatch", "it cannot be done"))
    told.do(ExpireAsk(now=told.now + 86_400, ask="ask-1"), "clock/ask")
    told.start("asked", Task("a", max_attempts=1, approval=("before_dispatch",)))
    told.answer("ask-1")
    told.ask("a", "Which port?", ("80", "8080"))
    told.answer("ask-2", choice="80", instructions="and log it")
    told.report("a", failure=Failure("agent_error", "it broke"))
    told.answer("ask-3", choice="edit", edit=Edit("say hello", {"n": 1}, tests.tests))
    told.answer("ask-4")
    told.report("a", result=Result("done", "c1"))
    told.report("a", receipts=(1,))
    told.answer("ask-5", choice="reassign", role="writer", because="a writer knows")
    told.answer("ask-6")
    told.report("a", result=Result("done", "c2"))
    told.report("a", receipts=(1,))
    told.answer("ask-7", choice="accept", because="the test is wrong")
    told.start("cancelled", Task("a"), Task("b", dependencies=("a",)), Task("c", approval=("before_dispatch",)))
    told.do(Cancel(now=told.now, by="pat", reason="no longer wanted"), "pat")
    told.start("limited", Task("a", resources=("repo:x",)), queued=True)
    told.queue(
        PlaceClaim(now=told.now, limits=one, claim=Claim("limited", "limited")),
        PauseDispatch(now=told.now, limits=one, by="pat", reason="incident"),
        PauseDispatch(now=told.now, limits=one, by="pat", role="coder"),
        ResumeDispatch(now=told.now, limits=one, by="pat", rate=30.0),
        ResumeDispatch(now=told.now, limits=one, by="pat", role="coder"),
    )
    told.do(Admit(now=told.now), "queue")
    told.do(Grant(now=told.now, task="a", run="a/1"), "queue")
    told.report("a", result=Result("done"))
    told.queue(FreeClaim(now=told.now, limits=one, claim="limited"))
    told.start("acted-on", Task("a"), Task("b", dependencies=("a",)), Task("c", approval=("before_dispatch",)))
    told.do(Pause(now=told.now, by="pat", reason="something is wrong"), "pat")
    told.report("a", result=Result("done"))
    told.do(EditTask(now=told.now, by="pat", task="b", changes={"description": "Do it well."}), "pat")
    told.do(Prioritise(now=told.now, by="pat", task="b", priority=5), "pat")
    told.do(AddTasks(now=told.now, by="pat", tasks=(Task("d", dependencies=("b",)),)), "pat")
    told.do(Skip(now=told.now, by="pat", task="c", reason="nobody needs it"), "pat")
    told.do(Resume(now=told.now, by="pat"), "pat")
    told.do(ExpireWorkflow(now=told.now + 3_600), "clock/limit")
    told.start("restored", Task("a"), Task("b", dependencies=("a",)))
    told.note("ledger-main", LedgerRestored(position=len(told.lines), previous_epoch=1, epoch=2, taken_at=told.now))
    told.note("ledger-main", LedgerAudited(position=len(told.lines), ok=True, checked_events=7, digest="0" * 64))
    told.do(Restore(now=told.now, skipped=70_000, repository="/srv/restored.git"), "cairn restore")
    join = asked.Join(now=told.now, agent="ann", role="coder", capacity=2, capabilities=("gpu",), version="0.1.0")
    drain = asked.Drain(now=told.now, by="pat", reason="the machine is old")
    told.agent(join, asked.Miss(now=told.now, heard_at=0.0), asked.Hear(now=told.now), drain, asked.Leave(now=told.now))
    return told.lines


def outline(state: Workflow) -> dict[str, Any]:
    """What of a state has to stay as it is, whatever the state is made of."""
    return {
        "status": state.status,
        "asks": {name: [ask.state, ask.answered_by] for name, ask in state.asks.items()},
        "tasks": {
            name: {"status": task.status, "attempt": task.attempt, "agent": task.agent, "depth": task.depth,
                   "commits": list(task.tips), "failure": task.failure.type if task.failure else None,
                   "receipts": len(task.receipts)}
            for name, task in state.tasks.items()
        },
    }  # fmt: skip


def documents() -> dict[str, bytes]:
    """File name to what today's code writes into it."""
    lines = history()
    states: dict[str, Workflow] = {}
    for line in lines:
        if not line.stream.startswith("workflow-"):
            continue
        state = states.setdefault(line.stream, Workflow())
        evolve(state, msgspec.json.decode(line.state, type=EVENTS[line.type]))  # type: ignore[arg-type]
    told = msgspec.json.encode({stream: outline(state) for stream, state in states.items()})
    return {
        **{
            f"{tag}.jsonl": b"".join(encode(sample(event, full=full)) + b"\n" for full in (True, False))
            for tag, event in EVENTS.items()
        },
        "history.jsonl": b"".join(msgspec.json.encode(line) + b"\n" for line in lines),
        "states.json": msgspec.json.format(told, indent=2) + b"\n",
    }


def missing(folder: Path = GOLDEN) -> dict[str, bytes]:
    """Of today's documents those that no release holds."""
    return {
        name: content
        for name, content in documents().items()
        if not any(file.read_bytes() == content for file in folder.glob(f"*/{name}"))
    }


def write(release: str, folder: Path = GOLDEN) -> list[str]:
    """The names of the files that were written. FileExistsError for a release that has its files."""
    new = missing(folder)
    if "history.jsonl" in new or "states.json" in new:  # neither says anything without the other
        new |= {name: content for name, content in documents().items() if name in ("history.jsonl", "states.json")}
    if new:
        place = folder / release
        place.mkdir(parents=True)
        sums = "".join(f"{sha256(content).hexdigest()}  {name}\n" for name, content in sorted(new.items()))
        for name, content in {**new, SUMS: sums.encode()}.items():
            (place / name).write_bytes(content)
    return sorted(new)


class _Story:
    """Commands decided one after another; `lines` is what a ledger holds of them."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.now = BEGUN.timestamp()
        self._digest = GENESIS
        self._commands = 0
        self._queue, self._queued = queue.Queue(), 0

    def start(self, name: str, *tasks: Task, queued: bool = False) -> None:
        self._name, self._state, self._version = name, Workflow(), 0
        plan = Plan(id=name, tasks=tasks)
        start = StartWorkflow(
            now=self.now, workflow=name, plan=plan, repository="/srv/w.git", base="c0", prices=PRICES, queued=queued
        )
        self.do(start, "pat", TRACE)

    def queue(self, *commands: QueueCommand) -> None:
        for command in commands:
            events = queue.decide(self._queue, command)
            self._queued = self._record("queue-main", self._queued, events, "queue", "main", None)
            for event in events:
                queue.evolve(self._queue, event)

    def say(self, kind: type[Report], name: str, **said: Any) -> None:
        """What the agent of the task's first attempt says besides its outcome."""
        run = self._state.tasks[name].runs[0]
        self.do(kind(now=self.now, task=name, run=run.id, token=run.token, agent="ann", **said), "agent/ann")

    def report(
        self,
        name: str,
        *,
        result: Result | None = None,
        failure: Failure | None = None,
        receipts: Sequence[int] = (),
        spent: Spent | None = None,
    ) -> None:
        """What came of the run that the task has out; a receipt is told by its exit code."""
        task = self._state.tasks[name]
        assert task.run is not None
        agent = "tess" if task.run.purpose == "verify" else "ann"
        held: dict[str, Any] = {
            "now": self.now,
            "task": name,
            "run": task.run.id,
            "token": task.run.token,
            "agent": agent,
        }
        commit = task.result.commit if task.result else None
        seen = [
            Receipt(test.cmd, code, False, 1.5, "process", commit, 3, "0" * 64, "out")
            for test, code in zip(task.spec.acceptance_criteria.tests, receipts, strict=False)
        ]
        if result:
            self.do(ReportCompleted(**held, result=result, spent=spent), f"agent/{agent}")
        elif failure:
            self.do(ReportFailed(**held, failure=failure), f"agent/{agent}")
        else:
            self.do(ReportVerified(**held, receipts=tuple(seen)), f"agent/{agent}")

    def late(self, name: str, *, token: int) -> None:
        late = ReportCompleted(now=self.now, task=name, run=f"{name}/1", token=token, agent="bob", result=Result())
        self.do(late, "agent/bob")

    def ask(self, name: str, question: str, options: tuple[str, ...]) -> None:
        run = self._state.tasks[name].run
        assert run is not None
        held: dict[str, Any] = {"now": self.now, "task": name, "run": run.id, "token": run.token, "agent": "ann"}
        self.do(ReportAsked(**held, question=question, options=options), "agent/ann")

    def answer(self, ask: str, because: str = "", choice: str = "approve", **more: Any) -> None:
        shown = self._state.asks[ask].shown
        self.do(
            Answer(now=self.now, ask=ask, shown=shown, choice=choice, by="pat", because=because, **more), "pat", TRACE
        )

    def do(self, command: Any, actor: str, trace: str | None = None) -> None:
        events = decide(self._state, command)
        self._version = self._record(f"workflow-{self._name}", self._version, events, actor, self._name, trace)
        for event in events:
            evolve(self._state, event)

    def agent(self, *commands: asked.AgentCommand) -> None:
        state, version = agents.Agent(), 0
        for command in commands:
            events = agents.decide(state, command)
            version = self._record("agent-ann", version, events, "agent/ann", "ann", None)
            for event in events:
                agents.evolve(state, event)

    def note(self, stream: str, event: Event) -> None:
        version = sum(line.stream == stream for line in self.lines)
        self._record(stream, version, [event], "cairn", None, None)

    def _record(
        self, stream: str, version: int, events: Sequence[Event], actor: str, name: str | None, trace: str | None
    ) -> int:
        self._commands += 1
        cause = UUID(int=self._commands)
        new = [
            NewEvent(event, event_id(cause, index), actor, name, str(cause), trace)
            for index, event in enumerate(events)
        ]
        at = BEGUN + STEP * self._commands
        for row in rows(Append(stream, version, new)):
            version += 1
            envelope = (
                len(self.lines) + 1, stream, version, row.tag, row.id, at,
                row.correlation_id, row.causation_id, row.actor, row.traceparent,
            )  # fmt: skip
            self._digest = chain(self._digest, envelope, row.state)
            self.lines.append(Line(*envelope, self._digest.hex(), Raw(row.state)))
        return version


def _value(kind: inspect.Type, name: str, full: bool, default: Any = NODEFAULT) -> Any:
    """Any value of this type but the default."""
    match kind:
        case inspect.Metadata(type=inner):
            return _value(inner, name, full, default)
        case inspect.UnionType(types=types):
            told = [one for one in types if not isinstance(one, inspect.NoneType)]
            most = next((one for one in told if isinstance(one, inspect.StructType)), told[0])
            return _value(most, name, full, default)
        case inspect.StructType(fields=fields, array_like=True):
            return [_value(field.type, field.name, full, field.default) for field in fields]
        case inspect.StructType(fields=fields):
            return {
                field.encode_name: _value(field.type, field.name, full, field.default)
                for field in fields
                if full or field.required
            }
        case inspect.VarTupleType(item_type=item):
            return [_value(item, name, full)]
        case inspect.DictType(value_type=item):
            return {name: _value(item, name, full)}
        case inspect.LiteralType(values=values):
            return next(value for value in values if value != default)
        case inspect.BoolType():
            return default is not True
        case inspect.IntType():
            return 7
        case inspect.FloatType(le=most):
            return 1.5 if most is None or most > 1.5 else most
        case inspect.StrType():
            return f"{name} ä"
        case inspect.AnyType():
            return {"text": 'a "quoted" ✓', "numbers": [0, -1, 2**60, 0.1, 1e300], "other": [True, None, {}]}
    raise TypeError(f"{name}: no sample of a {type(kind).__name__} is known: add one")


def main(arguments: Sequence[str] | None = None, folder: Path = GOLDEN) -> int:
    parser = argparse.ArgumentParser(prog="python -m ops.golden", description="Keep what a new release writes.")
    parser.add_argument("release", help="its version; one that has its files is refused: they are never changed")
    release = parser.parse_args(arguments).release
    try:
        written = write(release, folder)
    except FileExistsError:
        print(f"release {release} has its golden files, and they never change: name the next release", file=sys.stderr)
        return 1
    print("\n".join(written) or "nothing is written otherwise than before", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
