"""An agent: a worker of one role, written as a decorated function.

    agent = Agent("coder")

    @agent.task
    async def write(task: Task) -> Result:
        (task.path / "hello.txt").write_text("hello")
        return Result(summary="said hello")

    agent.run()

What it promises its author: the function runs in a Git worktree of its own; what it changed there is committed with
the trailers of the run; its outcome is kept on disk until it is known to be accepted or refused; a heartbeat holds
the lease; when the lease is lost or the time is over the function is cancelled. A dispatch is acknowledged once the
word that it has begun is stored, so an agent that dies before leaves it to another.

It is long because joining, pulling, working, beating and handing back share one table of runs.
"""

import asyncio
import logging
import os
import re
import signal
import socket
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from importlib.metadata import version
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import msgspec
from structlog.contextvars import bind_contextvars

from cairn import trace
from cairn.admission import admitted
from cairn.bus import Bus, Message
from cairn.calls import CairnError
from cairn.config import Connection, connection
from cairn.git import GitError, MergeConflict
from cairn.outbox import Outbox, owing
from cairn.repository import Repository
from cairn.task import Asked, Failed, Finding, Result, Task

Handler = Callable[[Task], Awaitable[Any]]
Key = tuple[str, str, int]
"""Workflow, run, token: one lease."""

log = logging.getLogger(__name__)

ROLE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,127}")
"""A name becomes a part of subjects, of streams and of the user that NATS knows it by."""
CAPABILITY = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")
MOST_CAPABILITIES = 4
NOT_IN_NAMES = re.compile(r"[^a-z0-9_-]")
JOIN_SECONDS = 0.5
LEASE_SECONDS = 3.0
"""For how long it may be silent, until it is told."""
GOODBYE_SECONDS = 1.0
DRAIN_SECONDS = 5.0
FLUSH_SECONDS = 3.0
RESULT_BYTES, FINDINGS = 65_536, 200
DIFF_BYTES = 65_536
PASS_ON_SECONDS = 1.0
PASS_ON_TIMES = 600
"""An offer that nobody takes is made anew after ten minutes: the old one is not to go round for ever."""


class _Dispatch(msgspec.Struct):
    """The part of the CloudEvent that an agent reads."""

    sequence: str
    data: Task
    traceparent: str | None = None


class _Run(NamedTuple):
    lease_seconds: float
    lease: dict[str, Any]
    task: Task
    begun: str
    work: asyncio.Task[None]
    span: trace.Run


