"""Random plans by the dozen on one system, with agents that fail in every way there is, a person who answers at random
and cancels now and then, and a server that is killed: every workflow ends, and nothing is left standing.

More runs than the suite has time for: `python -m tests.journeys.test_soak COUNT [SEED]`.
"""

import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from random import Random
from typing import Any

import pytest

from cairn.calls import Conflict, ends
from ops.bench.usage import memory_mb

from .stage import Json, System, is_a, system

AT_ONCE = 200
AGENTS = ("ann", "bob", "cid", "dan", "eve", "fay")
CAPACITY = 100
KILL_SECONDS = (4.0, 20.0)
"""Between two kills of the server, at random."""
STILL_SECONDS = 60.0
"""Nothing at all has happened for so long although workflows are open: they are stuck."""
ROUTES = ("test_failure", "implementation_bug", "spec_mismatch", "refused")


def plan(name: str, random: Random) -> Json:
    """Three to twelve tasks that depend on earlier ones at random, and what is to be done about their failures."""
    tasks: list[Json] = []
    for number in range(random.randint(3, 12)):
        before = [task["id"] for task in tasks]
        tasks.append(
            {
                "id": f"t{number}", "dependencies": random.sample(before, random.randint(0, min(2, len(before)))),
                "timeout_seconds": 0.5, "max_attempts": random.randint(1, 4), "retry": {"initial_seconds": 0.02},
                "max_debug_attempts": random.randint(0, 3), "max_branch_depth": random.randint(0, 3),
                "failure_routing": dict.fromkeys(random.sample(ROUTES, random.randint(0, 3)), "coder"),
                "approval": random.sample(["before_dispatch", "before_completion"], random.choice([0, 0, 0, 0, 1])),
                "priority": random.randint(-5, 5),
            }
        )  # fmt: skip
    asking = {"due_seconds": random.choice([0, 1.0, 86_400]), "default": random.choice(["fail", "accept"])}
    return {"id": name, "tasks": tasks, "escalation": asking}


class Soak:
    """`run()` starts so many workflows, a bounded number at a time, and returns how they ended once all of them have."""

    def __init__(self, stage: System, count: int, seed: int, *, kills: bool) -> None:
        self.stage, self.random, self.seed = stage, Random(seed), seed
        self._left = [plan(f"soak{seed}-{number}", self.random) for number in range(count)]
        self._open: set[str] = set()
        self.ended: dict[str, str] = {}
        self.asked = self.kills = self.deaths = 0
        self._asks: list[Json] = []
        self._after = 0
        self._agents: dict[str, subprocess.Popen[bytes]] = {}
        self._kill_at = time.monotonic() + self.random.uniform(*KILL_SECONDS) if kills else float("inf")

    def run(self) -> Counter[str]:
        heard = time.monotonic()
        while self._left or self._open:
            self._agents_alive()
            while self._left and len(self._open) < AT_ONCE:
                self._open.add(self.stage.submit(self._left.pop(), bare=True))
            if self._listen():
                heard = time.monotonic()
            assert time.monotonic() - heard < STILL_SECONDS, f"seed {self.seed}: stuck\n{self._stuck()}"
            self._decide()
            if time.monotonic() > self._kill_at:
                self.stage.kill()
                self.stage.start()
                self.kills += 1
                heard = time.monotonic()
                self._kill_at = heard + self.random.uniform(*KILL_SECONDS)
            time.sleep(0.1)  # a person's pace
        return Counter(self.ended.values())

    def _agents_alive(self) -> None:
        for name in AGENTS:
            process = self._agents.get(name)
            if process is None or process.poll() is not None:
                self.deaths += process is not None
                self._agents[name] = self.stage.agent("wild", "coder", name, str(CAPACITY), str(self.seed))

    def _listen(self) -> bool:
        before = self._after
        for event in self.stage.client.events(before):
            self._after = int(event["sequence"])
            if ends(event):
                workflow = event["data"]["workflow"]
                self._open.discard(workflow)
                self.ended[workflow] = event["type"].split(".")[2]
            elif is_a(event, "ask.opened"):
                self._asks.append({"workflow": event["subject"].split("/")[1], **event["data"]})
        return self._after > before

    def _decide(self) -> None:
        asks, self._asks = self._asks, []
        for ask in asks:
            if ask["workflow"] not in self._open:
                continue
            if self.random.random() < 0.3:
                self._asks.append(ask)  # tomorrow
                continue
            self.asked += 1
            choices = [choice for choice in ask.get("options", ["anything"]) if choice not in ("edit", "reassign")]
            choice = self.random.choice([*choices, choices[0]])
            with suppress(Conflict):  # it was too late
                self.stage.client.answer(ask["workflow"], ask["ask"], choice=choice, shown=ask["shown"])
        if self._open and self.random.random() < 0.02:
            with suppress(Conflict):
                self.stage.client.cancel(self.random.choice(sorted(self._open)), "enough")

    def _stuck(self) -> str:
        details: list[Any] = [self.stage.client.workflow(name) for name in sorted(self._open)]
        return "\n".join(
            f"{detail['workflow']['workflow']} {task['task']}: {task['status']}, waits for {task['waiting_on']}"
            for detail in details
            for task in detail["tasks"]
            if task["waiting_on"]
        )


def story(count: int, seed: int, *, kills: bool) -> None:
    print(f"seed {seed}: {count} runs", flush=True)
    began = time.monotonic()
    with system(CAIRN_LEASE_SECONDS="1") as stage:
        soak = Soak(stage, count, seed, kills=kills)
        ended = soak.run()
        assert sum(ended.values()) == count
        print(
            f"seed {seed}: {dict(ended)} in {time.monotonic() - began:.0f} s, {soak.asked} answers, {soak.kills} kills of"
            f" the server, {soak.deaths} agents died, server {memory_mb(stage.pid)} MB",
            flush=True,
        )
        stage.intact()


@pytest.mark.parametrize("seed", [1])
def test_whatever_the_agents_do_every_workflow_ends(seed: int) -> None:
    story(30, seed, kills=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it started ends with it
    story(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1, kills=True)
