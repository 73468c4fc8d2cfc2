"""Reports on their way to the inbox: nothing an agent has finished is lost with its process, or with the bus.

An outcome is written to the journal on disk and kept there until it is known to be accepted or refused; until then it
is sent again, also by the agent's next process. Reports that wait together travel in one message, whichever workflows
they are about. The same report may arrive twice: it carries an id of its own, and the same report again changes
nothing.
"""

import asyncio
import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from cairn.bus import Bus, Message

RESEND_SECONDS = 5.0
BATCH = 500
HEADER_BYTES = 1024
"""More than the headers of a report's message, and what holds its reports together, ever take."""
LOCK_SECONDS, LOCK_TRIES = 0.2, 50
JOURNAL_BYTES = 4 * 1024 * 1024
"""A journal larger than this is emptied as soon as nothing in it is owed."""


class Verdict(msgspec.Struct):
    """What became of a report. `accepted` is False when the run no longer held its lease; `why` says so."""

    id: str
    accepted: bool
    why: str = ""
    position: int = 0


class _Report:
    __slots__ = ("answers", "encoded", "id", "journaled", "kept", "sent", "stored")

    def __init__(
        self,
        id: str,
        encoded: bytes,
        kept: bool,
        answers: Message | None = None,
        stored: asyncio.Event | None = None,
    ) -> None:
        self.id, self.encoded, self.kept, self.answers, self.stored = id, encoded, kept, answers, stored
        self.sent, self.journaled = 0.0, False


