"""Prometheus metrics. The tracker counts in plain integers, which collectors read when metrics are requested."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tracker import COMPILED, __version__
from tracker.core.hub import Hub
from tracker.core.nearby import NEARNESS
from tracker.logs import lines_dropped
from tracker.net.endpoint import Endpoint
from tracker.net.routes import Routes
from tracker.net.tls import Certificate
from tracker.peers import Traffic
from tracker.reasons import CloseReason, DropReason, RejectReason

LAG_PERIOD = 0.5
"""Seconds between two measurements of the event loop's lag."""


class TrackerCollector(Collector):
    """The counters of the hub, the endpoint and the peers' sockets.

    `extension_errors` and `task_failures` are the numbers by extension and by background task.
    """

    def __init__(
        self,
        hub: Hub,
        endpoint: Endpoint,
        traffic: Traffic,
        extension_errors: Mapping[str, int],
        task_failures: Mapping[str, int],
    ) -> None:
        self._hub = hub
        self._endpoint = endpoint
        self._traffic = traffic
        self._extension_errors = extension_errors
        self._task_failures = task_failures

    def collect(self) -> Iterator[Metric]:
        hub, endpoint, counters = self._hub, self._endpoint, self._hub.counters
        build = {"version": __version__, "compiled": str(COMPILED).lower()}
        yield InfoMetricFamily(
            "peerservers_build", "Version of the tracker, and whether its hot modules are compiled", build
        )
        yield GaugeMetricFamily("peerservers_connections", "Open WebSocket connections", len(endpoint.websockets))
        yield CounterMetricFamily("peerservers_connections_opened", "Connections accepted", endpoint.opened)
        if endpoint.hand_over is not None:
            handed = {"in": endpoint.handed_in, "out": endpoint.handed_out}
            yield counter_by(
                "direction", "peerservers_connections_handed", "Connections handed between workers", handed
            )
        yield counter_by("reason", "peerservers_connections_closed", "Connections ended", endpoint.closed, CloseReason)
        yield counter_by(
            "reason",
            "peerservers_rejected",
            "Connections rejected with an HTTP status",
            endpoint.rejected,
            RejectReason,
        )
        yield GaugeMetricFamily(
            "peerservers_max_connections", "Maximum number of WebSockets", endpoint.gate.room.connections
        )
        yield GaugeMetricFamily(
            "peerservers_addresses", "Client addresses that limits are kept for", len(endpoint.gate.addresses)
        )
        yield GaugeMetricFamily("peerservers_swarms", "Swarms with a local peer", len(hub.swarms) - hub.empty)
        peers = GaugeMetricFamily("peerservers_peers", "Local peers, counted once per swarm", labels=["role"])
        peers.add_metric(["seeder"], hub.seeders)
        peers.add_metric(["leecher"], hub.leechers)
        yield peers
        requests = {
            "announce": counters.announces,
            "answer": counters.answers,
            "scrape": counters.scrapes,
            "heartbeat": counters.heartbeats,
        }
        yield counter_by("type", "peerservers_requests", "Valid messages from clients", requests)
        responses = {
            "reply": counters.replies,
            "offer": counters.offers_relayed,
            "answer": counters.answers_relayed,
            "failure": counters.failures,
        }
        yield counter_by("type", "peerservers_responses", "Messages sent to clients", responses)
        handed = {"offer": counters.offers_handed_over, "answer": counters.answers_handed_over}
        yield counter_by("type", "peerservers_handed_over", "Offers and answers handed over to extensions", handed)
        if hub.nearby is not None:
            yield counter_by(
                "nearness",
                "peerservers_offers_placed",
                "With nearby.enabled: offers in swarms of more than 16 local peers, by what both peers have in common",
                dict(zip(NEARNESS, hub.nearby.offers, strict=True)),
            )
        dropped = counters.dropped.copy()
        dropped[DropReason.SLOW_RECEIVER] += endpoint.messages_dropped
        yield counter_by(
            "reason",
            "peerservers_dropped",
            "Messages, parts of messages and peers that were dropped",
            dropped,
            DropReason,
        )
        yield counter_by(
            "extension", "peerservers_extension_errors", "Exceptions of extensions", self._extension_errors
        )
        yield counter_by(
            "task", "peerservers_background_task_failures", "Background tasks that failed", self._task_failures
        )
        traffic = self._traffic
        yield CounterMetricFamily(
            "peerservers_received_bytes", "Payload of messages received, in bytes", traffic.bytes_received
        )
        yield CounterMetricFamily("peerservers_sent_bytes", "Payload of messages sent, in bytes", traffic.bytes_sent)
        if endpoint.deflate is not None:
            sizes = CounterMetricFamily(
                "peerservers_deflate_bytes",
                "With connections.deflate: messages that were compressed, in compressed and in inflated form",
                labels=["direction", "form"],
            )
            for direction in ("received", "sent"):
                for form in ("compressed", "inflated"):
                    sizes.add_metric([direction, form], endpoint.deflate.sizes[direction, form])
            yield sizes
        yield self._message_sizes()

    def _message_sizes(self) -> HistogramMetricFamily:
        buckets: list[tuple[str, float]] = []
        total = 0
        for bits, number in enumerate(self._traffic.message_sizes):
            total += number
            if 5 < bits < 19:
                buckets.append((str(float(2**bits - 1)), total))
        buckets.append(("+Inf", total))
        return HistogramMetricFamily(
            "peerservers_message_size_bytes",
            "Size of received messages",
            buckets=buckets,
            sum_value=self._traffic.bytes_received,
        )


