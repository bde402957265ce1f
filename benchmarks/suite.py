"""The common part of the workloads: the trackers, their cores, the durations, and the results."""

import gc
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import uvloop

from benchmarks.rivals import RIVALS, TLS_ONLY
from benchmarks.servers import OURS, THEIRS, Running, ServerFailed, running

BUSY: Final = 0.95
"""Above this share of its core, the core limits a process."""

WAITED: Final = 0.05
"""Above this share of the time without its core, other programs distort a tracker's latencies."""

REACHED: Final = 0.97
"""The share of a rate from which on it counts as reached."""

Figures = dict[str, float]
"""Figures by name, as in `benchmarks.report.COLUMNS`."""

Measure = Callable[[Running], Coroutine[Any, Any, Figures]]


@dataclass(frozen=True)
class Result:
    """One server under one case of a workload."""

    workload: str
    case: str
    server: str
    figures: Figures
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Suite:
    """How to measure. `commands` has the command line of each tracker; `seconds` and `warm_up` are per measurement."""

    commands: Mapping[str, str]
    seconds: float = 10.0
    warm_up: float = 3.0
    repeat: int = 1
    quick: bool = False
    """Whether rough figures suffice, to see whether something is broken."""
    server_core: int | None = None
    load_core: int | None = None

    def each(
        self,
        workload: str,
        case: str,
        measure: Measure,
        environment: Mapping[str, str] | None = None,
        only: tuple[str, ...] = (),
    ) -> Iterator[Result]:
        """Measure trackers, each time in a new process. Yield the median of each figure.

        The trackers are those in `only`, or all that need no TLS.
        """
        names = [name for name in self.commands if (name in only if only else name not in TLS_ONLY)]
        runs: dict[str, list[Figures]] = {name: [] for name in names}
        remarks: dict[str, str] = {}
        # In turns, so that a disturbance of the machine affects all trackers.
        for _ in range(self.repeat):
            for name in runs:
                try:
                    with running(name, self.commands[name], self.server_core, environment) as server:
                        runs[name].append(uvloop.run(measure(server)))
                except (ServerFailed, OSError, TimeoutError) as error:
                    remarks[name] = f"failed: {str(error) or type(error).__name__}"
                gc.collect()
        for name, figures in runs.items():
            middle = {key: median(one[key] for one in figures if key in one) for key in (figures[0] if figures else ())}
            yield Result(workload, case, name, middle, [remarks[name]] if name in remarks else _remarks(middle))


def cores() -> tuple[int | None, int | None]:
    """Return the cores of the servers and of the load; None for both if there is only one core."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


def configurable() -> tuple[str, ...]:
    """Return the trackers that can be configured here."""
    return OURS, THEIRS, *RIVALS


def _remarks(figures: Figures) -> list[str]:
    remarks = []
    server, load = figures.get("server_cpu", 0.0), figures.get("load_cpu", 0.0)
    if load > BUSY > server:
        remarks.append("the load generator was the bottleneck: per CPU second counts, per second does not")
    if figures.get("waited", 0.0) > WAITED:
        remarks.append(f"other programs had its core for {figures['waited']:.0%} of the time")
    if figures.get("reached", 1.0) < REACHED:
        remarks.append(f"only {figures['reached']:.0%} of the rate was reached")
    if figures.get("lost"):
        remarks.append(f"{figures['lost']:.0f} messages did not come, came malformed, or their sockets were closed")
    return remarks
