"""The dashboards and alerts: they are complete, and Grafana 11 saves the dashboards without a change."""

import json
import re
from itertools import combinations
from typing import Any

import pytest

from grafana import model
from grafana.generate import DIRECTORY, dashboards

GRAFANA = DIRECTORY.parent
COMPOSE = GRAFANA.parent / "docker-compose.yml"

Json = dict[str, Any]

# The keys in dashboards that were saved with Grafana 11.6.0.
DASHBOARD = {
    *("annotations", "description", "editable", "fiscalYearStartMonth", "graphTooltip", "id", "links", "panels"),
    *("preload", "refresh", "schemaVersion", "tags", "templating", "time", "timepicker", "timezone", "title", "uid"),
    "version",
}
ROW = {"collapsed", "gridPos", "id", "panels", "title", "type"}
PANEL = {
    *("datasource", "description", "fieldConfig", "gridPos", "id", "options", "pluginVersion", "targets", "title"),
    "type",
}
TARGET = {"datasource", "editorMode", "expr", "instant", "legendFormat", "range", "refId"}
LINK = {
    *("asDropdown", "icon", "includeVars", "keepTime", "tags", "targetBlank", "title", "tooltip", "type", "url"),
}
FIELDS = {"color", "mappings", "thresholds", "unit"}
OPTIONAL_FIELDS = {"decimals", "links", "max", "min", "noValue"}
OPTIONS: dict[str, Json] = {
    "stat": {
        "colorMode": {},
        "graphMode": {},
        "justifyMode": {},
        "orientation": {},
        "percentChangeColorMode": {},
        "reduceOptions": {"calcs": {}, "fields": {}, "values": {}},
        "showPercentChange": {},
        "textMode": {},
        "wideLayout": {},
    },
    "timeseries": {
        "legend": {"calcs": {}, "displayMode": {}, "placement": {}, "showLegend": {}},
        "tooltip": {"hideZeros": {}, "mode": {}, "sort": {}},
    },
}
CUSTOM: Json = {
    "axisBorderShow": {},
    "axisCenteredZero": {},
    "axisColorMode": {},
    "axisLabel": {},
    "axisPlacement": {},
    "barAlignment": {},
    "barWidthFactor": {},
    "drawStyle": {},
    "fillOpacity": {},
    "gradientMode": {},
    "hideFrom": {"legend": {}, "tooltip": {}, "viz": {}},
    "insertNulls": {},
    "lineInterpolation": {},
    "lineWidth": {},
    "pointSize": {},
    "scaleDistribution": {"type": {}},
    "showPoints": {},
    "spanNulls": {},
    "stacking": {"group": {}, "mode": {}},
    "thresholdsStyle": {"mode": {}},
}
OVERRIDES = {"color", "custom.fillOpacity", "custom.hideFrom", "custom.lineStyle", "thresholds"}

UNSAVED_DEFAULTS: Json = {"hide": 0, "skipUrlSync": False, "multi": False, "sort": 0, "label": ""}
"""Values of a variable that Grafana 11.6 leaves out of a saved dashboard."""


@pytest.fixture(scope="module", params=["federation.json", "tracker.json"])
def dashboard(request: pytest.FixtureRequest) -> Json:
    loaded: Json = json.loads(dashboards()[request.param])
    return loaded


@pytest.fixture
def panels(dashboard: Json) -> list[Json]:
    """The panels without the headings of rows."""
    return [panel for panel in model.flatten(dashboard["panels"]) if panel["type"] != "row"]


def test_the_dashboards_are_up_to_date() -> None:
    assert {path.name: path.read_text() for path in DIRECTORY.iterdir()} == dashboards(), "run `make dashboards`"


def test_each_dashboard_links_to_the_other() -> None:
    loaded = {name: json.loads(text) for name, text in dashboards().items()}
    assert {name: (one["uid"], one["title"]) for name, one in loaded.items()} == {
        "tracker.json": ("peerservers-tracker", "Peerservers / Tracker"),
        "federation.json": ("peerservers-federation", "Peerservers / Federation and DHT"),
    }
    for one, other in (("tracker.json", "federation.json"), ("federation.json", "tracker.json")):
        link, document = loaded[one]["links"]
        assert document["url"].endswith("/docs/deploy.md#alerts")
        assert (link["url"], link["includeVars"]) == (f"/d/{loaded[other]['uid']}", True)