class Outbox:
    """Run `await outbox.run()` beside the work. `role` and `agent` are the sender, also in the subjects of reports and
    verdicts; `refused` is told the id of a report that was not kept and is not accepted."""

    def __init__(
        self,
        bus: Bus,
        tenant: str,
        role: str,
        agent: str,
        journal: Path,
        refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._bus, self._tenant, self._role, self._agent = bus, tenant, role, agent
        self._path, self._refused = journal, refused
        self._waiting: list[_Report] = []
        self._owed: dict[str, _Report] = {}
        self._settled: list[str] = []
        self._asked: dict[str, asyncio.Future[str]] = {}
        self._bell = asyncio.Event()
        self._look_at, self._generation = 0.0, bus.generation
        self._encoder = msgspec.json.Encoder()

    def report(
        self,
        workflow: str,
        body: dict[str, Any],
        *,
        keep: bool = False,
        answers: Message | None = None,
        stored: asyncio.Event | None = None,
    ) -> str:
        """Queues a report; its id. `keep` is for outcomes; as soon as the inbox holds the report, `answers` is
        acknowledged and `stored` set.

        An outcome that no message of this NATS can hold becomes a failure that says so.
        """
        body = {"id": str(uuid4()), "workflow": workflow, "agent": self._agent, **body}
        encoded = self._encoder.encode(body)
        if len(encoded) > self._room:
            why = f"the outcome has {len(encoded)} bytes, a message to the inbox holds {self._room}"
            body = {**body, "kind": "failed", "failure": {"type": "invalid_result", "message": why}}
            encoded = self._encoder.encode({name: body[name] for name in body if name not in ("result", "receipts")})
        self._queue(_Report(body["id"], encoded, keep, answers, stored))
        return str(body["id"])

    async def ask(self, workflow: str, body: dict[str, Any]) -> str:
        """Reports, kept as an outcome is, and waits for the verdict: why it was refused, or nothing."""
        id = self.report(workflow, body, keep=True)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._asked[id] = answer
        try:
            return await answer
        finally:
            del self._asked[id]

    async def emptied(self) -> None:
        """Waits until every report is stored and every outcome judged."""
        while self._waiting or self._owed:
            await asyncio.sleep(0.02)

    def _queue(self, report: _Report) -> None:
        if report.kept:
            self._owed[report.id] = report
        self._waiting.append(report)
        self._bell.set()

    async def run(self) -> None:
        """Until cancelled. BlockingIOError when another process of this name lives."""
        await self._serve(LOCK_TRIES)

    async def settle(self) -> None:
        """Until all that its journal owes is judged; then removes it. BlockingIOError when its agent lives."""
        await self._serve(1, settling=True)
        self._path.unlink(missing_ok=True)

    async def _serve(self, tries: int, *, settling: bool = False) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unsubscribe = await self._bus.subscribe(f"cairn.{self._tenant}.verdict.{self._agent}", self._hear)
        with await self._open(tries) as journal:
            self._recover(journal)
            journal.write(b"\n")  # ends a torn last line: what comes now is not to be a part of it
            try:
                while not settling or self._waiting or self._owed:
                    await self._wait()
                    self._forget(journal)
                    if self._waiting:
                        await self._send(journal)
            finally:
                _write(journal, self._lines([report for report in self._owed.values() if not report.journaled]))
                self._forget(journal)
                await unsubscribe()

    async def _open(self, tries: int) -> FileIO:
        """The journal, ours alone. BlockingIOError when another process of this name has it and does not end."""
        for _ in range(tries):
            journal = self._path.open("ab+", buffering=0)
            if _locked(journal, self._path):
                return journal
            journal.close()
            await asyncio.sleep(LOCK_SECONDS)
        raise BlockingIOError(f"another agent named {self._agent} is alive ({self._path}): give this one its own name")

    def _recover(self, journal: FileIO) -> None:
        """Queues what the journal still owes."""
        for name, body in _debts(journal).items():
            report = _Report(name, self._encoder.encode(body), True)
            report.journaled = True
            self._queue(report)

    def _lines(self, reports: list[_Report]) -> bytes:
        return b"".join(b'{"body":%s}\n' % one.encoded for one in reports)

    @property
    def _room(self) -> int:
        """Bytes for the reports of one message."""
        return self._bus.max_payload - HEADER_BYTES

    def _letters(self, reports: list[_Report]) -> list[tuple[str, bytes, dict[str, str] | None]]:
        """The reports in one message, or in as many as it takes."""
        pages: list[list[bytes]] = [[]]
        size = 0
        for report in reports:
            size += len(report.encoded) + 1
            if size > self._room and pages[-1]:
                pages.append([])
                size = len(report.encoded) + 1
            pages[-1].append(report.encoded)
        return [
            (f"cairn.{self._tenant}.in.{self._role}.{self._agent}", b"[%s]" % b",".join(page), None) for page in pages
        ]

    async def _wait(self) -> None:
        """Until there is something to send: a new report, or one that was sent long ago and never answered."""
        if not self._waiting:
            self._bell.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(RESEND_SECONDS / 2):
                    await self._bell.wait()
                await asyncio.sleep(0)  # work that ends as it begins reports both at once
        now = time.monotonic()
        if self._generation != self._bus.generation:
            # Whoever had taken them in may have gone with the connection.
            self._generation = self._bus.generation
            self._waiting += [
                report for report in self._owed.values() if report.sent > 0 and report not in self._waiting
            ]
        elif now > self._look_at:
            self._look_at = now + RESEND_SECONDS / 2
            self._waiting += [report for report in self._owed.values() if 0 < report.sent < now - RESEND_SECONDS]

    async def _send(self, journal: FileIO) -> None:
        batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
        fresh = [report for report in batch if report.kept and not report.journaled]
        lines = self._lines(fresh)
        messages = self._letters(batch)
        now = time.monotonic()
        for report in batch:
            report.sent = now
        writing = asyncio.ensure_future(asyncio.to_thread(_write, journal, lines) if lines else asyncio.sleep(0))
        try:
            sent = await self._store(messages)
        finally:
            await writing  # its thread goes on even when we are cancelled
        for report in batch:
            report.journaled = True
        if not sent:
            self._waiting += [report for report in batch if not report.kept or report.id in self._owed]
            await asyncio.sleep(0.1)
            return
        for report in batch:
            if report.stored is not None:
                report.stored.set()
            if report.answers is not None:
                await self._bus.ack(report.answers)

    def _forget(self, journal: FileIO) -> None:
        """Not synced: an outcome that is remembered too long is sent again, and changes nothing."""
        if journal.tell() > JOURNAL_BYTES and not any(report.journaled for report in self._owed.values()):
            journal.truncate(0)
        elif self._settled:
            journal.write(b"".join(b'{"done":"%s"}\n' % name.encode() for name in self._settled))
        self._settled.clear()

    async def _store(self, messages: Sequence[tuple[str, bytes, dict[str, str] | None]]) -> bool:
        try:
            answer = await self._bus.store_batch(messages)
        except (ConnectionError, TimeoutError):
            return False
        return "error" not in answer

    async def _hear(self, message: Message) -> None:
        for verdict in msgspec.json.decode(message.data, type=list[Verdict]):
            if (answer := self._asked.get(verdict.id)) and not answer.done():
                answer.set_result("" if verdict.accepted else verdict.why or "no reason given")
            if self._owed.pop(verdict.id, None) is not None:
                self._settled.append(verdict.id)
            elif not verdict.accepted:
                self._refused(verdict.id)


def owing(journal: Path) -> bool:
    """Whether an agent whose process is no more left this and owes something; one that owes nothing is removed."""
    with suppress(FileNotFoundError), journal.open("rb", buffering=0) as theirs:
        if _locked(theirs, journal):  # the kernel drops the lock with the process
            if _debts(theirs):
                return True
            journal.unlink()
    return False


def _debts(journal: FileIO) -> dict[str, dict[str, Any]]:
    """The reports of a journal that are not known to be judged, by their ids."""
    journal.seek(0)
    kept: dict[str, dict[str, Any]] = {}
    for line in journal.read().splitlines():
        try:
            entry = msgspec.json.decode(line)
        except msgspec.DecodeError:
            continue  # the torn last line of a process that was killed: what it held was never sent
        if "done" in entry:
            kept.pop(entry["done"], None)
        else:
            kept[entry["body"]["id"]] = entry["body"]
    return kept


def _locked(journal: FileIO, path: Path) -> bool:
    """Whether it is ours now, and still the file of that name: whoever adopts a journal removes it."""
    try:
        fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(journal.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _write(journal: FileIO, lines: bytes) -> None:
    while lines:
        lines = lines[journal.write(lines) :]
    os.fdatasync(journal.fileno())
