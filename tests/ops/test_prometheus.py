"""What Prometheus is given: it takes it, every alert fires where it should and nowhere else, and has a page that helps."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from awaited import AWAITED
from cyclopts import App, CycloptsError

from ops.cli.call import _app
from ops.grafana import boards
from projections.figures import FIGURES

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "ops/prometheus"
UNIT_TESTS = sorted((ROOT / "tests/ops/prometheus").glob("*.yml"))
RUNBOOKS = sorted((ROOT / "docs/runbooks").glob("*.md"))
RULES = "".join(file.read_text() for file in sorted((PROMETHEUS / "rules").glob("*.yml")))
ALERTS = re.findall(r"^ +- alert: (\w+)$", RULES, re.MULTILINE)
RECORDED = re.findall(r"^ +- record: (\S+)$", RULES, re.MULTILINE)
DASHBOARDS = "".join(boards.documents().values())
COMMAND = re.compile(r"^ *\$ cairn (.*)$", re.MULTILINE)


def promtool(*words: str | Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    done = subprocess.run(["promtool", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def parsed(app: App, command: str) -> None:
    """Raises CycloptsError where the program would refuse these words after `cairn`."""
    app.parse_args(shlex.split(command, comments=True), exit_on_error=False, print_error=False)


def test_prometheus_takes_the_configuration_and_the_rules_that_it_names(tmp_path: Path) -> None:
    here = shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    (here / "cairn.token").write_text("a token\n")
    promtool("check", "config", here / "prometheus.yml")


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_where_they_should_and_nowhere_else(file: Path) -> None:
    promtool("test", "rules", file)


@pytest.mark.parametrize("alert", ALERTS)
def test_each_alert_is_seen_to_fire_and_to_be_quiet(alert: str) -> None:
    cases = "".join(file.read_text() for file in UNIT_TESTS)
    assert re.search(rf"alertname: {alert}\n +exp_alerts:\n +- exp_labels:", cases), "it is not seen to fire"
    assert re.search(rf"alertname: {alert}\n +exp_alerts: \[\]\n", cases), "it is not seen to be quiet"


def test_each_alert_says_how_grave_it_is_what_is_so_and_where_help_is() -> None:
    ruled = re.split(r"^ +- alert: ", RULES.partition("- alert:")[2], flags=re.MULTILINE)
    assert len(ruled) == len(ALERTS) == len(set(ALERTS))
    for alert, text in zip(ALERTS, ruled, strict=True):
        assert alert.startswith("Cairn")
        assert re.search(r"^ +severity: (critical|warning|info)$", text, re.MULTILINE), alert
        for name in ("expr", "for", "summary", "description"):
            assert re.search(rf"^ +{name}: \S", text, re.MULTILINE), f"{alert} has no {name}"
        assert f" runbook_url: https://cairn.dev/docs/runbooks/{alert}.md\n" in f"{text}\n", alert


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert sorted(ALERTS) == [page.stem for page in RUNBOOKS]
    listed = re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\) \|", (ROOT / "docs/monitoring.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(ALERTS)


@pytest.mark.parametrize("page", RUNBOOKS, ids=lambda page: page.stem)
def test_a_runbook_says_what_it_is_and_what_to_do_in_commands_that_exist(page: Path) -> None:
    text, app = page.read_text(), _app()
    assert re.findall(r"^#+ .*$", text, re.MULTILINE) == [
        f"# {page.stem}", "## Meaning", "## Impact", "## Diagnosis", "## Mitigation",
    ]  # fmt: skip
    assert COMMAND.search(text), "no command of cairn is named"
    for command in COMMAND.findall(text):
        parsed(app, command)


@pytest.mark.parametrize("command", ["explain demo", "ls --statsu failed", "answer demo/ask-1", "events --after soon"])
def test_a_command_that_does_not_exist_would_be_noticed(command: str) -> None:
    with pytest.raises(CycloptsError):
        parsed(_app(), command)


def test_rules_and_dashboards_ask_only_for_what_cairn_tells() -> None:
    told = set(FIGURES)
    told |= {
        name + end for name, it in FIGURES.items() if it.kind == "histogram" for end in ("_bucket", "_sum", "_count")
    }
    asked = set(re.findall(r"\bcairn_[a-z0-9_]+", RULES + DASHBOARDS))
    assert asked - told == AWAITED


def test_what_is_recorded_is_used_and_what_is_used_is_recorded() -> None:
    expressions = re.sub(r"- record: \S+", "", RULES)
    assert set(re.findall(r"(?<!\{)\bcairn:[a-z0-9_:]+", expressions + DASHBOARDS)) == set(RECORDED)
    assert len(RECORDED) == len(set(RECORDED))
