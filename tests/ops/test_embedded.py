"""The embedded servers under the faults they promise to survive: real servers, really killed.

One long file, for every fault needs the same few tools: a parent to kill, a watched pair, a query, a stored message.
"""

import asyncio
import base64
import contextlib
import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from ops.embedded import AlreadyRunning, Embedded, ServerFailed, embedded
from ops.embedded.child import Account, Child, Step, left_behind
from ops.embedded.postgres import Postgres, barrier, system_account, wheel_binaries
from ops.embedded.wire import ask
from ops.settings import load

REPOSITORY = Path(__file__).parents[2]
WAIT_SECONDS = 30.0
AS_ROOT = os.geteuid() == 0

# What a parent does before it is killed: starts both, stores one thing in each, says where, and waits.
PARENT = """
import asyncio, pathlib, sys, psycopg
from ops.embedded import Embedded
from ops.embedded.wire import ask

async def main():
    servers = Embedded(pathlib.Path(sys.argv[1]))
    await servers.start()
    async with await psycopg.AsyncConnection.connect(servers.database_url, autocommit=True) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (word text)")
        await connection.execute("INSERT INTO kept VALUES ('stone')")
    await ask(servers.nats_url, "$JS.API.STREAM.CREATE.KEPT", b'{"name": "KEPT", "subjects": ["kept"]}')
    await ask(servers.nats_url, "kept", b"stone")
    print(servers.nats_url, servers.postgres.child.pid, servers.nats.child.pid, flush=True)
    if sys.argv[2] == "stop":
        await servers.stop()
    else:
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def watched(
    data_dir: Path, *, database_url: str | None = None, nats_url: str | None = None
) -> AsyncIterator[Embedded]:
    """Both servers (or one), started and watched."""
    servers = Embedded(data_dir, database_url=database_url, nats_url=nats_url)
    watch = None
    try:
        await servers.start()
        watch = asyncio.create_task(servers.watch())
        yield servers
    finally:
        if watch:
            watch.cancel()
            await asyncio.wait([watch])
        await servers.stop()


async def eventually(statement: Callable[[], Awaitable[object]]) -> object:
    """The answer of `statement` once its server is there to give one."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                return await statement()
            except (OSError, ValueError, psycopg.OperationalError):
                await asyncio.sleep(0.05)


async def query(url: str, statement: str) -> list[tuple[object, ...]]:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = await connection.execute(statement)
        return await cursor.fetchall() if cursor.description else []


async def stored(url: str, sequence: int = 1) -> str:
    """The text of a message in the stream KEPT."""
    answer = await ask(url, "$JS.API.STREAM.MSG.GET.KEPT", json.dumps({"seq": sequence}).encode())
    return base64.b64decode(answer["message"]["data"]).decode()


def parent(data_dir: Path, then: str, *, python: str = sys.executable, **options: object) -> subprocess.Popen[str]:
    """A process that starts both servers; `then` is "stop" or "wait"."""
    argv = [python, "-c", PARENT, str(data_dir), then]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, **options)  # type: ignore[call-overload,no-any-return]


def processes(data_dir: Path) -> list[int]:
    new = data_dir / "postgres.new"
    making = left_behind("initdb", new) + left_behind("postgres", new)
    return making + left_behind("postgres", data_dir / "postgres") + left_behind("nats-server", data_dir / "nats")


async def test_a_killed_postmaster_comes_back_with_its_data(data_dir: Path) -> None:
    async with watched(data_dir, nats_url="nats://unused") as servers:
        await query(servers.database_url, "CREATE TABLE kept AS SELECT 'stone' AS word")
        assert servers.postgres
        first = servers.postgres.child.pid
        assert first
        os.kill(first, signal.SIGKILL)
        assert await eventually(lambda: query(servers.database_url, "SELECT word FROM kept")) == [("stone",)]
        assert servers.postgres.child.pid != first
    assert processes(data_dir) == []
    assert not servers.postgres.socket_dir.exists()


