"""A whole system for a journey: `cairn up` and agents as real processes in a fresh data directory, ways to hurt them,
and `intact`, what has to be true whatever was done to them.

One long file, for one story needs all of it: processes, what is waited for, and the invariants at the end.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar

import msgspec

from cairn.bus import Bus
from cairn.calls import ENDED, Unauthorized, Unreachable, ends
from cairn.config import Connection as Where
from cairn.config import connection
from cairn.repository import Repository
from cairn.sync import SyncClient
from domain.events import (
    AttemptFailed,
    TaskCompleted,
    TaskReported,
    TaskStarted,
    TaskVerified,
    WorkflowCompleted,
)
from domain.state import CLOSED, replay
from ledger.announce import CARRIED_BYTES
from ledger.postgres import Connection, connect
from ledger.recorded import Recorded
from ledger.rows import Head, head_of, select
from ledger.stream import message, stream_name
from ledger.verify import verify
from ops.serve import Up
from projections.board import workflow as board_of
from projections.board_fold import Changes
from projections.board_rows import AttemptRow, TaskRow, WorkflowRow
from projections.rows import text
from tests.cluster import fast_disk, with_cluster

AGENTS = Path(__file__).parent / "agents"
LEASE_SECONDS = 3.0
WAIT_SECONDS = 60.0
LOOK_SECONDS = 0.05
"""Most looks ask the server, which works for each as a client does: more of them, and it has less time for the plan."""
Json = dict[str, Any]
T = TypeVar("T")


class System:
    """One data directory. `start` it, hurt it, `start` it again; agents stay until they are ended."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        ours = {
            name: value for name, value in os.environ.items() if not name.startswith(("CAIRN_", "NATS_", "DATABASE_"))
        }
        self._environment = {
            **ours, "CAIRN_DATA_DIR": str(folder), "CAIRN_LISTEN": f"127.0.0.1:{_free_port()}",
            "CAIRN_LEASE_SECONDS": str(LEASE_SECONDS), "CAIRN_SANDBOX": "process", **environment,
        }  # fmt: skip
        self.listen = self._environment["CAIRN_LISTEN"]

    def start(self, *arguments: str) -> Self:
        """Returns when all of it answers. AssertionError with the end of its log if it does not."""
        with (self.folder / "up.log").open("ab") as log:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "cairn", "up", *arguments], env=self._environment, cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0,
            )  # fmt: skip
        self.until(self._answers, "the system answers")
        return self

    def _answers(self) -> bool:
        assert self._server is not None
        assert self._server.poll() is None, f"`cairn up` ended with {self._server.returncode}:\n{self.said()}"
        try:
            return self.where().pid == self._server.pid and bool(self.client.ready()["ready"])
        except (FileNotFoundError, ConnectionError, Unreachable, Unauthorized):
            return False

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def alive(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def kill(self) -> None:
        """kill -9 of the server process; Postgres, NATS and tester follow it by the kernel's hand."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def stop(self) -> None:
        """SIGTERM; it has to drain and end well."""
        if self._server is None or self._server.poll() is not None:
            return
        self._server.terminate()
        assert self._server.wait(40) == 0, self.said()

    def said(self) -> str:
        return (self.folder / "up.log").read_text(errors="replace")[-6000:]

    def where(self) -> Up:
        return msgspec.json.decode((self.folder / "up.json").read_bytes(), type=Up)

    def connection(self) -> Where:
        return connection(self.folder)

    @property
    def client(self) -> SyncClient:
        """A client of the server that is up now."""
        return SyncClient(self.connection(), actor="tester of journeys")

    def agent(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Starts an agent of `agents/` by the name of its file; its second argument is its name."""
        return self._spawn(arguments[1], [sys.executable, str(AGENTS / f"{program}.py"), *arguments])

    def exec_agent(
        self, role: str, name: str, cmd: str, *more: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Starts `cairn agent --role ROLE --exec CMD`."""
        argv = [sys.executable, "-m", "cairn", "agent", "--role", role, "--name", name, "--exec", cmd, *more]
        return self._spawn(name, argv, environment or {})

    def _spawn(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            process = self._agents[name] = subprocess.Popen(
                argv, env={**self._environment, **environment}, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, process_group=0,
            )  # fmt: skip
        return process

    def cairn(self, *arguments: str) -> str:
        """What a command prints that has to end well."""
        done = subprocess.run(
            [sys.executable, "-m", "cairn", *arguments], env=self._environment, cwd=self.folder,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=WAIT_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, f"cairn {' '.join(arguments)} ended with {done.returncode}: {done.stderr}"
        return done.stdout

    def submit(self, plan: Json, *, bare: bool = False) -> str:
        """Starts a plan on an empty repository, or `bare` of any; the workflow's name."""
        return self.client.submit(plan, **({} if bare else self.empty(plan["id"]))).workflow

    def empty(self, name: str) -> dict[str, str]:
        """What a plan is to be started on: the repository, and a first commit that holds nothing."""
        repository = self.where().repository
        return {"repository": repository, "base": asyncio.run(_empty(Path(repository), name))}

    def seen(
        self,
        what: Callable[[Json], bool],
        *,
        workflow: str | None = None,
        after: int = 0,
        seconds: float = WAIT_SECONDS,
    ) -> Json:
        """The first event after a position for which `what` holds, over restarts of the server."""
        found: list[Json] = []

        def look() -> bool:
            nonlocal after
            try:
                for event in self.client.events(after, workflow=workflow):
                    after = int(event["sequence"])
                    if what(event):
                        found.append(event)
                        return True
            except (FileNotFoundError, ConnectionError, Unreachable, Unauthorized):
                return False
            return False

        self.until(look, f"an event of {workflow or 'any workflow'}", seconds)
        return found[0]

    def reached(self, position: int) -> None:
        """Returns when the ledger holds so many events."""
        self.seen(lambda event: int(event["sequence"]) >= position, after=position - 1)

    def finished(self, workflow: str, seconds: float = WAIT_SECONDS) -> str:
        """How it ended: completed, failed or cancelled."""
        return str(self.seen(ends, workflow=workflow, seconds=seconds)["type"].split(".")[2])

    def until(self, what: Callable[[], bool], name: str, seconds: float = WAIT_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, f"{seconds:g} s passed without: {name}\n{self._picture()}"
            time.sleep(LOOK_SECONDS)

    def _picture(self) -> str:
        logs = [(path.name, path.read_text(errors="replace")[-2500:]) for path in sorted(self.folder.glob("*.log"))]
        return "\n".join(f"--- {name}\n{text}" for name, text in logs)

    def postmaster(self) -> int:
        return int((self.folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])

    def nats_server(self) -> int:
        return int((self.folder / "nats" / "server.pid").read_text())

    def end_agents(self) -> None:
        """SIGTERM to all that live; they have to end by themselves."""
        for process in self._agents.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for name, process in self._agents.items():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise AssertionError(f"agent {name} does not stop:\n{self._picture()}") from None
        self._agents.clear()

    def abandon(self) -> None:
        """Kills whatever still runs: a test has failed."""
        for process in (*self._agents.values(), self._server):
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for pid in processes(self.folder):
            with _gone_is_fine():
                os.kill(pid, signal.SIGKILL)

    def intact(self) -> None:
        """The invariants of the house, with the system up and quiet. AssertionError says which one does not hold."""
        asyncio.run(_intact(self.where()))
        asyncio.run(_pruned(Path(self.where().repository)))  # as the next run would: agents were killed here
        worktrees = self.folder / "agents" / "worktrees"
        self.until(lambda: not worktrees.exists() or not any(worktrees.iterdir()), f"{worktrees} is empty", 30)


async def _pruned(artifacts: Path) -> None:
    await (await Repository.open(artifacts)).prune()


@contextmanager
def system(**environment: str) -> Iterator[System]:
    """A system that is up; at the end nothing of it may be left but its files, which are removed."""
    with data_folder() as folder:
        if "DATABASE_URL" not in environment:
            with_cluster(folder)
        one = System(folder, **environment)
        with kept(one):
            one.start()
            yield one


@contextmanager
def kept(one: System) -> Iterator[System]:
    """Ends a system and its agents, and asserts that no process of theirs is left."""
    try:
        yield one
        one.end_agents()
        one.stop()
        one.until(lambda: not processes(one.folder), f"no process is left, but {processes(one.folder)}", 15)
    finally:
        one.abandon()


@contextmanager
def data_folder() -> Iterator[Path]:
    """A fresh folder that root's Postgres user can enter too."""
    folder = Path(tempfile.mkdtemp(prefix="cairn-journey-", dir=fast_disk()))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def processes(folder: Path) -> list[int]:
    """Live processes that work in a data directory or were started for it."""
    found, mark = [], str(folder).encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with _gone_is_fine():
            at = os.fsencode(os.readlink(entry / "cwd"))
            if at.startswith(mark) or mark in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except (ProcessLookupError, FileNotFoundError, PermissionError):
        return


def is_a(event: Json, type: str, **data: object) -> bool:
    return event["type"] == f"cairn.{type}.v1" and all(event["data"].get(name) == value for name, value in data.items())


def layers(name: str, *widths: int, **task: Any) -> Json:
    """A plan of layers of tasks: each task needs all of the layer before, and a test finds the files of them all."""
    tasks: list[Json] = []
    before: list[str] = []
    files: list[str] = []
    for depth, width in enumerate(widths, 1):
        layer = [f"t{depth}-{number}" for number in range(1, width + 1)]
        for one in layer:
            there = " && ".join(f"test -s {file}.txt" for file in (*files, one))
            tests = [{"cmd": there, "timeout_seconds": 20}]
            tasks.append(
                {"id": one, "dependencies": before, "acceptance_criteria": {"tests": tests},
                 "retry": {"initial_seconds": 0.1}, **task}
            )  # fmt: skip
        before, files = layer, files + layer
    return {"id": name, "tasks": tasks}


async def _empty(repository: Path, name: str) -> str:
    place = await Repository.create(repository)
    return await place.import_folder(None, message="nothing yet", ref=f"refs/cairn/start/{name}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _intact(up: Up) -> None:
    connection = await connect(up.database_url, up.tenant, views=True)
    async with connection, Bus.connect(up.nats_url, name="journey") as bus:
        events = await _positions(connection)
        await _digests(connection)
        await _same_in_stream(connection, bus, up.tenant, events)
        await _same_on_board(connection, events)
    streams = _streams(events)
    for name, history in streams.items():
        _carried_out_once(name, history)
        await _branches_set(name, history)


async def _positions(connection: Connection) -> list[Recorded]:
    events = await select(connection, "read", after=0, to=2**62, limit=1_000_000)
    assert [event.position for event in events] == list(range(1, len(events) + 1)), "positions have gaps"
    versions: Counter[str] = Counter()
    for event in events:
        versions[event.stream] += 1
        assert event.version == versions[event.stream], f"version {event.version} of {event.stream} is out of turn"
    return events


async def _digests(connection: Connection) -> None:
    async def read(after: int, limit: int) -> list[Recorded]:
        return await select(connection, "read", after=after, to=2**62, limit=limit)

    async def head() -> Head:
        return (await head_of(connection))[0]

    await verify(read, head)


async def _same_in_stream(connection: Connection, bus: Bus, tenant: str, events: Sequence[Recorded]) -> None:
    """Each position is at the same sequence, with the same id, digest and, but for large events, bytes; nothing else is
    there but what was recorded since: that an agent is lost, or has left."""
    head, _ = await head_of(connection)
    name = stream_name(tenant, head.epoch)
    state: Json = {}
    async with asyncio.timeout(15):
        while state.get("last_seq", 0) < len(events):
            state = (await bus.api(f"STREAM.INFO.{name}")).get("state", {})
            await asyncio.sleep(LOOK_SECONDS)
    recorded, _ = await head_of(connection)
    assert (state["first_seq"], state["messages"]) == (1, state["last_seq"]), f"{name} holds {state}"
    assert state["last_seq"] <= recorded.position, f"{name} holds {state}, the ledger goes to {recorded.position}"
    for event in events:
        there = await message(bus, name, event.position)
        if not there.state and len(event.state) > CARRIED_BYTES:
            there = msgspec.structs.replace(there, state=event.state)
        assert there == event, f"sequence {event.position} of {name} differs"


async def _same_on_board(connection: Connection, events: Sequence[Recorded]) -> None:
    """The board's rows are those of a fold from the beginning, and what the rules fold agrees with them."""
    async with asyncio.timeout(15):
        while True:
            found = await connection.execute("SELECT min(position) FROM projections")
            row = await found.fetchone()
            if row and row[0] >= len(events):
                break
            await asyncio.sleep(LOOK_SECONDS)
    fold = Changes({}, {})
    for event in events:
        if event.stream.startswith("workflow-"):
            fold.fold(event.stream.removeprefix("workflow-"), event)
    for name, history in _streams(events).items():
        detail = await board_of(connection, name)
        assert detail is not None, f"the board does not have {name}"
        for task in detail.tasks:
            task.waiting_on = None
        tasks = _as_read([entry.task for entry in fold.entries.values() if entry.task.workflow == name], TaskRow)
        attempts = _as_read([attempt for attempt in fold.attempts.values() if attempt.workflow == name], AttemptRow)
        assert [detail.workflow] == _as_read([fold.workflows[name]], WorkflowRow)
        assert {it.task: it for it in detail.tasks} == {it.task: it for it in tasks}
        assert {(it.task, it.run): it for it in detail.attempts} == {(it.task, it.run): it for it in attempts}
        state = replay([event.event for event in history])  # type: ignore[misc]
        assert {it.task: it.status for it in detail.tasks} == {it.spec.id: it.status for it in state.tasks.values()}


def _as_read(rows: Sequence[object], kind: type[T]) -> list[T]:
    """Postgres has no NUL in its texts, and readers get no more than `kind`."""
    return msgspec.json.decode(text(rows), type=list[kind])  # type: ignore[valid-type]


def _streams(events: Sequence[Recorded]) -> Mapping[str, list[Recorded]]:
    streams: defaultdict[str, list[Recorded]] = defaultdict(list)
    for event in events:
        if event.stream.startswith("workflow-"):
            streams[event.stream.removeprefix("workflow-")].append(event)
    return streams


def _carried_out_once(name: str, history: Sequence[Recorded]) -> None:
    """All has ended; what completed did so once; each run was judged once, on the word of who held it."""
    state = replay([event.event for event in history])  # type: ignore[misc]
    open_ones = [task.spec.id for task in state.tasks.values() if task.status not in CLOSED]
    assert state.status in ENDED and not open_ones, f"{name}: {open_ones} are open"
    done: Counter[str] = Counter()
    judged: defaultdict[str, set[str | None]] = defaultdict(set)
    holder: dict[str, str] = {}
    for recorded in history:
        match recorded.event:
            case TaskStarted(run=run, agent=agent):
                holder[run] = agent
            case TaskReported(run=run, agent=agent) | TaskVerified(run=run, agent=agent):
                judged[run].add(recorded.causation_id)
                assert holder.get(run, agent) == agent, f"{name}: {run} was held by {holder[run]}, {agent} was believed"
            case AttemptFailed(run=run):
                judged[run].add(recorded.causation_id)
            case TaskCompleted(task=task, run=run):
                done[task] += 1
                if run not in judged:
                    judged[run].add(recorded.causation_id)
    twice = {run: causes for run, causes in judged.items() if len(causes) > 1}
    assert not twice, f"{name}: runs with more than one outcome: {twice}"
    assert all(count == 1 for count in done.values()), f"{name}: completed more than once: {done}"
    if any(isinstance(recorded.event, WorkflowCompleted) for recorded in history):
        planned = {task for task, it in state.tasks.items() if not it.depth and it.status != "excused"}
        assert planned <= done.keys(), f"{name}: completed without all of its tasks"


async def _branches_set(name: str, history: Sequence[Recorded]) -> None:
    """The branch of every completed task is at the commit that was accepted."""
    state = replay([recorded.event for recorded in history])  # type: ignore[misc]
    if (
        state.repository is None or not Path(state.repository).exists()
    ):  # the latter: it ended before a restore elsewhere
        return
    repository = await Repository.open(Path(state.repository))
    done = [recorded.event for recorded in history if isinstance(recorded.event, TaskCompleted)]
    for event in done:
        if event.result.commit:
            async with asyncio.timeout(10):
                while not await _is_at(repository, f"refs/heads/ai/generated/{name}/{event.task}", event.result.commit):
                    await asyncio.sleep(LOOK_SECONDS)


async def _is_at(repository: Repository, ref: str, commit: str) -> bool:
    from cairn.git import GitError

    try:
        return await repository.commit_of(ref) == commit
    except GitError:
        return False
