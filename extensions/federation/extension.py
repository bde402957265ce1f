"""The extension `federation`: peers of one swarm meet, whichever tracker each of them joined."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any, Final, Protocol

from prometheus_client import Histogram

from extensions.federation.link import Link
from extensions.federation.mesh import Mesh
from extensions.federation.metrics import FederationCollector
from extensions.federation.reasons import Dropped, Fault
from extensions.federation.session import Event, Interest, Offered, Opened, Refused
from extensions.federation.settings import FederationSettings
from extensions.federation.transports import SUBPROTOCOL
from extensions.federation.wire import MAX_FRAME, fits
from extensions.identity import IdentityError, load_or_create
from extensions.trackers import RENDEZVOUS, Sighting
from tracker.extension import (
    Answer,
    Channel,
    ConfigError,
    Extension,
    Offer,
    RemoteMember,
    Swarm,
    TrackerHandle,
    from_json,
)

TELL_PERIOD: Final = 3.0
"""Seconds between two tellings of counts. That a swarm has opened or closed is told at once."""

YIELD_TO: Final = 1.0
"""Seconds that the tracker with the greater id waits with its parked offers for those of the other: two peers that are
alone on two trackers would otherwise both make an offer to each other."""

CREDIT: Final = 50
CREDIT_PER_ANSWER: Final = 20
"""Peers in one swarm that a tracker is believed to have, and more for each offer that was answered there: whoever
claims a million gets no more than its share of the offers that it makes something of."""

ROUTE_LIFETIME: Final = 120.0
MAX_ROUTES: Final = 100_000
"""Seconds for which, and number of foreign peers of whom it is remembered over which link their offers came."""

MAX_REFUSALS: Final = 2
"""Times that one offer is placed again after it was refused."""

CHUNK: Final = 200
"""Swarms told to a new link before others have their turn."""

MAX_DIALS_PER_SWARM: Final = 16
"""Trackers dialed for one infohash within an hour."""

_RENDEZVOUS: Final = RENDEZVOUS.decode("latin-1")


class Finder(Protocol):
    """What is used of the extension `dht`."""

    started: asyncio.Event

    def known(self, info_hash: str) -> list[Sighting]: ...
    def on_sighting(self, tell: Callable[[str, Sighting], None]) -> None: ...


class Federation(Extension):
    """Tells other trackers of this one's swarms, and passes offers and answers between its peers and theirs."""

    Settings = FederationSettings

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.mesh: Mesh | None = None
        self.dropped: Counter[Dropped] = Counter()
        self._finder: Finder | None = None
        self._open: dict[str, Swarm] = {}
        """The swarms that we were told of; the tracker may be a moment ahead."""
        self._dirty: dict[Swarm, None] = {}
        self._yielding: dict[RemoteMember, int] = {}
        """Newcomers behind remote members, whose trackers have their turn to make offers first."""
        self._routes: OrderedDict[tuple[str, str, str], tuple[Link, float]] = OrderedDict()
        self._refusals: OrderedDict[tuple[str, str, str], int] = OrderedDict()
        self._dials: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waited = Histogram(
            "peerservers_federation_parked_seconds",
            "How long offers were parked that found somebody",
            buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 30, 45),
            registry=tracker.registry,
        )
        if tracker.settings.connections.max_message_size < MAX_FRAME:
            raise ConfigError(
                f"connections.max_message_size: with extensions.federation enabled, at least {MAX_FRAME} are needed"
            )
        tracker.add_subprotocol(str(SUBPROTOCOL), self._accept)
        tracker.add_table("federation", self.table, links=True)
        tracker.registry.register(FederationCollector(self))

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            key = load_or_create(self.tracker.settings.server.state_dir)
        except IdentityError as error:
            self.tracker.log.warning("federation_off", error=str(error))
            return
        url = self.tracker.settings.server.public_url
        self.mesh = Mesh(self.settings, key, url, self._on_event, self._on_end)
        self.mesh.start()
        self.tracker.park_offers(self._waited.observe)
        self._spawn(self._tell_changes())
        finder: Any = self.tracker.extension("dht")
        if finder is not None:
            self._finder = finder
            self._spawn(self._follow(finder))
        self._loop = loop

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.mesh:
            await self.mesh.stop()

    async def swarm_opened(self, swarm: Swarm) -> None:
        self._open[swarm.info_hash] = swarm
        if self.mesh:
            for link in list(self.mesh.links.values()):
                self._open_swarm(link, swarm)
            if self._finder:
                for sighting in self._finder.known(swarm.info_hash):
                    self._sighted(swarm.info_hash, sighting)

    async def swarm_changed(self, swarm: Swarm) -> None:
        self._dirty[swarm] = None

    async def swarm_closed(self, swarm: Swarm) -> None:
        self._dirty.pop(swarm, None)
        self._open.pop(swarm.info_hash, None)
        if self.mesh:
            for link in self.mesh.links.values():
                member = link.members.get(swarm.info_hash)
                if member and member.swarm is swarm:
                    del link.members[swarm.info_hash]
                link.post(link.session.close_swarm(swarm.info_hash))

    async def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        link: Link = member.owner
        info_hash = member.swarm.info_hash
        if not self._is_open(link) or link.session.counts(info_hash) == (0, 0):
            # It ended in this moment, or its peers have left: others may have room.
            self.tracker.place_again(info_hash, peer_id, offers, None, 0.0)
            return
        messages = link.session.offer(info_hash, peer_id, offers)
        if not messages:
            # None fits a frame. Placed again, they would come back here at once, for ever.
            return
        now = time.monotonic()
        offers = [offer for offer in offers if fits(offer.description.sdp)]
        link.tally["offers_out"] += len(offers)
        link.remember_offers(info_hash, peer_id, [(from_json(offer.offer_id), offer) for offer in offers], now)
        link.post(messages, offers=True)

    async def answer_unplaced(self, answer: Answer) -> None:
        route = (answer.info_hash, answer.to_peer_id, from_json(answer.offer_id))
        link, until = self._routes.get(route, (None, 0.0))
        if link is None or until < time.monotonic() or not self._is_open(link):
            self.dropped[Dropped.LINK_GONE] += 1
            return
        link.tally["answers_out"] += 1
        link.post(link.session.answer(answer))

    def table(self) -> list[dict[str, Any]]:
        """The open links, for people."""
        return [
            {
                "tracker": link.tracker_id,
                "url": link.url,
                "direction": link.direction,
                "since": int(link.since),
                "shared_swarms": len(link.members),
                "offers_in": link.tally["offers_in"],
                "offers_out": link.tally["offers_out"],
                "answers_in": link.tally["answers_in"],
                "answers_out": link.tally["answers_out"],
                "refused": link.tally["refused_in"] + link.tally["refused_out"],
                "dropped": sum(link.dropped.values()) + sum(link.session.dropped.values()),
            }
            for link in (self.mesh.links.values() if self.mesh else ())
        ]

    async def _accept(self, channel: Channel) -> None:
        if self.mesh:
            await self.mesh.accept(channel)

    async def _follow(self, finder: Finder) -> None:
        """Dial whom the DHT names, now and from now on."""
        finder.on_sighting(self._sighted)
        await finder.started.wait()
        for sighting in finder.known(_RENDEZVOUS):
            self._sighted(_RENDEZVOUS, sighting)

    def _sighted(self, info_hash: str, sighting: Sighting) -> None:
        tracker_id = sighting.entry.tracker_id
        if self.mesh is None or tracker_id in self.mesh.links:
            return
        if info_hash == _RENDEZVOUS or info_hash in self.tracker.swarms:
            if self._dials[info_hash] >= MAX_DIALS_PER_SWARM and info_hash != _RENDEZVOUS:
                return
            self._dials[info_hash] += self.mesh.want(tracker_id, sighting.entry.url)

    def _on_event(self, link: Link, event: Event) -> None:
        if not self._is_open(link):
            # It was replaced, or is to end, and its peers are gone: they would stay for ever now.
            return
        if isinstance(event, Offered):
            self._offered(link, event)
        elif isinstance(event, Answer):
            self._answered(link, event)
        elif isinstance(event, Interest):
            self._interest(link, event)
        elif isinstance(event, Refused):
            self._refused(link, event)
        elif isinstance(event, Opened):
            self._spawn(self._introduce(link))

    def _on_end(self, link: Link) -> None:
        # Those behind it are gone at once; what was on its way is their clients' to make anew.
        for member in link.members.values():
            self.tracker.remove_remote(member)
        link.members.clear()
        self.dropped.update(link.dropped)
        self.dropped.update(link.session.dropped)

    async def _introduce(self, link: Link) -> None:
        """Tell a new link of all swarms, a few at a time."""
        swarms = list(self._open.values())
        for start in range(0, len(swarms), CHUNK):
            if not self._is_open(link):
                return
            for swarm in swarms[start : start + CHUNK]:
                if self._open.get(swarm.info_hash) is swarm:
                    self._open_swarm(link, swarm)
            await asyncio.sleep(0)

    def _open_swarm(self, link: Link, swarm: Swarm) -> None:
        interest = link.session.open_swarm(swarm.info_hash)
        link.post(link.session.tell([(swarm.info_hash, len(swarm.seeders), len(swarm.leechers))]))
        if interest:
            self._interest(link, interest)

    async def _tell_changes(self) -> None:
        dials_since = time.monotonic()
        while True:
            await asyncio.sleep(TELL_PERIOD)
            if time.monotonic() - dials_since > 3600:
                dials_since = time.monotonic()
                self._dials.clear()
            counts = [(swarm.info_hash, len(swarm.seeders), len(swarm.leechers)) for swarm in self._dirty]
            self._dirty.clear()
            if self.mesh is None:
                continue
            for link in list(self.mesh.links.values()):
                link.post(link.session.tell(counts))
                await asyncio.sleep(0)
            self._close_idle()

    def _close_idle(self) -> None:
        assert self.mesh
        now = time.monotonic()
        links = list(self.mesh.links.values())
        for link in links:
            if link.members:
                link.last_shared = now
        # A link that nobody needs now costs little, and saves the next swarm the way through the DHT.
        if len(links) > self.settings.max_links // 2:
            for link in links:
                if now - link.last_shared > self.settings.idle_timeout and not self.mesh.is_listed(link):
                    link.end(Fault.IDLE)

    def _interest(self, link: Link, interest: Interest) -> None:
        assert self.mesh
        member = link.members.get(interest.info_hash)
        if not interest.complete + interest.incomplete:
            if member:
                del link.members[interest.info_hash]
                self.tracker.remove_remote(member)
            return
        if member is not None and self.tracker.swarms.get(interest.info_hash) is not member.swarm:
            member = None
        if member is None:
            member = self.tracker.add_remote(interest.info_hash, link)
            if member is None:
                return
            link.members[interest.info_hash] = member
        before = member.complete + member.incomplete
        self._weigh(link, member)
        newcomers = member.complete + member.incomplete - before
        if newcomers > 0:
            # Only who is alone there has offers parked there.
            if self.mesh.id < link.tracker_id or newcomers > 1 or before:
                self.tracker.place_parked(member, newcomers, link.tracker_id)
            elif member in self._yielding:
                self._yielding[member] += newcomers
            else:
                self._yielding[member] = newcomers
                self._loop.call_later(YIELD_TO, self._place_parked, member)

    def _place_parked(self, member: RemoteMember) -> None:
        self.tracker.place_parked(member, self._yielding.pop(member), member.owner.tracker_id)

    def _weigh(self, link: Link, member: RemoteMember) -> None:
        """Count as many peers as the other side says it has, if its peers have answered enough to be believed."""
        assert self.mesh
        complete, incomplete = link.session.counts(member.swarm.info_hash)
        believed = CREDIT + CREDIT_PER_ANSWER * link.answered
        total = complete + incomplete
        if total > believed and not self.mesh.is_listed(link):
            complete = complete * believed // total
            incomplete = believed - complete
        self.tracker.set_remote(member, complete, incomplete)

    def _offered(self, link: Link, offered: Offered) -> None:
        if offered.info_hash not in link.members:
            link.dropped[Dropped.NOT_ASKED_FOR] += len(offered.offers)
            return
        link.tally["offers_in"] += len(offered.offers)
        now = time.monotonic()
        if link.offering.try_take(len(offered.offers), now):
            rest = self.tracker.deliver_offers(offered.info_hash, offered.peer_id, offered.offers, link.tracker_id)
        else:
            link.dropped[Dropped.TOO_FAST] += len(offered.offers)
            rest = offered.offers
        # By offer, not by peer: another tracker that names the same peer must not get its answers.
        for offer in offered.offers[: len(offered.offers) - len(rest)]:
            route = (offered.info_hash, offered.peer_id, from_json(offer.offer_id))
            self._routes.pop(route, None)
            self._routes[route] = (link, now + ROUTE_LIFETIME)
        while self._routes and (len(self._routes) > MAX_ROUTES or next(iter(self._routes.values()))[1] < now):
            self._routes.popitem(last=False)
        if rest:
            link.tally["refused_out"] += len(rest)
            ids = [from_json(offer.offer_id) for offer in rest]
            link.post(link.session.refuse(offered.info_hash, offered.peer_id, ids))

    def _refused(self, link: Link, refused: Refused) -> None:
        again: list[Offer] = []
        age = 0.0
        for offer_id in refused.offer_ids:
            key = (refused.info_hash, refused.peer_id, offer_id)
            sent = link.take_sent(*key)
            if sent is None:
                link.dropped[Dropped.NOT_ASKED_FOR] += 1
                continue
            link.tally["refused_in"] += 1
            refusals = self._refusals.pop(key, 0) + 1
            self._refusals[key] = refusals
            if len(self._refusals) > MAX_ROUTES:
                self._refusals.popitem(last=False)
            if refusals <= MAX_REFUSALS:
                again.append(sent[0])
                age = max(age, time.monotonic() - sent[1])
        if again:
            member = link.members.get(refused.info_hash)
            self.tracker.place_again(refused.info_hash, refused.peer_id, again, member, age)

    def _answered(self, link: Link, answer: Answer) -> None:
        offer_id = from_json(answer.offer_id)
        if not link.expects_answer(answer.info_hash, answer.to_peer_id, offer_id, time.monotonic()):
            link.dropped[Dropped.NOT_ASKED_FOR] += 1
            return
        link.tally["answers_in"] += 1
        if link.take_sent(answer.info_hash, answer.to_peer_id, offer_id):
            # Any further answers to that offer earn nothing.
            link.answered += 1
            member = link.members.get(answer.info_hash)
            if member and member.complete + member.incomplete >= CREDIT:
                # Only who is believed no more than that can gain by it.
                self._weigh(link, member)
        self.tracker.deliver_answer(answer)

    def _is_open(self, link: Link) -> bool:
        return self.mesh is not None and self.mesh.links.get(link.tracker_id) is link

    def _spawn(self, coroutine: Any) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
