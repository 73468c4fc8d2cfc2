"""Commands as processes of this machine: what works everywhere, with the walls the kernel lets us build.

Where it lets us have namespaces (root, or user namespaces: Linux 5.14 and later, most distributions), the walls are
those of bubblewrap, built by ourselves. Otherwise ("rlimits only") it is NOT promised that

- there is no network: the command has that of the caller;
- secrets are out of reach: a normal user's commands read all that user can read. Root's run as another user;
- the command cannot harm the caller's processes: as a normal user it can signal them, among them its own supervisor,
  and what it started then lives on;
- /tmp, the process list and host names are its own.

Time, memory, processes, file size and output are limited in both, and daemons it leaves are found and killed.
"""

import os
import tempfile
from pathlib import Path
from typing import Self

from gateway.sandbox.runner import run_caged
from gateway.sandbox.tenant import tenancy
from gateway.sandbox.view import readable
from handlers.ports import Execution, Limits, SandboxBroken

TRIAL = Limits(wall_seconds=30)


class Process:
    """The last resort, and the default where nothing is installed. `namespaces=False` asks for the weaker kind."""

    def __init__(self, *, namespaces: bool) -> None:
        self._namespaces = namespaces
        self.isolation = (
            "process, own namespaces, no network" if namespaces else "process, rlimits only, NETWORK AND FILES OPEN"
        )

    @classmethod
    async def open(cls) -> Self:
        """The strongest kind that works here. Raises SandboxBroken with the fix when Python runs in neither."""
        reasons = []
        for namespaces in (True, False):
            sandbox = cls(namespaces=namespaces)
            with tempfile.TemporaryDirectory(prefix="cairn-trial-") as folder:
                try:
                    trial = await sandbox.run("python -I -c pass", cwd=Path(folder), limits=TRIAL)
                except SandboxBroken as broken:
                    reasons.append(str(broken))
                    continue
            if trial.exit_code == 0:
                return sandbox
            reasons.append(f"{sandbox.isolation}: {trial.output}")
        fix = "allow namespaces, or as root install Python and the virtual environment where other users can read them"
        raise SandboxBroken(f"no process can be confined here ({' · '.join(reasons)}): {fix}")

    async def run(self, cmd: str, *, cwd: Path, limits: Limits) -> Execution:
        """See `handlers.ports.Sandbox.run`."""
        cwd = cwd.resolve()
        async with tenancy(cwd) as tenant:
            if self._namespaces:
                return await run_caged(
                    cmd, cwd=cwd, limits=limits, tenant=tenant, isolation=self.isolation, readable=readable()
                )
            with tempfile.TemporaryDirectory(prefix="cairn-home-", ignore_cleanup_errors=True) as home:
                os.chown(home, tenant.uid, tenant.gid)
                return await run_caged(cmd, cwd=cwd, limits=limits, tenant=tenant, isolation=self.isolation, home=home)
