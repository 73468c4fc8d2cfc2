"""Commands in containers of a Docker engine on this machine.

The image brings `sh`, and `python` and `pytest` for those who test with them, e.g. a Dockerfile of two lines,
`FROM python:3.12-slim` and `RUN pip install pytest`, built with `docker build -t cairn-sandbox:latest .`; its own
environment (PATH) stays. It is run by the id it had when the sandbox was opened, never pulled.
A container whose server is killed runs on until a server that opens this sandbox finds its time to be up.
The engine must see the work folder under the path we see: a remote one does not.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from time import monotonic, time
from typing import Any

from gateway.sandbox.capture import Capture
from gateway.sandbox.runner import noted
from gateway.sandbox.tenant import Tenant, tenancy
from gateway.sandbox.view import HOME, HOSTNAME, environment
from handlers.ports import Execution, Limits, SandboxBroken

IMAGE = "cairn-sandbox:latest"
DEFAULT_ENGINE = "unix:///var/run/docker.sock"
WORK = "/work"
EXPIRES = "cairn.sandbox.expires"
OPEN_FILES = 1024
CPUS = 2
MIB = 1 << 20
# An engine that has not killed a container by then is not going to.
END_SECONDS = 30.0


class Docker:
    """One container per command: no network, no privileges, a read-only root, the work folder at /work."""

    def __init__(self, version: str, image_id: str, digest: str, *, rootless: bool, cpus: int) -> None:
        self._version = version
        self._image_id = image_id
        self._rootless = rootless
        self._cpus = cpus
        self._digest = digest
        self.isolation = f"docker {digest}, no network"

    @classmethod
    async def open(cls, image: str = IMAGE) -> "Docker":
        """Asks the engine named by the environment (DOCKER_HOST) for `image`. Raises SandboxBroken with the fix."""
        docker = _library()

        def ask() -> "Docker":
            _knock()
            with closing(docker.from_env()) as client:
                about = client.info()
                found = client.images.get(image)
                _sweep(client)
            digests = found.attrs.get("RepoDigests") or [f"{image}@{found.id}"]
            rootless = "name=rootless" in about.get("SecurityOptions", ())
            cpus = min(CPUS, about["NCPU"])
            return cls(client.api.api_version, found.id, digests[0], rootless=rootless, cpus=cpus)

        try:
            return await asyncio.to_thread(ask)
        except docker.errors.ImageNotFound as error:
            raise SandboxBroken(
                f"the engine has no image {image}: docker build -t {image} . (see the handbook)"
            ) from error
        except (docker.errors.DockerException, OSError) as error:
            raise SandboxBroken(f"no docker engine answers ({error}): start one, or set DOCKER_HOST") from error

    async def run(self, cmd: str, *, cwd: Path, limits: Limits) -> Execution:
        """See `handlers.ports.Sandbox.run`."""
        from requests import RequestException

        started = monotonic()
        cwd = cwd.resolve()
        capture = Capture(limits.output_bytes)
        try:
            async with tenancy(cwd) as tenant, self._container(cmd, cwd, limits, tenant) as container:
                code = await _watched(container, capture, limits)
                state = await asyncio.to_thread(_state, container)
        except (_library().errors.DockerException, RequestException) as error:
            raise SandboxBroken(f"{self.isolation}: the engine failed: {error}") from error
        timed_out = code is None
        note = (
            f"killed: more than {limits.memory_mb} MiB of memory in use" if state["OOMKilled"] and not timed_out else ""
        )
        return Execution(
            exit_code=code,
            timed_out=timed_out,
            duration_seconds=monotonic() - started,
            output=noted(capture.text, note),
            output_bytes=capture.total,
            output_sha256=capture.sha256,
            isolation=self.isolation,
            runtime=self._digest,
        )

    @asynccontextmanager
    async def _container(self, cmd: str, cwd: Path, limits: Limits, tenant: Tenant) -> AsyncIterator[Any]:
        with closing(_library().from_env(version=self._version)) as client:
            creation = asyncio.create_task(asyncio.to_thread(self._create, client, cmd, cwd, limits, tenant))
            try:
                yield await asyncio.shield(creation)
            finally:
                container = await creation
                await asyncio.to_thread(container.remove, force=True, v=True)

    def _create(self, client: Any, cmd: str, cwd: Path, limits: Limits, tenant: Tenant) -> Any:
        # Root inside a rootless engine is the engine's unprivileged user outside, and the only one who owns the folder.
        user = "0:0" if self._rootless else f"{tenant.uid}:{tenant.gid}"
        variables = environment()
        del variables["PATH"]
        return client.containers.create(
            self._image_id,
            # One pipe for both, or the order of what is printed on them is lost.
            ["-c", 'exec /bin/sh -c "$0" 2>&1', cmd],
            entrypoint=["/bin/sh"],
            user=user,
            environment=variables,
            working_dir=WORK,
            hostname=HOSTNAME,
            mounts=[_bind(cwd)],
            network_mode="none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            pids_limit=limits.pids,
            mem_limit=limits.memory_mb * MIB,
            memswap_limit=limits.memory_mb * MIB,
            nano_cpus=self._cpus * 10**9,
            ulimits=_ulimits(limits),
            tmpfs={HOME: f"rw,nosuid,nodev,exec,mode=1777,size={limits.file_mb}m"},
            shm_size=limits.file_mb * MIB,
            # The engine would keep all that is printed on the host's disk.
            log_config={"type": "none", "config": {}},
            labels={EXPIRES: str(time() + limits.wall_seconds + END_SECONDS)},
        )


def _library() -> Any:
    """The docker package: untyped, slow to import, and not everyone has an engine."""
    import docker

    return docker


def _knock() -> None:
    """Raises OSError when nobody listens on the engine's Unix socket: the library leaks a socket when it finds out."""
    scheme, _, path = _library().utils.kwargs_from_env().get("base_url", DEFAULT_ENGINE).partition("://")
    if scheme in ("unix", "http+unix"):
        with socket.socket(socket.AF_UNIX) as engine:
            engine.connect(path)