async def test_a_killed_nats_server_comes_back_on_its_port_with_its_messages(data_dir: Path) -> None:
    async with watched(data_dir, database_url="postgresql://unused") as servers:
        url = servers.nats_url
        await ask(url, "$JS.API.STREAM.CREATE.KEPT", b'{"name": "KEPT", "subjects": ["kept"]}')
        assert (await ask(url, "kept", b"stone"))["seq"] == 1
        assert servers.nats
        first = servers.nats.child.pid
        assert first
        os.kill(first, signal.SIGKILL)
        assert await eventually(lambda: stored(url)) == "stone"
        assert servers.nats.child.pid != first
        assert servers.nats_url == url
    assert processes(data_dir) == []


async def test_a_new_start_takes_over_after_the_parent_was_killed(data_dir: Path) -> None:
    with parent(data_dir, "wait") as first:
        assert first.stdout
        url, *pids = first.stdout.readline().split()
        first.kill()
    settings = load({"data_dir": data_dir}, {}, data_dir)
    async with embedded(settings) as servers:
        assert await query(servers.database_url, "SELECT word FROM kept") == [("stone",)]
        assert await stored(servers.nats_url) == "stone"
        assert servers.nats_url == url
        assert not set(map(int, pids)) & set(processes(data_dir))
    assert processes(data_dir) == []


async def test_a_killed_parent_takes_its_servers_along(data_dir: Path) -> None:
    with parent(data_dir, "wait") as first:
        assert first.stdout
        assert first.stdout.readline()
        assert processes(data_dir)
        first.kill()
    async with asyncio.timeout(WAIT_SECONDS):
        while processes(data_dir):
            await asyncio.sleep(0.05)
    shutil.rmtree(Postgres(data_dir, print).socket_dir)


async def test_a_live_postmaster_without_a_parent_is_ended_and_its_cluster_taken_over(data_dir: Path) -> None:
    servers = Embedded(data_dir, nats_url="nats://unused")
    await servers.start()
    await servers.stop()
    assert servers.postgres
    cluster, account = servers.postgres.cluster, system_account() if AS_ROOT else None
    orphan = Child("orphan", cwd=cluster, log=data_dir / "orphan.log", death_signal=signal.SIGKILL)
    sockets = f"--unix_socket_directories={cluster}"
    orphan.spawn([wheel_binaries() / "postgres", "-D", cluster, "--listen_addresses=", sockets], account)
    await eventually(lambda: query(f"postgresql://postgres@/postgres?host={cluster}", "SELECT 1"))
    async with watched(data_dir, nats_url="nats://unused") as again:
        assert await orphan.exited() == 0, (data_dir / "orphan.log").read_text()[-2000:]
        assert await query(again.database_url, "SELECT 1") == [(1,)]


async def test_lock_files_that_name_a_living_stranger_are_not_believed(data_dir: Path) -> None:
    servers = Embedded(data_dir, nats_url="nats://unused")
    await servers.start()
    await servers.stop()
    assert servers.postgres
    account = system_account() if AS_ROOT else None
    stranger = Child("stranger", cwd=data_dir, log=data_dir / "stranger.log", death_signal=signal.SIGKILL)
    stranger.spawn(["sleep", "600"], account)
    try:
        lock = f"{stranger.pid}\n{servers.postgres.cluster}\n1\n5432\n{servers.postgres.socket_dir}\n\n  1 1\nready\n"
        (servers.postgres.cluster / "postmaster.pid").write_text(lock)
        servers.postgres.socket_dir.mkdir()
        (servers.postgres.socket_dir / ".s.PGSQL.5432.lock").write_text(lock)
        async with watched(data_dir, nats_url="nats://unused") as again:
            assert await query(again.database_url, "SELECT 1") == [(1,)]
        assert stranger.pid, "a process that is not ours was killed"
    finally:
        await stranger.end([Step(signal.SIGKILL, 5.0)])


