"""The extension `federation`: peers of one swarm meet though they have joined different trackers."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from random import sample
from typing import Any, Final, Protocol

from prometheus_client import Histogram

from extensions.federation.entries import Entries
from extensions.federation.events import Interest, MayHave, Offered, Opened, Refused
from extensions.federation.exchange import Exchange
from extensions.federation.filters import OwnSwarms
from extensions.federation.link import FrameEnd, Link, LinkEvent
from extensions.federation.mesh import Connect, Mesh
from extensions.federation.metrics import FederationCollector
from extensions.federation.pursuits import Pursuits
from extensions.federation.reasons import Dropped, Ended
from extensions.federation.seeker import Seeker
from extensions.federation.settings import FederationSettings
from extensions.federation.transports import SUBPROTOCOL
from extensions.federation.wire import MAX_FRAME
from extensions.identity import own_key
from extensions.trackers import RENDEZVOUS_TEXT, Sighting, TrackerEntry
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

MAX_NAMED: Final = 1000
NAMED_PERIOD: Final = 24 * 3600.0
"""Trackers whose URLs in the DHT are remembered, and for how many seconds after a lookup has found them."""

MIN_ADVANCE: Final = 8
ADVANCE_SHARE: Final = 10
"""Links that are made without a common swarm: so many at least, and one in so many of `max_links`."""

LOOKS: Final = 50
"""Swarms for which the next dials are chosen until other tasks of the event loop run."""


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
        self.pursuits: Pursuits | None = None
        self.seeker: Seeker | None = None
        """These are None until the start, and if there is no key pair."""
        self._has_started = asyncio.Event()
        """Set once it has started, or failed to start."""
        self._finder: Finder | None = None
        self._entries = Entries(time.time, time.monotonic)
        self._has_news = asyncio.Event()
        """Set when the seeker may have something to do earlier than it said."""
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
        self.exchange = Exchange(
            self.tracker, mesh.id, lambda neighbour: mesh.admission.is_listed(neighbour.tracker_id), swarms
        )
        self.pursuits = Pursuits(mesh, self.settings.allow_private_addresses, self.tracker.swarms, self._on_result)
        advance = max(MIN_ADVANCE, mesh.max_links // ADVANCE_SHARE)
        self.seeker = Seeker(self, self.pursuits, mesh.links, advance, sample)
        self.pursuits.start()
        self.tracker.start_task("federation_seek", self._seek(self.seeker))
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
            self._search(swarm.info_hash)

    async def swarm_changed(self, swarm: Swarm) -> None:
        if self.exchange and self.seeker:
            self.exchange.swarm_changed(swarm)
            self.seeker.on_change(swarm.info_hash, time.monotonic())

    async def swarm_closed(self, swarm: Swarm) -> None:
        if self.exchange and self.seeker:
            self.exchange.swarm_closed(swarm)
            if not self.is_open(swarm.info_hash):
                self.seeker.swarm_closed(swarm.info_hash)

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
        listed = self.mesh.admission.url_of(link.tracker_id) if self.mesh else ""
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
        """Take notice that the DHT has named a tracker for an infohash."""
        entry = sighting.entry
        self._named.put(entry.tracker_id, entry.url, time.monotonic())
        if self._finder is None:
            self._entries.learn(info_hash, entry)
        self._search(info_hash)

    # The swarms, as the seeker sees them

    def is_open(self, info_hash: str) -> bool:
        """Return whether a swarm is open here."""
        return info_hash in self.tracker.swarms

    def entries(self, info_hash: str) -> Sequence[TrackerEntry]:
        """Return the valid entries of other trackers for an infohash."""
        if self._finder is None:
            return self._entries.entries(info_hash)
        return [sighting.entry for sighting in self._finder.known(info_hash)]

    def degree(self, info_hash: str) -> int:
        """Return the number of neighbours in a swarm; for the rendezvous, of links."""
        if info_hash == RENDEZVOUS_TEXT:
            return len(self.links)
        return self.exchange.degree(info_hash) if self.exchange else 0

    def is_lonely(self, info_hash: str) -> bool:
        """Return whether a swarm has no neighbour and none of its peers has met another."""
        if info_hash == RENDEZVOUS_TEXT:
            return not self.links
        return self.exchange is not None and self.exchange.is_lonely(info_hash)

    def _search(self, info_hash: str) -> None:
        """Have the seeker look at an infohash, if a tracker is known for it."""
        if self.seeker and self.entries(info_hash):
            self.seeker.on_entry(info_hash, time.monotonic())
            self._has_news.set()

    async def _seek(self, seeker: Seeker) -> None:
        """Dial the trackers that the seeker chooses, when it is time."""
        while True:
            self._has_news.clear()
            wait = seeker.next_due - time.monotonic()
            if wait > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if wait == inf else wait):
                        await self._has_news.wait()
            seeker.look(time.monotonic(), LOOKS)
            await asyncio.sleep(0)

    def _on_result(self, entry: TrackerEntry, causes: list[str], ended: Ended, ready: float) -> None:
        assert self.seeker
        self.seeker.on_result(entry, causes, ended, ready, time.monotonic())
        self._has_news.set()

    async def _accept(self, channel: Channel) -> None:
        # The tracker listens before the key has been read.
        await self._has_started.wait()
        if self.mesh:
            await self.mesh.accept(channel)

    async def _follow(self, finder: Finder) -> None:
        """Dial the trackers that the DHT names, those that it knows already first."""
        finder.on_sighting(self.on_sighting)
        await finder.started.wait()
        for sighting in finder.known(RENDEZVOUS_TEXT):
            self.on_sighting(RENDEZVOUS_TEXT, sighting)

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
            if self.seeker and not event.complete + event.incomplete:
                self.seeker.on_change(event.info_hash, time.monotonic())
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
        assert self.seeker
        for info_hash in (RENDEZVOUS_TEXT, *link.account.members):
            self.seeker.on_change(info_hash, time.monotonic())
        self._has_news.set()
        self.exchange.remove(link)
        self.exchange.dropped.update(link.dropped)
