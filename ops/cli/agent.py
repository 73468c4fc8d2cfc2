"""`cairn agent`."""

import asyncio
import os
import shlex
import signal
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from ops.cli.place import HERE, Place
from ops.cli.stop import INTERRUPTED, OK, USAGE, Stop
from ops.cli.text import say

if TYPE_CHECKING:
    from cairn.agent import Agent
    from cairn.config import Connection
    from ops.settings import Settings

LOOK_SECONDS = 0.3


def command(
    *,
    role: Annotated[list[str], Parameter(required=True, negative=())],
    exec: str | None = None,
    scripted: Path | None = None,
    name: str | None = None,
    capacity: int | None = None,
    capability: list[str] | None = None,
    until: Annotated[int | None, Parameter(show=False)] = None,
    place: Place = HERE,
) -> int:
    """Work as an agent until Ctrl-C; waits for a system if none is up. The role tester needs neither program nor script.

    Parameters
    ----------
    role
        What it does; with --scripted it may be given more than once.
    exec
        A shell command that does the work: the task is JSON on its standard input, its working directory is a Git
        worktree of its own, and what it changes there is the result.
    scripted
        The folder of an example's patches, which are applied instead of working.
    name
        Who it is, unique among the agents alive.
    capacity
        How many tasks at once.
    capability
        What it has besides, as gpu; up to four. Tasks that need it come to those who have it.
    until
        Ends with the process of this id.
    """
    from ops.logs import begin

    settings = place.settings()
    _check(role, exec, scripted, name, capacity, capability)
    begin(settings, "cairn-agent")
    if until is not None:
        _end_with(until)
    work = _work(place, settings, role, exec, scripted, name, capacity, capability or [])
    try:
        import uvloop
    except ImportError:
        run: Callable[[Coroutine[None, None, int]], int] = asyncio.run
    else:
        run = uvloop.run
    try:
        return run(work)
    except asyncio.CancelledError:  # a second signal
        return INTERRUPTED


async def _work(
    place: Place, settings: "Settings", roles: list[str], exec: str | None, scripted: Path | None, name: str | None,
    capacity: int | None, capabilities: list[str],
) -> int:  # fmt: skip
    stop = asyncio.Event()
    current = asyncio.current_task()
    assert current is not None

    def on_interrupt() -> None:
        (current.cancel if stop.is_set() else stop.set)()

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, on_interrupt)
    # The kernel says it once for each thread of a parent that is killed.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    agents = [await _agent(settings, role, exec, scripted, name, capacity, capabilities) for role in roles]
    where = await _where(place, agents[0], stop)
    if where is not None:
        for agent in agents:
            say(f"{agent.name} works on {settings.data_dir} as {agent.role}, {agent.capacity} at once; Ctrl-C to stop")
        async with asyncio.TaskGroup() as group:
            for agent in agents:
                group.create_task(agent.serve(where, stop=stop))
    return OK


async def _agent(
    settings: "Settings", role: str, exec: str | None, scripted: Path | None, name: str | None, capacity: int | None,
    capabilities: list[str],
) -> "Agent":  # fmt: skip
    if exec is not None:
        from handlers.agents.program import program
        from ops.settings import SECRETS, VARIABLES, child_environment

        hidden = (
            {VARIABLES[each] for each in SECRETS} | {f"{VARIABLES[each]}_FILE" for each in SECRETS} | {"CAIRN_TOKEN"}
        )
        environment = {key: value for key, value in child_environment(settings).items() if key not in hidden}
        return program(
            role, resolved(exec, Path.cwd()), environment=environment, name=name, capacity=capacity or 1,
            capabilities=capabilities,
        )  # fmt: skip
    if scripted is not None:
        from handlers.agents.scripted import scripted as played

        return played(role, scripted.resolve(), capacity=capacity or 2)
    from gateway.sandbox import choose
    from handlers.agents.tester import tester

    return tester(await choose(settings.sandbox, image=settings.sandbox_image), capacity=capacity or 2)


async def _where(place: Place, agent: "Agent", stop: asyncio.Event) -> "Connection | None":
    """The system's address, as soon as there is a system that lets the agent in; None if we are stopped before."""
    from cairn.admission import admitted
    from ops.masks import hide

    told = False
    while not stop.is_set():
        try:
            where = place.connection()
            hide([where.token])
            async with admitted(where, agent.role, agent.name, agent.capabilities):
                return where
        except (Stop, ConnectionError, TimeoutError) as error:
            if not told:
                say(f"waiting for a system: {error}; `cairn up` or `cairn run` starts one")
                told = True
        try:
            await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
        except TimeoutError:
            continue
    return None


def resolved(cmd: str, folder: Path) -> str:
    """`cmd` with a relative program that exists in `folder` made absolute: it will run in another folder."""
    try:
        words = shlex.split(cmd)
    except ValueError:
        return cmd
    if words and "/" in words[0] and not words[0].startswith("/") and (folder / words[0]).is_file():
        for written in (words[0], shlex.quote(words[0]), f'"{words[0]}"'):
            if cmd.lstrip().startswith(written):
                return shlex.quote(str((folder / words[0]).resolve())) + cmd.lstrip()[len(written) :]
    return cmd


def _check(
    roles: list[str], exec: str | None, scripted: Path | None, name: str | None, capacity: int | None,
    capabilities: list[str] | None,
) -> None:  # fmt: skip
    from cairn.agent import Agent

    example = f"cairn agent --role {roles[0]} --exec './{roles[0]}.sh'"
    if exec is not None and scripted is not None:
        raise Stop(USAGE, "--exec and --scripted are both given", "an agent works in one way", example)
    if exec is not None and not exec.strip():
        raise Stop(USAGE, "--exec is empty", "it is the command that does the work", example)
    if len(roles) > 1 and scripted is None:
        raise Stop(USAGE, "more than one --role", "only a script plays several at once", example)
    if exec is None and scripted is None and roles != ["tester"]:
        raise Stop(USAGE, f"nothing says how the role {roles[0]} works", "only the tester is built in", example)
    if "tester" in roles and (exec is not None or scripted is not None):
        why = "it owes receipts of tests run on the exact commit, which neither a program nor a script can give"
        raise Stop(USAGE, "the role tester is built in", why, "cairn agent --role tester")
    if scripted is not None and not scripted.is_dir():
        raise Stop(USAGE, f"--scripted {scripted} is no folder", fix="name the folder of an example's patches")
    if name is not None and exec is None:
        raise Stop(USAGE, "--name is only for --exec", "the built-in agents name themselves", example)
    if capabilities and exec is None:
        raise Stop(USAGE, "--capability is only for --exec", "the built-in agents can do one thing", example)
    try:
        for role in roles:
            Agent(role, name=name, capacity=1 if capacity is None else capacity, capabilities=capabilities or ())
    except ValueError as error:
        raise Stop(USAGE, str(error), fix="cairn agent --help") from None


def _end_with(pid: int, end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGTERM)) -> None:
    def wait() -> None:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            end()
            return
        import select

        poll = select.poll()  # select() cannot take a high descriptor
        poll.register(handle, select.POLLIN)
        poll.poll()
        end()

    threading.Thread(target=wait, daemon=True, name="until").start()
