"""The extension `federation`: peers of one swarm meet though they have joined different trackers."""

import asyncio
from collections import Counter
from typing import Any

from prometheus_client import Histogram

from extensions.federation.discovery import Discovery
from extensions.federation.exchange import Exchange
from extensions.federation.link import Link
from extensions.federation.mesh import Connect, Mesh
from extensions.federation.metrics import FederationCollector
from extensions.federation.reasons import Dropped
from extensions.federation.settings import FederationSettings
from extensions.federation.term import Term
from extensions.federation.transports import SUBPROTOCOL
from extensions.federation.wire import MAX_FRAME
from extensions.identity import own_key
from tracker.extension import (
    Answer,
    Channel,
    ConfigError,
    Extension,
    Offer,
    RemoteMember,
    Swarm,
    TrackerHandle,
)


class Federation(Extension):
    """Links this tracker with others. In a cluster, the links of all nodes end at the gateway."""

    Settings = FederationSettings
    at_gateway = True
    connect: Connect | None = None
    """Makes the connections of dialed links, by default WebSockets."""

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self._term: Term | None = None
        """None before the start, after the stop, and if there is no key pair."""
        self._has_started = asyncio.Event()
        """Set once it has started, or failed to start."""
        self._parked_seconds = Histogram(
            "peerservers_federation_parked_seconds",
            "How long offers had been parked when they were placed",
            buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 30, 45),
            registry=tracker.registry,
        )
        if tracker.settings.connections.max_message_size < MAX_FRAME:
            raise ConfigError(
                f"connections.max_message_size: with extensions.federation enabled, at least {MAX_FRAME} are needed"
            )
        tracker.add_subprotocol(str(SUBPROTOCOL), self._accept)
        tracker.add_table("federation", self.table, links=True)
        tracker.add_table("unlinked", self.unlinked, links=True)
        tracker.add_table("linking", self.linking)
        tracker.registry.register(FederationCollector(self))

    async def prepare(self) -> None:
        try:
            self._key = await own_key(self.tracker)
        except BaseException:
            self._has_started.set()
            raise
        # Clients that come back after a restart announce before this extension has started. They come again only after
        # the interval that they are told now.
        self.tracker.park_offers(self._parked_seconds.observe)

    async def start(self) -> None:
        try:
            await self._start()
        finally:
            self._has_started.set()

    async def _start(self) -> None:
        finder: Any = self.tracker.extension("dht")
        self._term = Term(self.tracker, self.settings, self._key, finder, self.connect)
        self._term.start()

    async def stop(self) -> None:
        if not self.tracker.runs_here:
            # Another node is the gateway now. This one may become it again.
            self._has_started.clear()
        term = self._term
        if term:
            try:
                await term.stop()
            finally:
                self._term = None

    async def swarm_changed(self, swarm: Swarm) -> None:
        if self._term:
            self._term.swarm_changed(swarm)

    async def swarm_closed(self, swarm: Swarm) -> None:
        if self._term:
            self._term.swarm_closed(swarm)

    async def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        if self._term:
            self._term.exchange.offers_placed(member, peer_id, offers)

    async def offers_returned(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
        if self._term:
            self._term.exchange.offers_returned(swarm, peer_id, offers)

    async def answer_unplaced(self, answer: Answer) -> None:
        if self._term:
            self._term.exchange.answer_unplaced(answer)

    @property
    def mesh(self) -> Mesh | None:
        """The links; None while it does not run."""
        return self._term.mesh if self._term else None

    @property
    def exchange(self) -> Exchange | None:
        """The exchange of offers and answers; None while it does not run."""
        return self._term.exchange if self._term else None

    @property
    def discovery(self) -> Discovery | None:
        """The search for other trackers; None while it does not run."""
        return self._term.discovery if self._term else None

    @property
    def links(self) -> list[Link]:
        """The open links."""
        return list(self.mesh.links.values()) if self.mesh else []

    @property
    def dropped(self) -> Counter[Dropped]:
        """Everything that was dropped on links, open or ended, by reason."""
        return self._term.dropped if self._term else Counter[Dropped]()

    @property
    def parked_offers(self) -> int:
        """Offers that the tracker keeps because no peer could be given them."""
        return self.tracker.parked_offers

    def url_of(self, link: Link) -> str:
        """Return the URL of a linked tracker: dialed, listed, or else signed by it. Empty if there is none."""
        listed = self.mesh.admission.url_of(link.tracker_id) if self.mesh else ""
        return link.url or listed or (self.discovery.url_of(link.tracker_id) if self.discovery else "")

    def unlinked(self) -> list[dict[str, Any]]:
        """Return the listed trackers that are not linked for the page and the statistics, one row each."""
        listed = self.mesh.listed.values() if self.mesh else ()
        links = self.mesh.links if self.mesh else {}
        return [one.as_row() for one in listed if one.tracker_id not in links and not one.is_itself]

    def linking(self) -> list[dict[str, Any]]:
        """Return how far this tracker is with its links, for the page and the statistics: one row."""
        mesh, discovery = self.mesh, self.discovery
        if mesh is None or discovery is None:
            return []
        return [
            {
                "links": len(mesh.links),
                "max_links": mesh.max_links,
                "known_not_linked": discovery.unlinked,
                "dials_queued": discovery.pursuits.queued,
                "dials_in_backoff": discovery.pursuits.waiting,
                "shortage": mesh.shortage,
            }
        ]

    def table(self) -> list[dict[str, Any]]:
        """Return the open links for the page and the statistics, one row each."""
        rows = []
        for link in self.links:
            counters = link.account.counters
            rows.append(
                {
                    "tracker": link.tracker_id,
                    "url": self.url_of(link),
                    "direction": link.direction,
                    "since": int(link.since),
                    "shared_swarms": len(link.account.members),
                    "offers_in": counters["offers_in"],
                    "offers_out": counters["offers_out"],
                    "answers_in": counters["answers_in"],
                    "answers_out": counters["answers_out"],
                    "refused": counters["refused_in"] + counters["refused_out"],
                    "dropped": link.dropped.total(),
                }
            )
        return rows

    async def _accept(self, channel: Channel) -> None:
        # The tracker listens before the key has been read.
        await self._has_started.wait()
        if self.mesh:
            await self.mesh.accept(channel)
