"""The DHT's metrics: plain counters that are read when Prometheus scrapes."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from extensions.dht.counters import Looked, Written
from extensions.dht.krpc.client import METHODS
from extensions.dht.records.trouble import Trouble
from extensions.entries import Rejected
from tracker.extension import counter_by

if TYPE_CHECKING:
    from extensions.dht.service import Service

_NODE_GAUGES = {
    "peerservers_dht_nodes": ("dht.dht_nodes", "Nodes in the routing table"),
    "peerservers_dht_stored_items": ("dht.dht_mutable_data", "Mutable items that our node stores for others"),
    "peerservers_dht_stored_peers": ("dht.dht_peers", "Announced peers that our node stores for others"),
}
_NODE_COUNTERS = {
    "peerservers_dht_node_received_bytes": ("dht.dht_bytes_in", "Bytes that our node received"),
    "peerservers_dht_node_sent_bytes": ("dht.dht_bytes_out", "Bytes that our node sent"),
    "peerservers_dht_node_received_messages": ("dht.dht_messages_in", "Messages that our node received"),
    "peerservers_dht_node_sent_messages": ("dht.dht_messages_out", "Messages that our node sent"),
    "peerservers_dht_node_dropped_messages": ("dht.dht_messages_in_dropped", "Messages that our node dropped"),
}


class DhtCollector(Collector):
    """The metrics of a service and its parts; without a service only that the DHT is not reachable.

    If it does not run here, because another process of this tracker is the gateway, there are none.
    """

    def __init__(self, service: "Callable[[], Service | None]", runs_here: Callable[[], bool] = lambda: True) -> None:
        self._service = service
        self._runs_here = runs_here

    def collect(self) -> Iterator[Metric]:
        service = self._service()
        if not self._runs_here():
            return
        reachable = service is not None and service.reachable.is_set()
        yield GaugeMetricFamily(
            "peerservers_dht_reachable", "Whether nodes of the DHT are known, and answer", int(reachable)
        )
        if service is None:
            return
        for name, (key, text) in _NODE_GAUGES.items():
            yield GaugeMetricFamily(name, text, service.node.stats.get(key, 0))
        for name, (key, text) in _NODE_COUNTERS.items():
            yield CounterMetricFamily(name, text, service.node.stats.get(key, 0))
        yield from self._client(service)
        yield from self._directory(service)

    def _client(self, service: "Service") -> Iterator[Metric]:
        client, counters = service.client, service.client.counters
        yield GaugeMetricFamily("peerservers_dht_queries_in_flight", "Queries waiting for a reply", client.in_flight)
        yield GaugeMetricFamily(
            "peerservers_dht_lookups_waiting",
            "Lookups waiting for a turn: requested, or of a visit that has begun",
            client.scheduler.lookups_waiting,
        )
        yield counter_by("method", "peerservers_dht_queries", "Queries sent", counters.queries, METHODS)
        answers = {"reply": counters.replies, "refusal": counters.refusals, "timeout": counters.timeouts}
        yield counter_by("result", "peerservers_dht_query_results", "Queries by result", answers)
        yield CounterMetricFamily(
            "peerservers_dht_queries_delayed", "Queries delayed because of the rate limit per node", counters.delayed
        )
        yield gauge_by(
            "family",
            "peerservers_dht_estimated_nodes",
            "Nodes of the whole DHT, by lookups of random ids; 0 while it is unknown",
            {f"ipv{family}": estimate.nodes or 0 for family, estimate in client.estimates.items()},
        )
        yield CounterMetricFamily(
            "peerservers_dht_stores_failed",
            "Nodes that have refused a value or an announcement, or were silent; others are used in their place",
            counters.stores_failed,
        )
        yield GaugeMetricFamily(
            "peerservers_dht_refusers", "Nodes that are remembered as refusing to store", client.refusers
        )
        yield CounterMetricFamily("peerservers_dht_garbage", "Datagrams that answered no query", counters.garbage)
        yield CounterMetricFamily(
            "peerservers_dht_received_bytes", "Bytes received in lookups and stores", counters.bytes_in
        )
        yield CounterMetricFamily("peerservers_dht_sent_bytes", "Bytes sent in lookups and stores", counters.bytes_out)

    def _directory(self, service: "Service") -> Iterator[Metric]:
        directory, counters = service.directory, service.directory.counters
        yield GaugeMetricFamily(
            "peerservers_dht_published", "Infohashes whose record has a valid entry of ours", directory.published
        )
        yield GaugeMetricFamily(
            "peerservers_dht_unpublished",
            "Swarms not published because of max_published",
            directory.publish_set.left_out,
        )
        yield GaugeMetricFamily(
            "peerservers_dht_overdue", "Infohashes whose visit is due and has not begun", directory.overdue
        )
        yield counter_by("result", "peerservers_dht_lookups", "Lookups of an infohash", counters.lookups, Looked)
        yield from counters.lookup_seconds.collect()
        yield counter_by(
            "result", "peerservers_dht_publications", "Writes of our entry to records", counters.publications, Written
        )
        rejected = {**counters.rejected, Rejected.INVALID_ITEM: service.client.counters.invalid_items}
        yield counter_by(
            "reason", "peerservers_dht_rejected", "Items, entries and descriptors ignored", rejected, Rejected
        )
        yield GaugeMetricFamily(
            "peerservers_dht_copies",
            "Nodes that still had our entry, of every eight that took it, in the mean of the last 100 looks at records",
            counters.copies,
        )
        yield GaugeMetricFamily(
            "peerservers_dht_refresh_seconds",
            "Seconds after which entries are written again, at most, in the mean of these looks",
            counters.refresh_seconds,
        )
        yield counter_by(
            "kind", "peerservers_dht_troubles", "Visits that found a record in trouble", counters.troubles, Trouble
        )
        yield gauge_by(
            "kind",
            "peerservers_dht_troubled_records",
            "Infohashes whose record was in trouble at its last visit",
            Counter(kind for tracked in directory.tracked.values() for kind in tracked.troubles),
            Trouble,
        )


def gauge_by(
    label: str, name: str, text: str, numbers: Mapping[Any, float], values: Iterable[Any] = ()
) -> GaugeMetricFamily:
    """Return a gauge with one label. All `values` of the label are always present."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in sorted({**dict.fromkeys(values, 0), **numbers}.items()):
        family.add_metric([str(value)], number)
    return family
