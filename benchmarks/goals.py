"""The goals, and whether the results meet them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.servers import OURS, THEIRS
from benchmarks.suite import Result
from benchmarks.targets import BUDGET


class Results:
    """The figures of a run, by workload, case and name."""

    def __init__(self, results: Sequence[Result]) -> None:
        self._results = results

    def get(self, workload: str, case: str, figure: str, server: str = OURS) -> float | None:
        """Return a figure of the first case whose name begins with `case`; None if there is none."""
        for one in self._results:
            if (one.workload, one.server) == (workload, server) and one.case.startswith(case):
                return one.figures.get(figure)
        return None

    def greatest(self, workload: str, figure: str) -> float | None:
        """Return the greatest value of this tracker's figure among the cases of a workload."""
        mine = (one for one in self._results if (one.workload, one.server) == (workload, OURS))
        return max((one.figures[figure] for one in mine if figure in one.figures), default=None)

    def worst_ratio(self, workload: str, figure: str) -> float | None:
        """Return the greatest ratio of this tracker to bittorrent-tracker among the cases of a workload."""
        cases = dict.fromkeys(one.case for one in self._results if one.workload == workload)
        ratios = [ratio(self.get(workload, case, figure), self.get(workload, case, figure, THEIRS)) for case in cases]
        return max((one for one in ratios if one is not None), default=None)


def ratio(one: float | None, other: float | None) -> float | None:
    """Return the quotient if both were measured."""
    return one / other if one is not None and other else None


@dataclass(frozen=True)
class Goal:
    """A lower limit of a figure (`at_least`), or an upper one."""

    text: str
    limit: float
    unit: str
    at_least: bool
    value: Callable[[Results], float | None] = field(repr=False, compare=False)


@dataclass(frozen=True)
class Verdict:
    """The value measured for a goal; None if it was not measured."""

    goal: Goal
    value: float | None

    @property
    def met(self) -> bool | None:
        """Whether the value meets the goal; None if it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.goal.limit if self.goal.at_least else self.value <= self.goal.limit

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict for JSON."""
        goal = self.goal
        facts = {"text": goal.text, "limit": goal.limit, "unit": goal.unit, "at_least": goal.at_least}
        return {**facts, "value": self.value, "met": self.met}


def _relayed(case: str) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        ours, theirs = (results.get("relay", case, "per_cpu_second", name) for name in (OURS, THEIRS))
        return ratio(ours, theirs)

    return value


def _kilobytes(figure: str) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        kib = results.get("sockets", "10000 sockets, 5 offers", figure)
        return None if kib is None else kib * 1.024

    return value


def _per_message(results: Results) -> float | None:
    ours = (results.get("sockets", f"{number} sockets, 5", "per_cpu_second") for number in (100, 10_000))
    return ratio(*ours)


def _placing(results: Results) -> float | None:
    return ratio(*(results.get("core", f"place 10 offers, {size} others", "each_us") for size in (10_000, 10)))


def _dearest(results: Results) -> float | None:
    return results.greatest("attacks", "over_valid")


def _crossing(results: Results) -> float | None:
    return ratio(*(results.get("link", f"{case}, paced", "per_cpu_second") for case in ("local", "across")))


def _cluster(case: str, figure: str = "per_cpu_second") -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        load = "saturated" if figure == "per_cpu_second" else "10000 sockets"
        one, some = (results.get("cluster", f"{load}, {kind}", figure) for kind in ("1 process", case))
        return ratio(one, some) if figure == "per_cpu_second" else ratio(some, one)

    return value


def _warm(kind: str) -> Callable[[Results], float | None]:
    """Return the time by which a meeting of two known peers takes longer than in one process."""

    def value(results: Results) -> float | None:
        one, some = (results.get("cluster", f"a meeting of two known peers, {case}", "p99_ms") for case in ("1", kind))
        return None if one is None or some is None else some - one

    return value


GOALS: Final = (
    Goal("relayed for each CPU second, 400 sockets saturated", 2.7, f"x {THEIRS}", True,
         _relayed("400 sockets, 5 offers, saturated")),
    Goal("the same at 4000 sockets, 800 announces a second", 2.5, f"x {THEIRS}", True,
         _relayed("4000 sockets, 5 offers, 800/s")),
    Goal("the same at 4000 sockets, 2000 announces a second", 2.5, f"x {THEIRS}", True,
         _relayed("4000 sockets, 5 offers, 2,000/s")),
    Goal("memory of an idle connection", 10, "KB", False, _kilobytes("idle_kib")),
    Goal("memory of a connection that has announced with offers", 20, "KB", False, _kilobytes("busy_kib")),
    Goal("announce latency p99 at 30 % of a core, the worse of two rates", 1, f"x {THEIRS}", False,
         lambda results: results.worst_ratio("latency", "p99_ms")),
    Goal("CPU time of a message, 10 000 sockets over 100", 1.5, "x", False, _per_message),
    Goal("placing 10 offers, in a swarm of 10 000 over one of 10", 2, "x", False, _placing),
    Goal("instructions of the dearest message, over a valid announce of its size", BUDGET, "x", False, _dearest),
    Goal("both trackers' CPU time of a message over a link, over a local one", 2.5, "x", False, _crossing),
    Goal("CPU time of a message on two nodes, each swarm on one, over one process", 1.05, "x", False,
         _cluster("2 nodes with NATS, each")),
    Goal("on two workers, each swarm on one, over one process", 1.05, "x", False, _cluster("2 workers, each")),
    Goal("on two workers, swarms on both, over one process", 1.6, "x", False, _cluster("2 workers, swarms")),
    Goal("on two nodes with NATS, swarms on both, over one process", 2, "x", False,
         _cluster("2 nodes with NATS, swarms")),
    Goal("memory of a connection on two workers, over one process", 1.1, "x", False,
         _cluster("2 workers, each", "busy_kib")),
    Goal("a meeting over NATS, p99, longer than in one process by", 5, "ms", False, _warm("2 nodes with NATS")),
)  # fmt: skip


def judged(results: Sequence[Result]) -> Iterator[Verdict]:
    """Judge each goal by the results."""
    found = Results(results)
    for goal in GOALS:
        yield Verdict(goal, goal.value(found))
