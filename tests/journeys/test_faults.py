"""Faults in the middle of a plan: whatever is killed, wiped or gone, the plan completes and the logs are whole.

More kill points than the suite has time for: `python -m tests.journeys.test_faults COUNT [FIRST_SEED]`.
"""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest

from cairn.bus import Bus
from ops.embedded import Embedded
from ops.embedded.child import left_behind
from tests.cluster import with_cluster

from .stage import System, data_folder, is_a, kept, layers, system

SEEDS = range(5)
AWAY_SECONDS = 6.0
"""Longer than a pool waits for a connection, and than Postgres lets a transaction stand idle."""


def story(seed: int) -> None:
    """kill -9 of the server once the ledger has so many events, at a moment the seed chooses; then it starts again."""
    random = Random(seed)
    with system() as stage:
        stage.agent("worker", "coder", "ann", "2")
        workflow = stage.submit(layers(f"kill{seed}", 1, 2, 1))
        for position in sorted(random.sample(range(2, 26), 2)):
            stage.reached(position)
            delay = random.uniform(0, 0.03)
            print(f"seed {seed}: kill -9 at position {position} + {delay * 1000:.0f} ms", flush=True)
            time.sleep(delay)  # the moment is the test's matter
            stage.kill()
            stage.start()
        assert stage.finished(workflow) == "completed"
        stage.intact()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_survives_its_server_being_killed(seed: int) -> None:
    story(seed)


def chaos(count: int, first: int = 0) -> None:
    """As many stories as wanted; each prints its seed and how long it took."""
    for seed in range(first, first + count):
        began = time.monotonic()
        story(seed)
        print(f"seed {seed}: whole after {time.monotonic() - began:.1f} s", flush=True)


def test_another_agent_takes_over_from_one_that_was_killed() -> None:
    with system() as stage:
        killed = stage.agent("zombie", "coder", "ann", str(stage.folder))
        workflow = stage.submit(layers("takeover", 1, 1))
        stage.seen(lambda event: is_a(event, "task.started", agent="ann"), workflow=workflow)
        killed.kill()
        killed.wait()
        stage.agent("worker", "coder", "bob")
        lost = stage.seen(lambda event: is_a(event, "task.attempt_failed"), workflow=workflow)
        assert lost["data"]["failure"]["type"] == "agent_lost"
        assert stage.finished(workflow) == "completed"
        done = stage.seen(lambda event: is_a(event, "task.completed"), workflow=workflow)
        assert done["data"]["agent"] == "bob"
        stage.intact()


def test_a_zombie_comes_too_late_and_everyone_can_see_it() -> None:
    with system() as stage:
        zombie = stage.agent("zombie", "coder", "zed", str(stage.folder))
        workflow = stage.submit(layers("zombie", 1, acceptance_criteria={}), bare=True)
        stage.seen(lambda event: is_a(event, "task.started", agent="zed"), workflow=workflow)
        (stage.folder / "freeze").touch()
        stage.until((stage.folder / "frozen").exists, "the zombie stands still")
        zombie.send_signal(signal.SIGSTOP)
        stage.agent("worker", "coder", "bob")
        assert stage.finished(workflow) == "completed"
        (stage.folder / "wake").touch()
        zombie.send_signal(signal.SIGCONT)
        refused = stage.seen(lambda event: is_a(event, "report.refused"), workflow=workflow)
        assert refused["data"]["agent"] == "zed" and refused["data"]["kind"] == "completed"
        stage.intact()


def test_servers_of_ours_that_are_killed_come_back_and_the_plan_goes_on() -> None:
    with system() as stage:
        stage.agent("worker", "coder", "ann", "2")
        workflow = stage.submit(layers("servers", 1, 3, 1))
        for position, server in ((6, stage.postmaster), (14, stage.nats_server), (22, stage.postmaster)):
            stage.reached(position)
            os.kill(server(), signal.SIGKILL)
        assert stage.finished(workflow) == "completed"
        assert stage.alive()
        stage.intact()


def test_the_store_of_nats_may_be_wiped_while_all_is_down() -> None:
    with system() as stage:
        stage.agent("worker", "coder", "ann", "2")
        workflow = stage.submit(layers("wiped-down", 1, 3, 1))
        stage.reached(8)
        stage.kill()
        stage.until(lambda: not left_behind("nats-server", stage.folder / "nats"), "NATS has followed its parent")
        shutil.rmtree(stage.folder / "nats" / "jetstream")
        stage.start()
        assert stage.finished(workflow) == "completed"
        stage.intact()


