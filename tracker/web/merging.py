"""One exposition of the metrics of several processes (sans I/O)."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec
from prometheus_client.metrics_core import Metric

How = Literal["sum", "max", "min"]
"""How the values of several processes become one."""

Labels = tuple[tuple[str, str], ...]

GAUGES: Final[Mapping[str, How]] = MappingProxyType(
    {
        "process_start_time_seconds": "min",
        "peerservers_certificate_expiry_timestamp_seconds": "min",
        "peerservers_extension_up": "min",
        "peerservers_dht_reachable": "max",
        "python_info": "max",
    }
)
"""Gauges that are not summed. Those that only tell labels, whose names end in `_info`, are not summed either."""

SERIES: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "peerservers_connections": ("peerservers_worker_connections", "Open WebSocket connections of a worker"),
        "process_cpu_seconds": ("peerservers_worker_cpu_seconds_total", "CPU time of a worker, in seconds"),
        "process_resident_memory_bytes": ("peerservers_worker_memory_bytes", "Resident memory of a worker, in bytes"),
        "peerservers_event_loop_lag_seconds": (
            "peerservers_worker_lag_seconds",
            "Delay with which the event loop of a worker runs a timer",
        ),
    }
)
"""Families that are there for each worker, too: the name and the description of those series."""

LABEL: Final = "worker"
"""The label of these series."""

CUMULATIVE: Final = frozenset(("counter", "histogram", "summary"))
"""The types whose values only grow while a process lives."""


class Family(msgspec.Struct, array_like=True):
    """A metric of one process, for another one."""

    name: str
    text: str
    type: str
    unit: str
    samples: list[tuple[str, dict[str, str], float]]


def pack(metrics: Iterable[Metric]) -> list[Family]:
    """Return the metrics of a process in a form for others."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            metric.unit,
            [(sample.name, sample.labels, float(sample.value)) for sample in metric.samples],
        )
        for metric in metrics
    ]


def cumulative(families: Iterable[Family]) -> list[Family]:
    """Return those whose values never fall while the process lives."""
    return [family for family in families if family.type in CUMULATIVE]


def replaced(families: Iterable[Family], counters: Iterable[Family]) -> list[Family]:
    """Return the metrics of a process with other counters."""
    return [*counters, *(family for family in families if family.type not in CUMULATIVE)]


class Merger:
    """The metrics of several processes as those of one.

    Counters, histograms and gauges are summed, except for gauges with another rule in `rules` or `GAUGES`. Adding one
    process takes about a millisecond. `always` is the rule for all of them.
    """

    def __init__(self, rules: Mapping[str, How] = MappingProxyType({}), always: How | None = None) -> None:
        self._rules = {**GAUGES, **rules}
        self._always = always
        self._families: dict[str, tuple[Family, dict[tuple[str, Labels], float]]] = {}

    def add(self, families: Iterable[Family], label: str | None = None) -> None:
        """Add the metrics of one process. With a label, add the series of a single worker, too."""
        for family in families:
            self._add(family)
            if label is not None and family.name in SERIES:
                self._add(_labelled(family, label))

    def families(self) -> list[Family]:
        """Return the merged metrics."""
        return [
            Family(one.name, one.text, one.type, one.unit, [(name, dict(key), value) for (name, key), value in values])
            for one, values in ((family, values.items()) for family, values in self._families.values())
        ]

    def metrics(self) -> list[Metric]:
        """Return the merged metrics for the exposition."""
        found = []
        for family in self.families():
            metric = Metric(family.name, family.text, family.type, family.unit)
            for name, labels, value in family.samples:
                metric.add_sample(name, labels, value)
            found.append(metric)
        return found

    def _add(self, family: Family) -> None:
        _, values = self._families.setdefault(family.name, (family, {}))
        how = self._how(family)
        for name, labels, value in family.samples:
            key = (name, tuple(labels.items()))
            known = values.get(key)
            if known is None:
                values[key] = value
            elif how == "min" or name.endswith("_created"):
                values[key] = min(known, value)
            else:
                values[key] = max(known, value) if how == "max" else known + value

    def _how(self, family: Family) -> How:
        if self._always is not None:
            return self._always
        if family.type in CUMULATIVE:
            return "sum"
        if family.type == "info" or family.name.endswith("_info"):
            return "max"
        return self._rules.get(family.name, "sum")


def _labelled(family: Family, label: str) -> Family:
    name, text = SERIES[family.name]
    name = name.removesuffix("_total")
    samples = [
        (name + sample.removeprefix(family.name), {**labels, LABEL: label}, value)
        for sample, labels, value in family.samples
        if not sample.endswith("_created")
    ]
    return Family(name, text, family.type, family.unit, samples)
