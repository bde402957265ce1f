"""Finds trackers to link with: in the DHT and at neighbours. Dials them, and tells neighbours of trackers."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from math import inf
from typing import Any, Final

from extensions.entries import check_entry
from extensions.federation.entries import Entries, Finder
from extensions.federation.events import Event, Interest, Opened, Sought, Told
from extensions.federation.exchange import Exchange
from extensions.federation.link import FrameEnd, Link
from extensions.federation.mesh import Mesh
from extensions.federation.pursuits import Pursuits
from extensions.federation.reasons import Ended, EndReason
from extensions.federation.referrals import Referrals
from extensions.federation.seeker import Seeker
from extensions.trackers import RENDEZVOUS, RENDEZVOUS_TEXT, Sighting, TrackerEntry
from tracker.extension import ExpiringMap, Swarm, TrackerHandle

MAX_NAMED: Final = 10_000
NAMED_PERIOD: Final = 24 * 3600.0
"""Trackers whose URLs are remembered, and for how many seconds after they were found."""

MIN_ADVANCE: Final = 8
ADVANCE_SHARE: Final = 10
"""Links that are made without a common swarm: so many at least, and one in so many of `max_links`."""

LOOKS: Final = 50
"""Swarms for which the next dials are chosen until other tasks of the event loop run."""

StartTask = Callable[[str, Coroutine[Any, Any, Any]], object]


class Discovery:
    """Connects the sources of trackers with the links of `mesh` and the swarms of `tracker` and `exchange`.

    `finder` is the extension `dht`, if that is enabled. `allow_private` permits ws:// URLs and private addresses.
    """

    def __init__(
        self, tracker: TrackerHandle, mesh: Mesh, exchange: Exchange, finder: Finder | None, allow_private: bool
    ) -> None:
        self.entries = Entries(finder, mesh.id, time.time, time.monotonic)
        self.advance = max(MIN_ADVANCE, mesh.max_links // ADVANCE_SHARE)
        """Links up to which trackers are linked without a common swarm."""
        self.pursuits = Pursuits(mesh, allow_private, tracker.swarms, self._on_result, time.monotonic)
        self.seeker = Seeker(self, self.pursuits, mesh.links, self.advance, random.sample)
        self.referrals = Referrals(
            self.entries,
            mesh.id,
            self._common,
            lambda: len(mesh.links) < self.advance,
            lambda entry: check_entry(entry, RENDEZVOUS, time.time()) is None,
            random.sample,
            random.uniform,
            time.monotonic(),
        )
        self._tracker = tracker
        self._mesh = mesh
        self._exchange = exchange
        self._finder = finder
        self._named: ExpiringMap[str, str] = ExpiringMap(NAMED_PERIOD, MAX_NAMED)
        """The URLs that trackers have signed, by tracker id."""
        self._has_news = asyncio.Event()
        """Set when the seeker may have something to do earlier than it said."""

    @property
    def unlinked(self) -> int:
        """Known trackers that are not linked."""
        return sum(tracker_id not in self._mesh.links for tracker_id in self._named)

    def url_of(self, tracker_id: str) -> str:
        """Return the URL that a tracker has signed; empty if it is not known."""
        return self._named.get(tracker_id, time.monotonic()) or ""

    def start(self) -> None:
        """Begin to look for trackers, and to dial them."""
        self.pursuits.start()
        self._tracker.start_task("federation_seek", self._seek())
        self._tracker.start_task("federation_follow", self._follow())

    def stop(self) -> None:
        """Hear of no more trackers that are found."""
        self.entries.stop_telling(self.on_sighting)

    def refer(self, link: Link) -> None:
        """Name other trackers to one for which there is no room."""
        self.referrals.refer(link)

    def ask(self) -> None:
        """Ask neighbours for trackers, as far as it is time."""
        self.referrals.ask(time.monotonic())

    def on_sighting(self, info_hash: str, sighting: Sighting) -> None:
        """Take notice that a tracker was found for an infohash."""
        entry = sighting.entry
        now = time.monotonic()
        self._named.put(entry.tracker_id, entry.url, now)
        self.seeker.on_entry(info_hash, entry, now)
        self._has_news.set()

    # Swarms

    def swarm_opened(self, swarm: Swarm) -> None:
        """Begin to look for trackers of a swarm, those that are known already first."""
        if self.known(swarm.info_hash):
            self.seeker.on_entry(swarm.info_hash, None, time.monotonic())
            self._has_news.set()

    def swarm_changed(self, swarm: Swarm) -> None:
        """Take notice that a swarm may be lonely now."""
        self.seeker.on_change(swarm.info_hash, time.monotonic())

    def swarm_closed(self, swarm: Swarm) -> None:
        """Look for no more trackers of a swarm."""
        if not self.is_open(swarm.info_hash):
            self.seeker.swarm_closed(swarm.info_hash)
            self.referrals.swarm_closed(swarm.info_hash)

    def is_open(self, info_hash: str) -> bool:
        """Return whether a swarm is open here."""
        return info_hash in self._tracker.swarms

    def known(self, info_hash: str) -> Sequence[TrackerEntry]:
        """Return the valid entries of other trackers for an infohash."""
        return [sighting.entry for sighting in self.entries.known(info_hash)]

    def degree(self, info_hash: str) -> int:
        """Return the number of neighbours in a swarm; for the rendezvous, of links."""
        return len(self._mesh.links) if info_hash == RENDEZVOUS_TEXT else self._exchange.degree(info_hash)

    def is_lonely(self, info_hash: str) -> bool:
        """Return whether none of the peers of a swarm has met another; at the rendezvous, whether there is no link."""
        return not self._mesh.links if info_hash == RENDEZVOUS_TEXT else self._exchange.is_lonely(info_hash)

    # Links

    def on_event(self, link: Link, event: Event | FrameEnd) -> None:
        """Take notice of an event of a link that is open."""
        now = time.monotonic()
        if isinstance(event, Interest):
            if not event.complete + event.incomplete:
                self.seeker.on_change(event.info_hash, now)
            elif event.is_new:
                self.referrals.on_common(event.info_hash, now)
        elif isinstance(event, Opened):
            self.referrals.on_opened(link, now)
        elif isinstance(event, Sought):
            self.referrals.on_sought(link, event.info_hash, now)
        elif isinstance(event, Told):
            self.referrals.on_told(link, event.info_hash, event.entries, now)

    def on_end(self, link: Link) -> None:
        """Take notice that a link has ended. Its remote members are still there."""
        self.referrals.on_closed(link)
        for info_hash in (RENDEZVOUS_TEXT, *link.account.members):
            self.seeker.on_change(info_hash, time.monotonic())
        self._has_news.set()

    def _common(self, info_hash: str) -> list[Link]:
        return [one for one in self._exchange.common(info_hash) if isinstance(one, Link)]

    def _on_result(self, entry: TrackerEntry, causes: list[str], ended: Ended, ready: float) -> None:
        if ended.reason is EndReason.WRONG_ID:
            self.entries.distrust(entry.tracker_id, entry.url)
        self.seeker.on_result(entry, causes, ended, ready, time.monotonic())
        self._has_news.set()

    async def _follow(self) -> None:
        """Dial the trackers that are found, those that are known already first."""
        self.entries.on_sighting(self.on_sighting)
        if self._finder:
            await self._finder.started.wait()
        for sighting in self.entries.known(RENDEZVOUS_TEXT):
            self.on_sighting(RENDEZVOUS_TEXT, sighting)

    async def _seek(self) -> None:
        """Dial the trackers that the seeker chooses, when it is time."""
        while True:
            self._has_news.clear()
            wait = self.seeker.next_due - time.monotonic()
            if wait > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(None if wait == inf else wait):
                        await self._has_news.wait()
            self.seeker.look(time.monotonic(), LOOKS)
            await asyncio.sleep(0)
