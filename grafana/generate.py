"""Writes the dashboards in `dashboards/`: `make dashboards`. A test fails when they are out of date."""

import json
from pathlib import Path

from grafana import cluster_panels, federation_panels, tracker_panels
from grafana.model import DATASOURCE, DOCUMENTS, SCHEMA, Json, lay_out, promql

DIRECTORY = Path(__file__).parent / "dashboards"


def dashboards() -> dict[str, str]:
    """Return the text of each dashboard by the name of its file."""
    models = {
        "federation.json": _dashboard(
            "peerservers-federation",
            "Peerservers / Federation and DHT",
            "Links between trackers, and how they find each other.",
            [_link("Tracker", "peerservers-tracker"), _document("Alerts", "deploy.md#alerts")],
            federation_panels.PANELS,
        ),
        "tracker.json": _dashboard(
            "peerservers-tracker",
            "Peerservers / Tracker",
            "Peers, messages, refusals and resources of WebTorrent trackers.",
            [_link("Federation and DHT", "peerservers-federation"), _document("Alerts", "deploy.md#alerts")],
            [*tracker_panels.PANELS, *cluster_panels.PANELS],
        ),
    }
    # Grafana sorts the keys in an export too.
    return {
        name: json.dumps(model, indent=2, sort_keys=True, ensure_ascii=False) + "\n" for name, model in models.items()
    }


def _dashboard(uid: str, title: str, description: str, links: list[Json], panels: list[Json]) -> Json:
    return {
        "annotations": {"list": [_alerts(), _restarts()]},
        "description": description,
        "editable": True,
        "fiscalYearStartMonth": 0,
        # The cursor is shown in all panels at once.
        "graphTooltip": 1,
        # Each Grafana assigns a number of its own. The uid identifies the dashboard.
        "id": None,
        "links": links,
        "panels": lay_out(panels),
        "preload": False,
        "refresh": "30s",
        "schemaVersion": SCHEMA,
        "tags": ["peerservers", "webtorrent"],
        "templating": {
            "list": [
                _data_source(),
                _variable("job", "Job", "The scrape job of Prometheus.", "label_values(peerservers_build_info, job)"),
                # A tracker that is down for long has no peerservers_build_info any more, so the list of values lacks
                # it. As "All" is a pattern, `up` still shows it.
                _variable(
                    "instance",
                    "Tracker",
                    "The address at which Prometheus scrapes the tracker.",
                    'label_values(peerservers_build_info{job=~"$job"}, instance)',
                    allValue=".+",
                ),
            ]
        },
        "time": {"from": "now-6h", "to": "now"},
        "timepicker": {},
        "timezone": "browser",
        "title": title,
        "uid": uid,
        "version": 1,
    }


def _alerts() -> Json:
    """Return the annotations that every dashboard has."""
    return {
        "builtIn": 1,
        "datasource": {"type": "grafana", "uid": "-- Grafana --"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(0, 211, 255, 1)",
        "name": "Annotations & Alerts",
        "type": "dashboard",
    }


def _restarts() -> Json:
    """Return the annotation that marks each start of a tracker."""
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "expr": promql("changes(process_start_time_seconds{}[]) > 0"),
        "hide": False,
        "iconColor": "orange",
        "name": "Restarts",
        "step": "",
        "tagKeys": "instance",
        "textFormat": "",
        "titleFormat": "Restart",
        "useValueForTime": False,
    }


def _data_source() -> Json:
    """Return the variable for the Prometheus to query, which is the first or default one until another is chosen."""
    return {
        "current": {},
        "description": "The Prometheus that scrapes the trackers.",
        "includeAll": False,
        "label": "Data source",
        "name": "datasource",
        "options": [],
        "query": "prometheus",
        "refresh": 1,
        "regex": "",
        "type": "datasource",
    }


def _variable(name: str, label: str, description: str, query: str, **more: str) -> Json:
    """Return a variable for label values, all of which are chosen until the user selects some."""
    return {
        "current": {"text": "All", "value": ["$__all"]},
        "datasource": DATASOURCE,
        "definition": query,
        "description": description,
        "includeAll": True,
        "label": label,
        "multi": True,
        "name": name,
        "options": [],
        "query": {"qryType": 1, "query": query, "refId": "PrometheusVariableQueryEditor-VariableQuery"},
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "type": "query",
        **more,
    }


def _link(title: str, uid: str) -> Json:
    """Return a link to another dashboard that keeps the chosen trackers and the time range."""
    return {
        "asDropdown": False,
        "icon": "dashboard",
        "includeVars": True,
        "keepTime": True,
        "tags": [],
        "targetBlank": False,
        "title": title,
        "tooltip": "",
        "type": "link",
        "url": f"/d/{uid}",
    }


def _document(title: str, path: str) -> Json:
    """Return a link to a document."""
    return _link(title, "") | {
        "icon": "doc",
        "includeVars": False,
        "keepTime": False,
        "targetBlank": True,
        "url": f"{DOCUMENTS}/{path}",
    }


if __name__ == "__main__":
    for file_name, text in dashboards().items():
        (DIRECTORY / file_name).write_text(text)
