"""What agents send and are answered, in its wire form, and the command that a report stands for.

Agents of any age, and strangers, send these: whatever a report must not be is found here or in the inbox's own checks.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, assert_never
from uuid import UUID

import msgspec

from domain.commands import (
    ReportAsked,
    ReportCompleted,
    ReportFailed,
    ReportNoted,
    ReportReserve,
    ReportSettle,
    ReportStarted,
    ReportUsage,
    ReportVerified,
    WorkflowCommand,
)
from domain.failures import FAILURE_TYPES
from domain.outcome import FINDINGS, RECEIPTS_BYTES, RESULT_BYTES, Failure, Receipt, Result
from domain.plan import LONGEST_SECONDS
from domain.usage import Count, Spent, Usd

COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
MESSAGE_CHARACTERS, DETAIL_CHARACTERS = 2_000, 8_000
OPTIONS, OPTION_CHARACTERS = 20, 200
NESTED_LEVELS = 100
"""Parsers give up somewhere near a thousand, each elsewhere: what is recorded has to be readable by all."""
OTHERS_TO_SAY = ("refused",)
"""Failures that people give, never agents. That a budget did not suffice is believed where a call was refused."""


class Told(msgspec.Struct):
    """A failure in an agent's words; a class that is not an agent's to give becomes `agent_error`."""

    type: str
    message: str
    detail: str = ""

    def failure(self) -> Failure:
        if self.type in FAILURE_TYPES and self.type not in OTHERS_TO_SAY:
            return Failure(self.type, self._message, self._detail)
        return Failure("agent_error", f"({self.type[:50]}) {self._message}", self._detail)

    @property
    def _message(self) -> str:
        return self.message[:MESSAGE_CHARACTERS]

    @property
    def _detail(self) -> str:
        return self.detail[-DETAIL_CHARACTERS:]


class Question(msgspec.Struct):
    """A question to a person. `options` are what can be chosen, none: any words; `default` is taken when nobody answers
    within `due_seconds`."""

    question: str
    options: tuple[str, ...] = ()
    due_seconds: float | None = None
    default: str | None = None

    def unacceptable(self) -> str:
        """Why it cannot be asked; empty if it can."""
        if not self.question.strip() or len(self.question) > MESSAGE_CHARACTERS:
            return f"a question has 1 to {MESSAGE_CHARACTERS} characters, this one has {len(self.question)}"
        if len(self.options) > OPTIONS or len(set(self.options)) < len(self.options):
            return f"a question has at most {OPTIONS} options, each once"
        if any(
            not option.strip() or len(option) > OPTION_CHARACTERS for option in (*self.options, self.default or "-")
        ):
            return f"an option has 1 to {OPTION_CHARACTERS} characters"
        if self.options and self.default is not None and self.default not in self.options:
            return f"the default {self.default!r} is none of the options: {', '.join(self.options)}"
        if self.due_seconds is not None and not 0 < self.due_seconds <= LONGEST_SECONDS:
            return f"a question waits up to {LONGEST_SECONDS} seconds, not {self.due_seconds:g}"
        return ""


class Numbered(msgspec.Struct):
    """As much of a report as it takes to answer it."""

    id: UUID


class Note(msgspec.Struct):
    """An entry for the task's scratchpad."""

    key: str
    value: Any

    def __post_init__(self) -> None:
        if _levels(self.value) >= NESTED_LEVELS:
            raise ValueError(f"the note is nested more than {NESTED_LEVELS} levels deep")


