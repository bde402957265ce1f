"""The parts of the extension while it runs: from a start to the next stop."""

from collections import Counter
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.federation.discovery import Discovery
from extensions.federation.entries import Finder
from extensions.federation.events import Interest, MayHave, Offered, Opened, Refused
from extensions.federation.exchange import Exchange
from extensions.federation.filters import OwnSwarms
from extensions.federation.link import FrameEnd, Link, LinkEvent
from extensions.federation.mesh import Connect, Mesh
from extensions.federation.presence import is_empty
from extensions.federation.reasons import Dropped
from extensions.federation.settings import FederationSettings
from tracker.extension import Answer, Swarm, TrackerHandle

TELL_PERIOD: Final = 3.0
"""Seconds between two times at which changed counts are told. Openings and closings of swarms are told at once."""


class Term:
    """Connects the tracker, the exchange, the mesh of links, and the DHT.

    `key` is the key pair of this tracker. `finder` is the extension `dht`, if that is enabled. `connect` makes the
    connections of dialed links, by default WebSockets.
    """

    def __init__(
        self,
        tracker: TrackerHandle,
        settings: FederationSettings,
        key: Ed25519PrivateKey,
        finder: Finder | None,
        connect: Connect | None,
    ) -> None:
        swarms = OwnSwarms()
        self.mesh: Final = Mesh(
            settings,
            key,
            tracker.settings.server.public_url,
            self._on_event,
            self._on_end,
            self._refer,
            tracker.task_failures,
            connect,
            swarms,
        )
        is_listed: Callable[[str], bool] = self.mesh.admission.is_listed
        self.exchange: Final = Exchange(
            tracker, self.mesh.id, lambda neighbour: is_listed(neighbour.tracker_id), swarms
        )
        self.discovery: Final = Discovery(tracker, self.mesh, self.exchange, finder, settings.allow_private_addresses)
        self._tracker = tracker

    def start(self) -> None:
        """Start."""
        self.discovery.start()
        self._tracker.repeat_task("federation_tell", TELL_PERIOD, self._tell_changes)

    async def stop(self) -> None:
        """End all links."""
        await self._tracker.stop_tasks()
        self.discovery.stop()
        await self.mesh.stop()

    @property
    def dropped(self) -> Counter[Dropped]:
        """Everything that was dropped on links, open or ended, by reason."""
        dropped = self.exchange.dropped.copy()
        for link in self.mesh.links.values():
            dropped.update(link.dropped)
        return dropped

    def swarm_changed(self, swarm: Swarm) -> None:
        """Take notice that a swarm has opened, or that its numbers have changed.

        The gateway of a cluster hears of a swarm before it knows of its peers, and keeps it a moment after the last one
        has left.
        """
        if is_empty(swarm):
            self.swarm_closed(swarm)
            return
        if not self.exchange.has(swarm):
            self.exchange.swarm_opened(swarm)
            self.discovery.swarm_opened(swarm)
        self.exchange.swarm_changed(swarm)
        self.discovery.swarm_changed(swarm)

    def swarm_closed(self, swarm: Swarm) -> None:
        """Take notice that a swarm has closed, or that its last peer has left."""
        self.exchange.swarm_closed(swarm)
        self.discovery.swarm_closed(swarm)

    async def _tell_changes(self) -> None:
        self.discovery.ask()
        await self.exchange.tell_changes()
        self.mesh.end_idle()

    def _on_event(self, link: Link, event: LinkEvent) -> None:
        exchange = self.exchange
        if isinstance(event, Interest):
            exchange.on_counts(link, event)
        elif isinstance(event, MayHave):
            exchange.on_may_have(link, event.info_hashes, event.has_opened)
        elif isinstance(event, Offered):
            exchange.on_offers(link, event.info_hash, event.peer_id, event.offers)
        elif isinstance(event, Answer):
            exchange.on_answer(link, event)
        elif isinstance(event, Refused):
            exchange.on_refused(link, event.info_hash, event.peer_id, event.offer_ids, event.known)
        elif isinstance(event, FrameEnd):
            exchange.on_frame_end(link)
        elif isinstance(event, Opened):
            exchange.add(link)
        self.discovery.on_event(link, event)

    def _on_end(self, link: Link) -> None:
        self.discovery.on_end(link)
        self.exchange.remove(link)
        self.exchange.dropped.update(link.dropped)

    def _refer(self, link: Link) -> None:
        self.discovery.refer(link)