def test_the_store_of_nats_may_be_wiped_while_all_is_up_be_it_idle_or_busy() -> None:
    with system() as stage:
        workflow = stage.submit(layers("wiped-up", 1, 3, 1))
        stage.until(lambda: stage.client.ready()["checks"]["relay"]["behind"] == 0, "the dispatch is announced")
        asyncio.run(_delete_streams(stage))
        stage.agent("worker", "coder", "ann", "2")
        stage.reached(12)
        asyncio.run(_delete_streams(stage))
        assert stage.finished(workflow) == "completed"
        stage.intact()


def test_the_stream_may_be_rebuilt_in_the_middle_of_a_plan() -> None:
    """Agents' consumers, the inbox and whoever follows move over to the stream of the next epoch by themselves."""
    with system() as stage:
        stage.agent("worker", "coder", "ann", "2")
        workflow = stage.submit(layers("rebuilt", 1, 3, 2, 1))
        for epoch, position in ((2, 6), (3, 16), (4, 26)):
            stage.reached(position)
            said = stage.cairn("ledger", "rebuild-stream", "--yes")
            assert said.startswith(f"rebuilt   MAIN_EVENTS_{epoch}, up to position "), said
        assert stage.finished(workflow) == "completed"
        assert stage.cairn("ledger", "compare").startswith("equal ")
        stage.cairn("audit", "verify")
        stage.intact()


@pytest.mark.parametrize("away", ["postgres", "nats"])
def test_a_plan_waits_for_a_server_of_yours_that_is_away(away: str) -> None:
    with yours() as servers, system(DATABASE_URL=servers.database_url, NATS_URL=servers.nats_url) as stage:
        stage.agent("worker", "coder", "ann", "2")
        workflow = stage.submit(layers(f"without-{away}", 1, 3, 1, inputs={"seconds": 0.3}))
        stage.reached(10)
        server = servers.postgres if away == "postgres" else servers.nats
        assert server is not None
        asyncio.run(server.stop())
        time.sleep(AWAY_SECONDS)  # how long it is away is the test's matter
        asyncio.run(server.start())
        assert stage.finished(workflow) == "completed"
        assert stage.alive()
        events = stage.client.events(workflow=workflow)
        lost = [event["data"]["failure"] for event in events if is_a(event, "task.attempt_failed")]
        assert lost == [], "an agent that lives was given up while nobody could hear it"
        stage.intact()


def test_a_plan_goes_on_where_a_drain_has_left_it() -> None:
    with system() as stage:
        stage.agent("worker", "coder", "ann", "2")
        workflow = stage.submit(layers("drained", 1, 3, 1, inputs={"seconds": 0.2}))
        stage.reached(10)
        stage.stop()
        assert not (stage.folder / "up.json").exists()
        stage.start()
        assert stage.finished(workflow) == "completed"
        stage.intact()


def test_a_server_that_was_suspended_goes_on() -> None:
    with system() as stage:
        stage.agent("worker", "coder", "ann", "2")
        workflow = stage.submit(layers("suspended", 1, 3, 1))
        stage.reached(10)
        os.kill(stage.pid, signal.SIGSTOP)
        time.sleep(AWAY_SECONDS)  # how long it stands still is the test's matter
        os.kill(stage.pid, signal.SIGCONT)
        assert stage.finished(workflow) == "completed"
        assert stage.alive()
        stage.intact()


def test_two_servers_share_one_workflow_and_one_port_and_either_may_go() -> None:
    with yours() as servers, data_folder() as other:
        urls = {"DATABASE_URL": servers.database_url, "NATS_URL": servers.nats_url}
        with system(**urls) as one, kept(System(other, **urls, CAIRN_LISTEN=one.listen)) as two:
            two.start()
            assert f"port {one.listen.split(':')[1]} is taken" in two.said() and two.where().url != one.where().url
            two.agent("worker", "coder", "ann")
            one.agent("worker", "coder", "bob")
            workflow = one.submit(layers("shared", 1, 4, 1))
            two.reached(12)
            one.kill()
            assert two.finished(workflow) == "completed"
            two.intact()
            one.start()
            assert one.client.workflow(workflow)["workflow"]["status"] == "completed"


@contextmanager
def yours() -> Iterator[Embedded]:
    """A Postgres and a NATS that are not the system's own: it knows nothing but their URLs."""
    with data_folder() as folder:
        servers = Embedded(with_cluster(folder))
        try:
            asyncio.run(servers.start())
            yield servers
        finally:
            asyncio.run(servers.stop())


async def _delete_streams(stage: System) -> None:
    """As if the volume of NATS had been replaced under a running server: every stream is gone, with its consumers."""
    async with Bus.connect(stage.where().nats_url, name="journey") as bus:
        for name in (await bus.api("STREAM.NAMES"))["streams"]:
            await bus.api(f"STREAM.DELETE.{name}")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it started ends with it
    chaos(*map(int, sys.argv[1:]))
