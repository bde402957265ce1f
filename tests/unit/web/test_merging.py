"""The metrics of several processes as those of one."""

import msgspec
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import InfoMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tracker.web.merging import Family, Merger, cumulative, pack


class Process:
    """A process with metrics of all kinds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.counter = Counter("peerservers_things", "Things", ["kind"], registry=self.registry)
        self.connections = Gauge("peerservers_connections", "Connections", registry=self.registry)
        self.up = Gauge("peerservers_extension_up", "Up", ["extension"], registry=self.registry)
        self.start = Gauge("process_start_time_seconds", "Start", registry=self.registry)
        self.lag = Histogram("peerservers_event_loop_lag_seconds", "Lag", buckets=(1.0, 2.0), registry=self.registry)

    def families(self) -> list[Family]:
        """Return the metrics as another process gets them."""
        data = msgspec.msgpack.encode(pack(self.registry.collect()))
        return msgspec.msgpack.decode(data, type=list[Family])


def values(merger: Merger) -> dict[str, float]:
    """Return all values by the name and the labels of their samples, except times of creation."""
    return {
        "".join((name, *(f" {key}={value}" for key, value in labels.items()))): value
        for family in merger.families()
        for name, labels, value in family.samples
        if not name.endswith("_created")
    }


def test_sums_and_other_rules() -> None:
    one, other = Process(), Process()
    one.counter.labels("a").inc(1)
    other.counter.labels("a").inc(2)
    other.counter.labels("b").inc(4)
    one.connections.set(10)
    other.connections.set(20)
    one.up.labels("dht").set(1)
    other.up.labels("dht").set(0)
    one.start.set(2000)
    other.start.set(1000)
    one.lag.observe(0.5)
    other.lag.observe(1.5)
    other.lag.observe(5)
    merger = Merger()
    merger.add(one.families())
    merger.add(other.families())
    assert values(merger) == {
        "peerservers_things_total kind=a": 3,
        "peerservers_things_total kind=b": 4,
        "peerservers_connections": 30,
        "peerservers_extension_up extension=dht": 0,
        "process_start_time_seconds": 1000,
        "peerservers_event_loop_lag_seconds_bucket le=1.0": 1,
        "peerservers_event_loop_lag_seconds_bucket le=2.0": 2,
        "peerservers_event_loop_lag_seconds_bucket le=+Inf": 3,
        "peerservers_event_loop_lag_seconds_count": 3,
        "peerservers_event_loop_lag_seconds_sum": 7,
    }


@pytest.mark.parametrize(("rules", "expected"), [({}, 30), ({"g": "max"}, 20), ({"g": "min"}, 10)])
def test_rules_of_extensions(rules: dict[str, str], expected: float) -> None:
    merger = Merger(rules)  # type: ignore[arg-type]
    for value in (10.0, 20.0):
        merger.add([Family("g", "", "gauge", "", [("g", {}, value)])])
    assert values(merger) == {"g": expected}


def test_facts_are_not_summed() -> None:
    merger = Merger()
    for version in ("1", "1", "2"):
        merger.add(pack([InfoMetricFamily("peerservers_build", "", {"version": version})]))
        merger.add([Family("x_link_info", "", "gauge", "", [("x_link_info", {"url": version}, 1.0)])])
    assert values(merger) == {
        "peerservers_build_info version=1": 1,
        "peerservers_build_info version=2": 1,
        "x_link_info url=1": 1,
        "x_link_info url=2": 1,
    }


def test_series_of_single_workers() -> None:
    one, old, new = Process(), Process(), Process()
    one.connections.set(1)
    old.connections.set(2)
    new.connections.set(4)
    new.lag.observe(1.5)
    merger = Merger()
    merger.add(one.families(), "0")
    # During a rolling restart, two have the same place.
    merger.add(old.families(), "1")
    merger.add(new.families(), "1")
    found = values(merger)
    assert found["peerservers_connections"] == 7
    assert found["peerservers_worker_connections worker=0"] == 1
    assert found["peerservers_worker_connections worker=1"] == 6
    assert found["peerservers_worker_lag_seconds_bucket le=2.0 worker=1"] == 1
    assert found["peerservers_worker_lag_seconds_count worker=0"] == 0


def test_the_result_is_a_valid_exposition() -> None:
    merger = Merger()
    for label in ("0", "1"):
        process = Process()
        process.counter.labels("a").inc()
        merger.add(process.families(), label)

    class All(CollectorRegistry):
        def collect(self) -> list[Metric]:
            return merger.metrics()

    found = {family.name: family for family in text_string_to_metric_families(generate_latest(All()).decode())}
    assert found["peerservers_things"].samples[0].value == 2
    assert found["peerservers_worker_lag_seconds"].type == "histogram"
    keys = [(one.name, *sorted(one.labels.items())) for family in found.values() for one in family.samples]
    assert len(keys) == len(set(keys))


def test_counters_alone() -> None:
    process = Process()
    assert [family.name for family in cumulative(process.families())] == [
        "peerservers_things",
        "peerservers_event_loop_lag_seconds",
    ]
