"""The DHT's metrics. Counted in plain integers; read when Prometheus asks."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from extensions.dht.counters import Looked, Written
from extensions.dht.krpc.client import METHODS
from extensions.dht.records.entry import Rejected
from extensions.dht.service import Service
from tracker.extension import counter_by

_NODE_GAUGES = {
    "peerservers_dht_nodes": ("dht.dht_nodes", "Nodes in the routing table"),
    "peerservers_dht_stored_items": ("dht.dht_mutable_data", "Mutable items stored for others"),
    "peerservers_dht_stored_peers": ("dht.dht_peers", "Announced peers stored for others"),
}
_NODE_COUNTERS = {
    "peerservers_dht_node_received_bytes": ("dht.dht_bytes_in", "Bytes that our node received"),
    "peerservers_dht_node_sent_bytes": ("dht.dht_bytes_out", "Bytes that our node sent"),
    "peerservers_dht_node_received_messages": ("dht.dht_messages_in", "Messages that our node received"),
    "peerservers_dht_node_sent_messages": ("dht.dht_messages_out", "Messages that our node sent"),
    "peerservers_dht_node_dropped_messages": ("dht.dht_messages_in_dropped", "Messages that our node dropped"),
}


class DhtCollector(Collector):
    """What the service and its parts have counted; nothing but that the DHT is out of reach if there is none."""

    def __init__(self, service: Callable[[], Service | None]) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        service = self._service()
        reachable = service is not None and service.reachable.is_set()
        yield GaugeMetricFamily("peerservers_dht_reachable", "Whether other nodes of the DHT are known", int(reachable))
        if service is None:
            return
        for name, (key, text) in _NODE_GAUGES.items():
            yield GaugeMetricFamily(name, text, service.node.stats.get(key, 0))
        for name, (key, text) in _NODE_COUNTERS.items():
            yield CounterMetricFamily(name, text, service.node.stats.get(key, 0))
        yield from self._client(service)
        yield from self._directory(service)

    def _client(self, service: Service) -> Iterator[Metric]:
        client, tally = service.client, service.client.tally
        yield GaugeMetricFamily("peerservers_dht_queries_in_flight", "Queries waiting for a reply", client.in_flight)
        yield GaugeMetricFamily("peerservers_dht_lookups_waiting", "Lookups waiting for their turn", len(client.queue))
        yield counter_by("method", "peerservers_dht_queries", "Queries sent", tally.queries, METHODS)
        answers = {"reply": tally.replies, "refusal": tally.refusals, "timeout": tally.timeouts}
        yield counter_by("result", "peerservers_dht_query_results", "What became of queries", answers)
        yield CounterMetricFamily("peerservers_dht_queries_delayed", "Queries held back for a node", tally.delayed)
        yield CounterMetricFamily("peerservers_dht_garbage", "Datagrams that answered nothing", tally.garbage)
        yield CounterMetricFamily("peerservers_dht_received_bytes", "Bytes received in lookups", tally.bytes_in)
        yield CounterMetricFamily("peerservers_dht_sent_bytes", "Bytes sent in lookups", tally.bytes_out)

    def _directory(self, service: Service) -> Iterator[Metric]:
        directory, tally = service.directory, service.directory.tally
        yield GaugeMetricFamily("peerservers_dht_published", "Infohashes we are found for", directory.published)
        yield GaugeMetricFamily(
            "peerservers_dht_unpublished", "Swarms over max_published", directory.shortlist.left_out
        )
        yield GaugeMetricFamily("peerservers_dht_overdue", "Infohashes whose look is overdue", directory.overdue)
        yield counter_by("result", "peerservers_dht_lookups", "Lookups of an infohash", tally.lookups, Looked)
        yield from tally.lookup_seconds.collect()
        yield counter_by("result", "peerservers_dht_publications", "Writings of our entry", tally.publications, Written)
        rejected = {**tally.rejected, Rejected.INVALID_ITEM: service.client.tally.invalid_items}
        yield counter_by(
            "reason", "peerservers_dht_rejected", "Items, entries and descriptors ignored", rejected, Rejected
        )
