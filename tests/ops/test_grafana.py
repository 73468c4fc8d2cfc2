"""The dashboards as Grafana reads them: who they are, that nothing lies over anything, and that all they name is there."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from awaited import AWAITED

from ops.grafana import boards
from projections.figures import FIGURES

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
DASHBOARDS: dict[str, Json] = {Path(name).stem: json.loads(text) for name, text in boards.documents().items()}
each_dashboard = pytest.mark.parametrize("uid", DASHBOARDS)


def test_their_addresses_stay() -> None:
    assert {uid: board["uid"] for uid, board in DASHBOARDS.items()} == {
        uid: uid for uid in ("cairn-overview", "cairn-agents", "cairn-spend", "cairn-ledger", "cairn-reliability")
    }
    assert {board["id"] for board in DASHBOARDS.values()} == {None}, "Grafana gives the number"


@each_dashboard
def test_panels_lie_beside_each_other(uid: str) -> None:
    places = [panel["gridPos"] for panel in DASHBOARDS[uid]["panels"]]
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], f"{one}, {other}"
    assert all(place["x"] + place["w"] <= 24 for place in places)


@each_dashboard
def test_each_panel_has_a_title_of_its_own_says_what_it_shows_and_asks_something(uid: str) -> None:
    panels = DASHBOARDS[uid]["panels"]
    assert len({panel["title"] for panel in panels}) == len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["description"] and panel["targets"], panel["title"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


@each_dashboard
def test_every_variable_is_defined_and_used(uid: str) -> None:
    board = DASHBOARDS[uid]
    used = set(re.findall(r"\$\{?([a-z]+)", json.dumps(board)))
    assert {variable["name"] for variable in board["templating"]["list"]} == used


@each_dashboard
def test_each_selector_is_of_the_instance_that_was_chosen(uid: str) -> None:
    for panel in DASHBOARDS[uid]["panels"]:
        for target in panel["targets"]:
            names = re.findall(r"\b(?:cairn[_:]|up\b)", target["expr"])
            assert target["expr"].count('instance=~"$instance"') == len(names), target["expr"]


@each_dashboard
def test_a_series_is_called_by_labels_that_it_has(uid: str) -> None:
    for panel in DASHBOARDS[uid]["panels"]:
        for target in panel["targets"]:
            kept = re.findall(r"by \(([^)]*)\)", target["expr"])
            labels = {label for names in kept for label in names.split(", ")}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == labels, target["expr"]
            for name, asked in re.findall(r"\b(cairn_\w+)\{([^}]*)\}", target["expr"]):
                family = re.sub(r"_(bucket|sum|count)$", "", name)
                if family in AWAITED:
                    continue
                assert set(re.findall(r"(\w+)=~?", asked)) <= {"instance", *FIGURES[family].labels}, target["expr"]


@each_dashboard
def test_there_is_a_way_from_a_figure_to_its_workflows_where_there_are_some(uid: str) -> None:
    board = DASHBOARDS[uid]
    assert [link["url"] for link in board["links"] if link["type"] == "link"] == ["${cairn:raw}/"]
    urls = [link["url"] for panel in board["panels"] for link in panel["fieldConfig"]["defaults"].get("links", ())]
    assert all(
        re.fullmatch(r"\$\{cairn:raw\}/\?status=([a-z]+|\$\{__field\.labels\.(status|outcome)\})", url) for url in urls
    )
    assert urls or uid == "cairn-ledger"


def test_grafana_is_told_where_they_are_and_whom_to_ask() -> None:
    folder = ROOT / "ops/grafana/provisioning"
    source = (folder / "datasources/prometheus.yaml").read_text()
    assert "uid: prometheus\n" in source and "url: ${PROMETHEUS_URL}\n" in source
    assert "type: file\n" in (folder / "dashboards/cairn.yaml").read_text()
