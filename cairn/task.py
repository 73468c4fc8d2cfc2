"""What an agent is given, and what it gives back. It is long because all of it is one vocabulary, the one users import."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, Self
from uuid import uuid4

import msgspec

from cairn.trace import ModelCall

NOTE_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
NOTES, NOTE_BYTES = 32, 4_096
"""Of a task's scratchpad: its keys, and the JSON of one value."""


class Finding(msgspec.Struct, omit_defaults=True):
    """What is wrong, with what the task is about or with what it has made of it. `line` counts from 1."""

    kind: Literal["security", "lint", "type", "test", "other"]
    severity: Literal["info", "low", "medium", "high", "critical"]
    message: str
    path: str = ""
    line: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None


class Result(msgspec.Struct, omit_defaults=True):
    """What was done. `commit` and `files` are filled in from the worktree; `data` is any JSON. At most 200 `findings`;
    all of it but `files` up to 64 KiB."""

    summary: str = ""
    commit: str | None = None
    files: tuple[str, ...] = ()
    data: Any = None
    findings: tuple[Finding, ...] = ()


class FailedCase(msgspec.Struct, omit_defaults=True):
    """A test that did not pass, as its report has it."""

    name: str
    message: str = ""


class Tally(msgspec.Struct, omit_defaults=True):
    """A JUnit report: how many tests there were and how they ended, and the first of those that did not pass."""

    tests: int
    failures: int
    errors: int
    skipped: int
    failed: tuple[FailedCase, ...] = ()


class Receipt(msgspec.Struct, omit_defaults=True):
    """One acceptance test as a sandbox saw it. Times in seconds; `output` is capped, the sha256 is of everything.

    `runtime` is the digest of the image or the interpreters that ran it. `flaky` is for the ledger to say. `coverage` is
    a percentage of lines; `uncovered` says why there is none where the plan's test names a report.
    """

    cmd: str
    exit_code: int | None
    timed_out: bool
    duration_seconds: float
    isolation: str
    commit: str | None
    output_bytes: int
    output_sha256: str
    output: str = ""
    runtime: str = ""
    report: Tally | None = None
    flaky: bool = False
    coverage: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None
    uncovered: str = ""


class Test(msgspec.Struct):
    cmd: str
    timeout_seconds: float = 300.0
    junit: str | None = None
    coverage: str | None = None


class Failure(msgspec.Struct, omit_defaults=True):
    """Why an attempt did not succeed: a type of failure, one sentence, and the end of what was said."""

    type: str
    message: str
    detail: str = ""


class Debug(msgspec.Struct):
    """Why a branch task exists: the task whose attempt failed, the class of the failure, what the sandbox printed.

    What was done until then leads from `bases`, merged, to `commit`; `Task.diff` shows it.
    """

    parent: str
    reason: str
    instructions: str
    receipts: tuple[Receipt, ...] = ()
    output: str = ""
    bases: tuple[str, ...] = ()
    commit: str | None = None


