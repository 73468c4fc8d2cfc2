"""A panel of a dashboard, and a dashboard of panels, as Grafana 10 and later reads them from provisioned files."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
CAIRN = "http://127.0.0.1:8700"
"""Where Cairn is, for the links, until somebody says otherwise on the dashboard."""
COLUMNS = 24
SCHEMA = 39
"""The version of Grafana's model of a dashboard that this is; newer ones take it up by themselves."""
OURS = re.compile(r"\b(cairn[_:][a-z0-9_:]+)(?:\{([^}]*)\})?")


class Panel(NamedTuple):
    """`queries` go from an expression to what its series are called (Grafana's `{{label}}`); of a selector of Cairn's
    metrics the instance is added. `alarming` is the value from which on it is red. `link` is a path of Cairn's pages."""

    title: str
    queries: dict[str, str]
    about: str
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8
    alarming: float | None = None
    link: str | None = None


class Dashboard(NamedTuple):
    """`uid` is for ever: addresses contain it."""

    uid: str
    title: str
    panels: Sequence[Panel]
    by_role: bool = False


def stat(title: str, query: str, about: str, unit: str = "short", **more: Any) -> Panel:
    """One figure, as of now."""
    return Panel(title, {query: ""}, about, unit, "stat", **{"width": 4, **more})


def document(dashboard: Dashboard) -> str:
    """The file."""
    body: dict[str, Any] = {
        "uid": dashboard.uid, "id": None, "title": dashboard.title, "tags": ["cairn"], "schemaVersion": SCHEMA,
        "version": 1, "editable": False, "refresh": "30s", "timezone": "browser", "graphTooltip": 1,
        "time": {"from": "now-6h", "to": "now"}, "annotations": {"list": []},
        "templating": {"list": list(_variables(dashboard.by_role))},
        "links": [
            {"type": "dashboards", "title": "Cairn's dashboards", "tags": ["cairn"], "asDropdown": True,
             "keepTime": True, "includeVars": True},
            {"type": "link", "title": "Cairn", "url": "${cairn:raw}/", "targetBlank": True},
        ],
        "panels": list(_panels(dashboard.panels)),
    }  # fmt: skip
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def _variables(by_role: bool) -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    yield _labels("instance", 'label_values(up{job="cairn"}, instance)')
    if by_role:
        yield _labels("role", 'label_values(cairn_agents{instance=~"$instance"}, role)')
    at = {"text": CAIRN, "value": CAIRN}
    yield {"name": "cairn", "label": "Cairn is at", "type": "textbox", "query": CAIRN, "current": at, "options": [at]}


def _labels(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": name.capitalize(), "type": "query", "datasource": SOURCE,
        "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1,
        "multi": True, "includeAll": True, "allValue": ".*", "current": {"text": ["All"], "value": ["$__all"]},
    }  # fmt: skip


def _panels(panels: Sequence[Panel]) -> Iterator[dict[str, Any]]:
    x = y = last = 0
    for number, panel in enumerate(panels, 1):
        height = 4 if panel.kind == "stat" else 8
        if x + panel.width > COLUMNS or (x and height != last):
            x, y = 0, y + last
        yield _panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": height})
        x, last = x + panel.width, height


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.alarming is not None:
        steps.append({"color": "red", "value": panel.alarming})
    defaults: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    options: dict[str, Any] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    if panel.kind == "timeseries":
        line = "dashed" if panel.alarming is not None else "off"
        defaults |= {"min": 0, "custom": {"fillOpacity": 8, "thresholdsStyle": {"mode": line}}}
        options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    if panel.link is not None:
        url = "${cairn:raw}" + panel.link
        defaults["links"] = [{"title": "These workflows in Cairn", "url": url, "targetBlank": True}]
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.about, "gridPos": place,
        "datasource": SOURCE, "fieldConfig": {"defaults": defaults, "overrides": []}, "options": options,
        "targets": [
            {"refId": chr(ord("A") + n), "datasource": SOURCE, "expr": _of_instance(query), "legendFormat": legend,
             "instant": panel.kind == "stat", "range": panel.kind != "stat"}
            for n, (query, legend) in enumerate(panel.queries.items())
        ],
    }  # fmt: skip


def _of_instance(query: str) -> str:
    """The same for the instances that are chosen on the dashboard."""

    def chosen(found: re.Match[str]) -> str:
        matchers = ['instance=~"$instance"', *([found[2]] if found[2] else [])]
        return f"{found[1]}{{{', '.join(matchers)}}}"

    return OURS.sub(chosen, query)
