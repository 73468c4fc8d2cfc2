"""`cairn archive` as a user calls it: what it lists, moves, refuses, and leaves readable."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cli_home import Home, new_home

sys.path.append(str(Path(__file__).parents[1] / "ledger"))
from appends import append, partitioned
from users import login

from ledger.ledger import Ledger


@pytest.fixture
def home(postgres_url: str, tenant: str) -> Iterator[Home]:
    home = new_home()
    home.environment |= {
        "DATABASE_URL": partitioned(postgres_url, 100), "CAIRN_TENANT": tenant, "NATS_URL": "nats://unused"
    }  # fmt: skip
    yield home
    shutil.rmtree(home.folder)


async def recorded(home: Home, count: int) -> None:
    async with Ledger.open(home.environment["DATABASE_URL"], tenant=home.environment["CAIRN_TENANT"]) as ledger:
        await ledger.append(append("workflow-a", 0, count))


def listed(home: Home) -> list[dict[str, Any]]:
    answer = home.cairn("archive", "ls", "-o", "json")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)  # type: ignore[no-any-return]


def test_closed_partitions_are_moved_listed_and_read(home: Home) -> None:
    asyncio.run(recorded(home, 350))
    assert [(one["first"], one["where"]) for one in listed(home)] == [(n, "Postgres") for n in (1, 101, 201, 301)]
    dry = home.cairn("archive", "--before", "250", "--dry-run", "-o", "json")
    assert [one["first"] for one in json.loads(dry.stdout)] == [1, 101]
    assert not (home.data / "archive").exists()
    moved = home.cairn("archive", "--before", "250", "-o", "json")
    assert moved.returncode == 0, moved.stderr
    assert [one["first"] for one in json.loads(moved.stdout)] == [1, 101]
    assert moved.stderr.count("are in") == 2
    rows = listed(home)
    assert [one["where"] for one in rows[2:]] == ["Postgres", "Postgres"]
    for one in rows[:2]:
        assert (home.data / "archive" / one["where"]).stat().st_size == one["bytes"]
    assert rows[1]["previous"] == rows[0]["digest"]

    async def read() -> int:
        url, tenant = home.environment["DATABASE_URL"], home.environment["CAIRN_TENANT"]
        async with Ledger.open(url, tenant=tenant, archive=home.data / "archive") as ledger:
            assert len(await ledger.read_stream("workflow-a")) == 350
            return (await ledger.verify()).events

    assert asyncio.run(read()) == 350


@pytest.mark.parametrize("before", ["2026-13", "0000-01", "soon", "-5", "²"])
def test_what_is_neither_a_month_nor_a_position_is_refused(home: Home, before: str) -> None:
    answer = home.cairn("archive", f"--before={before}")
    assert answer.returncode == 2
    assert "neither a month nor a position" in answer.stderr


def test_nothing_to_move_is_said_and_no_error(home: Home) -> None:
    asyncio.run(recorded(home, 150))
    answer = home.cairn("archive", "--before", "2020-01", "-o", "json")
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == []
    assert "nothing to move" in answer.stderr


def test_a_disk_that_is_full_is_said_and_nothing_is_moved(home: Home) -> None:
    asyncio.run(recorded(home, 250))
    archive = home.data / "archive"
    archive.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", archive], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount: {mounted.stderr.strip()}")
    try:
        full = home.cairn("archive", "--before", "101")
        left = list(archive.iterdir())
    finally:
        subprocess.run(["umount", archive], check=True)
    assert (full.returncode, left) == (1, [])
    assert "cannot be written (database or disk is full): nothing of it was moved" in full.stderr
    assert "a defect" not in full.stderr
    assert {one["where"] for one in listed(home)} == {"Postgres"}
    assert home.cairn("archive", "--before", "101").returncode == 0


def test_who_does_not_own_the_ledger_is_told_so_before_anything_is_written(home: Home, tenant: str) -> None:
    asyncio.run(recorded(home, 250))
    url = home.environment["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True) as superuser:
        superuser.execute(f"CREATE ROLE only_{tenant} LOGIN IN ROLE cairn_{tenant}")
    home.environment["DATABASE_URL"] = login(url, f"only_{tenant}")
    answer = home.cairn("archive", "--before", "101")
    assert answer.returncode == 1
    assert f"only_{tenant} does not own the ledger of {tenant}" in answer.stderr
    assert not (home.data / "archive").exists()


def test_a_tenant_that_is_not_there_is_not_made(home: Home) -> None:
    answer = home.cairn("archive", "ls", "--tenant", "nobody_at_all")
    assert answer.returncode == 3
    assert "no ledger of tenant nobody_at_all" in answer.stderr
