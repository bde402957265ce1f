"""Which trackers serve which infohash: when records are read and written, and who is told.

Every look at a record is also the check of one's own entry in it, and every publication begins with a look.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht import record, slots
from extensions.dht.agenda import Agenda, Shortlist
from extensions.dht.cache import MAX_KNOWN, MAX_SEEN, Known, Sighting, lifetime
from extensions.dht.client import BURST, Client
from extensions.dht.record import LIFETIME, RENDEZVOUS, Entry, Rejected
from extensions.dht.second_path import SecondPath

REFRESH: Final = (50 * 60.0, 70 * 60.0)
"""Seconds between two publications of an entry, drawn anew each time."""

FRESH: Final = 80 * 60
"""Seconds that an entry of ours must still have for it to be left as it is."""

LONELY: Final = (10.0, 60.0, 300.0, 600.0, 1200.0, 1800.0)
"""Seconds from a look to the next while a swarm's peers are alone; the last of them from then on."""

READ_BACK: Final = (30.0, 90.0)
"""Seconds from a publication to the check of it, when others write to that record too."""

ANNOUNCE: Final = (20 * 60.0, 30 * 60.0)
"""Seconds between two announcements on the second path: nodes forget them after three quarters of an hour."""

RETRY: Final = (60.0, 180.0)
"""Seconds until a publication that failed is tried again."""

RECENT: Final = 10.0
"""Seconds that a lookup's result is as good as a new one."""

ATTEMPTS: Final = 5
"""Writings of one publication, if others write at the same time."""

ASKED, OPENED, REFRESHED, REPEATED = range(4)
"""How urgent a lookup is: somebody waits, a swarm has opened, an entry of ours ends, peers are still alone."""


@dataclass(slots=True)
class Tally:
    """What was counted since the start."""

    lookups: Counter[str] = field(default_factory=Counter)
    """By result: "found", "none", or "unreachable" if no node answered."""
    publications: Counter[str] = field(default_factory=Counter)
    """By result: "stored", "conflict", "locked", "unreachable"."""
    rejected: Counter[Rejected] = field(default_factory=Counter)


@dataclass(slots=True)
class Topic:
    """An infohash that matters now: a swarm is open, or an extension wants it published, or looks it up."""

    info_hash: bytes
    known: Known
    peers: int = 0
    """Of its swarm here; 0 if none is open."""
    linked: bool = False
    """Whether its peers have been put in touch with others elsewhere."""
    pinned: bool = False
    """Whether to publish it whatever the policy says."""
    looks: int = 0
    """Looks that left its peers alone."""
    visit: asyncio.Task[None] | None = None
    listening: set[asyncio.Queue[Sighting | None]] = field(default_factory=set)

    @property
    def is_lonely(self) -> bool:
        """Whether the peers of its swarm know nobody."""
        return self.peers < 2 and not self.linked

    @property
    def is_needed(self) -> bool:
        """Whether there is a reason to keep it."""
        return bool(self.peers or self.pinned or self.visit or self.listening)


