"""The extension `federation`: peers of one swarm meet though they have joined different trackers."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, Protocol

from prometheus_client import Histogram

from extensions.federation.events import Interest, MayHave, Offered, Opened, Refused
from extensions.federation.exchange import Exchange
from extensions.federation.filters import OwnSwarms
from extensions.federation.link import FrameEnd, Link, LinkEvent
from extensions.federation.mesh import Connect, Mesh
from extensions.federation.metrics import FederationCollector
from extensions.federation.reasons import Dropped
from extensions.federation.settings import FederationSettings
from extensions.federation.transports import SUBPROTOCOL
from extensions.federation.wire import MAX_FRAME
from extensions.identity import own_key
from extensions.trackers import RENDEZVOUS, Sighting
from tracker.extension import (
    Answer,
    Channel,
    ConfigError,
    ExpiringMap,
    Extension,
    Offer,
    RemoteMember,
    Swarm,
    TrackerHandle,
)

TELL_PERIOD: Final = 3.0
"""Seconds between two times at which changed counts are told. Openings and closings of swarms are told at once."""

MAX_DIALS_PER_SWARM: Final = 16
DIALS_PERIOD: Final = 3600.0
"""Trackers that are dialed because of one infohash, within so many seconds from the first of them."""

MAX_DIALED_SWARMS: Final = 100_000
"""Infohashes for which dials are counted."""

MAX_NAMED: Final = 1000
NAMED_PERIOD: Final = 24 * 3600.0
"""Trackers whose URLs in the DHT are remembered, and for how many seconds after a lookup has found them."""

_RENDEZVOUS: Final = RENDEZVOUS.decode("latin-1")


class Finder(Protocol):
    """The part of the extension `dht` that is used here."""

    started: asyncio.Event

    def known(self, info_hash: str) -> list[Sighting]: ...
    def on_sighting(self, tell: Callable[[str, Sighting], None]) -> None: ...


class Federation(Extension):
    """Connects the tracker, the exchange, the mesh of links, and the DHT."""

    Settings = FederationSettings
    connect: Connect | None = None
    """Makes the connections of dialed links, by default WebSockets."""

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.mesh: Mesh | None = None
        self.exchange: Exchange | None = None
        """This and `mesh` are None until the start, and if there is no key pair."""
        self._has_started = asyncio.Event()
        """Set once it has started, or failed to start."""
        self._finder: Finder | None = None
        self._dials: ExpiringMap[str, int] = ExpiringMap(DIALS_PERIOD, MAX_DIALED_SWARMS)
        self._named: ExpiringMap[str, str] = ExpiringMap(NAMED_PERIOD, MAX_NAMED)
        """The URLs that trackers have signed and published in the DHT, by tracker id."""
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
        tracker.registry.register(FederationCollector(self))

    async def prepare(self) -> None:
        try:
            self._key = await own_key(self.tracker)
        except BaseException:
            self._has_started.set()
            raise

    async def start(self) -> None:
        try:
            await self._start()
        finally:
            self._has_started.set()

    async def _start(self) -> None:
        url = self.tracker.settings.server.public_url
        swarms = OwnSwarms()
        mesh = self.mesh = Mesh(
            self.settings,
            self._key,
            url,
            self._on_event,
            self._on_end,
            self.tracker.task_failures,
            self.connect,
            swarms,
        )
        self.exchange = Exchange(self.tracker, mesh.id, lambda neighbour: mesh.is_listed(neighbour.tracker_id), swarms)
        mesh.start()
        self.tracker.park_offers(self._parked_seconds.observe)
        self.tracker.repeat_task("federation_tell", TELL_PERIOD, self._tell_changes)
        finder: Any = self.tracker.extension("dht")
        if finder is not None:
            self._finder = finder
            self.tracker.start_task("federation_follow", self._follow(finder))

    async def stop(self) -> None:
        await self.tracker.stop_tasks()
        if self.mesh:
            await self.mesh.stop()

    async def swarm_opened(self, swarm: Swarm) -> None:
        if self.exchange:
            self.exchange.swarm_opened(swarm)
            if self._finder:
                for sighting in self._finder.known(swarm.info_hash):
                    self.on_sighting(swarm.info_hash, sighting)

    async def swarm_changed(self, swarm: Swarm) -> None:
        if self.exchange:
            self.exchange.swarm_changed(swarm)

    async def swarm_closed(self, swarm: Swarm) -> None:
        if self.exchange:
            self.exchange.swarm_closed(swarm)

    async def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        if self.exchange:
            self.exchange.offers_placed(member, peer_id, offers)

    async def answer_unplaced(self, answer: Answer) -> None:
        if self.exchange:
            self.exchange.answer_unplaced(answer)

    @property
    def links(self) -> list[Link]:
        """The open links."""
        return list(self.mesh.links.values()) if self.mesh else []

    @property
    def dropped(self) -> Counter[Dropped]:
        """Everything that was dropped on links, open or ended, by reason."""
        dropped = self.exchange.dropped.copy() if self.exchange else Counter[Dropped]()
        for link in self.links:
            dropped.update(link.dropped)
        return dropped

    @property
    def parked_offers(self) -> int:
        """Offers that the tracker keeps because no peer could be given them."""
        return self.tracker.parked_offers

    def url_of(self, link: Link) -> str:
        """Return the URL of a linked tracker: dialed, listed, or else published in the DHT. Empty if there is none."""
        listed = self.mesh.url_of(link.tracker_id) if self.mesh else ""
        return link.url or listed or self._named.get(link.tracker_id, time.monotonic()) or ""

    def unlinked(self) -> list[dict[str, Any]]:
        """Return the listed trackers that are not linked for the page and the statistics, one row each."""
        listed = self.mesh.listed.values() if self.mesh else ()
        links = self.mesh.links if self.mesh else {}
        return [one.as_row() for one in listed if one.tracker_id not in links and not one.is_itself]

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

    def on_sighting(self, info_hash: str, sighting: Sighting) -> None:
        """Dial a tracker that the DHT has named for an infohash, if that is open here and the limits allow it."""
        tracker_id = sighting.entry.tracker_id
        self._named.put(tracker_id, sighting.entry.url, time.monotonic())
        if self.mesh is None or tracker_id in self.mesh.links:
            return
        if info_hash == _RENDEZVOUS:
            self.mesh.want(tracker_id, sighting.entry.url)
        elif info_hash in self.tracker.swarms:
            now = time.monotonic()
            dials = self._dials.get(info_hash, now) or 0
            if dials < MAX_DIALS_PER_SWARM and self.mesh.want(tracker_id, sighting.entry.url):
                if dials:
                    self._dials.replace(info_hash, dials + 1)
                else:
                    self._dials.put(info_hash, 1, now)

    async def _accept(self, channel: Channel) -> None:
        # The tracker listens before the key has been read.
        await self._has_started.wait()
        if self.mesh:
            await self.mesh.accept(channel)

    async def _follow(self, finder: Finder) -> None:
        """Dial the trackers that the DHT names, those that it knows already first."""
        finder.on_sighting(self.on_sighting)
        await finder.started.wait()
        for sighting in finder.known(_RENDEZVOUS):
            self.on_sighting(_RENDEZVOUS, sighting)

    async def _tell_changes(self) -> None:
        assert self.exchange
        assert self.mesh
        await self.exchange.tell_changes()
        self.mesh.end_idle()

    def _on_event(self, link: Link, event: LinkEvent) -> None:
        exchange = self.exchange
        assert exchange
        if isinstance(event, Interest):
            exchange.on_counts(link, event)
        elif isinstance(event, MayHave):
            exchange.on_may_have(link, event.info_hashes)
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

    def _on_end(self, link: Link) -> None:
        assert self.exchange
        self.exchange.remove(link)
        self.exchange.dropped.update(link.dropped)
