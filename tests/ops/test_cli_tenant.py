"""Two tenants on the same servers at the same time, each with its own `cairn up`, working on workflows of the same names."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from cli_home import Home, ended, new_home, told

from tests.cluster import with_cluster

CODER = """#!/bin/sh
echo "{0}" > work.txt
echo '{{"summary": "worked for {0}"}}'
"""


@pytest.fixture(scope="module")
def homes() -> Iterator[tuple[Home, Home]]:
    """`main` with the servers it brings along, and `team_two` on the same ones; a coder of one name for each."""
    main, two = new_home(), new_home()
    with_cluster(main.data)
    running = []
    try:
        running.append(main.start("up", "--testers", "0"))
        told(running[-1], "stop ")
        up = json.loads((main.data / "up.json").read_text())
        two.environment |= {"DATABASE_URL": up["database_url"], "NATS_URL": up["nats_url"]}
        running.append(two.start("up", "--testers", "0", "--tenant", "team_two"))
        told(running[-1], "stop ")
        for home, name in ((main, "main"), (two, "team_two")):
            (home.folder / "agents/coder.sh").write_text(CODER.format(name))
            running.append(home.start("agent", "--role", "coder", "--exec", "agents/coder.sh", "--name", "carl"))
            told(running[-1], "works on")
        yield main, two
    finally:
        codes = [ended(process) for process in reversed(running)]
        for home in (main, two):
            shutil.rmtree(home.folder)
    assert codes == [0, 0, 0, 0]


def events(home: Home) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home.cairn("events", "-o", "jsonl").stdout.splitlines()]


def test_two_tenants_work_side_by_side_and_share_nothing(homes: tuple[Home, Home]) -> None:
    plans = [home.plan("same", {"id": "a"}, {"id": "b", "dependencies": ["a"]}) for home in homes]
    runs = [home.start("run", plan) for home, plan in zip(homes, plans, strict=True)]
    for home, run, name in zip(homes, runs, ("main", "team_two"), strict=True):
        said, _ = run.communicate(timeout=60)
        assert run.returncode == 0 and "2 of 2 tasks completed" in said
        (row,) = json.loads(home.cairn("ls", "-o", "json").stdout)
        assert (row["workflow"], row["status"]) == ("same", "completed")
        history = events(home)
        assert [int(event["sequence"]) for event in history] == [*range(1, len(history) + 1)]
        assert {event["source"] for event in history} == {f"/cairn/{name}"}
        done = [event for event in history if event["type"] == "cairn.task.completed.v1"]
        assert {event["data"]["result"]["summary"] for event in done} == {f"worked for {name}"}
        repository = json.loads((home.data / "up.json").read_text())["repository"]
        work = ["git", "-C", repository, "show", "ai/generated/same/b:work.txt"]
        assert subprocess.check_output(work, text=True) == f"{name}\n"
    one, two = ({event["id"] for event in events(home)} for home in homes)
    assert not one & two


def test_tenants_are_made_and_listed(homes: tuple[Home, Home]) -> None:
    main, two = homes
    made = main.cairn("tenant", "create", "team_three")
    assert made.returncode == 0 and "tenant team_three: schema cairn_team_three has " in made.stdout
    assert two.cairn("tenant", "create", "team_three").stdout.endswith("is up to date\n")
    rows = {row["name"]: row for row in json.loads(two.cairn("tenant", "ls", "-o", "json").stdout)}
    assert list(rows) == ["main", "team_three", "team_two"]
    assert rows["team_three"]["position"] == 0 and rows["team_two"]["position"] == len(events(two))
    assert rows["main"]["events"] == rows["main"]["position"] and rows["main"]["size_bytes"] > 0
    assert main.cairn("tenant", "ls").stdout.splitlines()[0].split() == [
        "NAME",
        "POSITION",
        "EPOCH",
        "EVENTS",
        "SIZE",
        "BYTES",
    ]
    wrong = main.cairn("tenant", "create", "Team-3")
    assert wrong.returncode == 2 and "a letter, then at most 40 of a-z, 0-9 and _" in wrong.stderr


def test_a_second_system_in_one_data_directory_is_a_conflict_on_any_servers(homes: tuple[Home, Home]) -> None:
    done = homes[1].cairn("up", "--tenant", "team_four")
    assert done.returncode == 4 and "another Cairn (process " in done.stderr


def test_tenants_of_a_system_that_is_down_are_listed_too() -> None:
    home = new_home()
    try:
        none = home.cairn("tenant", "ls")
        assert none.returncode == 3 and "fix: cairn up" in none.stderr
        up = home.start("up", "--testers", "0", "--tenant", "alone")
        told(up, "stop ")
        assert ended(up) == 0
        assert [row["name"] for row in json.loads(home.cairn("tenant", "ls", "-o", "json").stdout)] == ["alone"]
        home.environment["DATABASE_URL"] = "postgresql://127.0.0.1:1/none"
        away = home.cairn("tenant", "ls")
        assert away.returncode == 6 and "Postgres: " in away.stderr
        assert not home.runs()
    finally:
        shutil.rmtree(home.folder)
