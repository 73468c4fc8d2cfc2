"""The doctor sees what is there, on real servers, sockets and disks."""

import asyncio
import socket
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from domain.events import ReportRefused
from ledger.append import Append, NewEvent
from ledger.cancel import end
from ledger.codec import event_id
from ledger.ledger import Ledger
from ledger.postgres import pool
from ops.doctor import Line, examine
from ops.embedded import embedded
from ops.settings import Settings, load
from projections.board import Board
from projections.project import Projection
from projections.recovery import Recovery
from projections.standing import Halted


def settings_for(data_dir: Path, **flags: Any) -> Settings:
    return load({"data_dir": data_dir, "listen": f"127.0.0.1:{free_port()}", **flags}, {}, data_dir)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


async def findings(settings: Settings) -> dict[str, Line]:
    return {line.what: line for line in await examine(settings)}


async def test_before_the_first_start_all_is_well_and_nothing_is_made(data_dir: Path) -> None:
    found = await findings(settings_for(data_dir / "new"))
    needed = ("Python", "data directory", "socket", "Postgres", "NATS", "address", "Git", "clock")
    assert {what: found[what].status for what in needed} == dict.fromkeys(needed, "ok")
    assert "18." in found["Postgres"].detail
    assert "not running" in found["NATS"].detail
    assert not (data_dir / "new").exists()


async def test_running_servers_are_asked_how_durable_they_are(data_dir: Path) -> None:
    settings = settings_for(data_dir)
    async with embedded(settings):
        found = await findings(settings)
        assert "answers" in found["Postgres"].detail
        assert found["durability"] == Line("ok", "durability", "fsync on, synchronous_commit on")
        assert found["role"] == Line("ok", "role", "the ledger acts as cairn_main, which can append and read")
        assert found["NATS"].detail == "embedded, answers, JetStream on, sync_interval always"


async def test_a_server_of_the_user_that_is_not_durable_is_a_failure(
    data_dir: Path, postgres_url: str, nats_url: str, tenant: str
) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"CREATE DATABASE {tenant}")
        await connection.execute(f"ALTER DATABASE {tenant} SET synchronous_commit = off")
    url = postgres_url.replace("/postgres?", f"/{tenant}?")
    found = await findings(settings_for(data_dir, database_url=url, nats_url=nats_url))
    assert found["durability"].status == "fail"
    assert "synchronous_commit = on" in found["durability"].fix
    assert found["NATS"].status == "ok"


async def test_a_user_who_may_not_make_roles_is_told_what_to_run(
    data_dir: Path, postgres_url: str, nats_url: str, tenant: str
) -> None:
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as connection:
        await connection.execute(f"CREATE ROLE plain_{tenant} LOGIN")
        url = postgres_url.replace("//postgres@", f"//plain_{tenant}@")
        settings = settings_for(data_dir, database_url=url, nats_url=nats_url, tenant=tenant)
        line = (await findings(settings))["role"]
        assert line.status == "warn"
        await connection.execute(line.fix.partition("psql: ")[2])
        assert (await findings(settings))["role"].status == "ok"


async def test_a_view_that_is_halted_is_a_failure_with_its_position_and_reason(
    data_dir: Path, postgres_url: str, nats_url: str, tenant: str
) -> None:
    settings = settings_for(data_dir, database_url=postgres_url, nats_url=nats_url, tenant=tenant)
    refused = ReportRefused(task="t", run="t/1", token=1, agent="ann", kind="started", why="")
    async with (
        Ledger.open(postgres_url, tenant=tenant) as ledger,
        pool(postgres_url, tenant, size=4, views=True) as some,
    ):
        assert "views" not in await findings(settings)
        views = [Projection(some, view) for view in (Board(), Recovery())]
        running = [asyncio.create_task(view.run(ledger)) for view in views]
        await ledger.append(Append("workflow-ghost", 0, [NewEvent(refused, event_id(uuid4(), 0), "tests")]))
        await views[1].reached(1)
        with pytest.raises(Halted):
            await views[0].reached(1)
        found = await findings(settings)
        await end(running)
    assert found["view board"].status == "fail"
    assert found["view board"].detail.startswith("halted at position 1: LookupError: workflow ghost was never started")
    assert "cairn projections rebuild board" in found["view board"].fix
    assert found["views"] == Line("ok", "views", "recovery at 1")


async def test_servers_that_are_away_are_named_with_the_setting_to_correct(data_dir: Path) -> None:
    port = free_port()
    urls = {"database_url": f"postgresql://127.0.0.1:{port}/x", "nats_url": f"nats://127.0.0.1:{port}"}
    found = await findings(settings_for(data_dir, **urls))
    assert (found["Postgres"].status, found["NATS"].status) == ("fail", "fail")
    assert "DATABASE_URL" in found["Postgres"].fix
    assert "NATS_URL" in found["NATS"].fix


@pytest.mark.parametrize(("answer", "status"), [(b"HTTP/1.0 200 OK\r\n\r\n{'name': 'cairn'}", "ok"), (b"hi", "fail")])
async def test_an_address_in_use_is_fine_only_when_a_cairn_answers_there(
    data_dir: Path, answer: bytes, status: str
) -> None:
    async def reply(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(reply, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        found = await findings(settings_for(data_dir, listen=f"127.0.0.1:{port}"))
    assert found["address"].status == status


async def test_too_small_and_fleeting_a_disk_is_seen(small_disk: Path) -> None:
    found = await findings(settings_for(small_disk / "data"))
    assert (found["disk space"].status, found["file system"].status) == ("fail", "warn")


async def test_a_sandbox_that_was_asked_for_and_does_not_work_is_a_failure(data_dir: Path) -> None:
    found = await findings(settings_for(data_dir, sandbox="docker", sandbox_image="cairn.invalid/none:0"))
    assert found["sandbox docker"].status == "fail"
