"""`cairn projections` as processes, on a system that is up and on what a stopped one left behind."""

import csv
import io
import json
import shutil
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from cli_home import Home, ended, new_home, told

from ops.views import VIEWS
from tests.cluster import with_cluster


@pytest.fixture
def home() -> Iterator[Home]:
    made = new_home()
    with_cluster(made.data)
    yield made
    shutil.rmtree(made.folder)


def rows(home: Home, *arguments: str) -> dict[str, dict[str, Any]]:
    done = home.cairn("projections", *arguments, "-o", "json")
    assert done.returncode == 0, done.stderr
    return {row["name"]: row for row in json.loads(done.stdout)}


def forged(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE cairnviews_main.board_tasks SET title = 'forged' WHERE task = 't1'")


def test_views_are_listed_compared_and_built_again_whether_the_system_is_up_or_not(home: Home) -> None:
    up = home.start("up", "--testers", "0")
    told(up, "stop ")
    try:
        assert home.cairn("run", "--detach", home.plan("kept", *({"id": f"t{number}"} for number in range(3)))).stdout
        last = len(home.cairn("events", "-o", "jsonl").stdout.splitlines())
        listed = rows(home, "ls")
        assert {*listed} == {*VIEWS}
        assert all((row["behind"], row["halted"]) == (0, None) and row["bytes"] > 0 for row in listed.values())
        assert (listed["board"]["position"], listed["board"]["rows"]) == (last, 1 + 3 + 3)
        assert all(row["seconds"] == 0 for row in rows(home, "lag").values())
        url = str(json.loads((home.data / "up.json").read_bytes())["database_url"])

        whole = ("projections", "rebuild", "board", "--shadow", "--diff")
        assert home.cairn(*whole).returncode == 0
        forged(url)
        done = home.cairn(*whole)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.splitlines()[0] == "board_tasks kept/t1 title: live 'forged', shadow ''"
        done = home.cairn("projections", "rebuild", "board", "-o", "json")
        told_of = json.loads(done.stdout)
        assert (done.returncode, told_of["swapped"], told_of["position"], told_of["events"]) == (0, True, last, last)
        assert [one["column"] for one in told_of["differences"]] == ["title"]
        assert home.cairn(*whole).returncode == 0
        forged(url)
    finally:
        assert ended(up) == 0
    assert home.cairn(*whole).returncode == 1
    assert home.cairn("projections", "rebuild", "board").returncode == 0
    table = home.cairn("projections", "ls").stdout.splitlines()
    assert table[0].split() == ["NAME", "VERSION", "POSITION", "BEHIND", "HALTED", "ROWS", "BYTES"]
    head, *body = csv.reader(io.StringIO(home.cairn("projections", "lag", "-o", "csv").stdout))
    assert head == ["name", "position", "behind", "seconds", "halted"]
    assert [row[0] for row in body] == sorted(VIEWS)


def test_what_cannot_be_asked_for_is_said_before_anything_is_done(home: Home) -> None:
    for arguments, code, said in (
        (("rebuild", "bored"), 3, "there are: board"),
        (("rebuild", "board", "--diff"), 2, "--diff goes with --shadow"),
    ):
        done = home.cairn("projections", *arguments)
        assert done.returncode == code and said in done.stderr, done.stderr