def _sweep(client: Any) -> None:
    """Removes containers that outlived their time: those of a server that died while they ran."""
    for container in client.containers.list(all=True, filters={"label": EXPIRES}, ignore_removed=True):
        if float(container.labels[EXPIRES]) < time():
            container.remove(force=True, v=True)


def _bind(cwd: Path) -> Any:
    # A mount, not a volume: the engine refuses a folder that it does not see, where it would create one for a volume.
    return _library().types.Mount(target=WORK, source=str(cwd), type="bind")


def _ulimits(limits: Limits) -> list[Any]:
    hard = {"core": 0, "nofile": OPEN_FILES, "fsize": limits.file_mb * MIB}
    return [_library().types.Ulimit(name=name, soft=value, hard=value) for name, value in hard.items()]


async def _watched(container: Any, capture: Capture, limits: Limits) -> int | None:
    """The exit code of the container, now started; None when it had to be killed for time."""
    printed = await asyncio.to_thread(container.attach, stream=True, stdout=True, stderr=True)

    def drain() -> None:
        # Its own close() shuts the socket down and leaves the descriptor to the garbage collector.
        with closing(printed._response):
            for chunk in printed:
                capture.feed(chunk)

    drained = asyncio.create_task(asyncio.to_thread(drain))
    await asyncio.to_thread(container.start)
    ended = asyncio.create_task(asyncio.to_thread(container.wait, timeout=limits.wall_seconds + END_SECONDS))
    try:
        in_time, _ = await asyncio.wait({ended}, timeout=limits.wall_seconds)
    finally:
        if not ended.done():
            await asyncio.to_thread(_kill, container)
        result = await ended
        await drained
    return int(result["StatusCode"]) if in_time else None


def _kill(container: Any) -> None:
    try:
        container.kill()
    except _library().errors.APIError as error:
        if error.status_code != 409:  # it ended by itself meanwhile
            raise


def _state(container: Any) -> dict[str, Any]:
    container.reload()
    state: dict[str, Any] = container.attrs["State"]
    return state
