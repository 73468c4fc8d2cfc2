"""A real Prometheus looks at a real run, as docs/monitoring.md says: every panel and every rule gets what it asks for.

What an expression that compares has to return is not the comparison, which is to be false most of the time, but what is
compared: its `sides`.
"""

import json
import math
import os
import re
import shlex
import shutil
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from awaited import AWAITED

from .stage import Json, System, system

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/monitoring.md"
STARTS = 3
"""Which of its commands starts Prometheus."""
SCRAPED = ("15s", "1s")
"""How often the file we ship says to scrape, and how often is done here."""
COMPARED = re.compile(r"\s*(?:==|!=|>=|<=|>|<)\s*(?:bool\s+)?")
ASKED_SECONDS = 60.0
SOON = {"initial_seconds": 0.1}


class Prometheus:
    """One that scrapes a system once a second; it is asked through its HTTP API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def _get(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{urlencode(query)}", timeout=10) as response:
            return json.loads(response.read())["data"]

    def answers(self) -> bool:
        try:
            return bool(self.values('up{job="cairn"} == 1'))
        except (urllib.error.URLError, ConnectionError):
            return False

    def values(self, query: str) -> list[float]:
        """Of all series that the query returns now; those that are no number are none. Raises HTTPError for nonsense."""
        found = self._get("query", query=query)["result"]
        return [value for one in found if not math.isnan(value := float(one["value"][1]))]

    def rules(self) -> list[Json]:
        """With `type` alerting or recording, `query`, and how its last evaluation went (`health`, `lastError`)."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]


class Typed:
    """A shell in a folder of its own. What it starts and does not end is ended with it."""

    def __init__(self, stage: System, listen: str) -> None:
        self._stage, self.listen, self._at = stage, listen, stage.folder / "operator"
        self._at.mkdir()
        (self._at / "ops").symlink_to(ROOT / "ops")
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self, line: str) -> str:
        """What the line prints, which has to end well; of one that does not end, nothing. Addresses are ours."""
        line = self._ours(line)
        if line.startswith("prometheus "):
            file = self._at / "prometheus/prometheus.yml"
            file.write_text(self._ours(file.read_text()).replace(*SCRAPED))
            with (self._stage.folder / "prometheus.log").open("wb") as log:
                self._started.append(subprocess.Popen(shlex.split(line), cwd=self._at, stdout=log, stderr=log))
            return ""
        environment = {**os.environ, "CAIRN_DATA_DIR": str(self._stage.folder)}
        done = subprocess.run(["sh", "-c", line], cwd=self._at, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}: {done.stdout}{done.stderr}"
        return done.stdout

    def _ours(self, text: str) -> str:
        return text.replace("127.0.0.1:8700", self._stage.listen).replace("127.0.0.1:9090", self.listen)

    def end(self) -> None:
        for process in self._started:
            process.terminate()
            process.wait(30)


def command_lines() -> list[str]:
    blocks = re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return re.findall(r"^\$ (.*)$", "".join(blocks), re.MULTILINE)


@pytest.fixture(scope="module")
def stage() -> Iterator[System]:
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    with system() as one:
        for program, role in (("worker", "worker"), ("odd", "odd"), ("spender", "spender"), ("mason", "coder"),
                              ("mason", "debugger")):  # fmt: skip
            one.agent(program, role, f"{program}-{role}")
        yield one
        one.intact()