async def test_nats_moves_and_says_so_when_its_port_was_taken_meanwhile(data_dir: Path) -> None:
    with parent(data_dir, "stop") as first:
        assert first.stdout
        url, *_ = first.stdout.readline().split()
    told: list[str] = []
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", urlsplit(url).port))
        stranger.listen()
        settings = load({"data_dir": data_dir, "database_url": "postgresql://unused"}, {}, data_dir)
        async with embedded(settings, tell=told.append) as servers:
            assert urlsplit(servers.nats_url).port != urlsplit(url).port
            assert await stored(servers.nats_url) == "stone"
    assert f"port {urlsplit(url).port} is taken" in told[0]


async def test_a_server_that_keeps_dying_is_given_up_with_its_log(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.embedded.BACKOFF_SECONDS", 0.01)
    servers = Embedded(data_dir, nats_url="nats://unused")
    await servers.start()
    try:
        assert servers.postgres
        assert servers.postgres.child.pid
        (servers.postgres.cluster / "postgresql.conf").write_text("no_such_setting = 1\n")
        os.kill(servers.postgres.child.pid, signal.SIGKILL)
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(servers.watch(), WAIT_SECONDS)
        assert caught.group_contains(ServerFailed, match="no_such_setting")
    finally:
        await servers.stop()


@pytest.mark.parametrize(("file", "content"), [("postgres/PG_VERSION", "17\n"), ("layout", "2\n")])
async def test_a_data_directory_of_another_version_is_refused_and_left_alone(
    data_dir: Path, file: str, content: str
) -> None:
    (data_dir / file).parent.mkdir(exist_ok=True)
    (data_dir / file).write_text(content)
    servers = Embedded(data_dir, nats_url="nats://unused")
    with pytest.raises(ServerFailed, match=r"fix: .*CAIRN_DATA_DIR"):
        await servers.start()
    await servers.stop()
    assert (data_dir / file).read_text() == content


async def test_a_second_start_on_the_same_directory_names_the_first_and_does_it_no_harm(data_dir: Path) -> None:
    settings = load({"data_dir": data_dir}, {}, data_dir)
    async with embedded(settings) as first:
        with pytest.raises(AlreadyRunning) as caught:
            async with embedded(settings):
                pass
        assert caught.value.pid == os.getpid()
        assert await query(first.database_url, "SELECT 1") == [(1,)]
        assert "error" not in await ask(first.nats_url, "$JS.API.INFO")
    async with embedded(settings):
        pass


async def test_a_data_directory_has_one_system_even_where_both_servers_are_the_users_own(data_dir: Path) -> None:
    own = {"database_url": "postgresql://unused", "nats_url": "nats://unused"}
    settings = load({"data_dir": data_dir, **own}, {}, data_dir)
    async with embedded(settings):
        with pytest.raises(AlreadyRunning) as caught:
            async with embedded(settings):
                pass
        assert caught.value.pid == os.getpid()
    async with embedded(settings):
        pass


async def test_a_deep_data_directory_gets_a_short_socket_path(data_dir: Path) -> None:
    deep = data_dir / ("tief %" * 10) / ("größer {$}" * 5)
    async with watched(deep) as servers:
        assert servers.postgres
        (listening,) = servers.postgres.socket_dir.glob(".s.PGSQL.*[0-9]")
        assert len(str(listening)) < 100
        assert await query(servers.database_url, "SELECT 1") == [(1,)]


async def test_a_cancelled_start_leaves_no_process(data_dir: Path) -> None:
    settings = load({"data_dir": data_dir}, {}, data_dir)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2), embedded(settings):
            raise AssertionError("it started within 0.2 s: shorten the time")
    assert processes(data_dir) == []
    async with embedded(settings) as servers:
        assert await query(servers.database_url, "SHOW fsync") == [("on",)]


async def test_a_full_disk_is_named_at_the_start_and_nothing_is_broken_by_it(small_disk: Path) -> None:
    filler = small_disk / "filler"
    filler.write_bytes(bytes(200 * 1024**2))
    servers = Embedded(small_disk / "data")
    with pytest.raises(ServerFailed, match=r"no space left on the disk of .*\n  fix: free some space"):
        await servers.start()
    await servers.stop()
    filler.unlink()
    async with watched(small_disk / "data") as servers:
        assert await query(servers.database_url, "SELECT 1") == [(1,)]


