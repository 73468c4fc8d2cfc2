"""What agents report, taken in: decode, execute, tell the agent the verdict, acknowledge. In this order: a crash
anywhere between leads to a redelivery, and the command's id makes that harmless.

A message holds reports of one agent, on whichever workflows; who that is stands in its subject. What is no report, or
another's, can never become one: the message goes to the dead letters with the reason, and is kept there.
"""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from uuid import UUID, uuid5

import msgspec
import structlog

from domain.errors import Full, Refused
from domain.events import ReportRefused
from handlers.execute import Executor, Order, trace_of
from handlers.identity import Speaker, speaker
from handlers.reports import Numbered, Report, Verdict, command
from ledger.errors import LedgerUnavailable, NotRecordable, WrongVersion
from ledger.ports import Bus, Message
from ledger.recorded import Recorded

log = structlog.get_logger()

BATCH = 500
REPORTS = 1000
"""In one message, and verdicts in one."""
REASON_BYTES = 4096
"""More than the header of a dead letter takes."""
WORKFLOW = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
SENT = UUID("0d6b9b52-9e0f-5f0a-8a1c-7c1f2f0b6d43")
"""The namespace of the ids of commands that agents give: none of them can be that of a clock, or of another agent."""
IN_FLIGHT = 4000
"""Reports taken in and not yet settled; the server holds back the rest."""
ACK_WAIT_SECONDS = 10
"""Reports that were pulled by a server that died come again after this."""
DAY_SECONDS = 86_400
AGAIN_SECONDS = 1.0
"""After so long a message comes again that could not be recorded because Postgres is away."""


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
            sender = speaker(message.subject)
            pieces = self._pieces.decode(message.data)
            if len(pieces) > REPORTS:
                raise ValueError(f"{len(pieces)} reports in a message, at most {REPORTS} are taken")
        except (ValueError, RecursionError) as error:
            await self._bury(message, str(error))
            self._finished(_Letter(message, 0))
            return
        letter, bad = _Letter(message, len(pieces)), list[tuple[msgspec.Raw, str]]()
        for piece in pieces:
            try:
                report = self._decoder.decode(piece)
                _check(report, sender)
            except (ValueError, RecursionError) as error:
                bad.append((piece, str(error)))
                continue
            trace = trace_of(report.traceparent)
            order = Order(_id(report), command(report, sender.role, self._now()), f"agent/{report.agent}", trace)
            self._executor.submit(report.workflow, order).add_done_callback(partial(self._settle, letter, report))
        if bad:
            await self._bury(message, bad[0][1])
        for piece, why in bad:
            self._tell(sender.agent, piece, why)
            letter.open -= 1
        if not letter.open:
            self._finished(letter)

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
            case LedgerUnavailable() | WrongVersion() | Full() as away:
                log.warning("inbox.again", **_about(report), why=str(away))
                letter.again = True
                self._close(letter)
                return
            case Refused() | NotRecordable() as refusal:
                log.debug("inbox.refused", **_about(report), why=str(refusal))
                verdict.accepted, verdict.why = False, str(refusal)
            case fault:
                log.error("inbox.fault", **_about(report), why=f"{type(fault).__name__}: {fault}")
                self._fault = fault  # not acknowledged: it comes again, to us or to another
                return
        if report.kind != "started" or not verdict.accepted:
            self._verdicts.setdefault(report.agent, []).append(verdict)
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
                for agent, batch in verdicts.items():
                    subject = f"cairn.{self._tenant}.verdict.{agent}"
                    for some in range(0, len(batch), REPORTS):
                        await self._bus.publish(subject, msgspec.json.encode(batch[some : some + REPORTS]))
                for letter in done:
                    if letter.again:
                        await self._bus.nak(letter.message, AGAIN_SECONDS)
                    else:
                        await self._bus.ack(letter.message)

    async def _bury(self, message: Message, why: str) -> None:
        """Keeps a message that cannot be read, or not all of it; of one that fills a message to the brim, the start."""
        reason = _line(why)
        log.warning("inbox.dead_letter", subject=message.subject, bytes=len(message.data), why=reason)
        subject = f"cairn.{self._tenant}.dead.inbox"  # not its own: a stranger chose that
        data = message.data[: self._bus.max_payload - REASON_BYTES]
        while True:
            with suppress(ConnectionError, TimeoutError):
                if "error" not in await self._bus.store(subject, data, {"Cairn-Why": reason}):
                    return
            await asyncio.sleep(0.2)
            await self._ensure()

    def _tell(self, agent: str, piece: msgspec.Raw, why: str) -> None:
        """A sender that can be told that its report is none is told, so that it does not send it again."""
        with suppress(ValueError, RecursionError):
            id = msgspec.json.decode(piece, type=Numbered).id
            self._verdicts.setdefault(agent, []).append(Verdict(id, accepted=False, why=_line(why)))


class _Letter:
    """A message and how many of its reports are not settled yet; whether it has to come again."""

    __slots__ = ("again", "message", "open")

    def __init__(self, message: Message, reports: int) -> None:
        self.message, self.open, self.again = message, reports, False


def _check(report: Report, sender: Speaker) -> None:
    if report.agent != sender.agent:
        raise ValueError(f"{sender.agent} speaks for {report.agent[:50]!r}: an agent reports on what it does itself")
    if not WORKFLOW.fullmatch(report.workflow):
        raise ValueError(f"{report.workflow[:50]!r} is no workflow's name")
    for name in (report.task, report.run):
        if not 0 < len(name) <= 200 or not name.isprintable():
            raise ValueError(f"{name[:50]!r} is no name")


def _about(report: Report) -> dict[str, str]:
    """What a line of the log that is about a report says of it."""
    return {
        "workflow": report.workflow, "correlation_id": report.workflow, "task": report.task, "run": report.run,
        "agent": report.agent, "kind": report.kind, "causation_id": str(_id(report)),
    }  # fmt: skip


def _id(report: Report) -> UUID:
    return uuid5(SENT, f"{report.agent}/{report.id}")


def _line(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text[:500])
