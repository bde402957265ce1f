"""Line charts of runs over virtual time."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

Json = dict[str, Any]

WIDTH: Final = 5.2
HEIGHT: Final = 2.6
"""Inches of a chart."""

PANELS: Final[tuple[tuple[str, Callable[[Json], float]], ...]] = (
    ("peers that have met somebody, %", lambda one: 100 * one["met"] / max(1, one["peers"])),
    ("lonely peers", lambda one: one["lonely"]),
    ("swarms split", lambda one: one["split"]),
    ("links of a tracker, median", lambda one: one["links"][1]),
    ("links of a tracker, greatest", lambda one: one["links"][2]),
    ("common links in a swarm, greatest", lambda one: one["degree"][2]),
    ("dials", lambda one: one["dials"]),
    ("lookups in the DHT", lambda one: one["gets"]),
)
"""The charts: their titles, and the figure of a sample."""

COLUMNS: Final = 2


def plot(runs: Sequence[Json], file: Path) -> None:
    """Draw the samples of all runs, as SVG or in the format of the file name's ending."""
    # Imported here, because only a run with --plot needs it.
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot

    rows = -(-(len(PANELS) + 1) // COLUMNS)
    figure, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(WIDTH * COLUMNS, HEIGHT * rows), squeeze=False, layout="constrained"
    )
    panels = [axis for line in axes for axis in line]
    for axis, (title, value) in zip(panels, PANELS, strict=False):
        for run in runs:
            axis.plot([one["seconds"] for one in run["samples"]], [value(one) for one in run["samples"]])
        _label(axis, title)
    for run in runs:
        steps = list(pairwise([{"seconds": 0.0, "connected": 0}, *run["samples"]]))
        rates = [(new["connected"] - old["connected"]) / (new["seconds"] - old["seconds"]) for old, new in steps]
        panels[len(PANELS)].plot([new["seconds"] for _, new in steps], rates)
    _label(panels[len(PANELS)], "handshakes a second")
    for axis in panels[len(PANELS) + 1 :]:
        axis.axis("off")
    names = [f"{run['scenario']}, {run['arguments']['trackers']} trackers" for run in runs]
    figure.legend(panels[0].get_lines(), names, loc="outside upper left", ncols=2)
    figure.savefig(file)
    pyplot.close(figure)


def _label(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_xlabel("seconds", fontsize=7)
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)