async def test_a_disk_that_fills_while_postgres_writes_is_named_when_it_gives_up(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.embedded.BACKOFF_SECONDS", 0.01)
    servers = Embedded(small_disk / "data", nats_url="nats://unused")
    await servers.start()
    try:
        watch = asyncio.create_task(servers.watch())
        with pytest.raises(psycopg.Error):
            await write_for_ever(servers.database_url)
        assert servers.postgres
        if servers.postgres.child.pid:  # it refused the row; WAL that finds no room kills it by itself
            os.kill(servers.postgres.child.pid, signal.SIGKILL)
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(watch, WAIT_SECONDS)
        assert caught.group_contains(ServerFailed, match="no space left on the disk of")
    finally:
        await servers.stop()


async def write_for_ever(url: str) -> None:
    await query(url, "CREATE TABLE big (word text)")
    while True:
        await query(url, "INSERT INTO big SELECT repeat('x', 2000) FROM generate_series(1, 9000)")


async def test_a_program_that_dies_of_a_full_disk_is_explained(small_disk: Path) -> None:
    writer = Child("dd", cwd=small_disk, log=small_disk.parent / "dd.log", death_signal=signal.SIGKILL)
    writer.spawn(["dd", "if=/dev/zero", f"of={small_disk}/filler", "bs=1M"])
    assert await writer.exited() == 1
    assert "fix: free some space" in str(writer.failure("failed"))


@pytest.mark.skipif(not AS_ROOT, reason="only root can make another user to try it as")
async def test_a_user_without_rights_can_run_both(data_dir: Path) -> None:
    name = f"cairn{secrets.token_hex(3)}"
    subprocess.run(["useradd", "--no-create-home", name], check=True)
    try:
        user = pwd.getpwnam(name)
        python = next((path for path in pythons() if not barrier(path, Account(user.pw_uid, user.pw_gid))), None)
        if python is None or barrier(REPOSITORY, Account(user.pw_uid, user.pw_gid)):
            pytest.skip("by design: an ordinary user can reach no Python of this version, or not this repository")
        home = data_dir / "home"
        home.mkdir(mode=0o700)
        os.chown(home, user.pw_uid, user.pw_gid)
        identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        paths = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
        with parent(home / "data", "wait", python=str(python), env=paths, **identity) as first:
            assert first.stdout
            pids = first.stdout.readline().split()[1:]
            assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids} == {user.pw_uid}
            first.kill()
        with parent(home / "data", "stop", python=str(python), env=paths, **identity) as second:
            assert second.wait(WAIT_SECONDS) == 0
        with pytest.raises(ServerFailed, match=f"belongs to the user {user.pw_uid}, this Cairn runs as 0"):
            await Embedded(home / "data").start()
    finally:
        subprocess.run(["userdel", name], check=True)


def pythons() -> list[Path]:
    """This Python, and the system's when it is of the same version and can load the same extensions."""
    system = Path(f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}")
    return [Path(sys.executable), *([system] if system.exists() else [])]


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as somebody else")
async def test_root_with_an_environment_in_a_closed_folder_can_run_postgres(data_dir: Path) -> None:
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    package = wheel_binaries().parents[1]
    for folder in package.parent.glob(f"{package.name}*"):
        shutil.copytree(folder, closed / folder.name, ignore=shutil.ignore_patterns("pginstall", "include"))
    paths = os.pathsep.join([str(closed), *sys.path])
    with parent(data_dir / "data", "stop", env={"PYTHONPATH": paths}) as process:
        assert process.wait(WAIT_SECONDS) == 0
    assert (closed.stat().st_mode & 0o777) == 0o700


@pytest.mark.skipif(not AS_ROOT, reason="only root runs Postgres as somebody else")
async def test_root_is_told_which_folder_is_closed_to_postgres(data_dir: Path) -> None:
    closed = data_dir / "closed"
    closed.mkdir(mode=0o700)
    servers = Embedded(closed / "data", nats_url="nats://unused")
    with pytest.raises(ServerFailed, match=f"fix: chmod o\\+x {closed},"):
        await servers.start()
    await servers.stop()
