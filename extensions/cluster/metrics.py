"""The metrics of the extension `cluster`."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from extensions.cluster.reasons import Dropped, Left, Refused, Resync
from extensions.cluster.troubles import Trouble
from tracker.extension import counter_by

if TYPE_CHECKING:
    from extensions.cluster.node import Node


class Source(Protocol):
    """The part of the extension that the metrics read."""

    node: "Node | None"
    is_connected: bool
    left: Counter[Left]

    @property
    def troubles(self) -> Counter[Trouble]: ...


class ClusterCollector(Collector):
    """Reads the counters of the node. There are none before the start."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        source, node = self._source, self._source.node
        yield GaugeMetricFamily(
            "peerservers_cluster_connected",
            "Whether the transport between the nodes works",
            float(source.is_connected),
        )
        yield counter_by(
            "reason",
            "peerservers_cluster_troubles",
            "Connections between nodes, or to NATS, that were lost, refused or could not be made",
            source.troubles,
            Trouble,
        )
        yield counter_by("reason", "peerservers_cluster_nodes_left", "Other nodes that left", source.left, Left)
        if node is None:
            return
        parts = node.parts
        others = parts.members.others.values()
        yield GaugeMetricFamily("peerservers_cluster_nodes", "Live nodes, with this one", 1 + len(others))
        info = GaugeMetricFamily(
            "peerservers_cluster_node_info",
            "1 for each other node: the first 8 digits of its id, its name, and its version",
            labels=["node", "label", "version"],
        )
        for member in others:
            info.add_metric([member.node_id[:8], member.label, member.version], 1)
        yield info
        yield GaugeMetricFamily(
            "peerservers_cluster_gateway", "1 at the gateway, otherwise 0", float(parts.gateway.is_here)
        )
        yield GaugeMetricFamily(
            "peerservers_cluster_shared_swarms", "Swarms with peers at other nodes", len(parts.shared.by_key)
        )
        yield GaugeMetricFamily(
            "peerservers_cluster_owned_swarms",
            "Swarms of all nodes whose infohashes this node owns",
            len(parts.owners.directory),
        )
        yield GaugeMetricFamily(
            "peerservers_cluster_queued_bytes",
            "Messages that wait because another node, or the transport, is slow",
            sum(session.control_bytes + session.traffic_bytes for session in parts.sessions.by_id.values()),
        )
        yield GaugeMetricFamily("peerservers_cluster_streams", "Open streams with other nodes", len(parts.streams))
        traffic = parts.sessions.traffic
        for name, text, received, sent in (
            ("messages", "Messages between nodes", traffic.messages_in, traffic.messages_out),
            ("bytes", "Bytes of messages between nodes", traffic.bytes_in, traffic.bytes_out),
            ("offers", "Offers from and to other nodes", traffic.offers_in, traffic.offers_out),
            ("answers", "Answers from and to other nodes", traffic.answers_in, traffic.answers_out),
        ):
            counter = CounterMetricFamily(f"peerservers_cluster_{name}", text, labels=["direction"])
            counter.add_metric(["in"], received)
            counter.add_metric(["out"], sent)
            yield counter
        sessions = parts.sessions
        yield counter_by(
            "reason", "peerservers_cluster_refused", "Messages of nodes that were refused", parts.refused, Refused
        )
        yield counter_by(
            "reason", "peerservers_cluster_dropped", "Parts of messages that were dropped", sessions.dropped, Dropped
        )
        yield counter_by(
            "reason",
            "peerservers_cluster_resyncs",
            "Times that this node told another one everything again",
            sessions.resyncs,
            Resync,
        )
