"""Backups of real servers at work: whole or refused, and what is restored from them is what was recorded.

It is long because all of it is about one site: what it holds, what is taken of it, what comes back.
"""

import asyncio
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import msgspec
import psycopg
import pytest
from journeys.stage import data_folder

from cairn.repository import Repository
from domain.commands import ReportCompleted, ReportStarted, StartWorkflow, WorkflowCommand
from domain.events import LedgerRestored, WorkflowRestored
from domain.outcome import Result
from domain.plan import Plan, Task
from handlers.execute import Executor, Order
from ledger.ledger import Ledger
from ledger.postgres import pool
from ledger.roles import lacking
from ops.backup.finish import MARKER, Brought, finish
from ops.backup.manifest import NAME, BackupBroken, check, read
from ops.backup.restore import restore
from ops.backup.take import take
from ops.backup.wal import take_segments
from ops.embedded import Embedded, embedded
from ops.embedded.child import ServerFailed
from ops.settings import Settings
from projections.board import Board
from projections.project import Projection
from tests.cluster import with_cluster

AUTHOR = "ann <ann@agents.test>"
CAIRN = (sys.executable, "-m", "cairn")


def quiet(_: str) -> None:
    pass


class Site:
    """A data directory with its servers' settings, and what agents and people do there."""

    def __init__(self, data_dir: Path, database_url: str | None = None, tenant: str = "main") -> None:
        self.settings = Settings(data_dir=data_dir, database_url=database_url, tenant=tenant)
        self.data_dir, self.repository = data_dir, data_dir / "artifacts.git"

    @asynccontextmanager
    async def up(self) -> AsyncIterator[Ledger]:
        """Without a relay: NATS has no part in a backup."""
        async with self.postgres() as url, Ledger.open(url, tenant=self.settings.tenant) as ledger:
            self.url = url
            self.executor = Executor(ledger)
            yield ledger

    @asynccontextmanager
    async def postgres(self) -> AsyncIterator[str]:
        servers = Embedded(self.data_dir, database_url=self.settings.database_url, nats_url="nats://unused", tell=quiet)
        try:
            await servers.start()
            yield servers.database_url
        finally:
            await servers.stop()

    async def say(self, workflow: str, command: WorkflowCommand) -> None:
        await self.executor.execute(workflow, Order(uuid4(), command, "ann"))

    async def work(self, workflow: str, tasks: int, done: int) -> list[str]:
        """A plan of so many tasks, of which some are done; their commits."""
        repository = await Repository.create(self.repository)
        base = await repository.import_folder(None, message="nothing yet", ref=f"refs/cairn/{workflow}/+base")
        plan = Plan(id=workflow, tasks=tuple(Task(f"t{n}") for n in range(tasks)))
        place = {"repository": str(self.repository), "base": base}
        await self.say(workflow, StartWorkflow(now=time.time(), workflow=workflow, plan=plan, **place))  # type: ignore[arg-type]
        commits = [base]
        for number in range(done):
            held = {
                "now": time.time(),
                "task": f"t{number}",
                "run": f"t{number}/1",
                "token": number + 1,
                "agent": "ann",
            }
            await self.say(workflow, ReportStarted(**held))  # type: ignore[arg-type]
            async with repository.workspace(bases=[base], folder=self.data_dir / "agents" / "worktrees") as space:
                (space.path / "file").write_text(f"{workflow} {number}")
                made = await space.commit("work", author=AUTHOR, trailers={})
                assert made
                await repository.keep(workflow, f"t{number}", f"t{number}/1", made)
            await self.say(workflow, ReportCompleted(**held, result=Result("done", made)))  # type: ignore[arg-type]
            await repository.set_branch(workflow, f"t{number}", made)
            commits.append(made)
        return commits


@pytest.fixture(scope="module")
def backup() -> Iterator[tuple[Site, Path, list[str]]]:
    """A backup of an embedded system with two workflows, one of which goes on; where it lies, and the commits."""
    with data_folder() as folder:
        site = Site(with_cluster(folder / "data"))

        async def make() -> list[str]:
            async with site.up():
                commits = await site.work("ended", 2, 2) + await site.work("going", 3, 1)
                (site.data_dir / "archive").mkdir()
                (site.data_dir / "archive" / "1-8.segment").write_bytes(b"closed")
                outbox = site.data_dir / "agents" / "outbox" / "main" / "ann.jsonl"
                outbox.parent.mkdir(parents=True)
                outbox.write_text('{"body":{}}\n')
                await take(site.settings, site.url, folder / "backup", quiet)
            return commits

        commits = asyncio.run(make())
        yield site, folder / "backup", commits


async def test_what_comes_back_is_what_was_recorded_and_says_so(
    backup: tuple[Site, Path, list[str]], data_dir: Path
) -> None:
    _, folder, commits = backup
    there = Site(data_dir / "there")
    [back] = await restore(there.settings, folder, quiet)
    [main] = read(folder).tenants
    assert (back.position, back.digest, back.epoch, back.workflows) == (main.position, main.digest, main.epoch + 1, 1)
    async with there.up() as ledger:
        events = await ledger.read(0)
        restored, told, *offered = events[main.position :]
        assert restored.stream == "ledger-main" and restored.actor == "cairn restore"
        assert restored.event == LedgerRestored(
            position=main.position, previous_epoch=1, epoch=2, taken_at=read(folder).taken_at
        )
        assert isinstance(told.event, WorkflowRestored) and told.event.repository == str(there.repository)
        assert {one.event.task for one in offered} == {"t1", "t2"}  # type: ignore[attr-defined]
        assert all(one.event.token > told.event.tokens for one in offered)  # type: ignore[attr-defined]
        assert (await ledger.verify()).position == len(events)
    assert await (await Repository.open(there.repository)).missing(commits) == []
    assert (there.data_dir / "archive" / "1-8.segment").read_bytes() == b"closed"
    assert (there.data_dir / "agents" / "outbox" / "main" / "ann.jsonl").exists()
    assert not (there.data_dir / MARKER).exists()


async def test_every_file_of_a_backup_is_for_its_owner_alone_and_none_holds_a_secret(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(with_cluster(data_dir / "data"))
    config = data_dir / "cairn.toml"
    config.write_text('listen = "127.0.0.1:0"\n')
    config.chmod(0o644)
    told = {**site.settings.origins, "listen": str(config)}
    settings = msgspec.structs.replace(site.settings, origins=told)
    async with embedded(site.settings, quiet) as servers, Ledger.open(servers.database_url):
        password = servers.nats_url.partition("@")[0].rpartition(":")[2]
        await take(settings, servers.database_url, data_dir / "backup", quiet)
    for path in (data_dir / "backup", *(data_dir / "backup").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
        assert path.is_dir() or password.encode() not in path.read_bytes()
    assert (data_dir / "backup" / "cairn.toml").read_text() == config.read_text()


def test_a_flipped_byte_a_missing_file_and_a_shorter_one_are_named(
    backup: tuple[Site, Path, list[str]], data_dir: Path
) -> None:
    shutil.copytree(backup[1], data_dir / "copy")
    manifest = read(data_dir / "copy")
    check(data_dir / "copy", manifest)
    assert len(manifest.files) > 8
    for content in manifest.files:
        path = data_dir / "copy" / content.path
        whole = path.read_bytes()
        if whole:
            at = random.randrange(len(whole))
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(BackupBroken, match=f"{path} was changed"):
                check(data_dir / "copy", manifest)
            path.write_bytes(whole[:-1])
            with pytest.raises(BackupBroken, match=f"{path} has {len(whole) - 1} bytes"):
                check(data_dir / "copy", manifest)
        path.unlink()
        with pytest.raises(BackupBroken, match=f"{path} is missing"):
            check(data_dir / "copy", manifest)
        path.write_bytes(whole)
    check(data_dir / "copy", manifest)


async def test_a_damaged_backup_leaves_nothing_behind(backup: tuple[Site, Path, list[str]], data_dir: Path) -> None:
    shutil.copytree(backup[1], data_dir / "copy")
    with (data_dir / "copy" / "postgres" / "base.tar.gz").open("r+b") as file:
        file.seek(1_000)
        file.write(b"\0\1\2\3")
    with pytest.raises(BackupBroken, match=r"base\.tar\.gz was changed"):
        await restore(Site(data_dir / "there").settings, data_dir / "copy", quiet)
    assert not (data_dir / "there").exists()


async def test_a_ledger_that_is_not_the_one_of_the_manifest_is_refused_and_does_not_start(
    backup: tuple[Site, Path, list[str]], data_dir: Path
) -> None:
    shutil.copytree(backup[1], data_dir / "copy")
    manifest = read(data_dir / "copy")
    [main] = manifest.tenants
    forged = msgspec.structs.replace(main, digest="ab" * 32)
    text = msgspec.json.encode(msgspec.structs.replace(manifest, tenants=[forged]))
    (data_dir / "copy" / NAME).write_bytes(text)
    there = Site(data_dir / "there")
    with pytest.raises(BackupBroken, match=f"{main.digest} at position {main.position}.* taken with abab"):
        await restore(there.settings, data_dir / "copy", quiet)
    with pytest.raises(ServerFailed, match="not finished\n  fix: cairn restore --finish"):
        async with embedded(there.settings, quiet):
            pass


async def test_nothing_is_written_over(backup: tuple[Site, Path, list[str]], data_dir: Path) -> None:
    site, folder, _ = backup
    with pytest.raises(ServerFailed, match="is there already and not empty"):
        await take(site.settings, "postgresql://unused", folder, quiet)
    (data_dir / "mine").mkdir()
    (data_dir / "mine" / "file").touch()
    with pytest.raises(ServerFailed, match="mine is not empty, and a restore writes over nothing"):
        await restore(Site(data_dir / "mine").settings, folder, quiet)
    assert [*(data_dir / "mine").iterdir()] == [data_dir / "mine" / "file"]
    with pytest.raises(ServerFailed, match="unset DATABASE_URL"):
        await restore(Site(data_dir / "new", "postgresql://unused").settings, folder, quiet)
    with pytest.raises(ServerFailed, match="there is no ledger in"):
        await finish(Site(data_dir / "new").settings, quiet)


async def test_a_disk_that_is_too_small_is_found_before_anything_is_taken(
    backup: tuple[Site, Path, list[str]], small_disk: Path
) -> None:
    site, folder, _ = backup
    (small_disk / "ballast").write_bytes(b"\1" * (235 * 1024**2))
    with pytest.raises(ServerFailed, match=r"MiB free, \d+ MiB are needed"):
        await take(site.settings, "postgresql://unused", small_disk / "backup", quiet)
    with pytest.raises(ServerFailed, match=r"MiB free, \d+ MiB are needed"):
        await restore(Site(small_disk / "there").settings, folder, quiet)
    assert not any((small_disk / "backup").iterdir()) and not any((small_disk / "there").iterdir())


async def test_a_backup_taken_while_others_record_and_push_holds_every_commit_that_it_names(data_dir: Path) -> None:
    site = Site(with_cluster(data_dir / "data"))

    async def busy(agent: int) -> None:
        for number in range(1_000):
            await site.work(f"busy-{agent}-{number}", 1, 1)

    async with site.up() as ledger:
        await site.work("first", 2, 1)
        at_work = [asyncio.create_task(busy(agent)) for agent in range(3)]
        [before] = (await take(site.settings, site.url, data_dir / "backup", quiet)).tenants
        at_end = (await ledger.head()).position
        for task in at_work:
            task.cancel()
        await asyncio.gather(*at_work, return_exceptions=True)
    assert at_end > before.position, "nobody recorded anything meanwhile"
    told: list[str] = []
    there = Site(data_dir / "there")
    [back] = await restore(there.settings, data_dir / "backup", told.append)
    assert before.position <= back.position <= at_end
    assert not [line for line in told if "missing" in line]
    async with there.up() as ledger:
        named = [one.event.result.commit for one in await ledger.read(0) if one.type == "task.completed"]  # type: ignore[attr-defined]
    assert named and await (await Repository.open(there.repository)).missing(named) == []


async def test_a_branch_of_the_future_is_gone_and_what_was_accepted_has_its_own(
    data_dir: Path,
) -> None:
    site = Site(with_cluster(data_dir / "data"))
    async with site.up():
        _, accepted = await site.work("w", 2, 1)
        repository = await Repository.open(site.repository)
        await repository.set_branch("w", "t1", accepted)
        await repository.set_branch("never-was", "t0", accepted)
        await take(site.settings, site.url, data_dir / "backup", quiet)
    there = Site(data_dir / "there")
    await restore(there.settings, data_dir / "backup", quiet)
    listed = subprocess.check_output(["git", "-C", there.repository, "for-each-ref", "refs/heads/"], text=True)
    assert listed == f"{accepted} commit\trefs/heads/ai/generated/w/t0\n"


async def test_yours_is_dumped_and_goes_into_a_database_without_it_once(
    postgres_url: str, data_dir: Path, tenant: str
) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        for name in ("old", "new"):
            await connection.execute(f"CREATE DATABASE {tenant}_{name}")  # type: ignore[arg-type]
    old, new = (postgres_url.replace("/postgres?", f"/{tenant}_{name}?") for name in ("old", "new"))
    partitions = f"{old}&options=-c%20cairn.partition_events%3D7"
    site, there = Site(data_dir / "data", partitions, tenant), Site(data_dir / "there", new, tenant)
    site.data_dir.mkdir()
    async with site.up(), Ledger.open(old, tenant="another"):
        commits = await site.work("going", 9, 7)
        where = {"DATABASE_URL": old, "NATS_URL": "nats://unused", "CAIRN_TENANT": tenant}
        environment = {**os.environ, **where, "CAIRN_DATA_DIR": str(site.data_dir)}
        subprocess.run([*CAIRN, "archive", "--before", "16"], env=environment, check=True, capture_output=True)
        assert len([*site.settings.archive.iterdir()]) == 2
        manifest = await take(site.settings, old, data_dir / "backup", quiet)
    assert (manifest.postgres, [one.name for one in manifest.tenants]) == ("dump", [tenant])
    with pytest.raises(ServerFailed, match="DATABASE_URL to the database to restore it to"):
        await restore(Site(data_dir / "embedded").settings, data_dir / "backup", quiet)
    with pytest.raises(
        ServerFailed, match=f"the tenant {tenant}, and the setting says main\n.*CAIRN_TENANT to {tenant}"
    ):
        await restore(Site(data_dir / "other", new).settings, data_dir / "backup", quiet)
    [back] = await restore(there.settings, data_dir / "backup", quiet)
    assert (back.position, back.digest) == (manifest.tenants[0].position, manifest.tenants[0].digest)
    assert await (await Repository.open(there.repository)).missing(commits) == []
    segment = min(there.settings.archive.iterdir())
    away = segment.rename(data_dir / "away")
    with pytest.raises(BackupBroken, match=rf"{segment} is missing, .* positions 1 to 7\n.* --until 20..-..-..T"):
        await finish(there.settings, quiet)
    away.rename(segment)
    async with Ledger.open(new, tenant=tenant, archive=there.settings.archive) as ledger:
        events = await ledger.read(0)
        assert events[0].position == 1 and (await ledger.verify()).events == events[-1].position
    async with there.up() as ledger, await psycopg.AsyncConnection.connect(new) as connection:
        assert (await ledger.head()).epoch == 2
        assert await lacking(connection, tenant) == ("", "")
        async with pool(new, tenant, size=1, views=True) as views:
            await Projection(views, Board()).install()
        with pytest.raises(psycopg.errors.RestrictViolation):
            await connection.execute(f"SET search_path TO cairn_{tenant}; DELETE FROM events")  # type: ignore[arg-type]
    again = Site(data_dir / "again", new, tenant)
    with pytest.raises(ServerFailed, match=f"the schema cairn_{tenant} is there already"):
        await restore(again.settings, data_dir / "backup", quiet)


async def test_a_second_finish_is_another_epoch_and_other_tokens(
    backup: tuple[Site, Path, list[str]], data_dir: Path
) -> None:
    there = Site(data_dir / "there")
    await restore(there.settings, backup[1], quiet)
    [back] = await finish(there.settings, quiet)
    assert back.epoch == 3
    async with there.up() as ledger:
        told = [one.event for one in await ledger.read_stream("ledger-main")]
        assert [(one.previous_epoch, one.epoch) for one in told] == [(1, 2), (2, 3)]  # type: ignore[attr-defined]
        tokens = [one.event.tokens for one in await ledger.read(0) if isinstance(one.event, WorkflowRestored)]
    assert tokens[1] - tokens[0] > 2**16


async def test_a_segment_is_copied_once_and_again_if_it_was_written_anew(data_dir: Path) -> None:
    (data_dir / "archive").mkdir()
    copies = data_dir / "wal" / "archive"
    copies.mkdir(parents=True)
    one, two = (data_dir / "archive" / f"main-{number}.segment" for number in (1, 2))
    one.write_bytes(b"left by a crash")
    one.with_suffix(".part").write_bytes(b"on its way")
    (data_dir / "wal" / "archive.new").write_bytes(b"a longer rest of a copy that was killed")
    told: list[str] = []
    for _ in range(2):
        await take_segments(data_dir, data_dir / "wal", told.append)
    assert told == ["copied main-1.segment"]
    first = (copies / one.name).stat().st_ino
    two.write_bytes(b"another")
    one.with_suffix(".part").write_bytes(b"written anew...")
    one.with_suffix(".part").replace(one)
    for _ in range(2):
        await take_segments(data_dir, data_dir / "wal", told.append)
    assert told[1:] == ["copied main-1.segment", "copied main-2.segment"]
    assert {path.name: path.read_bytes() for path in copies.iterdir()} == {
        one.name: b"written anew...", two.name: b"another"
    }  # fmt: skip
    assert (copies / one.name).stat().st_ino != first and stat.S_IMODE((copies / one.name).stat().st_mode) == 0o600


def interrupted(seed: int, most_seconds: float, *arguments: str | Path) -> None:
    """kill -9 of a command and all it has started, at a moment that the seed chooses."""
    delay = random.Random(seed).uniform(0.5, most_seconds)
    print(f"seed {seed}: killed after {delay:.2f} s", flush=True)
    command = subprocess.Popen(
        [*CAIRN, *map(str, arguments)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    with suppress(subprocess.TimeoutExpired):
        command.wait(delay)
    command.send_signal(signal.SIGKILL)
    command.wait()


@pytest.mark.parametrize("seed", range(3))
def test_a_backup_that_was_killed_is_whole_or_known_as_none(seed: int, data_dir: Path) -> None:
    site = Site(with_cluster(data_dir / "data"))

    async def make() -> None:
        async with site.up():
            await site.work("w", 2, 1)

    asyncio.run(make())
    interrupted(seed, 4.0, "backup", data_dir / "backup", "--data-dir", site.data_dir)
    if (data_dir / "backup" / NAME).exists():
        check(data_dir / "backup", read(data_dir / "backup"))
    else:
        with pytest.raises(BackupBroken, match="no backup, or one that was interrupted"):
            asyncio.run(restore(Site(data_dir / "there").settings, data_dir / "backup", quiet))
    shutil.rmtree(data_dir / "backup", ignore_errors=True)

    async def again() -> list[Brought]:
        async with site.postgres() as url:
            await take(site.settings, url, data_dir / "backup", quiet)
        return await restore(Site(data_dir / "there").settings, data_dir / "backup", quiet)

    assert asyncio.run(again())[0].epoch == 2


async def test_a_restore_that_was_killed_while_postgres_recovered_goes_on_where_it_was(
    backup: tuple[Site, Path, list[str]], data_dir: Path
) -> None:
    there = Site(data_dir / "there")
    log = there.data_dir / "log" / "postgres.log"
    command = subprocess.Popen(
        [*CAIRN, "restore", backup[1], "--data-dir", there.data_dir], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while command.poll() is None and not (log.exists() and b"backup recovery" in log.read_bytes()):
        await asyncio.sleep(0.001)
    command.kill()
    command.wait()
    [back] = await finish(there.settings, quiet)
    [main] = read(backup[1]).tenants
    assert back.epoch > main.epoch and back.position >= main.position


@pytest.mark.parametrize("seed", range(3))
def test_a_restore_that_was_killed_is_finished_or_refused(
    seed: int, backup: tuple[Site, Path, list[str]], data_dir: Path
) -> None:
    there = Site(data_dir / "there")
    interrupted(seed, 6.0, "restore", backup[1], "--data-dir", there.data_dir)
    begun = there.data_dir.exists() and any(there.data_dir.iterdir())
    if begun and not (there.data_dir / "postgres").exists():
        with pytest.raises(ServerFailed, match="nothing was restored there, or not to its end\n  fix: remove"):
            asyncio.run(finish(there.settings, quiet))
        shutil.rmtree(there.data_dir)
        begun = False
    [back] = asyncio.run(finish(there.settings, quiet) if begun else restore(there.settings, backup[1], quiet))
    [main] = read(backup[1]).tenants
    assert back.epoch > main.epoch and back.position >= main.position

    async def look() -> None:
        async with there.up() as ledger:
            assert (await ledger.read(main.position - 1, 1))[0].digest.hex() == main.digest
            assert (await ledger.verify()).position > main.position

    asyncio.run(look())
