"""`cairn audit` and `cairn ledger` as processes, on a system that is up and on what a stopped one left behind."""

import asyncio
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from cli_home import Home, ended, new_home, on_terminal, told
from terminal import plain

from cairn.bus import Bus
from ops.embedded import Embedded
from tests.cluster import with_cluster


@pytest.fixture(scope="module")
def system() -> Iterator[Home]:
    """A system that is up and has carried out a plan without agents: it waits for one."""
    made = new_home()
    with_cluster(made.data)
    up = made.start("up", "--testers", "0")
    told(up, "stop ")
    try:
        assert made.cairn("run", "--detach", made.plan("kept", *({"id": f"t{number}"} for number in range(9)))).stdout
        yield made
    finally:
        code = ended(up)
    assert code == 0
    shutil.rmtree(made.folder)


def up_json(home: Home) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home.data / "up.json").read_bytes())
    return found


def last(home: Home) -> int:
    return int(json.loads(home.cairn("events", "-o", "jsonl").stdout.splitlines()[-1])["sequence"])


def test_a_whole_ledger_is_verified_and_its_digest_said(system: Home) -> None:
    done = system.cairn("audit", "verify")
    assert done.returncode == 0 and not done.stderr
    events = [json.loads(line) for line in system.cairn("events", "-o", "jsonl").stdout.splitlines()]
    rows = dict(re.findall(r"^(\w+) +(.*)$", done.stdout, re.MULTILINE))
    assert rows["verified"] == f"{len(events)} events of main, up to position {len(events)}"
    assert rows["digest"] == events[-1]["digest"] and "events/s" in rows["rate"]
    part = json.loads(system.cairn("audit", "verify", "--from", "3", "--to", "5", "-o", "json").stdout)
    assert (part["events"], part["position"], part["digest"]) == (3, 5, events[4]["digest"])
    assert part["broken"] is None and part["events_per_second"] > 0


def test_an_audit_is_recorded_if_it_is_of_everything(system: Home) -> None:
    audited = json.loads(system.cairn("audit", "verify", "--record", "-o", "json").stdout)
    *_, event = [json.loads(one) for one in system.cairn("events", "-o", "jsonl").stdout.splitlines()]
    assert event["type"] == "cairn.ledger.audited.v1"
    assert {name: event["data"][name] for name in ("position", "ok", "checked_events", "digest")} == {
        "position": audited["position"], "ok": True, "checked_events": audited["events"], "digest": audited["digest"],
    }  # fmt: skip
    assert f"whole up to position {audited['position']}" in system.cairn("events").stdout.splitlines()[-1]
    part = system.cairn("audit", "verify", "--record", "--from", "3")
    assert part.returncode == 2 and "only an audit of the whole ledger is recorded" in part.stderr


def test_a_terminal_is_told_how_far_it_is(system: Home) -> None:
    code, shown = on_terminal(system, ["audit", "verify"], [])
    assert code == 0 and re.search(r"(\d+) of \1 events verified", plain(shown))


def test_both_logs_are_compared(system: Home) -> None:
    done = system.cairn("ledger", "compare")
    assert done.returncode == 0 and not done.stderr
    assert re.search(
        rf"^equal +{last(system)} events, positions 1 to \d+ of MAIN_EVENTS_\d$", done.stdout, re.MULTILINE
    )
    part = json.loads(system.cairn("ledger", "compare", "--from", "2", "--to", "4", "-o", "json").stdout)
    assert (part["equal"], part["events"], part["first"], part["last"]) == (True, 3, 2, 4)
    assert (part["before_window"], part["difference"]) == (0, None)


def test_a_stream_is_rebuilt_under_a_system_that_is_up_once_somebody_said_yes(system: Home) -> None:
    before = json.loads(system.cairn("ledger", "compare", "-o", "json").stdout)
    unasked = system.cairn("ledger", "rebuild-stream")
    assert unasked.returncode == 2 and "fix: cairn ledger rebuild-stream --yes" in unasked.stderr
    code, shown = on_terminal(system, ["ledger", "rebuild-stream"], [("[y]es: ", "n\n")])
    assert code == 1 and "nothing was done" in plain(shown)
    done = system.cairn("ledger", "rebuild-stream", "--yes")
    epoch = int(before["stream"].rpartition("_")[2])
    assert done.returncode == 0 and done.stdout.startswith(f"rebuilt   MAIN_EVENTS_{epoch + 1}, up to position ")
    code, shown = on_terminal(system, ["ledger", "rebuild-stream"], [("[y]es: ", "y\n")])
    assert code == 0 and f"MAIN_EVENTS_{epoch + 2}" in plain(shown)
    after = json.loads(system.cairn("ledger", "compare", "-o", "json").stdout)
    assert after["stream"] == f"MAIN_EVENTS_{epoch + 2}" and after["equal"] and after["events"] >= before["events"]
    assert system.cairn("run", "--detach", system.plan("goes-on", {"id": "a"})).returncode == 0
    assert system.cairn("ledger", "compare").returncode == 0


