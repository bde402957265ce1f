"""What the workloads have in common: which trackers, on which cores, for how long, and what a result is."""

import gc
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import uvloop

from benchmarks.servers import OURS, THEIRS, Running, ServerFailed, running

BUSY: Final = 0.95
"""Above this share of its core, a process is held up by it."""

WAITED: Final = 0.05
"""Above this share of the time without its core, a tracker's latencies are not its own."""

REACHED: Final = 0.97
"""A rate was kept up if there were at least so much of it."""

Figures = dict[str, float]
"""By name, as in `benchmarks.report.COLUMNS`."""

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
    """How to measure: `commands` are those of the trackers by name; `seconds` and `warm_up` are of one measurement."""

    commands: Mapping[str, str]
    seconds: float = 10.0
    warm_up: float = 3.0
    repeat: int = 1
    quick: bool = False
    """Whether less will do: figures that are good enough to see whether something is broken."""
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
        """Measure all trackers, or those only, with a new process each time; the median of each figure counts."""
        runs: dict[str, list[Figures]] = {name: [] for name in self.commands if not only or name in only}
        remarks: dict[str, str] = {}
        # In turns, so that what disturbs the machine for a while disturbs all trackers.
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
    """The cores of the servers and of the load; none if there is but one."""
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


def known_only() -> tuple[str, ...]:
    """The trackers of which we know how they are told to do something special."""
    return OURS, THEIRS


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
