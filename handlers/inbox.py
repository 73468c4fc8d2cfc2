"""What agents report, taken in: decode, execute, tell the agent the verdict, acknowledge. In this order: a crash
anywhere between leads to a redelivery, and the command's id makes that harmless.

A message holds the reports of one agent on one workflow. What is no report can never become one: the message goes to
the dead letters with the reason, and is kept there.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Literal, assert_never
from uuid import UUID

import msgspec
import structlog

from domain.commands import ReportCompleted, ReportFailed, ReportStarted, ReportVerified
from domain.errors import Refused
from domain.events import ReportRefused
from domain.failures import FAILURE_TYPES
from domain.outcome import RESULT_BYTES, Failure, Receipt, Result
from handlers.execute import Executor, Order
from ledger.errors import LedgerUnavailable, NotRecordable, WrongVersion
from ledger.ports import Bus, Message
from ledger.recorded import Recorded

log = structlog.get_logger()

BATCH = 500
IN_FLIGHT = 4000
"""Reports taken in and not yet settled; the server holds back the rest."""
ACK_WAIT_SECONDS = 60
DAY_SECONDS = 86_400
AGAIN_SECONDS = 1.0
"""After so long a message comes again that could not be recorded because Postgres is away."""
MESSAGE_CHARACTERS, DETAIL_CHARACTERS = 2_000, 8_000
NESTED_LEVELS = 100
"""Parsers give up somewhere near a thousand, each elsewhere: what is recorded has to be readable by all."""
OTHERS_TO_SAY = ("refused", "budget")
"""Failures that people and budgets give, never agents."""


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


class Sender(msgspec.Struct):
    """As much of a report as it takes to answer it."""

    id: UUID
    verdict: str


class Report(msgspec.Struct):
    """The wire form. `id` is the command's; `verdict` the subject on which the sender waits for its answer."""

    id: UUID
    kind: Literal["started", "completed", "failed", "verified"]
    task: str
    run: str
    token: int
    agent: str
    verdict: str
    result: Result | None = None
    failure: Told | None = None
    receipts: tuple[Receipt, ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "completed" and self.result is None:
            raise ValueError("a completed report needs a result")
        if self.kind == "failed" and self.failure is None:
            raise ValueError("a failed report needs a failure")


class Verdict(msgspec.Struct):
    id: UUID
    accepted: bool
    why: str = ""
    position: int = 0


class Inbox:
    """Run `await inbox.run()`. Any number of them share the work."""

    def __init__(self, bus: Bus, executor: Executor, tenant: str, now: Callable[[], float] = time.time) -> None:
        self._bus, self._executor, self._tenant, self._now = bus, executor, tenant, now
        self._stream, self._dead = f"{tenant.upper()}_INBOX", f"{tenant.upper()}_DEAD"
        self._pieces = msgspec.json.Decoder(list[msgspec.Raw])
        self._decoder = msgspec.json.Decoder(Report)
        self._done: list[_Letter] = []
        self._verdicts: dict[str, list[Verdict]] = {}
        self._bell = asyncio.Event()
        self._fault: BaseException | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._answer())
            while True:
                await self._ensure()
                try:
                    async for messages in self._bus.pull(self._stream, "inbox", batch=BATCH):
                        for message in messages:
                            await self._take(message)
                        if self._fault is not None:
                            raise self._fault
                except LookupError as gone:
                    log.warning("inbox.gone", stream=self._stream, why=str(gone))

    async def _ensure(self) -> None:
        """Both streams may be wiped at any time: what was in them is sent again by the agents."""
        common = {
            "storage": "file", "retention": "limits", "discard": "old", "max_age": DAY_SECONDS * 10**9,
            "max_bytes": 512 * 2**20, "deny_delete": True, "metadata": {"owner": "cairn", "tenant": self._tenant},
        }  # fmt: skip
        inbox = {"name": self._stream, "subjects": [f"cairn.{self._tenant}.in.>"], "allow_atomic": True, **common}
        dead = {"name": self._dead, "subjects": [f"cairn.{self._tenant}.dead.>"], **common}
        consumer = {
            "durable_name": "inbox", "ack_policy": "explicit", "ack_wait": ACK_WAIT_SECONDS * 10**9,
            "max_ack_pending": IN_FLIGHT,
        }  # fmt: skip
        while True:
            try:
                await self._bus.ensure_stream(inbox)
                await self._bus.ensure_stream(dead)
                await self._bus.ensure_consumer(self._stream, consumer)
                return
            except (ConnectionError, TimeoutError, LookupError):
                await asyncio.sleep(0.2)

    async def _take(self, message: Message) -> None:
        try:
            pieces = self._pieces.decode(message.data)
        except (ValueError, RecursionError) as error:
            await self._bury(message, [], str(error))
            return
        workflow = message.subject.rpartition(".")[2]
        letter = _Letter(message, len(pieces))
        for piece in pieces:
            try:
                report = self._decoder.decode(piece)
                self._check(report)
            except (ValueError, RecursionError) as error:
                await self._bury(message, [piece], str(error))
                letter.open -= 1
                continue
            order = Order(report.id, _command(report, self._now()), f"agent/{report.agent}")
            self._executor.submit(workflow, order).add_done_callback(partial(self._settle, letter, report))
        if not letter.open:
            self._finished(letter)

    def _check(self, report: Report) -> None:
        for name in (report.task, report.run, report.agent):
            if not 0 < len(name) <= 200 or not name.isprintable():
                raise ValueError(f"{name[:50]!r} is no name")
        self._check_subject(report.verdict)

    def _check_subject(self, verdict: str) -> None:
        if not verdict.startswith(f"cairn.{self._tenant}.verdict.") or not verdict.isprintable() or " " in verdict:
            raise ValueError(f"verdicts go to cairn.{self._tenant}.verdict.<agent>, not to {verdict[:80]!r}")

    def _settle(self, letter: "_Letter", report: Report, answer: asyncio.Future[list[Recorded]]) -> None:
        if answer.cancelled():
            return
        verdict = Verdict(report.id, accepted=True)
        match answer.exception():
            case None:
                events = answer.result()
                if events:
                    verdict.position = events[-1].position
                if events and isinstance(refused := events[0].event, ReportRefused):
                    verdict.accepted, verdict.why = False, refused.why
            case Refused() | NotRecordable() as refusal:
                verdict.accepted, verdict.why = False, str(refusal)
            case LedgerUnavailable() | WrongVersion() as away:
                log.warning("inbox.again", workflow=letter.message.subject, why=str(away))
                letter.again = True
                self._close(letter)
                return
            case fault:
                self._fault = fault  # not acknowledged: it comes again, to us or to another
                return
        if report.kind != "started" or not verdict.accepted:
            self._verdicts.setdefault(report.verdict, []).append(verdict)
        self._close(letter)

    def _close(self, letter: "_Letter") -> None:
        letter.open -= 1
        if not letter.open:
            self._finished(letter)

    def _finished(self, letter: "_Letter") -> None:
        self._done.append(letter)
        self._bell.set()

    async def _answer(self) -> None:
        """Verdicts first, acknowledgements after: a lost verdict is asked for again, a lost report would not be."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            done, self._done = self._done, []
            verdicts, self._verdicts = self._verdicts, {}
            with suppress(ConnectionError):  # what is not acknowledged comes again, and is answered again
                for subject, batch in verdicts.items():
                    await self._bus.publish(subject, msgspec.json.encode(batch))
                for letter in done:
                    if letter.again:
                        await self._bus.nak(letter.message, AGAIN_SECONDS)
                    else:
                        await self._bus.ack(letter.message)

    async def _bury(self, message: Message, pieces: list[msgspec.Raw], why: str) -> None:
        """Keeps what cannot be read. A sender that can be told is told, so that it does not send it again."""
        reason = "".join(one if one.isprintable() else "?" for one in why)[:500]
        log.warning("inbox.dead_letter", subject=message.subject, bytes=len(message.data), why=reason)
        subject = message.subject.replace(".in.", ".dead.", 1)
        while True:
            with suppress(ConnectionError, TimeoutError):
                if "error" not in await self._bus.store(subject, message.data, {"Cairn-Why": reason}):
                    break
            await asyncio.sleep(0.2)
        for piece in pieces:
            with suppress(ValueError, RecursionError):
                sender = msgspec.json.decode(piece, type=Sender)
                self._check_subject(sender.verdict)
                self._verdicts.setdefault(sender.verdict, []).append(Verdict(sender.id, accepted=False, why=reason))
        if not pieces:
            self._done.append(_Letter(message, 0))
        self._bell.set()


class _Letter:
    """A message and how many of its reports are not settled yet; whether it has to come again."""

    __slots__ = ("again", "message", "open")

    def __init__(self, message: Message, reports: int) -> None:
        self.message, self.open, self.again = message, reports, False


def _command(report: Report, now: float) -> ReportStarted | ReportCompleted | ReportFailed | ReportVerified:
    held: dict[str, Any] = {
        "now": now,
        "task": report.task,
        "run": report.run,
        "token": report.token,
        "agent": report.agent,
    }
    match report.kind:
        case "started":
            return ReportStarted(**held)
        case "completed":
            assert report.result is not None
            if why := _unacceptable(report.result):
                return ReportFailed(**held, failure=Failure("invalid_result", why))
            return ReportCompleted(**held, result=report.result)
        case "failed":
            assert report.failure is not None
            return ReportFailed(**held, failure=report.failure.failure())
        case "verified":
            return ReportVerified(**held, receipts=report.receipts)
    assert_never(report.kind)


def _unacceptable(result: Result) -> str:
    """Why a result cannot be taken; empty if it can."""
    size = len(msgspec.json.encode(result))
    if size > RESULT_BYTES:
        return f"the result has {size} bytes, the limit is {RESULT_BYTES}: put it into a file of the work tree"
    level, depth = [result.data], 0
    while level := [inner for one in level for inner in _inside(one)]:
        if (depth := depth + 1) >= NESTED_LEVELS:
            return f"the result is nested more than {NESTED_LEVELS} levels deep"
    return ""


def _inside(value: Any) -> Iterable[Any]:
    match value:
        case dict():
            return value.values()
        case list():
            return value
    return ()
