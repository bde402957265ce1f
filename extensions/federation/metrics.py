"""The metrics of the extension `federation`."""

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from extensions.federation.discovery import Discovery
from extensions.federation.link import Link
from extensions.federation.mesh import Mesh
from extensions.federation.reasons import OTHER, Dropped, EndReason, Gossip
from tracker.extension import counter_by

_TRAFFIC = ("offers_in", "offers_out", "answers_in", "answers_out", "refused_in", "refused_out")


class Source(Protocol):
    """The part of the extension that the metrics read."""

    @property
    def mesh(self) -> Mesh | None: ...
    @property
    def discovery(self) -> Discovery | None: ...
    @property
    def links(self) -> list[Link]: ...
    def url_of(self, link: Link) -> str: ...
    @property
    def dropped(self) -> Counter[Dropped]: ...
    @property
    def parked_offers(self) -> int: ...


class FederationCollector(Collector):
    """Reads the counters of all links. The label `tracker` is the first 16 digits of the other tracker's id."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        source = self._source
        mesh, links = source.mesh, source.links
        yield GaugeMetricFamily("peerservers_federation_links", "Open links to other trackers", len(links))
        info = GaugeMetricFamily(
            "peerservers_federation_link_info",
            "1 for each open link: the other tracker, its URL if it is known, and which side has dialed",
            labels=["tracker", "url", "direction"],
        )
        up = GaugeMetricFamily(
            "peerservers_federation_listed_up",
            "Whether a tracker in extensions.federation.peers is linked, without this tracker itself",
            labels=["url"],
        )
        if mesh:
            for listed in mesh.listed.values():
                if not listed.is_itself:
                    up.add_metric([listed.url], listed.tracker_id in mesh.links)
        yield up
        shared = GaugeMetricFamily("peerservers_federation_shared_swarms", "Common swarms", labels=["tracker"])
        traffic = CounterMetricFamily(
            "peerservers_federation_messages", "Offers, answers, refusals over links", labels=["tracker", "type"]
        )
        sizes = CounterMetricFamily(
            "peerservers_federation_bytes", "Messages over links", labels=["tracker", "direction"]
        )
        for link in links:
            tracker, counters = link.tracker_id[:16], link.account.counters
            for direction in ("in", "out"):
                sizes.add_metric([tracker, direction], counters[f"bytes_{direction}"])
            info.add_metric([tracker, source.url_of(link), link.direction], 1)
            shared.add_metric([tracker], len(link.account.members))
            for kind in _TRAFFIC:
                traffic.add_metric([tracker, kind], counters[kind])
        yield info
        yield shared
        yield traffic
        yield sizes
        opened, ended = (mesh.opened, mesh.ended) if mesh else ({}, {})
        yield counter_by(
            "direction", "peerservers_federation_links_opened", "Links opened", opened, ("dialed", "accepted")
        )
        yield counter_by("reason", "peerservers_federation_links_ended", "Links ended, or not made", ended, EndReason)
        yield counter_by(
            "reason",
            "peerservers_federation_closed_by_others",
            "Links that the other tracker ended or refused, by its reason",
            mesh.closed_there if mesh else {},
            (*EndReason, OTHER),
        )
        yield from self._of_discovery()
        yield counter_by(
            "reason",
            "peerservers_federation_dropped",
            "Parts of messages over links that were dropped",
            source.dropped,
            Dropped,
        )
        yield GaugeMetricFamily(
            "peerservers_federation_parked_offers",
            "Offers kept because no peer could be given them",
            source.parked_offers,
        )

    def _of_discovery(self) -> Iterator[Metric]:
        discovery = self._source.discovery
        yield GaugeMetricFamily(
            "peerservers_federation_known_trackers",
            "Trackers that were found and are not linked",
            discovery.unlinked if discovery else 0,
        )
        dials = GaugeMetricFamily(
            "peerservers_federation_dials_waiting",
            "Dials that wait for a place, and trackers that are dialed again after a backoff",
            labels=["for"],
        )
        dials.add_metric(["place"], discovery.pursuits.queued if discovery else 0)
        dials.add_metric(["backoff"], discovery.pursuits.waiting if discovery else 0)
        yield dials
        yield counter_by(
            "type",
            "peerservers_federation_gossip",
            "Messages about other trackers, trackers learned from them, and those ignored",
            discovery.referrals.counters if discovery else {},
            Gossip,
        )
