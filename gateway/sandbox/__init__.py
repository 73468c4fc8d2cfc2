"""Where agents' code and acceptance tests run: docker, bubblewrap or a plain process, behind one port.

What each promises of `Sandbox.run`, tested by one suite (`tests/gateway/test_sandbox.py`):

- the command and all it started are dead when `run` returns, also when it forked, left its session or was cancelled;
- no more than `Limits` of wall time, processes, memory, file size and kept output; a clean environment; no privileges;
- no network but its own loopback, and nothing of the machine but the system, our Python and the work folder.

The last line holds for `process` only where its `isolation` says "own namespaces"; see `process.py` for the rest.
None of them bounds how much disk the work folder takes, or stops a kernel exploit.
"""

from gateway.sandbox.bubblewrap import Bubblewrap
from gateway.sandbox.docker import IMAGE, Docker
from gateway.sandbox.process import Process
from handlers.ports import Sandbox, SandboxBroken

__all__ = ["DRIVERS", "choose", "probe"]

DRIVERS = ("docker", "bubblewrap", "process")


async def choose(driver: str = "auto", *, image: str = IMAGE) -> Sandbox:
    """The sandbox named `driver`, tried out; "auto" is the first of `DRIVERS` that works here.

    Raises SandboxBroken, with the fix, when the named one (or for auto: every one) does not work.
    """
    if driver != "auto":
        return await _open(driver, image)
    reasons = []
    for each in DRIVERS:
        try:
            return await _open(each, image)
        except SandboxBroken as broken:
            reasons.append(f"{each}: {broken}")
    raise SandboxBroken("no sandbox works here. " + " · ".join(reasons))


async def probe(*, image: str = IMAGE) -> list[tuple[str, bool, str]]:
    """(driver, usable, its isolation or why not and the fix) of every driver, best first."""
    found = []
    for driver in DRIVERS:
        try:
            found.append((driver, True, (await _open(driver, image)).isolation))
        except SandboxBroken as broken:
            found.append((driver, False, str(broken)))
    return found


async def _open(driver: str, image: str) -> Sandbox:
    match driver:
        case "docker":
            return await Docker.open(image)
        case "bubblewrap":
            return await Bubblewrap.open()
        case "process":
            return await Process.open()
    raise SandboxBroken(f"unknown sandbox {driver!r}: choose one of auto, {', '.join(DRIVERS)}")