def counter_by(
    label: str, name: str, text: str, numbers: Mapping[Any, int], values: Iterable[Any] = ()
) -> CounterMetricFamily:
    """Return a counter with one label.

    All `values` of the label are present from the start, because Prometheus sees no growth in a first sample.
    """
    family = CounterMetricFamily(name, text, labels=[label])
    for value, number in sorted({**dict.fromkeys(values, 0), **numbers}.items()):
        family.add_metric([str(value)], number)
    return family


class HttpCollector(Collector):
    """The HTTP requests that all ports have answered."""

    def __init__(self, routes: Sequence[Routes]) -> None:
        self._routes = routes

    def collect(self) -> Iterator[Metric]:
        requests: Counter[tuple[str, int]] = Counter()
        for routes in self._routes:
            requests.update(routes.requests)
        family = CounterMetricFamily(
            "peerservers_http_requests",
            "HTTP requests answered, without rejected connections",
            labels=["route", "status"],
        )
        for (route, status), number in sorted(requests.items()):
            family.add_metric([route, str(status)], number)
        yield family


class OperationCollector(Collector):
    """Collects the reloads of settings and files, the lost lines of the log, and the certificate's expiry."""

    def __init__(self, reloads: Mapping[str, int], certificate: Certificate | None) -> None:
        self._reloads = reloads
        self._certificate = certificate

    def collect(self) -> Iterator[Metric]:
        yield counter_by(
            "result", "peerservers_reloads", "Reloads of settings and files", self._reloads, ("done", "failed")
        )
        yield CounterMetricFamily(
            "peerservers_log_lines_dropped", "Log lines lost because their reader was slow or gone", lines_dropped()
        )
        if self._certificate:
            yield GaugeMetricFamily(
                "peerservers_certificate_expiry_timestamp_seconds",
                "Expiry of the certificate, in Unix time",
                self._certificate.expires,
            )


class LoopLag:
    """Measures the lag of the event loop: the delay of a timer, which any message may have, too."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._histogram = Histogram(
            "peerservers_event_loop_lag_seconds",
            "Delay with which the event loop runs a timer",
            buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=registry,
        )

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_PERIOD
            await asyncio.sleep(LAG_PERIOD)
            self._histogram.observe(max(0.0, loop.time() - due))


def registry_for(
    hub: Hub,
    endpoint: Endpoint,
    traffic: Traffic,
    extension_errors: Mapping[str, int],
    task_failures: Mapping[str, int],
) -> CollectorRegistry:
    """Return a registry with the metrics of the tracker, of Python and of the process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(TrackerCollector(hub, endpoint, traffic, extension_errors, task_failures))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry
