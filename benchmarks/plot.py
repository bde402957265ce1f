"""Bar charts of the figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report import COLUMNS
from benchmarks.suite import Result

PANELS: Final = (
    ("relay", ("per_cpu_second", "user_us", "system_us")),
    ("latency", ("p50_ms", "p99_ms", "max_ms")),
    ("sockets", ("per_cpu_second", "idle_kib", "busy_kib")),
    ("swarms", ("per_cpu_second", "p99_ms", "gc_longest_ms")),
    ("scrape", ("per_cpu_second",)),
    ("tls", ("per_cpu_second",)),
    ("guarded", ("per_cpu_second",)),
    ("storm", ("per_cpu_second", "p99_ms")),
    ("link", ("each_us",)),
    ("flood", ("p50_ms", "p99_ms", "max_ms")),
)
"""A row of charts for each workload, with a chart for each of these figures."""

WIDTH: Final = 5.2
HEIGHT: Final = 0.32
"""Inches of a chart, and of a bar."""


def plot(results: Sequence[Result], file: Path) -> None:
    """Draw the results of the workloads in `PANELS`, as SVG or in the format of the file name's ending."""
    # Imported here, because only a run with --plot needs it.
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot
    from matplotlib.patches import Rectangle

    rows = [(name, keys, found) for name, keys in PANELS if (found := [one for one in results if one.workload == name])]
    if not rows:
        return
    servers = list(dict.fromkeys(one.server for one in results))
    colours = {server: f"C{number}" for number, server in enumerate(servers)}
    heights = [max(1.2, HEIGHT * len(found) + 0.8) for _, _, found in rows]
    columns = max(len(keys) for _, keys, _ in rows)
    figure, axes = pyplot.subplots(
        len(rows),
        columns,
        figsize=(WIDTH * columns, sum(heights)),
        squeeze=False,
        layout="constrained",
        height_ratios=heights,
    )
    for line, (name, keys, found) in zip(axes, rows, strict=True):
        for number, axis in enumerate(line):
            if number < len(keys):
                _bars(axis, f"{name}: {COLUMNS[keys[number]][0]}", keys[number], found, colours)
            else:
                axis.axis("off")
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    figure.legend(handles, servers, loc="outside upper left", ncols=len(servers))
    figure.savefig(file)
    pyplot.close(figure)


def _bars(axis: Any, title: str, key: str, found: Sequence[Result], colours: dict[str, str]) -> None:
    shown = [one for one in found if key in one.figures]
    bars = axis.barh(
        range(len(shown)), [one.figures[key] for one in shown], color=[colours[one.server] for one in shown]
    )
    axis.bar_label(bars, [format(one.figures[key], COLUMNS[key][1]) for one in shown], padding=3, fontsize=7)
    axis.set_yticks(range(len(shown)), [one.case for one in shown], fontsize=7)
    axis.invert_yaxis()
    axis.margins(x=0.15)
    axis.set_title(title, fontsize=9, loc="left")
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