class Call(msgspec.Struct):
    """A call of a model, by an id that its run gave it; before it what it may use, if that is known."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9-]{1,64}\Z")]
    tokens: Count | None = None
    usd: Usd | None = None


class Report(msgspec.Struct):
    """The wire form. A repeat is known by its `id`; `agent` has to be who sent it.

    `usage` may come with every outcome, and by itself (kind `used`, with `why`) before it or after it. A `call` is
    reserved before it is made, if it fits the budget, and settled with its `usage`.

    `traceparent` is the trace that the work belongs to, most often that of its dispatch.
    """

    id: UUID
    kind: Literal["started", "completed", "failed", "verified", "asked", "noted", "used", "reserve", "settle"]
    workflow: str
    task: str
    run: str
    token: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    agent: str
    result: Result | None = None
    failure: Told | None = None
    receipts: tuple[Receipt, ...] = ()
    usage: Spent | None = None
    why: str = ""
    note: Note | None = None
    call: Call | None = None
    ask: Question | None = None
    traceparent: str | None = None

    def __post_init__(self) -> None:
        if self.kind == "completed" and self.result is None:
            raise ValueError("a completed report needs a result")
        if self.kind == "failed" and self.failure is None:
            raise ValueError("a failed report needs a failure")
        if self.kind == "noted" and self.note is None:
            raise ValueError("a noted report needs a note")
        if self.kind in ("used", "settle") and self.usage is None:
            raise ValueError(f"a {self.kind} report needs a usage")
        if self.kind in ("reserve", "settle") and self.call is None:
            raise ValueError(f"a {self.kind} report needs a call")
        used = self.usage
        if (
            used
            and used.input_total is not None
            and (used.cache_read or 0) + (used.cache_write or 0) > used.input_total
        ):
            raise ValueError("`input_total` counts cache_read and cache_write too, and is less than they are")
        if self.kind == "asked" and self.ask is None:
            raise ValueError("an asked report needs what it asks: `ask`")


class Verdict(msgspec.Struct):
    id: UUID
    accepted: bool
    why: str = ""
    position: int = 0


def command(report: Report, role: str, now: float) -> WorkflowCommand:
    held: dict[str, Any] = {
        "now": now,
        "task": report.task,
        "run": report.run,
        "token": report.token,
        "agent": report.agent,
        "role": role,
    }
    ended = held | {"spent": report.usage}
    match report.kind:
        case "started":
            return ReportStarted(**held)
        case "completed":
            assert report.result is not None
            if why := _unacceptable(report.result):
                return ReportFailed(**ended, failure=Failure("invalid_result", why))
            return ReportCompleted(**ended, result=report.result)
        case "failed":
            assert report.failure is not None
            return ReportFailed(**ended, failure=report.failure.failure())
        case "asked":
            assert report.ask is not None
            if why := report.ask.unacceptable():
                return ReportFailed(**ended, failure=Failure("invalid_result", why))
            return ReportAsked(**ended, **msgspec.structs.asdict(report.ask))
        case "verified":
            if (size := len(msgspec.json.encode(report.receipts))) > RECEIPTS_BYTES:
                why = f"the receipts have {size} bytes, the limit is {RECEIPTS_BYTES}: cut what the tests have printed"
                return ReportFailed(**ended, failure=Failure("sandbox", why))
            return ReportVerified(**ended, receipts=report.receipts)
        case "noted":
            assert report.note is not None
            return ReportNoted(**held, key=report.note.key, value=report.note.value)
        case "reserve":
            assert report.call is not None
            return ReportReserve(**held, call=report.call.id, tokens=report.call.tokens, usd=report.call.usd)
        case "settle":
            assert report.call is not None and report.usage is not None
            return ReportSettle(**held, call=report.call.id, spent=report.usage)
        case "used":
            assert report.usage is not None
            return ReportUsage(**held, spent=report.usage, why=report.why[:MESSAGE_CHARACTERS])
    assert_never(report.kind)


def _unacceptable(result: Result) -> str:
    """Why a result cannot be taken; empty if it can."""
    if result.commit is not None and not COMMIT.fullmatch(result.commit):  # a branch moves after it was tested
        return f"{result.commit[:50]!r} is no commit: it takes the full id, 40 or 64 of 0-9 and a-f"
    if len(result.findings) > FINDINGS:
        return f"the result has {len(result.findings)} findings, the limit is {FINDINGS}: report the gravest"
    size = len(msgspec.json.encode((result.summary, result.data, result.findings)))
    if size > RESULT_BYTES:
        return f"the result has {size} bytes, the limit is {RESULT_BYTES}: put it into a file of the work tree"
    if _levels(result.data) >= NESTED_LEVELS:
        return f"the result is nested more than {NESTED_LEVELS} levels deep"
    return ""


def _levels(value: Any) -> int:
    """How deep it is nested, counted up to NESTED_LEVELS."""
    level, depth = [value], 0
    while depth < NESTED_LEVELS and (level := [inner for one in level for inner in _inside(one)]):
        depth += 1
    return depth


def _inside(value: Any) -> Iterable[Any]:
    match value:
        case dict():
            return value.values()
        case list():
            return value
    return ()
