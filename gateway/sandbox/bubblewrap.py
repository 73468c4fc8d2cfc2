"""Commands in namespaces built by `bwrap`: an allow-list of paths, no network, nothing else of the machine."""

import shutil
import tempfile
from pathlib import Path
from typing import Self

from gateway.sandbox.runner import run_caged
from gateway.sandbox.tenant import Tenant, tenancy
from gateway.sandbox.view import HOSTNAME, parents, readable
from handlers.ports import Execution, Limits, SandboxBroken

MIB = 1 << 20
TRIAL = Limits(wall_seconds=30)


class Bubblewrap:
    """The sandbox of choice where there is no container engine. Output is what the command prints, stderr included."""

    isolation = "bubblewrap, no network"

    def __init__(self, program: str) -> None:
        self._program = program

    @classmethod
    async def open(cls) -> Self:
        """Finds bwrap and tries it. Raises SandboxBroken with the fix."""
        program = shutil.which("bwrap")
        if program is None:
            raise SandboxBroken("bwrap is not installed: apt-get install bubblewrap")
        sandbox = cls(program)
        with tempfile.TemporaryDirectory(prefix="cairn-trial-") as folder:
            try:
                trial = await sandbox.run("true", cwd=Path(folder), limits=TRIAL)
            except SandboxBroken as broken:
                fix = "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)"
                raise SandboxBroken(f"bwrap does not work here: {broken}; {fix}") from broken
        if trial.exit_code != 0:
            raise SandboxBroken(f"bwrap cannot run /bin/sh here: {trial.output}")
        return sandbox

    async def run(self, cmd: str, *, cwd: Path, limits: Limits) -> Execution:
        """See `handlers.ports.Sandbox.run`."""
        cwd = cwd.resolve()
        async with tenancy(cwd) as tenant:
            walls = self._walls(cwd, limits, tenant)
            return await run_caged(cmd, cwd=cwd, limits=limits, tenant=tenant, isolation=self.isolation, walls=walls)

    def _walls(self, cwd: Path, limits: Limits, tenant: Tenant) -> list[str]:
        size = str(limits.file_mb * MIB)
        # Root needs no user namespace; in one it could not become the tenant, for which the cage keeps these two.
        dropped = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        rights = dropped if tenant.own else ["--unshare-user"]
        shown = [part for parent in parents([*readable(), cwd]) for part in ("--perms", "0755", "--dir", parent)]
        for path in readable():
            link = Path(path)
            shown += ["--symlink", str(link.readlink()), path] if link.is_symlink() else ["--ro-bind", path, path]
        return [
            self._program, *rights,
            "--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
            "--die-with-parent", "--new-session", "--as-pid-1", "--hostname", HOSTNAME,
            "--proc", "/proc", "--dev", "/dev",
            "--perms", "1777", "--size", size, "--tmpfs", "/dev/shm", "--remount-ro", "/dev",
            "--perms", "1777", "--size", size, "--tmpfs", "/tmp",
            *shown,
            "--bind", str(cwd), str(cwd), "--remount-ro", "/", "--",
        ]  # fmt: skip
