"""Panels, queries and layout with the keys that Grafana 11 saves.

Grafana adds the default of each option that a panel lacks, and saves it. The functions here write the same defaults, so
that a dashboard that is saved in Grafana and exported again shows only deliberate changes.
"""

import re
from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

Query = tuple[str, str]
"""The legend of a query, and its PromQL in the short form that `promql` completes."""

VERSION = "11.6.0"
"""The version of Grafana that these keys and defaults come from; docker-compose.yml runs it."""
SCHEMA = 41
"""The version of its dashboard schema."""
COLUMNS = 24
"""The width of Grafana's grid."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SELECTION = 'job=~"$job",instance=~"$instance"'
"""Labels that select the trackers chosen at the top of the dashboard."""

DOCUMENTS = "https://github.com/peerservers/peerservers/blob/main/docs"

REASONS: list[Json] = [{"targetBlank": True, "title": "All reasons", "url": f"{DOCUMENTS}/metrics.md"}]
"""The data links of panels that show a series for each reason."""

Step = tuple[str, float | None]
"""A color, and the value from which it is used. The first color has no value: it is used below all others."""

GREEN: list[Step] = [("green", None)]


def promql(short: str) -> str:
    """Complete a query: each `{...}` also selects the chosen trackers, and `[]` is the interval for rates."""
    selected = re.sub(r"{([^}]*)}", lambda labels: "{" + ",".join(filter(None, (SELECTION, labels[1]))) + "}", short)
    return selected.replace("[]", "[$__rate_interval]")


def rate(metric: str, by: str = "") -> str:
    """Return the query for the growth per second of a counter, summed by a label or over all series."""
    return f"sum{f' by ({by}) ' if by else ''}(rate({metric}[]))"


def quantile(share: float, metric: str, by: str = "") -> str:
    """Return the query for a quantile of a histogram, by a label or over all series."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, sum by ({labels}) (rate({metric}_bucket{{}}[])))"


def or_zero(query: str, label: str = "") -> str:
    """Return a query that gives 0 where `query` gives no series: with `label`, a series labelled `none`."""
    return f"{query} or " + (f'on() label_replace(vector(0), "{label}", "none", "", "")' if label else "vector(0)")


def per(dividend: str, divisor: str) -> str:
    """Return the query for a quotient, which has no value while the divisor is 0."""
    return f"{dividend} / ({divisor} > 0)"


def top(query: str) -> str:
    """Return the query for the ten greatest series at each moment."""
    return f"topk(10, {query})"


def row(identifier: int, title: str, *, collapsed: bool = False) -> Json:
    """Return the heading of all panels up to the next row. While it is collapsed, they are not shown or queried."""
    return {
        "collapsed": collapsed,
        "gridPos": {"h": 1, "w": COLUMNS},
        "id": identifier,
        "panels": [],
        "title": title,
        "type": "row",
    }


def stat(
    identifier: int,
    title: str,
    description: str,
    *queries: Query,
    colors: Sequence[Step] = GREEN,
    width: int = 4,
    height: int = 4,
    graph: bool = True,
    names: bool = False,
    instant: bool = False,
    overrides: Sequence[Json] = (),
    **defaults: Any,
) -> Json:
    """Return a panel that shows one number for each series.

    Args:
        identifier: The panel's number. Links to a panel contain it, so it never changes.
        colors: The colors of the number, each with the value from which it is used.
        width: In columns of the grid, of which there are 24.
        height: In rows of the grid.
        graph: Draw the number over time behind it.
        names: Show the legend beside the number.
        instant: Ask only for the value at the end of the dashboard's time range.
        overrides: Settings of single series.
        defaults: Further settings of all series, such as `unit`, `decimals` and `noValue`.
    """
    options = {
        "colorMode": "value",
        "graphMode": "area" if graph else "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "value_and_name" if names else "auto",
        "wideLayout": True,
    }
    fields = {"color": {"mode": "thresholds"}, "thresholds": _thresholds(colors), **defaults}
    return _panel("stat", identifier, title, description, width, height, options, fields, overrides) | {
        "targets": _targets(queries, instant)
    }


def timeseries(
    identifier: int,
    title: str,
    description: str,
    *queries: Query,
    width: int = 8,
    height: int = 8,
    warn_above: float | None = None,
    stepped: bool = False,
    stacked: bool = False,
    mirrored: bool = False,
    hide_zeros: bool = False,
    limit: str = "",
    **defaults: Any,
) -> Json:
    """Return a panel that draws each series over time.

    Args:
        identifier: The panel's number. Links to a panel contain it, so it never changes.
        width: In columns of the grid, of which there are 24.
        height: In rows of the grid.
        warn_above: The value at which a dashed orange line is drawn.
        stepped: Draw steps instead of straight lines between points.
        stacked: Put the series on top of each other.
        mirrored: Some values are negative, so the axis does not begin at 0.
        hide_zeros: Leave series that are all 0 out of the legend.
        limit: The letter of the query that is a limit of the others, drawn as a dashed red line.
        defaults: Further settings of all series, such as `unit`, `decimals` and `max`.
    """
    options = {
        "legend": {
            "calcs": ["mean", "max", "lastNotNull"],
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
        },
        "tooltip": {"hideZeros": False, "mode": "multi", "sort": "desc"},
    }
    custom = {
        "axisBorderShow": False,
        "axisCenteredZero": False,
        "axisColorMode": "text",
        "axisLabel": "",
        "axisPlacement": "auto",
        "barAlignment": 0,
        "barWidthFactor": 0.6,
        "drawStyle": "line",
        "fillOpacity": 20 if stacked else 8,
        "gradientMode": "none",
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
        "insertNulls": False,
        "lineInterpolation": "stepAfter" if stepped else "linear",
        "lineWidth": 1,
        "pointSize": 4,
        "scaleDistribution": {"type": "linear"},
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "off" if warn_above is None else "dashed"},
    }
    fields = {
        "color": {"mode": "palette-classic"},
        "custom": custom,
        "thresholds": _thresholds(GREEN if warn_above is None else [("transparent", None), ("orange", warn_above)]),
        **({} if mirrored else {"min": 0}),
        **defaults,
    }
    overrides = []
    if hide_zeros:
        all_zero = {"id": "byValue", "options": {"op": "gte", "reducer": "allIsZero", "value": 0}}
        overrides.append(_override(all_zero, {"custom.hideFrom": {"legend": True, "tooltip": True, "viz": False}}))
    if limit:
        dashed = {
            "custom.lineStyle": {"dash": [8, 8], "fill": "dash"},
            "custom.fillOpacity": 0,
            "color": {"fixedColor": "semi-dark-red", "mode": "fixed"},
        }
        overrides.append(_override({"id": "byFrameRefID", "options": limit}, dashed))
    return _panel("timeseries", identifier, title, description, width, height, options, fields, overrides) | {
        "targets": _targets(queries)
    }


def colored(letter: str, *colors: Step) -> Json:
    """Return the override with the colors for the series of one query."""
    return _override({"id": "byFrameRefID", "options": letter}, {"thresholds": _thresholds(colors)})


def lay_out(panels: Sequence[Json]) -> list[Json]:
    """Place panels from left to right, with a new line where the next one does not fit.

    The panels of a collapsed row are within it, at the places that they have when it alone is open.
    """
    placed: list[Json] = []
    shown = placed
    x = y = line = 0
    for panel in panels:
        size = panel["gridPos"]
        if shown is not placed and panel.get("type") == "row":
            # The next row is right under the collapsed one.
            x, y, line, shown = 0, placed[-1]["gridPos"]["y"] + 1, 0, placed
        elif x + size["w"] > COLUMNS:
            x, y, line = 0, y + line, 0
        one = panel | {"gridPos": size | {"x": x, "y": y}}
        shown.append(one)
        if panel.get("collapsed"):
            shown = one["panels"] = []
        x, line = x + size["w"], max(line, size["h"])
    return placed


def flatten(panels: Sequence[Json]) -> list[Json]:
    """Return all panels of a dashboard, with those in collapsed rows."""
    return [inner for panel in panels for inner in (panel, *panel.get("panels", ()))]


def _panel(
    kind: str,
    identifier: int,
    title: str,
    description: str,
    width: int,
    height: int,
    options: Json,
    fields: Json,
    overrides: Sequence[Json],
) -> Json:
    return {
        "datasource": DATASOURCE,
        "description": description,
        "fieldConfig": {"defaults": {"mappings": [], "unit": "short", **fields}, "overrides": list(overrides)},
        "gridPos": {"h": height, "w": width},
        "id": identifier,
        "options": options,
        "pluginVersion": VERSION,
        "title": title,
        "type": kind,
    }


def _targets(queries: Sequence[Query], instant: bool = False) -> list[Json]:
    return [
        {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": promql(short),
            "instant": instant,
            "legendFormat": legend,
            "range": not instant,
            "refId": letter,
        }
        for letter, (legend, short) in zip("ABCDEFGH", queries, strict=False)
    ]


def _thresholds(steps: Sequence[Step]) -> Json:
    # Grafana 11.6 saves no null. It uses the first step from minus infinity, whatever its value.
    return {
        "mode": "absolute",
        "steps": [{"color": color} | ({} if value is None else {"value": value}) for color, value in steps],
    }


def _override(matcher: Json, properties: Json) -> Json:
    return {"matcher": matcher, "properties": [{"id": key, "value": value} for key, value in properties.items()]}