@pytest.fixture(scope="module")
def typed(stage: System) -> Iterator[Typed]:
    """Somebody who types what the page says, in a folder beside a checkout."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
    one = Typed(stage, listen)
    yield one
    one.end()


@pytest.fixture(scope="module")
def prometheus(stage: System, typed: Typed) -> Iterator[Prometheus]:
    """It has looked on while a run went on."""
    before, after = (command_lines()[: STARTS + 1], command_lines()[STARTS + 1 :])
    for line in before:
        typed.run(line)
    one = Prometheus(f"http://{typed.listen}")
    stage.until(one.answers, "Prometheus has scraped Cairn")
    for line in after:
        assert typed.run(line), f"`{line}` says nothing"
    stage.cairn("audit", "verify", "--record")
    idle = stage.submit({"id": "idle", "roles": ["nobody"], "tasks": [{"id": "a", "agent_role": "nobody"}]}, bare=True)
    for turn in ("first", "second"):  # something has to grow while Prometheus looks
        work(stage, turn)
        stage.until(lambda: scraped(stage, one), "Prometheus has seen all that happened")
    yield one
    stage.client.cancel(idle)
    assert stage.finished(idle) == "cancelled"


def work(stage: System, turn: str) -> None:
    """Workflows that succeed, fail, are tried again, branch, ask a person, and spend."""
    roles = ["worker", "odd", "spender"]
    lines = {"covered_lines": 2, "num_statements": 3}
    covered = json.dumps({"meta": {"version": "7.6"}, "totals": lines, "files": {"wall.py": {"summary": lines}}})
    cmd = f"echo '{covered}' > coverage.json && test $(wc -l < stones.txt) -ge 2"
    mended = {"tests": [{"cmd": cmd, "coverage": "coverage.json", "timeout_seconds": 20}]}
    routing = {"test_failure": {"do": "branch", "role": "debugger"}}
    inputs = {"tokens": 100, "calls": 2}
    tasks: list[Json] = [
        {"id": "plain", "agent_role": "worker"},
        {"id": "after", "agent_role": "worker", "dependencies": ["plain"]},
        {"id": "branched", "acceptance_criteria": mended, "failure_routing": routing, "max_attempts": 1},
        {"id": "again", "agent_role": "odd", "inputs": {"does": "raise", "then_well": True}, "retry": SOON},
        {"id": "approved", "agent_role": "worker", "approval": ["before_dispatch"]},
        {"id": "spends", "agent_role": "spender", "inputs": inputs, "budget": {"tokens": 1_000}},
    ]
    good = stage.submit({"id": f"good-{turn}", "roles": roles, "tasks": tasks})
    wrong = {"id": "wrong", "agent_role": "odd", "inputs": {"does": "raise"}, "max_attempts": 2, "retry": SOON}
    bad = stage.submit({"id": f"bad-{turn}", "roles": roles, "tasks": [wrong], "escalation": {"due_seconds": 0}})
    ask = stage.seen(lambda event: event["type"] == "cairn.ask.opened.v1", workflow=good)["data"]
    stage.client.answer(good, ask["ask"], choice="approve", shown=ask["shown"])
    assert (stage.finished(good), stage.finished(bad)) == ("completed", "failed")


def scraped(stage: System, prometheus: Prometheus) -> bool:
    """Whether its last look at Cairn was after all that is recorded now, and the views had it."""
    last = max(int(event["sequence"]) for event in stage.client.events())
    return prometheus.values("cairn_ledger_position") >= [last] and not any(
        prometheus.values("cairn_projection_lag_events")
    )


def sides(expression: str) -> list[str]:
    """What an expression compares: of each operand of `and`, the side left of its comparison. An expression that does
    not compare is its own side."""
    parts, depth, begun = [], 0, 0
    for found in re.finditer(r'"[^"]*"|[(\[{]|[)\]}]|\band\b', expression):
        depth += (found[0] in "([{") - (found[0] in ")]}")
        if found[0] == "and" and not depth:
            parts.append(expression[begun : found.start()])
            begun = found.end()
    return [_left(part) for part in (*parts, expression[begun:])]


def _left(expression: str) -> str:
    depth = 0
    for found in re.finditer(rf'"[^"]*"|[(\[{{]|[)\]}}]|{COMPARED.pattern}', expression):
        depth += (found[0] in "([{") - (found[0] in ")]}")
        if not depth and COMPARED.fullmatch(found[0]):
            return expression[: found.start()].strip()
    return expression.strip()


@pytest.mark.parametrize(("expression", "expected"), [
    ("a > 0", ["a"]),
    ('a{b=~"c|>"} >= 0.2 and sum by (d) (e) == 5', ['a{b=~"c|>"}', "sum by (d) (e)"]),
    ("(a or 0 * b) == 0", ["(a or 0 * b)"]),
    ("time() - (a > 0) > 5", ["time() - (a > 0)"]),
    ("sum(a) / (sum(b) > 0)", ["sum(a) / (sum(b) > 0)"]),
])  # fmt: skip
def test_what_is_compared_is_found(expression: str, expected: list[str]) -> None:
    assert sides(expression) == expected


def test_every_rule_is_evaluated_and_has_something_to_look_at(stage: System, prometheus: Prometheus) -> None:
    rules = prometheus.rules()
    assert {rule["type"] for rule in rules} == {"alerting", "recording"}
    stage.until(lambda: all(rule["health"] == "ok" for rule in prometheus.rules()), "each rule was evaluated")
    returns_data(stage, prometheus, {side for rule in rules for side in sides(rule["query"])})


@pytest.mark.parametrize("file", sorted((ROOT / "ops/grafana/dashboards").glob("*.json")), ids=lambda file: file.stem)
def test_every_panel_shows_something(stage: System, prometheus: Prometheus, file: Path) -> None:
    panels = json.loads(file.read_text())["panels"]
    asked = {target["expr"] for panel in panels for target in panel["targets"]}
    returns_data(stage, prometheus, {query.replace("$instance", ".*").replace("$role", ".*") for query in asked})


def untold(prometheus: Prometheus, query: str) -> bool:
    """Whether it asks for what is not told yet, itself or by a rule that records."""
    recorded = {rule["name"]: rule["query"] for rule in prometheus.rules() if rule["type"] == "recording"}
    names = set(re.findall(r"\bcairn[_:][a-z0-9_:]+", query))
    return bool(names & AWAITED) or any(untold(prometheus, recorded[name]) for name in names & recorded.keys())


def returns_data(stage: System, prometheus: Prometheus, queries: set[str]) -> None:
    """Waits until each of them that can returns a number. AssertionError with those that do not."""
    empty = {query for query in queries if not untold(prometheus, query)}
    assert empty

    def look() -> bool:
        empty.difference_update({query for query in empty if prometheus.values(query)})
        return not empty

    try:
        stage.until(look, "every query returns a number", ASKED_SECONDS)
    except AssertionError:
        raise AssertionError("no number comes of:\n" + "\n".join(sorted(empty))) from None


def test_nothing_is_wrong_with_a_run_on_which_nothing_is_wrong(stage: System, prometheus: Prometheus) -> None:
    firing = {rule["name"] for rule in prometheus.rules() if rule["type"] == "alerting" and rule["state"] == "firing"}
    assert firing == set()