def test_a_tenant_that_is_not_there_is_not_found(system: Home) -> None:
    for command in (("audit", "verify"), ("ledger", "compare"), ("ledger", "rebuild-stream", "--yes")):
        done = system.cairn(*command, "--tenant", "nobody")
        assert done.returncode == 3 and "no ledger of a tenant 'nobody'" in done.stderr and not done.stdout


def test_without_a_system_there_is_nothing_to_verify_and_nothing_is_made() -> None:
    home = new_home()
    done = home.cairn("audit", "verify")
    assert done.returncode == 3 and "there is no ledger in" in done.stderr and "fix: cairn up" in done.stderr
    assert not home.data.exists()
    home.environment["DATABASE_URL"] = "postgresql://127.0.0.1:1/none"
    away = home.cairn("audit", "verify")
    assert away.returncode == 6 and "Postgres does not answer" in away.stderr
    shutil.rmtree(home.folder)


def test_what_a_stopped_system_left_is_verified_and_what_was_changed_in_it_is_named() -> None:
    home = new_home()
    up = home.start("up", "--testers", "0")
    told(up, "stop ")
    home.cairn("run", "--detach", home.plan("kept", *({"id": f"t{number}"} for number in range(5))))
    assert home.cairn("ledger", "compare").returncode == 0
    assert ended(up) == 0
    assert home.cairn("audit", "verify").returncode == 0
    assert home.cairn("ledger", "compare").returncode == 0
    assert not home.runs(), "what was started to look was not stopped"
    asyncio.run(tampered(home.data))
    done = home.cairn("audit", "verify")
    assert done.returncode == 1 and "position 3: its digest" in done.stderr and not done.stdout
    assert "fix: cairn events --after 2" in done.stderr
    told_as_json = home.cairn("audit", "verify", "-o", "json")
    assert told_as_json.returncode == 1 and json.loads(told_as_json.stdout)["broken"]["position"] == 3
    differs = home.cairn("ledger", "compare")
    assert differs.returncode == 1 and "differs at position 3: it holds the same event, altered" in differs.stderr
    assert "equal     2 events" in differs.stdout
    found = json.loads(home.cairn("ledger", "compare", "-o", "json").stdout)
    assert (found["equal"], found["last"], found["difference"]["position"]) == (False, 2, 3)
    assert home.cairn("audit", "verify", "--from", "4").returncode == 0
    assert home.cairn("audit", "verify", "--record").returncode == 1
    assert not home.runs()
    up = home.start("up", "--testers", "0")
    told(up, "stop ")
    *_, event = [json.loads(line) for line in home.cairn("events", "-o", "jsonl").stdout.splitlines()]
    assert (event["data"]["ok"], event["data"]["position"]) == (False, 3)
    assert ended(up) == 0
    shutil.rmtree(home.folder)


async def tampered(data: Path) -> None:
    """A superuser has changed who did what stands at position 3."""
    servers = Embedded(data, nats_url="nats://unused")
    try:
        await servers.start()
        async with await psycopg.AsyncConnection.connect(servers.database_url, autocommit=True) as connection:
            await connection.execute("SET search_path = cairn_main; ALTER TABLE events DISABLE TRIGGER ALL")
            await connection.execute("UPDATE events SET actor = 'nobody' WHERE position = 3")
            await connection.execute("ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_never_changed")
    finally:
        await servers.stop()


def test_what_was_in_the_stream_and_never_happened_is_put_into_quarantine(system: Home) -> None:
    before = json.loads(system.cairn("ledger", "compare", "-o", "json").stdout)

    async def publish() -> None:
        async with Bus.connect(up_json(system)["nats_url"]) as bus:
            await bus.store("cairn.main.evt.workflow.kept.noise", b"noise")
            async with asyncio.timeout(30):
                while before["stream"] in (await bus.api("STREAM.NAMES"))["streams"]:
                    await asyncio.sleep(0.02)
            kept = await bus.api("STREAM.MSG.GET.MAIN_QUARANTINE", {"last_by_subj": "cairn.main.quarantine"})
            assert kept["message"]["data"] == "bm9pc2U=", kept

    asyncio.run(publish())
    assert system.cairn("ledger", "compare").returncode == 0
