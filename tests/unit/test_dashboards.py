"""Dashboards and alerts as files: what Grafana needs, and what whoever reads them does."""

import json
import re
from itertools import combinations, count
from pathlib import Path
from typing import Any

import pytest

GRAFANA = Path(__file__).parents[2] / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
COLUMNS = 24

Json = dict[str, Any]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def dashboard(request: pytest.FixtureRequest) -> Json:
    loaded: Json = json.loads(request.param.read_text())
    return loaded


@pytest.fixture
def panels(dashboard: Json) -> list[Json]:
    """All that are not rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def test_there_is_one_for_the_tracker_and_one_for_its_extensions() -> None:
    loaded = {path.stem: json.loads(path.read_text()) for path in FILES}
    assert {name: (one["uid"], one["title"]) for name, one in loaded.items()} == {
        "tracker": ("peerservers-tracker", "Peerservers / Tracker"),
        "federation": ("peerservers-federation", "Peerservers / Federation and DHT"),
    }
    # Each leads to the other.
    for one, other in (("tracker", "federation"), ("federation", "tracker")):
        (link,) = loaded[one]["links"]
        assert (link["url"], link["includeVars"]) == (f"/d/{loaded[other]['uid']}", True)


def test_what_it_asks_for_can_be_chosen(dashboard: Json) -> None:
    data_source, job, instance = dashboard["templating"]["list"]
    assert (data_source["name"], data_source["type"], data_source["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    assert (job["name"], job["definition"]) == ("job", "label_values(peerservers_build_info, job)")
    # All jobs are those of trackers; but all trackers are also those that have been down for long.
    assert "allValue" not in job
    assert (instance["name"], instance["allValue"]) == ("instance", ".+")
    for variable in (job, instance):
        assert variable["query"]["query"] == variable["definition"]
        assert variable["multi"]
        assert variable["includeAll"]


def test_panels_have_ids_and_places_of_their_own(dashboard: Json) -> None:
    everything = dashboard["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = [panel["gridPos"] for panel in everything]
    for place in places:
        assert min(place["x"], place["y"], place["w"] - 1, place["h"] - 1) >= 0
        assert place["x"] + place["w"] <= COLUMNS
    assert [(one, other) for one, other in combinations(places, 2) if _overlap(one, other)] == []


def _overlap(one: Json, other: Json) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


def test_every_panel_says_what_it_shows_and_in_what(panels: list[Json]) -> None:
    titles = [(panel["type"], panel["title"]) for panel in panels]
    assert len(set(titles)) == len(titles)
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"], panel["title"]
        steps = defaults["thresholds"]["steps"]
        assert steps[0]["value"] is None
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values)


def test_every_query_is_of_the_trackers_that_were_chosen(panels: list[Json]) -> None:
    for panel in panels:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        targets = panel["targets"]
        assert [target["refId"] for target in targets] == [chr(65 + n) for n, _ in zip(count(), targets, strict=False)]
        for target in targets:
            assert target["datasource"] == panel["datasource"]
            assert target["legendFormat"]
            expr = target["expr"]
            selectors = re.findall(r"\b(?:(?:peerservers|process|python)_\w+|up)({[^}]*})?", expr)
            assert selectors
            for selector in selectors:
                assert selector.startswith('{job=~"$job",instance=~"$instance"'), expr
            # What counts since the start is shown by its growth.
            counters = re.findall(r"\w+_(?:total|bucket|count|sum){", expr)
            grown = re.findall(r"(?:rate|increase)\(\w+_(?:total|bucket|count|sum){", expr)
            assert len(counters) == len(grown) or "uncollectable" in expr, expr


def test_reasons_that_do_not_occur_are_not_in_the_legend(panels: list[Json]) -> None:
    # All of them are there from the start, with 0.
    for panel in panels:
        if panel["targets"][0]["legendFormat"] == "{{reason}}":
            (override,) = panel["fieldConfig"]["overrides"]
            assert override["matcher"]["options"]["reducer"] == "allIsZero"
            assert override["properties"][0]["value"]["legend"]


def test_every_alert_says_what_is_wrong_and_is_tested_both_ways() -> None:
    rules = (GRAFANA / "prometheus" / "alerts.yml").read_text()
    tests = (GRAFANA / "prometheus" / "alerts_test.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)\n(.*?)(?=\n\n|\Z)", rules, re.DOTALL)
    assert len(alerts) == rules.count("alert:")
    assert len({name for name, _ in alerts}) == len(alerts)
    for name, rule in alerts:
        assert re.search(r"severity: (warning|critical)\n", rule), name
        assert re.search(r'summary: ".*[^.]"\n\s+description: ".*[.?]"', rule), name
        cases = re.findall(rf"alertname: {name}\n\s+exp_alerts:( \[\])?\n", tests)
        assert sorted(cases) == ["", " []"], name


def test_what_is_provisioned_is_there() -> None:
    provisioning = GRAFANA / "provisioning"
    assert "uid: prometheus\n" in (provisioning / "datasources" / "prometheus.yml").read_text()
    assert "path: /var/lib/grafana/dashboards\n" in (provisioning / "dashboards" / "peerservers.yml").read_text()
