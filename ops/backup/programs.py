"""PostgreSQL's own client programs, from the wheel: they take and bring back what our SQL cannot see."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from signal import Signals

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ops.embedded.child import Child, Step
from ops.embedded.postgres import wheel_binaries

STOP = (Step(Signals.SIGINT, 10.0), Step(Signals.SIGKILL, 5.0))


@asynccontextmanager
async def running(
    program: str, url: str, *arguments: str | Path, log: Path, environment: Mapping[str, str]
) -> AsyncIterator[Child]:
    """The program, connected to `url`, until the block ends. Other users of the machine do not see the password."""
    known = conninfo_to_dict(url)
    secret = {"PGPASSWORD": str(known.pop("password"))} if known.get("password") else {}
    child = Child(program, cwd=log.parent, log=log, death_signal=Signals.SIGINT)
    command = [wheel_binaries() / program, "--no-password", f"--dbname={make_conninfo('', **known)}", *arguments]
    try:
        child.spawn(command, environment={**environment, **secret})
        yield child
    finally:
        await child.end(STOP)


async def run(program: str, url: str, *arguments: str | Path, log: Path, environment: Mapping[str, str]) -> None:
    """Runs it to its end. ServerFailed with what it said if that is not a good one."""
    async with running(program, url, *arguments, log=log, environment=environment) as child:
        if code := await child.exited():
            raise child.failure(f"failed (exit code {code})")