class Usage(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """What a model has used up; None is unknown, and never taken for 0.

    `input_total` counts all tokens read, those from a cache (`cache_read`) and into one (`cache_write`) among them.
    """

    model: str | None = None
    turns: int | None = None
    input_total: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    output: int | None = None
    cost_usd: float | None = None

    def __add__(self, more: "Usage") -> "Usage":
        """A sum with an unknown part is unknown; that of two models has none."""
        mine, theirs = msgspec.structs.astuple(self)[1:], msgspec.structs.astuple(more)[1:]
        sums = [None if a is None or b is None else a + b for a, b in zip(mine, theirs, strict=True)]
        numbers = dict(zip(Usage.__struct_fields__[1:], sums, strict=True))
        return Usage(model=self.model if self.model == more.model else None, **numbers)


class Budget(msgspec.Struct):
    """Of each kind that is limited, how much; the others are None."""

    tokens: int | None = None
    usd: float | None = None
    seconds: float | None = None
    attempts: int | None = None


class Desk(Protocol):
    """How a task's words reach the system; the agent that works on it provides it."""

    ended: bool

    def say(self, kind: str, **said: Any) -> None: ...

    async def ask(self, kind: str, **said: Any) -> str:
        """Waits for the verdict: why it was refused, or nothing."""
        ...


class Answered(msgspec.Struct, omit_defaults=True):
    """What a person said when the task asked: the `choice` ("": nobody did in time) and what else they want done.

    `by` is empty where a default was taken.
    """

    ask: str
    question: str
    choice: str = ""
    instructions: str = ""
    by: str = ""


class Task(msgspec.Struct, dict=True):
    """One run of a task, offered under a lease.

    `dependencies` holds the result of every task this one waited for. `path` is the folder of the run's own Git
    worktree, at the merged commits of its dependencies (`bases`); it is None where the workflow has no repository. A
    task that mends a `merge_conflict` finds both versions there, between git's conflict marks.
    `diff` is what was done so far of what `debug` is about, as a patch of 64 KiB at most, read from Git.
    `previous` is what ended the attempt before this one. `worker` did what a run of purpose `verify` is to judge.
    `notes` is the task's scratchpad, as the attempts before have left it; `note` writes into it.
    `budget` is what is reserved for this run, None where nothing is limited; `call` asks before it spends. `expires` is
    when the time of all attempts together is over.
    `answers` is what people said to this task until now, the last at the end: to its questions, and what they wanted
    done differently when they had it tried again. `position` is the place of the dispatch in the ledger, `traceparent`
    what spans of the work are to be children of (W3C Trace Context).
    """

    workflow: str
    task: str
    run: str
    attempt: int
    role: str
    token: int
    lease_seconds: float
    timeout_seconds: float
    purpose: str = "work"
    title: str = ""
    description: str = ""
    inputs: dict[str, Any] = {}
    files: tuple[str, ...] = ()
    repository: str | None = None
    bases: tuple[str, ...] = ()
    dependencies: dict[str, Result] = {}
    tests: tuple[Test, ...] = ()
    debug: Debug | None = None
    previous: Failure | None = None
    worker: str = ""
    notes: dict[str, Any] = {}
    budget: Budget | None = None
    expires: float | None = None
    answers: tuple[Answered, ...] = ()
    capabilities: tuple[str, ...] = ()
    position: int = 0
    traceparent: str | None = None
    path: Path | None = None
    diff: str = ""

    async def ask(
        self,
        question: str,
        options: Sequence[str] = (),
        *,
        due_seconds: float | None = None,
        default: str | None = None,
    ) -> Answered:
        """What a person answers to this question; one of `options`, any words if there are none.

        The first time it ends the run, and what the run has not committed elsewhere is gone: ask before the work. The
        next run begins when there is an answer, and in it the same call returns. `default` is taken when nobody
        answers within `due_seconds` (None: a week). A task may ask ten questions.
        """
        for said in reversed(self.answers):
            if said.question == question:
                return said
        raise Asked(question, options, due_seconds=due_seconds, default=default)

    def to_json(self) -> bytes:
        """The form that `--exec` agents read on standard input and in CAIRN_TASK."""
        return msgspec.json.encode(self, enc_hook=str)

    def at(self, desk: Desk) -> Self:
        self.__dict__["desk"] = desk
        return self

    @property
    def usage(self) -> Usage | None:
        """What `used` was told in all; None as long as it was not."""
        return self.__dict__.get("usage")

    def used(
        self,
        *,
        input: int | None = None,
        output: int | None = None,
        cache_read: int | None = None,
        cache_write: int | None = None,
        turns: int | None = None,
        cost_usd: float | None = None,
        model: str | None = None,
    ) -> None:
        """Adds to what the attempt has used, for example after each call of a model; it goes with the outcome.

        `input` counts all tokens read, cached ones too. What one call leaves out is unknown for the attempt. After the
        end of the attempt it corrects what was recorded. ValueError for numbers that cannot be.
        """
        self.spend(
            _usage(
                input=input, output=output, cache_read=cache_read, cache_write=cache_write, turns=turns,
                cost_usd=cost_usd, model=model,
            )
        )  # fmt: skip

    def spend(self, more: Usage) -> None:
        """As `used`."""
        _check(more)
        self.__dict__["usage"] = self.usage + more if self.usage else more
        if (desk := self._desk) and desk.ended:
            desk.say("used", usage=self.usage, why="told after the end")

    def call(self, *, tokens: int | None = None, usd: float | None = None, model: str | None = None) -> "Call":
        """Around one call of a model: reserves what it may use at most, and settles what it has used.

            async with task.call(tokens=4_000) as call:
                answer = await model(...)
                call.used(input=answer.input_tokens, output=answer.output_tokens, model=answer.model)

        Without a number it reserves all that the run still holds. Raises BudgetExceeded, before anything is spent,
        where it does not fit. Without a budget nothing is asked. Where traces are sent it is a span of its own, `model`
        being the one that is asked.
        """
        return Call(self, tokens, usd, model)

    async def note(self, key: str, value: Any) -> None:
        """Writes any JSON of at most 4 KiB into the task's scratchpad, under one of at most 32 keys; the attempts after
        this one find it in `notes`. Returns once it is recorded.

        ValueError if it does not fit; Failed if the lease is lost.
        """
        note = self._noted(key, value)
        if (desk := self._desk) and (why := await desk.ask("noted", note=note)):
            raise Failed(f"the note {key} was refused: {why}")

    def jot(self, key: str, value: Any) -> None:
        """As `note`, without waiting: it is kept on disk until it is recorded or refused."""
        note = self._noted(key, value)
        if desk := self._desk:
            desk.say("noted", note=note)

    @property
    def _desk(self) -> Desk | None:
        return self.__dict__.get("desk")

    def _noted(self, key: str, value: Any) -> dict[str, Any]:
        if not NOTE_KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key of a note: it takes 1 to 63 letters, digits, '.', '_' and '-'")
        try:
            encoded = msgspec.json.encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"note {key} is no JSON: {error}") from error
        if len(encoded) > NOTE_BYTES:
            raise ValueError(f"note {key} has {len(encoded)} bytes, the limit is {NOTE_BYTES}: put it into a file")
        if key not in self.notes and len(self.notes) >= NOTES:
            raise ValueError(f"there are {NOTES} notes, which is the limit: write over one of them")
        self.notes = {**self.notes, key: msgspec.json.decode(encoded)}
        return {"key": key, "value": msgspec.Raw(encoded)}