class Directory:
    """The records of many infohashes. `clock` gives Unix seconds, `uniform` a random float between two.

    Publishes `url` if that is not empty: what `policy` admits ("all" swarms, those in `listed`, or "none"), at most
    `max_published` of them.
    """

    def __init__(
        self,
        client: Client,
        second_path: SecondPath,
        key: Ed25519PrivateKey,
        url: str,
        policy: str,
        listed: Iterable[bytes],
        max_published: int,
        known: dict[bytes, Known],
        is_reachable: Callable[[], bool],
        clock: Callable[[], float],
        uniform: Callable[[float, float], float],
    ) -> None:
        self.tally = Tally(rejected=second_path.rejected)
        self.changed: dict[bytes, Known] = {}
        """What was learned since it was last written to the cache."""
        self.on_sighting: list[Callable[[bytes, Sighting], None]] = []
        self.shortlist = Shortlist(max_published)
        self.is_reachable = is_reachable
        self._client = client
        self._second_path = second_path
        self._key = key
        self._id = key.public_key().public_bytes_raw().hex()
        self._url = url
        self._policy = policy
        self._listed = frozenset(listed)
        self._known = known
        self._clock = clock
        self._uniform = uniform
        self._topics: dict[bytes, Topic] = {}
        self._agenda = Agenda()
        self._something = asyncio.Event()
        self._log = structlog.get_logger().bind(extension="dht")

    @property
    def published(self) -> int:
        """Infohashes that are to be found under our own id now."""
        now = self._clock()
        return sum(topic.known.own_until > now for topic in self._topics.values())

    def swarm(self, info_hash: bytes, peers: int, linked: bool) -> None:
        """A swarm is open here, with so many peers of our own."""
        topic = self._topic(info_hash)
        opened, lonely = not topic.peers, topic.is_lonely
        topic.peers, topic.linked = peers, linked
        if self._url and self._admits(info_hash):
            for came in self.shortlist.enter(info_hash, peers):
                if came != info_hash:
                    self._schedule(self._topic(came), self._clock(), REFRESHED)
        if opened:
            topic.looks = 0
            # What was found a moment ago is known; our own entry may be missing all the same.
            wait = RECENT if self._clock() - topic.known.looked < RECENT else 0.0
            self._schedule(topic, self._clock() + wait, OPENED)
        elif topic.is_lonely and not lonely:
            topic.looks = 0
            self._schedule_next(topic)

    def swarm_closed(self, info_hash: bytes) -> None:
        """A swarm has closed. Its entry is left to end by itself."""
        topic = self._topics.get(info_hash)
        if topic:
            topic.peers, topic.linked = 0, False
            for came in self.shortlist.leave(info_hash):
                self._schedule(self._topic(came), self._clock(), REFRESHED)
            self._drop_if_idle(topic)

    def publish(self, info_hash: bytes) -> None:
        """Keep an entry of ours for an infohash, whether or not it has a swarm here."""
        topic = self._topic(info_hash)
        topic.pinned = True
        self._schedule(topic, self._clock(), OPENED)

    def withdraw(self, info_hash: bytes) -> None:
        """Take our entry for an infohash back, also out of the DHT."""
        topic = self._topics.get(info_hash)
        if topic and topic.pinned:
            topic.pinned = False
            if not self._wants(topic) and topic.known.own_until > self._clock():
                self._schedule(topic, self._clock(), REFRESHED)
            else:
                self._drop_if_idle(topic)

    async def trackers(self, info_hash: bytes, thorough: bool = False) -> AsyncIterator[Sighting]:
        """The other trackers that serve an infohash, each once: those known, then those found, as they are found.

        Ends with the lookup, which is shared with everybody who wants the same. If one has just ended, there is no
        other. A `thorough` one takes the second path too.
        """
        topic = self._topic(info_hash)
        heard: asyncio.Queue[Sighting | None] = asyncio.Queue()
        topic.listening.add(heard)
        try:
            now = self._clock()
            told = set()
            for sighting in list(topic.known.seen.values()):
                if _is_good(sighting.entry, info_hash, now):
                    told.add(sighting.entry.tracker_id)
                    yield sighting
            if now - topic.known.looked < RECENT and not thorough:
                return
            self._visit(topic, ASKED, thorough)
            while (found := await heard.get()) is not None:
                if found.entry.tracker_id not in told:
                    told.add(found.entry.tracker_id)
                    yield found
        finally:
            topic.listening.discard(heard)
            self._drop_if_idle(topic)

    async def run(self) -> None:
        """Do what is due, until cancelled."""
        while True:
            self._something.clear()
            now = self._clock()
            # The rest stays on the agenda, where the more urgent overtakes it.
            while self.is_reachable() and len(self._client.queue) < BURST and (due := self._agenda.take(now)):
                topic = self._topics.get(due[0])
                if topic:
                    self._visit(topic, due[1])
            next_due = self._agenda.next_due()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0 if next_due is None else min(1.0, max(0.01, next_due - now))):
                    await self._something.wait()

    async def close(self) -> None:
        """Cancel all lookups."""
        visits = [topic.visit for topic in self._topics.values() if topic.visit]
        for visit in visits:
            visit.cancel()
        await asyncio.gather(*visits, return_exceptions=True)

    def _topic(self, info_hash: bytes) -> Topic:
        topic = self._topics.get(info_hash)
        if topic is None:
            known = self._known.get(info_hash) or Known()
            if known.looked + lifetime(info_hash) < self._clock():
                known = Known()
            topic = self._topics[info_hash] = Topic(info_hash, known)
        return topic

    def _drop_if_idle(self, topic: Topic) -> None:
        if not topic.is_needed and self._topics.get(topic.info_hash) is topic:
            del self._topics[topic.info_hash]
            self._agenda.drop(topic.info_hash)

    def _admits(self, info_hash: bytes) -> bool:
        return self._policy == "all" or (self._policy == "listed" and info_hash in self._listed)

    def _wants(self, topic: Topic) -> bool:
        """Whether our own entry should be in a topic's record."""
        return bool(self._url) and (topic.pinned or topic.info_hash in self.shortlist)

    def _schedule(self, topic: Topic, due: float, urgency: int) -> None:
        self._agenda.set(topic.info_hash, due, urgency)
        self._something.set()

    def _schedule_next(self, topic: Topic, look_again: tuple[float, float] | None = None) -> None:
        """Enter a topic's next look."""
        now = self._clock()
        due, urgency = topic.known.looked + self._uniform(*REFRESH), REPEATED
        if self._wants(topic):
            urgency = REFRESHED
            if topic.known.own_until > now + FRESH:
                due = topic.known.own_until - LIFETIME + self._uniform(*REFRESH)
            elif look_again is None:
                look_again = RETRY
        if look_again:
            due = min(due, now + self._uniform(*look_again))
        lonely = topic.is_lonely if topic.peers else topic.info_hash == RENDEZVOUS and not topic.known.seen
        if lonely:
            wait = LONELY[min(max(0, topic.looks - 1), len(LONELY) - 1)]
            again = topic.known.looked + wait * self._uniform(0.8, 1.2)
            if again < due:
                due, urgency = again, OPENED if topic.looks < 3 else REPEATED
        self._schedule(topic, max(now, due), urgency)

    def _visit(self, topic: Topic, urgency: int, thorough: bool = False) -> None:
        if topic.visit is None:
            self._agenda.drop(topic.info_hash)
            topic.visit = asyncio.get_running_loop().create_task(self._look(topic, urgency, thorough))

    async def _look(self, topic: Topic, urgency: int, thorough: bool) -> None:
        look_again: tuple[float, float] | None = None
        thorough = thorough or topic.info_hash == RENDEZVOUS
        try:
            days = record.days_to_read(self._clock())
            async with asyncio.TaskGroup() as together:
                reads = [together.create_task(self._read(topic, day, urgency)) for day in days]
                if thorough:
                    together.create_task(self._read_second(topic, days, urgency))
            readings = [read.result() for read in reads]
            troubled = any(reading.is_troubled for reading in readings)
            if troubled and not thorough:
                await self._read_second(topic, days, urgency)
            self._looked(topic, any(found.candidates for reading in readings for found in reading.nodes))
            if self._wants(topic):
                look_again = await self._publish(topic, readings[0], urgency)
                if troubled or topic.info_hash == RENDEZVOUS:
                    await self._second_path.announce(topic.info_hash, days[0], urgency)
                    look_again = look_again or ANNOUNCE
            elif topic.known.own_until > self._clock():
                await slots.erase(self._client, readings[0], self._id)
                topic.known.own_until = 0.0
        except Exception:
            self._log.exception("dht_lookup_failed")
        finally:
            self._end_listening(topic)
            topic.visit = None
            self._something.set()
            if topic.peers or topic.pinned:
                self._schedule_next(topic, look_again)
            self._drop_if_idle(topic)

    async def _read(self, topic: Topic, day: int, urgency: int) -> slots.Reading:
        def on_entry(entry: Entry, where: str) -> None:
            self._saw(topic, Sighting(entry, where))

        return await slots.read(self._client, topic.info_hash, day, urgency, self._clock, self.tally.rejected, on_entry)

    async def _read_second(self, topic: Topic, days: list[int], urgency: int) -> None:
        await self._second_path.find(
            topic.info_hash, days, urgency, lambda entry: self._saw(topic, Sighting(entry, "bep5"))
        )

    async def _publish(self, topic: Topic, reading: slots.Reading, urgency: int) -> tuple[float, float] | None:
        """Put our own entry into the record, if it is not there; when to look again, if before its refresh."""
        for attempt in range(ATTEMPTS):
            now = self._clock()
            own = next((entry for entry in reading.entries if entry.tracker_id == self._id), None)
            if own and own.expires > now + FRESH and own.url == self._url:
                topic.known.own_until = own.expires
                self.tally.publications["stored"] += attempt > 0
                return None
            entry = record.sign_entry(self._key, topic.info_hash, self._url, now)
            stored = await slots.write(self._client, reading, entry)
            if stored is None:
                self.tally.publications["locked"] += 1
                return ANNOUNCE
            if stored.taken:
                topic.known.own_until = entry.expires
                self._touch(topic)
            if not stored.taken and not stored.conflicts:
                self.tally.publications["unreachable"] += 1
                return RETRY
            if not stored.conflicts:
                self.tally.publications["stored"] += 1
                return READ_BACK if any(other.tracker_id != self._id for other in reading.entries) else None
            # Others write at this moment: what they wrote must not be lost, nor what we did.
            self.tally.publications["conflict"] += 1
            await asyncio.sleep(self._uniform(0.1, 0.5) * 2**attempt)
            reading = await self._read(topic, reading.day, urgency)
        return READ_BACK

    def _looked(self, topic: Topic, reached: bool) -> None:
        topic.known.looked = self._clock()
        if topic.is_lonely:
            topic.looks += 1
        if reached:
            self._touch(topic)
        self.tally.lookups["unreachable" if not reached else "found" if topic.known.seen else "none"] += 1
        self._end_listening(topic)

    def _end_listening(self, topic: Topic) -> None:
        for heard in topic.listening:
            heard.put_nowait(None)

    def _saw(self, topic: Topic, sighting: Sighting) -> None:
        entry = sighting.entry
        seen = topic.known.seen
        known = seen.get(entry.tracker_id)
        if entry.tracker_id == self._id or (known and known.entry.expires >= entry.expires):
            return
        seen[entry.tracker_id] = sighting
        if len(seen) > MAX_SEEN:
            del seen[min(seen, key=lambda tracker_id: seen[tracker_id].entry.expires)]
        self._touch(topic)
        for heard in topic.listening:
            heard.put_nowait(sighting)
        for tell in self.on_sighting:
            tell(topic.info_hash, sighting)

    def _touch(self, topic: Topic) -> None:
        self._known.pop(topic.info_hash, None)
        self._known[topic.info_hash] = self.changed[topic.info_hash] = topic.known
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]


def _is_good(entry: Entry, info_hash: bytes, now: float) -> bool:
    """Whether an entry from the cache is still worth telling. One from the second path is for no infohash."""
    if info_hash == RENDEZVOUS and entry.expires > now - lifetime(info_hash):
        # A tracker that was there last week may well be there still, and has to prove its id when it is dialed.
        now = min(now, entry.expires - 1.0)
    return any(record.check_entry(entry, signed_for, now) is None for signed_for in (info_hash, b""))
