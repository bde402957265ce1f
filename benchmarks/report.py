"""Results as JSON, and as tables with the ratios of this tracker to the others in the same run."""

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, Final

from benchmarks.goals import Verdict
from benchmarks.servers import OURS
from benchmarks.suite import Result

COLUMNS: Final = {
    "per_second": ("/s", ",.0f"),
    "per_cpu_second": ("/CPU s", ",.0f"),
    "user_us": ("user µs", ".2f"),
    "system_us": ("sys µs", ".2f"),
    "p50_ms": ("p50 ms", ".2f"),
    "p99_ms": ("p99 ms", ".2f"),
    "max_ms": ("max ms", ".1f"),
    "gc_longest_ms": ("GC max ms", ".2f"),
    "gc_share": ("GC", ".2%"),
    "base_mib": ("base MiB", ".1f"),
    "idle_kib": ("idle KiB", ".1f"),
    "busy_kib": ("busy KiB", ".1f"),
    "idle_kernel_kib": ("kernel idle", ".1f"),
    "busy_kernel_kib": ("kernel busy", ".1f"),
    "each_us": ("µs each", ",.2f"),
    "instructions": ("instructions", ",.0f"),
    "over_valid": ("x valid", ".1f"),
    "number": ("number", ",.0f"),
    "each_kib": ("KiB each", ".2f"),
    "crossed": ("crossed", ".0%"),
    "link_bytes": ("link bytes", ",.0f"),
    "cpu_ms": ("CPU ms", ",.0f"),
    "seconds": ("seconds", ".1f"),
    "shared": ("shared", ",.0f"),
    "refused": ("refused", ",.0f"),
    "dropped": ("dropped", ",.0f"),
    "attempts": ("attempts", ",.0f"),
    "links_left": ("links left", ".0f"),
    "server_cpu": ("CPU", ".0%"),
    "waited": ("waited", ".0%"),
    "load_cpu": ("load CPU", ".0%"),
    "nats_cpu": ("NATS CPU", ".0%"),
    "lost": ("lost", ",.0f"),
}
"""The title and format of each figure. Counts are those of messages, connections or operations."""

_WITHOUT_RATIO: Final = {
    "over_valid",
    "server_cpu",
    "waited",
    "load_cpu",
    "nats_cpu",
    "lost",
    "gc_share",
    "crossed",
    "number",
    "refused",
    "dropped",
}
_EMPTY: Final = ""


def table(results: Sequence[Result]) -> str:
    """Return the table of one workload."""
    keys = [key for key in COLUMNS if any(key in one.figures for one in results)]
    lines = [[results[0].workload, "", *(COLUMNS[key][0] for key in keys)]]
    remarks = []
    for case in dict.fromkeys(one.case for one in results):
        rows = [one for one in results if one.case == case]
        for row in rows:
            lines.append([case, row.server, *(_cell(row, key) for key in keys)])
            remarks += [f"  {case}, {row.server}: {remark}" for remark in row.remarks]
        ours = next((row for row in rows if row.server == OURS), None)
        lines += [
            [case, f"{OURS} / {row.server}", *(_ratio(ours, row, key) for key in keys)]
            for row in rows
            if ours and row is not ours
        ]
    return "\n".join([*aligned(lines, left=2), *remarks]) + "\n"


def verdicts(rows: Iterable[Verdict]) -> str:
    """Return the table of the goals."""
    lines = [["goal", "", "wanted", "measured", ""]]
    for row in rows:
        measured = "not measured" if row.value is None else f"{row.value:,.2f}"
        sign = ">=" if row.goal.at_least else "<="
        met = "" if row.met is None else "met" if row.met else "MISSED"
        lines.append([row.goal.text, sign, f"{row.goal.limit:g} {row.goal.unit}", measured, met])
    return "\n".join(aligned(lines, left=1)) + "\n"


def as_json(results: Iterable[Result], rows: Iterable[Verdict]) -> dict[str, Any]:
    """Return results and goals for JSON."""
    return {
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "kernel": platform.release()},
        "python": platform.python_version(),
        "results": [asdict(one) for one in results],
        "goals": [row.as_dict() for row in rows],
    }


def aligned(lines: Sequence[Sequence[str]], left: int) -> list[str]:
    """Return lines with the cells in columns, the first `left` of them aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _cell(row: Result, key: str) -> str:
    return format(row.figures[key], COLUMNS[key][1]) if key in row.figures else _EMPTY


def _ratio(ours: Result, other: Result, key: str) -> str:
    if key in _WITHOUT_RATIO or key not in ours.figures or not other.figures.get(key):
        return _EMPTY
    return f"{ours.figures[key] / other.figures[key]:.2f} x"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