def test_data_source_job_and_tracker_can_be_chosen(dashboard: Json) -> None:
    data_source, job, instance = dashboard["templating"]["list"]
    assert (data_source["name"], data_source["type"], data_source["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    assert (job["name"], job["definition"]) == ("job", "label_values(peerservers_build_info, job)")
    # "All" jobs are the listed ones. "All" trackers also match a tracker that is down and no longer listed.
    assert "allValue" not in job
    assert (instance["name"], instance["allValue"]) == ("instance", ".+")
    for variable in (job, instance):
        assert variable["query"]["query"] == variable["definition"]
        assert variable["multi"]
        assert variable["includeAll"]


def test_panels_have_different_ids_and_do_not_overlap(dashboard: Json) -> None:
    everything = model.flatten(dashboard["panels"])
    assert len({panel["id"] for panel in everything}) == len(everything)
    _are_in_reading_order(dashboard["panels"])
    for row in dashboard["panels"]:
        if row.get("collapsed"):
            assert row["panels"]
            _are_in_reading_order([row, *row["panels"]])


def _are_in_reading_order(panels: list[Json]) -> None:
    places = [panel["gridPos"] for panel in panels]
    for place in places:
        assert place.keys() == {"x", "y", "w", "h"}
        assert min(place["x"], place["y"], place["w"] - 1, place["h"] - 1) >= 0
        assert place["x"] + place["w"] <= model.COLUMNS
    assert [(one, other) for one, other in combinations(places, 2) if _overlap(one, other)] == []
    assert places == sorted(places, key=lambda place: (place["y"], place["x"]))


def _overlap(one: Json, other: Json) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_a_panel_that_does_not_fit_begins_a_new_line_under_the_tallest_panel() -> None:
    sizes = [(24, 1), (8, 9), (12, 4), (8, 2), (24, 1), (4, 4)]
    placed = model.lay_out([{"gridPos": {"w": width, "h": height}} for width, height in sizes])
    assert model.flatten(placed) == placed
    assert [(one["gridPos"]["x"], one["gridPos"]["y"]) for one in placed] == [
        (0, 0),
        (0, 1),
        (8, 1),
        (0, 10),
        (0, 12),
        (0, 13),
    ]


def test_the_panels_of_a_collapsed_row_are_within_it() -> None:
    panel = {"gridPos": {"w": 12, "h": 5}}
    rows = [model.row(1, "open"), panel, model.row(2, "collapsed", collapsed=True), panel, panel, panel]
    placed = model.lay_out([*rows, model.row(3, "next"), panel])
    assert [one["gridPos"]["y"] for one in placed] == [0, 1, 6, 7, 8]
    assert [one["gridPos"]["y"] for one in placed[2]["panels"]] == [7, 7, 12]
    assert len(model.flatten(placed)) == 8


def test_the_short_form_of_a_query_is_completed() -> None:
    chosen = 'job=~"$job",instance=~"$instance"'
    assert model.promql('sum by (a) (rate(b{c="d"}[])) / e{}') == (
        f'sum by (a) (rate(b{{{chosen},c="d"}}[$__rate_interval])) / e{{{chosen}}}'
    )
    assert model.promql("f{}[1h]") == f"f{{{chosen}}}[1h]"


def test_every_panel_has_title_description_unit_and_ascending_thresholds(panels: list[Json]) -> None:
    titles = [(panel["type"], panel["title"]) for panel in panels]
    assert len(set(titles)) == len(titles)
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        values = [step["value"] for step in defaults["thresholds"]["steps"][1:]]
        assert values == sorted(values)


def test_every_query_selects_the_chosen_trackers(panels: list[Json]) -> None:
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        targets = panel["targets"]
        assert [target["refId"] for target in targets] == [chr(65 + number) for number in range(len(targets))]
        for target in targets:
            assert target["datasource"] == panel["datasource"]
            assert target["legendFormat"]
            expr = target["expr"]
            selectors = re.findall(r"\b(?:(?:peerservers|process|python)_\w+|up)({[^}]*})?", expr)
            assert selectors
            for selector in selectors:
                assert selector.startswith('{job=~"$job",instance=~"$instance"'), expr
            # A panel shows the growth of a counter, not its value since the start.
            counters = re.findall(r"\w+_(?:total|bucket|count|sum){", expr)
            grown = re.findall(r"(?:rate|increase)\(\w+_(?:total|bucket|count|sum){", expr)
            assert len(counters) == len(grown) or "uncollectable" in expr, expr


def test_reasons_that_do_not_occur_are_not_in_the_legend(panels: list[Json]) -> None:
    # The counter of each reason exists from the start, with 0.
    for panel in panels:
        if panel["targets"][0]["legendFormat"] == "{{reason}}":
            (override,) = panel["fieldConfig"]["overrides"]
            assert override["matcher"]["options"]["reducer"] == "allIsZero"
            assert override["properties"][0]["value"]["legend"]


def test_the_model_is_that_of_the_grafana_that_compose_runs() -> None:
    assert f"image: grafana/grafana:{model.VERSION}\n" in COMPOSE.read_text()


def test_a_dashboard_has_the_keys_that_grafana_saves(dashboard: Json) -> None:
    assert dashboard.keys() == DASHBOARD
    assert dashboard["schemaVersion"] == 41
    assert all(link.keys() == LINK for link in dashboard["links"])
    built_in, *_ = dashboard["annotations"]["list"]
    assert (built_in["builtIn"], built_in["type"], built_in["datasource"]["uid"]) == (1, "dashboard", "-- Grafana --")
    for variable in dashboard["templating"]["list"]:
        assert {"current", "description", "includeAll", "name", "options", "query", "refresh", "regex", "type"} <= (
            variable.keys()
        )
        assert variable["options"] == []


def test_a_panel_has_the_options_that_grafana_saves_and_no_others(dashboard: Json) -> None:
    for panel in model.flatten(dashboard["panels"]):
        if panel["type"] == "row":
            assert panel.keys() == ROW
            continue
        title = panel["title"]
        assert panel.keys() == PANEL, title
        assert panel["pluginVersion"] == model.VERSION
        assert _keys(panel["options"], OPTIONS[panel["type"]]) == OPTIONS[panel["type"]], title
        defaults = panel["fieldConfig"]["defaults"]
        custom = {"custom"} if panel["type"] == "timeseries" else set()
        assert defaults.keys() - OPTIONAL_FIELDS == FIELDS | custom, title
        if custom:
            assert _keys(defaults["custom"], CUSTOM) == CUSTOM, title
        for override in panel["fieldConfig"]["overrides"]:
            assert override.keys() == {"matcher", "properties"}
            assert {one["id"] for one in override["properties"]} <= OVERRIDES, title
        for target in panel["targets"]:
            assert target.keys() == TARGET, title
            assert target["instant"] is not target["range"]


def _keys(value: Json, shape: Json) -> Json:
    """Return the keys of `value`, as deep as those of `shape`."""
    return {key: _keys(inner, shape[key]) if shape.get(key) else {} for key, inner in value.items()}


def test_saving_a_dashboard_in_grafana_changes_nothing(dashboard: Json) -> None:
    # Except the number, which each Grafana assigns.
    assert _saved(dashboard) == {key: value for key, value in dashboard.items() if key != "id"}


def _saved(dashboard: Json) -> Json:
    """Return the dashboard as Grafana 11.6 saves it: without nulls, empty lists and default values of variables."""
    saved: Json = _without_nulls(dashboard)
    for panel in model.flatten(saved["panels"]):
        for key, empty in (("transformations", []), ("transparent", False)):
            if panel.get(key) == empty:
                del panel[key]
    for variable in saved["templating"]["list"]:
        variable.get("current", {}).pop("selected", None)
        for key, default in UNSAVED_DEFAULTS.items():
            if variable.get(key) == default:
                del variable[key]
    if saved.get("weekStart") == "":
        del saved["weekStart"]
    return saved


def _without_nulls(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
        case list():
            return [_without_nulls(inner) for inner in value]
    return value


@pytest.mark.parametrize("text", dashboards().values(), ids=dashboards())
def test_an_export_has_the_same_order(text: str) -> None:
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_every_alert_says_what_is_wrong_and_is_tested_both_ways() -> None:
    rules = (GRAFANA / "prometheus" / "alerts.yml").read_text()
    tests = (GRAFANA / "prometheus" / "alerts_test.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)\n(.*?)(?=\n\n|\Z)", rules, re.DOTALL)
    assert len(alerts) == rules.count("alert:")
    assert len({name for name, _ in alerts}) == len(alerts)
    headings = re.findall(r"^### (Peerservers\w+)$", (GRAFANA.parent / "docs" / "deploy.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(name for name, _ in alerts)
    for name, rule in alerts:
        assert re.search(rf'runbook_url: "https://\S+/docs/deploy.md#{name.lower()}"', rule), name
        assert re.search(r"severity: (warning|critical)\n", rule), name
        assert re.search(r'summary: ".*[^.]"\n\s+description: ".*[.?]"', rule), name
        cases = re.findall(rf"alertname: {name}\n\s+exp_alerts:( \[\])?\n", tests)
        assert sorted(cases) == ["", " []"], name


def test_the_files_for_provisioning_name_the_data_source_and_the_directory() -> None:
    provisioning = GRAFANA / "provisioning"
    assert "uid: prometheus\n" in (provisioning / "datasources" / "prometheus.yml").read_text()
    assert "path: /var/lib/grafana/dashboards\n" in (provisioning / "dashboards" / "peerservers.yml").read_text()
