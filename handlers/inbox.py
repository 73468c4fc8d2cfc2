"""What agents report, taken in: decode, execute, tell the agent the verdict, acknowledge. In this order: a crash
anywhere between leads to a redelivery, and the command's id makes that harmless.

A message that is no report can never become one: it goes to the dead letters with the reason, and is kept there.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, assert_never
from uuid import UUID

import msgspec
import structlog

from domain.commands import ReportCompleted, ReportFailed, ReportStarted, ReportVerified
from domain.errors import Refused
from domain.events import ReportRefused
from domain.outcome import RESULT_BYTES, Failure, Receipt, Result
from handlers.execute import Executor, Order
from ledger.ports import Bus, Message
from ledger.recorded import Recorded

log = structlog.get_logger()

BATCH = 500
IN_FLIGHT = 4000
"""Reports taken in and not yet settled; the server holds back the rest."""
ACK_WAIT_SECONDS = 60
DAY_SECONDS = 86_400


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
    failure: Failure | None = None
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
        self._decoder = msgspec.json.Decoder(Report)
        self._done: list[tuple[Message, Report, Verdict]] = []
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
            report = self._decoder.decode(message.data)
            self._check(report)
        except (msgspec.DecodeError, ValueError) as error:
            await self._bury(message, str(error))
            return
        workflow = message.subject.rpartition(".")[2]
        order = Order(report.id, _command(report, self._now()), f"agent/{report.agent}")
        self._executor.submit(workflow, order).add_done_callback(partial(self._settle, message, report))

    def _check(self, report: Report) -> None:
        for name in (report.task, report.run, report.agent):
            if not 0 < len(name) <= 200 or not name.isprintable():
                raise ValueError(f"{name[:50]!r} is no name")
        if not report.verdict.startswith(f"cairn.{self._tenant}.verdict."):
            raise ValueError(
                f"verdicts are sent to cairn.{self._tenant}.verdict.<agent>, not to {report.verdict[:80]!r}"
            )

    def _settle(self, message: Message, report: Report, answer: asyncio.Future[list[Recorded]]) -> None:
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
            case Refused() as refusal:
                verdict.accepted, verdict.why = False, str(refusal)
            case fault:
                self._fault = fault  # not acknowledged: it comes again, to us or to another
                return
        self._done.append((message, report, verdict))
        self._bell.set()

    async def _answer(self) -> None:
        """Verdicts first, acknowledgements after: a lost verdict is asked for again, a lost report would not be."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            done, self._done = self._done, []
            verdicts: dict[str, list[Verdict]] = {}
            for _, report, verdict in done:
                if report.kind != "started" or not verdict.accepted:
                    verdicts.setdefault(report.verdict, []).append(verdict)
            try:
                for subject, batch in verdicts.items():
                    await self._bus.publish(subject, msgspec.json.encode(batch))
                for message, _, _ in done:
                    await self._bus.ack(message)
            except ConnectionError:
                continue  # they are delivered again, and answered again

    async def _bury(self, message: Message, why: str) -> None:
        log.warning("inbox.dead_letter", subject=message.subject, bytes=len(message.data), why=why)
        subject = message.subject.replace(".in.", ".dead.", 1)
        reason = "".join(one if one.isprintable() else "?" for one in why)[:500]
        try:
            stored = await self._bus.store(subject, message.data, {"Cairn-Why": reason})
        except (ConnectionError, TimeoutError):
            return  # not acknowledged: it comes again
        if "error" not in stored:
            await self._bus.ack(message)


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
            if len(msgspec.json.encode(report.result)) > RESULT_BYTES:
                return ReportFailed(**held, failure=Failure("invalid_result", f"larger than {RESULT_BYTES} bytes"))
            return ReportCompleted(**held, result=report.result)
        case "failed":
            assert report.failure is not None
            return ReportFailed(**held, failure=report.failure)
        case "verified":
            return ReportVerified(**held, receipts=report.receipts)
    assert_never(report.kind)