def _usage(*, input: int | None = None, **numbers: Any) -> Usage:
    return Usage(input_total=input, **numbers)


def _check(usage: Usage) -> None:
    for name in Usage.__struct_fields__[1:]:
        value = getattr(usage, name)
        if value is not None and not 0 <= value <= 2**53:
            raise ValueError(f"{name} {value!r}: it takes 0 or more, or None for unknown")
    if usage.input_total is not None and (usage.cache_read or 0) + (usage.cache_write or 0) > usage.input_total:
        raise ValueError(f"input {usage.input_total}: it counts cached tokens too, which are more")


class Call:
    """See `Task.call`."""

    def __init__(self, task: Task, tokens: int | None, usd: float | None, model: str | None) -> None:
        self._task, self._limits, self._model = task, {"tokens": tokens, "usd": usd}, model
        self._id = uuid4().hex
        self._usage: Usage | None = None

    def used(self, **numbers: Any) -> None:
        """As `Task.used`, of this call; it counts for the task too."""
        more = _usage(**numbers)
        self._task.spend(more)
        self._usage = self._usage + more if self._usage else more

    async def __aenter__(self) -> Self:
        if desk := self._limited:
            limits = {name: limit for name, limit in self._limits.items() if limit is not None}
            if why := await desk.ask("reserve", call={"id": self._id, **limits}):
                raise BudgetExceeded(why)
        self._span = ModelCall(self._model)
        return self

    async def __aexit__(self, _: type[BaseException] | None, error: BaseException | None, *__: object) -> None:
        """What an aborted call has used is unknown, and stays counted as it was reserved."""
        self._span.end(self._usage, error)
        if desk := self._limited:
            desk.say("settle", call={"id": self._id}, usage=self._usage or Usage())

    @property
    def _limited(self) -> Desk | None:
        return self._task.__dict__.get("desk") if self._task.budget else None


class Asked(BaseException):
    """Ends the run because a person has to answer first. No Exception: handlers that catch those are to let it pass."""

    def __init__(
        self,
        question: str,
        options: Sequence[str] = (),
        *,
        due_seconds: float | None = None,
        default: str | None = None,
    ) -> None:
        super().__init__(question)
        self.question, self.options, self.due_seconds, self.default = question, tuple(options), due_seconds, default


class Failed(Exception):
    """Raise it from a handler to end the attempt with a class of failure that the plan can route.

    `type` is one of the failure types of the plan's schema, for example `spec_mismatch`; `detail` is evidence.
    """

    def __init__(self, message: str, *, type: str = "agent_error", detail: str = "") -> None:
        super().__init__(message)
        self.type, self.detail = type, detail


class BudgetExceeded(Failed):
    """What a call would take does not fit what is left. It ends the attempt, and a person is asked, unless it is caught:
    a smaller call may fit."""

    def __init__(self, message: str) -> None:
        super().__init__(message, type="budget")
