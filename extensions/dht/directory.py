"""Which trackers serve which infohash: when records are read and written, and who is told.

Every look at a record is also the check of one's own entry in it, and every publication begins with a look.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from math import inf
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.cache import MAX_KNOWN, Known
from extensions.dht.counters import Looked, Tally
from extensions.dht.krpc.client import BURST, Client
from extensions.dht.publisher import Publisher
from extensions.dht.records import record
from extensions.dht.records.bep5 import Bep5Fallback
from extensions.dht.records.keys import days_to_read
from extensions.dht.records.record import RecordSnapshot
from extensions.dht.schedule import Agenda, Shortlist
from extensions.dht.tracked import ANNOUNCE, ASKED, OPENED, REFRESHED, RETRY, Topic, next_look
from extensions.trackers import RENDEZVOUS, Sighting, TrackerEntry

RECENT: Final = 10.0
"""Seconds that a lookup's result is as good as a new one."""

MAX_ERASURES: Final = 5
"""Looks that try to take our entry out of a record."""

IDLE: Final = 1.0
BUSY: Final = 0.1
"""Seconds between two looks at the agenda at most, and while there are enough lookups under way."""


class Directory:
    """The records of many infohashes.

    Publishes `url` if that is not empty, and `policy` not "none": of the swarms "all", or those that are "listed", at
    most `max_published`; and what it is told to.

    `clock` gives Unix seconds, which may be set back, `monotonic` seconds that may not; `uniform` a random float
    between two.
    """

    def __init__(
        self,
        client: Client,
        second_path: Bep5Fallback,
        key: Ed25519PrivateKey,
        url: str,
        policy: str,
        listed: Iterable[bytes],
        max_published: int,
        known: dict[bytes, Known],
        is_reachable: Callable[[], bool],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        uniform: Callable[[float, float], float],
    ) -> None:
        self._publisher = Publisher(client, key, url, clock, uniform)
        self.tally = Tally(self._publisher.tally, second_path.rejected)
        self.changed: dict[bytes, Known] = {}
        """What was learned since it was last written to the cache."""
        self.on_sighting: list[Callable[[bytes, Sighting], None]] = []
        self.shortlist = Shortlist(max_published)
        self.is_reachable = is_reachable
        self._client = client
        self._second_path = second_path
        self._publishes = bool(url) and policy != "none"
        self._listed = frozenset(listed) if policy == "listed" else None
        self._known = known
        self._clock = clock
        self._monotonic = monotonic
        self._uniform = uniform
        self._topics: dict[bytes, Topic] = {}
        self._own: dict[bytes, Known] = {}
        self._agenda = Agenda()
        self._something = asyncio.Event()
        self._closed = False
        self._log = structlog.get_logger().bind(extension="dht")

    @property
    def published(self) -> int:
        """Infohashes that are to be found under our own id now."""
        now = self._clock()
        return sum(known.own_until > now for known in self._own.values())

    @property
    def overdue(self) -> int:
        """Infohashes whose record should have been looked at by now."""
        return self._agenda.overdue(self._monotonic())

    def swarm(self, info_hash: bytes, peers: int, linked: bool) -> None:
        """A swarm is open here, with so many peers of our own."""
        topic = self._topic(info_hash)
        opened, lonely = not topic.peers, topic.is_lonely
        topic.peers, topic.linked = peers, linked
        if self._publishes and (self._listed is None or info_hash in self._listed):
            for came in self.shortlist.enter(info_hash, peers):
                if came != info_hash:
                    self._look_soon(self._topic(came), REFRESHED)
        if opened:
            topic.looks = 0
            # What was found a moment ago is known; our own entry may be missing all the same.
            wait = RECENT if self._monotonic() - topic.looked < RECENT else 0.0
            self._look_soon(topic, OPENED, wait)
        elif topic.is_lonely and not lonely:
            topic.looks = 0
            self._schedule_next(topic)

    def swarm_closed(self, info_hash: bytes) -> None:
        """A swarm has closed. Its entry is left to end by itself."""
        topic = self._topics.get(info_hash)
        if topic:
            topic.peers, topic.linked = 0, False
            for came in self.shortlist.leave(info_hash):
                self._look_soon(self._topic(came), REFRESHED)
            self._drop_if_idle(topic)

    def publish(self, info_hash: bytes) -> None:
        """Keep an entry of ours for an infohash, whether or not it has a swarm here."""
        topic = self._topic(info_hash)
        topic.pinned, topic.withdrawn = True, False
        self._look_soon(topic, OPENED)

    def withdraw(self, info_hash: bytes) -> None:
        """Take our entry for an infohash back, also out of the DHT."""
        topic = self._topics.get(info_hash)
        if topic and topic.pinned:
            topic.pinned = False
            # A look under way may be about to store it.
            if not self._wants(topic) and (topic.visit or topic.known.own_until > self._clock()):
                topic.withdrawn = True
                self._look_soon(topic, REFRESHED)
            else:
                self._drop_if_idle(topic)

    def known(self, info_hash: bytes) -> list[Sighting]:
        """The other trackers that are known to serve an infohash."""
        topic = self._topics.get(info_hash)
        known = topic.known if topic else self._known.get(info_hash)
        return known.good(info_hash, self._clock()) if known else []

    async def trackers(self, info_hash: bytes, thorough: bool = False) -> AsyncIterator[Sighting]:
        """The other trackers that serve an infohash, each once: those known, then those found, as they are found.

        Ends with the lookup, which is shared with everybody who wants the same. If one has just ended, there is no
        other. A `thorough` one takes the second path too.
        """
        topic = self._topic(info_hash)
        heard: asyncio.Queue[Sighting | None] = asyncio.Queue()
        topic.listening.add(heard)
        try:
            is_recent = self._monotonic() - topic.looked < RECENT
            told = set()
            for sighting in self.known(info_hash):
                told.add(sighting.entry.tracker_id)
                yield sighting
            if self._closed or (is_recent and not thorough):
                return
            topic.thorough |= thorough
            self._visit(topic, ASKED)
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
            try:
                wait = self._start_due()
            except Exception:
                self._log.exception("dht_agenda_failed")
                wait = IDLE
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._something.wait()

    def wake(self) -> None:
        """Have `run` see at once what there is to do."""
        self._something.set()

    async def close(self) -> None:
        """Cancel all lookups; whoever waits for one hears no more."""
        self._closed = True
        visits = [topic.visit for topic in self._topics.values() if topic.visit]
        for visit in visits:
            visit.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
        for topic in self._topics.values():
            # One that was cancelled before it began has not seen to that itself.
            topic.visit = None
            self._end_listening(topic)

    def _topic(self, info_hash: bytes) -> Topic:
        topic = self._topics.get(info_hash)
        if topic is None:
            known = self._known.get(info_hash) or Known()
            ago = self._clock() - known.looked
            looked = self._monotonic() - (ago if ago >= 0 else inf)
            topic = self._topics[info_hash] = Topic(info_hash, known, looked)
            if known.own_until:
                self._own[info_hash] = known
        return topic

    def _drop_if_idle(self, topic: Topic) -> None:
        if not topic.is_needed and self._topics.get(topic.info_hash) is topic:
            del self._topics[topic.info_hash]
            self._own.pop(topic.info_hash, None)
            self._agenda.drop(topic.info_hash)

    def _wants(self, topic: Topic) -> bool:
        """Whether our own entry should be in a topic's record."""
        return self._publishes and (topic.pinned or topic.info_hash in self.shortlist)

    # What is due

    def _start_due(self) -> float:
        """Begin to look at what is due; seconds until there may be more to do."""
        if not self.is_reachable():
            return IDLE
        now = self._monotonic()
        # The rest stays on the agenda, where the more urgent overtakes it.
        for _ in range(int(BURST) - len(self._client.queue)):
            due = self._agenda.take(now)
            if due is None:
                break
            topic = self._topics.get(due[0])
            if topic:
                self._visit(topic, due[1])
        else:
            return BUSY
        next_due = self._agenda.next_due()
        return IDLE if next_due is None else min(IDLE, max(0.01, next_due - now))

    def _look_soon(self, topic: Topic, urgency: int, wait: float = 0.0) -> None:
        if topic.visit:
            topic.again = True
        else:
            self._schedule(topic, self._monotonic() + wait, urgency)

    def _schedule(self, topic: Topic, due: float, urgency: int) -> None:
        self._agenda.set(topic.info_hash, due, urgency)
        self._something.set()

    def _schedule_next(self, topic: Topic, look_again: tuple[float, float] | None = None) -> None:
        """Enter a topic's next look."""
        own_left = topic.known.own_until - self._clock()
        now = self._monotonic()
        self._schedule(topic, *next_look(topic, self._wants(topic), look_again, own_left, now, self._uniform))

    # One look

    def _visit(self, topic: Topic, urgency: int) -> None:
        if topic.visit is None and not self._closed:
            self._agenda.drop(topic.info_hash)
            topic.visit = asyncio.get_running_loop().create_task(self._look(topic, urgency))

    async def _look(self, topic: Topic, urgency: int) -> None:
        look_again: tuple[float, float] | None = RETRY
        has_failed = True
        started = self._monotonic()
        is_thorough = topic.thorough or topic.info_hash == RENDEZVOUS
        topic.thorough = False
        try:
            topic.known.forget_ended(topic.info_hash, self._clock())
            days = days_to_read(self._clock())
            async with asyncio.TaskGroup() as together:
                reads = [together.create_task(self._read(topic, day, urgency)) for day in days]
                second_path = None
                if is_thorough:
                    second_path = together.create_task(self._read_second(topic, days, urgency))
                readings = [await read for read in reads]
                together.create_task(self._conclude(topic, readings, second_path, urgency, started))
                # Not after the second path: our own entry need not wait for what strangers do not answer.
                look_again, has_failed = await self._see_to_own(topic, readings, urgency)
        except Exception:
            self._log.exception("dht_lookup_failed")
            topic.looked = self._monotonic()
        finally:
            topic.failures = topic.failures + 1 if has_failed else 0
            topic.visit = None
            self._ended(topic, look_again)

    def _ended(self, topic: Topic, look_again: tuple[float, float] | None) -> None:
        if topic.thorough and topic.listening and not self._closed:
            # They came when it was too late to take the second path for them.
            self._visit(topic, ASKED)
            return
        self._end_listening(topic)
        if topic.is_kept:
            # What could reach nobody is due as soon as it can.
            if topic.again or not self.is_reachable():
                self._schedule(topic, self._monotonic(), OPENED)
            else:
                self._schedule_next(topic, look_again)
        self._drop_if_idle(topic)
        self._something.set()

    async def _read(self, topic: Topic, day: int, urgency: int) -> RecordSnapshot:
        def on_entry(entry: TrackerEntry, where: str) -> None:
            self._saw(topic, Sighting(entry, where))

        return await record.read(
            self._client, topic.info_hash, day, urgency, self._clock, self.tally.rejected, on_entry
        )

    async def _read_second(self, topic: Topic, days: list[int], urgency: int) -> None:
        try:
            await self._second_path.find(
                topic.info_hash, days, urgency, lambda entry: self._saw(topic, Sighting(entry, "bep5"))
            )
        except Exception:
            self._log.exception("dht_second_path_failed")

    async def _conclude(
        self,
        topic: Topic,
        readings: list[RecordSnapshot],
        second_path: asyncio.Task[None] | None,
        urgency: int,
        started: float,
    ) -> None:
        """The rest of what those who listen wait for."""
        if second_path:
            await second_path
        elif topic.thorough or any(reading.is_troubled for reading in readings):
            await self._read_second(topic, [reading.day for reading in readings], urgency)
        topic.thorough = False
        topic.looked, topic.known.looked = self._monotonic(), self._clock()
        if topic.is_lonely:
            topic.looks += 1
        if has_reached := any(reading.has_reached for reading in readings):
            self._touch(topic)
        is_found = any(one.entry.expires > self._clock() for one in topic.known.seen.values())
        result = Looked.UNREACHABLE if not has_reached else Looked.FOUND if is_found else Looked.NONE
        self.tally.looked(result, topic.looked - started)
        self._end_listening(topic)

    async def _see_to_own(
        self, topic: Topic, readings: list[RecordSnapshot], urgency: int
    ) -> tuple[tuple[float, float] | None, bool]:
        """Have our own entry in the record if it should be there, and else not.

        When to look again, if that is to be before it ends, and whether something went wrong.
        """
        topic.again = False

        def read_again(day: int) -> Awaitable[RecordSnapshot]:
            return self._read(topic, day, urgency)

        if self._wants(topic):
            published = await self._publisher.publish(readings[0], read_again)
            if published.until:
                self._note_own(topic, published.until)
            look_again = published.look_again
            if topic.info_hash == RENDEZVOUS or any(reading.is_troubled for reading in readings):
                await self._second_path.announce(topic.info_hash, readings[0].day, urgency)
                look_again = look_again or ANNOUNCE
            return look_again, published.has_failed
        if topic.withdrawn or topic.known.own_until > self._clock():
            is_gone = await self._publisher.erase(readings, read_again)
            if is_gone:
                self._note_own(topic, 0.0)
            if is_gone or topic.failures >= MAX_ERASURES:
                topic.withdrawn = False
            return None, not is_gone
        return None, not any(reading.has_reached for reading in readings)

    # What was learned

    def _saw(self, topic: Topic, sighting: Sighting) -> None:
        if sighting.entry.tracker_id == self._publisher.tracker_id or not topic.known.add(sighting):
            return
        self._touch(topic)
        for heard in topic.listening:
            heard.put_nowait(sighting)
        for tell in self.on_sighting:
            try:
                tell(topic.info_hash, sighting)
            except Exception:
                self._log.exception("dht_listener_failed")

    def _end_listening(self, topic: Topic) -> None:
        for heard in topic.listening:
            heard.put_nowait(None)

    def _note_own(self, topic: Topic, until: float) -> None:
        topic.known.own_until = until
        self._own[topic.info_hash] = topic.known
        self._touch(topic)

    def _touch(self, topic: Topic) -> None:
        for table in (self._known, self.changed):
            table.pop(topic.info_hash, None)
            table[topic.info_hash] = topic.known
            while len(table) > MAX_KNOWN:
                del table[next(iter(table))]