class Agent:
    """`role` is what it does, `name` who it is (unique among agents alive), `capacity` how many tasks at once.
    `capabilities` are what it has besides, four words at most: tasks that need them go to those that have them all.

    With `commits=False` the handler's worktree is only read.
    """

    def __init__(
        self,
        role: str,
        *,
        name: str | None = None,
        capacity: int = 1,
        capabilities: Sequence[str] = (),
        commits: bool = True,
    ) -> None:
        if not ROLE.fullmatch(role):
            raise ValueError(f"role {role!r}: at most 63 of a-z, 0-9, _ and -, the first a letter or a digit")
        if name is not None and not NAME.fullmatch(name):
            raise ValueError(f"name {name!r}: at most 128 of a-z, 0-9, _ and -, the first a letter or a digit")
        if len(set(capabilities)) > MOST_CAPABILITIES or not all(CAPABILITY.fullmatch(one) for one in capabilities):
            rule = "at most 31 of a-z, 0-9, _ and -, the first a letter or a digit"
            raise ValueError(f"capabilities {tuple(capabilities)!r}: at most {MOST_CAPABILITIES}, each {rule}")
        if capacity < 1:
            raise ValueError(f"capacity {capacity}: an agent works on one task at least")
        host = NOT_IN_NAMES.sub("-", socket.gethostname().lower())[:40]
        self.role, self.capacity, self._commits = role, capacity, commits
        self.capabilities = tuple(sorted(set(capabilities)))
        self.name = name or f"{role}-{host}-{os.getpid()}-{uuid4().hex[:6]}"
        self._handler: Handler | None = None
        self._runs: dict[Key, _Run] = {}
        self._room = asyncio.Event()
        self._drained = False
        self._lease_seconds = LEASE_SECONDS
        self._decoder = msgspec.json.Decoder(_Dispatch)

    def task(self, handler: Handler) -> Handler:
        """Registers the function that does the work: it takes a Task, returns a Result, a dict, a string or None."""
        if not (iscoroutinefunction(handler) or iscoroutinefunction(getattr(handler, "__call__", None))):  # noqa: B004
            raise TypeError(f"{handler!r} is no `async def`: blocking work belongs in `await asyncio.to_thread(...)`")
        self._handler = handler
        return handler

    def run(self, where: Connection | None = None) -> None:
        """Works until SIGINT or SIGTERM, then stops as `serve` does; a second SIGINT ends it at once."""

        trace.configure("cairn-agent", version("cairn"))

        async def main() -> None:
            stop = asyncio.Event()
            serving = asyncio.create_task(self.serve(where, stop=stop))

            def on_interrupt() -> None:
                (serving.cancel if stop.is_set() else stop.set)()

            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, on_interrupt)
            # The kernel says it once for each thread of a parent that is killed.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
            with suppress(asyncio.CancelledError):
                await serving

        try:
            import uvloop
        except ImportError:
            asyncio.run(main())
        else:
            uvloop.run(main())

    async def serve(self, where: Connection | None = None, *, stop: asyncio.Event | None = None) -> None:
        """Works on the running loop until cancelled, or until `stop` is set.

        Then it takes nothing new, gives what it runs a few seconds to end, hands the rest back as `agent_lost` so that
        it is tried again at once, waits until its reports are stored, and says goodbye. What it still owes stays in its
        journal.
        """
        if self._handler is None:
            raise TypeError(f"agent {self.name} has no handler: decorate one with @agent.task")
        where = where or connection()
        journal = where.state_dir / "outbox" / where.tenant / self.role / f"{self.name}.jsonl"
        async with admitted(where, self.role, self.name, self.capabilities) as bus, asyncio.TaskGroup() as group:
            outbox = Outbox(bus, where.tenant, self.role, self.name, journal, self._refused)
            sending = group.create_task(outbox.run())
            inheriting = group.create_task(_inherit(where, journal))
            beating = group.create_task(self._beat(bus, where.tenant))
            pulling = group.create_task(self._pull(bus, outbox, where, group))
            await (stop or asyncio.Event()).wait()
            pulling.cancel()
            await self._hand_back(outbox)
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await outbox.emptied()
            with suppress(ConnectionError, TimeoutError):
                await bus.request(self._subject("leave", where.tenant), timeout=GOODBYE_SECONDS)
            for job in (inheriting, beating, sending):
                job.cancel()

    async def _hand_back(self, outbox: Outbox) -> None:
        if self._runs:
            await asyncio.wait([run.work for run in self._runs.values()], timeout=DRAIN_SECONDS)
        for key in list(self._runs):
            run = self._runs.pop(key)
            run.span.end("failed", run.task.usage, "agent_lost")
            run.work.cancel()
            outcome = _failure("agent_lost", f"{self.name} was stopped")
            outbox.report(key[0], {**outcome, **_used(run.task), **run.lease}, keep=True)

    async def _pull(self, bus: Bus, outbox: Outbox, where: Connection, group: asyncio.TaskGroup) -> None:
        """Joins, pulls as many dispatches as there is room for, and joins again whenever a consumer is gone."""
        while True:
            seat = await self._join(bus, where.tenant)
            if seat is None or self._drained:
                await asyncio.sleep(JOIN_SECONDS)
                continue
            pulls = [
                asyncio.create_task(self._pull_from(bus, seat["stream"], consumer, outbox, where, group))
                for consumer in seat["consumers"]
            ]
            try:
                await asyncio.wait(pulls, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pull in pulls:
                    pull.cancel()
                for ended in await asyncio.gather(*pulls, return_exceptions=True):
                    if isinstance(ended, Exception):
                        raise ended

    async def _pull_from(
        self, bus: Bus, stream: str, consumer: str, outbox: Outbox, where: Connection, group: asyncio.TaskGroup
    ) -> None:
        """Until the consumer is gone, or it is to take no more."""
        with suppress(LookupError):
            async with aclosing(bus.pull(stream, consumer, batch=self._free)) as pulled:
                async for messages in pulled:
                    for message in messages:
                        await self._consider(message, bus, outbox, where, group)
                    while self._free() <= 0 and not self._drained:
                        self._room.clear()
                        await self._room.wait()
                    if self._drained:
                        return

    async def _consider(
        self, message: Message, bus: Bus, outbox: Outbox, where: Connection, group: asyncio.TaskGroup
    ) -> None:
        try:
            dispatch = self._decoder.decode(message.data)
        except msgspec.DecodeError as error:
            log.error("%s cannot be read and is left: %s", message.subject, error)  # noqa: TRY400
            await bus.term(message)
            return
        if dispatch.data.worker == self.name:
            await self._pass_on(bus, message)
        elif self._drained or self._free() <= 0:  # what several consumers gave at once goes to another
            await bus.nak(message, 0)
        else:
            self._take(message, dispatch, outbox, where, group)

    async def _pass_on(self, bus: Bus, message: Message) -> None:
        """What it did itself another tester judges: to take it would be refused, and nobody else would be asked."""
        if message.delivered < PASS_ON_TIMES:
            await bus.nak(message, PASS_ON_SECONDS)
        else:
            await bus.term(message)

    def _free(self) -> int:
        return self.capacity - len(self._runs)

    async def _join(self, bus: Bus, tenant: str) -> dict[str, Any] | None:
        told = {"capacity": self.capacity, "capabilities": self.capabilities, "version": version("cairn")}
        try:
            asked = await bus.request(self._subject("join", tenant), msgspec.json.encode(told))
            answer: dict[str, Any] = msgspec.json.decode(asked.data)
        except (ConnectionError, TimeoutError):
            return None
        if "refused" in answer:
            raise ConnectionRefusedError(answer["refused"])
        self._lease_seconds = answer.get("lease_seconds", LEASE_SECONDS)
        self._drain(bool(answer.get("drained")))
        return answer

    def _subject(self, verb: str, tenant: str) -> str:
        return f"cairn.{tenant}.{verb}.{self.role}.{self.name}"

    def _drain(self, drained: bool) -> None:
        """It finishes what it holds, and asks now and then whether it may take more."""
        if drained and not self._drained:
            log.warning("%s is drained: it finishes what it holds and takes no more", self.name)
        self._drained = drained
        self._room.set()

    def _take(
        self, message: Message, dispatch: _Dispatch, outbox: Outbox, where: Connection, group: asyncio.TaskGroup
    ) -> None:
        task = dispatch.data
        key = (task.workflow, task.run, task.token)
        run, stored = self._runs.get(key), asyncio.Event() if message.delivered > 1 else None
        if run is not None:  # it was offered again before it was known that it has begun
            outbox.report(task.workflow, {"kind": "started", **run.lease}, answers=message, stored=stored)
            return
        task.position = int(dispatch.sequence)
        span = trace.Run(task, self.name, (message.headers or {}).get("traceparent") or dispatch.traceparent)
        task.traceparent = span.traceparent
        lease = {"task": task.task, "run": task.run, "token": task.token, "traceparent": task.traceparent}
        begun = outbox.report(task.workflow, {"kind": "started", **lease}, answers=message, stored=stored)
        desk = _Desk(outbox, task.workflow, lease)
        work = group.create_task(self._hold(key, task.at(desk), desk, where, stored, span))
        self._runs[key] = _Run(task.lease_seconds, lease, task, begun, work, span)

    async def _hold(
        self, key: Key, task: Task, desk: "_Desk", where: Connection, stored: asyncio.Event | None, span: trace.Run
    ) -> None:
        """One run from its dispatch to its outcome; one that is cancelled has lost its lease, or is handed back.

        It begins before it is known that it has. Only what was delivered before waits until that is `stored`: if it has
        ended the agent which had it, it ends this one too, and then that counts.
        """
        bind_contextvars(
            workflow=task.workflow, correlation_id=task.workflow, task=task.task, run=task.run, attempt=task.attempt,
            position=task.position, agent=self.name,
        )  # fmt: skip
        log.debug("%s has begun", task.run)
        try:
            if stored:
                await stored.wait()
            with span.current():
                outcome = await self._outcome(task, where)
            log.debug("%s has ended: %s", task.run, outcome["kind"])
            span.end(outcome["kind"], task.usage, outcome.get("failure", {}).get("type", ""))
            desk.say(outcome.pop("kind"), **outcome, **_used(task))
        finally:
            span.end("lost", task.usage)
            desk.ended = True
            self._runs.pop(key, None)
            self._room.set()

    async def _outcome(self, task: Task, where: Connection) -> dict[str, Any]:
        """Runs the handler; whatever it does becomes a result or a failure with a class."""
        limit = asyncio.timeout(task.timeout_seconds)
        try:
            async with limit:
                result = await self._work(task, where)
            return _completion(task, result)
        except Failed as failed:
            return _failure(failed.type, str(failed), failed.detail)
        except Asked as asked:
            return _question(asked)
        except MergeConflict as conflict:
            return _failure("merge_conflict", str(conflict))
        except GitError as error:
            return _failure("agent_error", str(error))
        except BaseException as error:  # what an author's code raises is the outcome
            if isinstance(error, BaseExceptionGroup) and (first := _first_failed(error)):
                return _failure(first.type, str(first), first.detail)
            current = asyncio.current_task()
            if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                raise  # Ctrl-C: no event loop has taken it over, so it arrives in whatever runs just now
            if isinstance(error, asyncio.CancelledError) and current is not None and current.cancelling():
                raise
            if limit.expired():
                return _failure("timeout", f"the agent took longer than {task.timeout_seconds:g} s")
            return _failure("agent_error", f"{type(error).__name__}: {error}", traceback.format_exc())

    async def _work(self, task: Task, where: Connection) -> Any:
        assert self._handler is not None
        if not task.repository or not task.bases:
            return await self._handler(task)
        repository = await Repository.open(Path(task.repository))
        with suppress(GitError):  # what another agent left behind and nobody can remove is not this run's failure
            await repository.prune()
        folder = where.state_dir / "worktrees"
        resolving = task.debug is not None and task.debug.reason == "merge_conflict"
        async with AsyncExitStack() as stack:
            start = repository.workspace(bases=task.bases, folder=folder, marked=resolving)
            space = await stack.enter_async_context(start)
            task.path = space.path
            if (debug := task.debug) and debug.commit and debug.bases:
                task.diff = await repository.done_since(debug.bases, debug.commit, DIFF_BYTES)
            result = await self._handler(task)
            if not self._commits or task.purpose == "verify":
                return result
            result = _as_result(result)
            message = f"{task.title or task.task}\n\n{result.summary}"
            author = f"{self.name} <{self.name}@agents.cairn>"
            commit = await space.commit(message, author=author, trailers=self._trailers(task))
            result.commit = commit or space.base
            result.files = await repository.changed_files(space.base, result.commit) if commit else ()
            await repository.keep(task.workflow, task.task, task.run, result.commit)
            return result

    def _trailers(self, task: Task) -> dict[str, str]:
        return {
            "Cairn-Workflow": task.workflow, "Cairn-Task": task.task, "Cairn-Attempt": str(task.attempt),
            "Cairn-Agent": self.name, "Cairn-Position": str(task.position),
        }  # fmt: skip

    async def _beat(self, bus: Bus, tenant: str) -> None:
        """Says what it holds, often enough for the shortest lease; stops what is no longer its own."""

        async def told(message: Message) -> None:
            self._drain(bool(msgspec.json.decode(message.data)["drained"]))

        await bus.subscribe(f"cairn.{tenant}.tell.{self.name}", told)
        while True:
            await asyncio.sleep(
                min((run.lease_seconds for run in self._runs.values()), default=self._lease_seconds) / 3
            )
            with suppress(ConnectionError, TimeoutError):
                held = msgspec.json.encode({"runs": list(self._runs)})
                answer = msgspec.json.decode((await bus.request(self._subject("beat", tenant), held)).data)
                self._drain(bool(answer.get("drained")))
                for workflow, name, token in answer["void"]:
                    self._stop((workflow, name, token))

    def _refused(self, report: str) -> None:
        """The word that a run has begun came too late: the task was offered again, or is another's. Not to wait for
        the next heartbeat matters where many old offers lie in front of the new ones."""
        for key, run in list(self._runs.items()):
            if run.begun == report:
                self._stop(key)

    def _stop(self, key: Key) -> None:
        if run := self._runs.pop(key, None):
            run.work.cancel()
            self._room.set()


def _first_failed(group: BaseExceptionGroup[BaseException]) -> Failed | None:
    """What a task group of the author's has gathered may hold a failure with a class of its own."""
    for error in group.exceptions:
        found = _first_failed(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, Failed):
            return found
    return None


class _Desk:
    """Of one run: what it says goes under its lease, through the outbox."""

    def __init__(self, outbox: Outbox, workflow: str, lease: dict[str, Any]) -> None:
        self._outbox, self._workflow, self._lease = outbox, workflow, lease
        self.ended = False

    def say(self, kind: str, **said: Any) -> None:
        self._outbox.report(self._workflow, {"kind": kind, **said, **self._lease}, keep=True)

    async def ask(self, kind: str, **said: Any) -> str:
        return await self._outbox.ask(self._workflow, {"kind": kind, **said, **self._lease})


def _used(task: Task) -> dict[str, Any]:
    return {"usage": task.usage} if task.usage else {}


async def _inherit(where: Connection, own: Path) -> None:
    """What agents that died here still owe is sent under their own names, for nobody may speak for another."""
    for journal in sorted(own.parents[1].glob("*/*.jsonl")):
        role, name = journal.parent.name, journal.stem
        if journal == own or not owing(journal):
            continue
        try:
            async with admitted(where, role, name) as bus:
                await Outbox(bus, where.tenant, role, name, journal).settle()
        except (BlockingIOError, ConnectionError, CairnError) as error:  # it lives again, or another agent does it
            log.warning("what %s owes stays in %s for now: %s", name, journal, error)


def _failure(kind: str, message: str, detail: str = "") -> dict[str, Any]:
    told = {"type": str(kind), "message": _sendable(message[:2000]), "detail": _sendable(str(detail or "")[-8000:])}
    return {"kind": "failed", "failure": told}


def _question(asked: Asked) -> dict[str, Any]:
    told = {
        "question": _sendable(str(asked.question)), "options": [_sendable(str(one)) for one in asked.options],
        "due_seconds": asked.due_seconds, "default": None if asked.default is None else _sendable(str(asked.default)),
    }  # fmt: skip
    return {"kind": "asked", "ask": told}


def _sendable(text: str) -> str:
    """What UTF-8 cannot say, as file names and programs' outputs have it, becomes a question mark."""
    return text.encode(errors="replace").decode()


def _completion(task: Task, result: Any) -> dict[str, Any]:
    verified = task.purpose == "verify"
    if verified and not isinstance(result, list):
        raise Failed(f"a tester returns a list of receipts, not {type(result).__name__}", type="invalid_result")
    body = result if verified else _as_result(result)
    try:
        size = len(msgspec.json.encode(body)) - (0 if verified else len(msgspec.json.encode(body.files)))
    except (TypeError, ValueError, RecursionError) as error:
        return _failure("invalid_result", f"the result is no JSON: {error}")
    if verified:
        return {"kind": "verified", "receipts": body}
    if why := _unfit(body.findings):
        return _failure("invalid_result", why)
    if size > RESULT_BYTES:
        return _failure(
            "invalid_result",
            f"the result has {size} bytes, the limit is {RESULT_BYTES}: put it into a file of the work tree",
        )
    return {"kind": "completed", "result": body}


def _unfit(findings: Sequence[Finding]) -> str:
    """Why these cannot be reported; empty if they can."""
    if len(findings) > FINDINGS:
        return (
            f"the result has {len(findings)} findings, the limit is {FINDINGS}: report the gravest, keep a file of all"
        )
    try:
        msgspec.convert(msgspec.to_builtins(findings), tuple[Finding, ...])
    except msgspec.ValidationError as error:
        return f"the result's findings are none: {error}"
    return ""


def _as_result(result: Any) -> Result:
    match result:
        case Result():
            return result
        case None:
            return Result()
        case str():
            return Result(summary=result)
        case dict():
            try:
                return msgspec.convert(result, Result)
            except msgspec.ValidationError as error:
                raise Failed(f"the handler's dict is no result: {error}", type="invalid_result") from error
    what = f"a handler returns a Result, a dict, a string or None, not {type(result).__name__}"
    raise Failed(what, type="invalid_result")
