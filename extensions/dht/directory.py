"""The trackers that serve each infohash: the visits of their records, and the callers that receive the results.

Each visit of a record is also the check of our own entry in it, and each publication begins with a visit.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from math import inf
from types import MappingProxyType
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.cache import Known
from extensions.dht.counters import Counters, Looked
from extensions.dht.knowledge import Knowledge
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.schedule import Job, Priority
from extensions.dht.krpc.scheduler import Scheduler
from extensions.dht.publish_set import PublishSet
from extensions.dht.publisher import Publisher
from extensions.dht.records import record
from extensions.dht.records.bep5 import Bep5Fallback
from extensions.dht.records.keys import days_to_read
from extensions.dht.records.record import RecordSnapshot
from extensions.dht.sightings import Sightings
from extensions.dht.tracked import ANNOUNCE, RETRY, TrackedHash, next_visit
from extensions.trackers import RENDEZVOUS, Sighting, TrackerEntry

RECENT: Final = 10.0
"""Seconds for which the result of a lookup is used instead of a new one."""

MAX_ERASURES: Final = 5
"""Visits that try to remove our entry from a record."""

StartTask = Callable[..., asyncio.Task[Any]]
"""Runs a coroutine in the background, under a name: `TrackerHandle.start_task`, or the same of `BackgroundTasks`."""


class Directory:
    """The records of many infohashes.

    Publishes `url`, unless that is empty or `policy` is "none": for the swarms of this tracker ("all") or those of
    them that are `listed` ("listed"), at most `max_published`; and for the infohashes given to `publish`.

    `clock` gives Unix seconds, which may be set back; `monotonic` gives seconds that never go back, and must be the
    scheduler's clock; `uniform` gives a random float between two floats.
    """

    def __init__(
        self,
        client: Client,
        bep5_fallback: Bep5Fallback,
        scheduler: Scheduler,
        key: Ed25519PrivateKey,
        url: str,
        policy: str,
        listed: Iterable[bytes],
        max_published: int,
        known: dict[bytes, Known],
        is_reachable: Callable[[], bool],
        start_task: StartTask,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        uniform: Callable[[float, float], float],
    ) -> None:
        self._publisher = Publisher(client, key, url, clock, uniform)
        self.counters = Counters(self._publisher.written, bep5_fallback.rejected)
        self.knowledge = Knowledge(known, clock)
        self.sightings = Sightings(self._publisher.tracker_id, self.knowledge, bep5_fallback.rejected, clock, monotonic)
        self.publish_set = PublishSet(max_published)
        self._client = client
        self._bep5_fallback = bep5_fallback
        self._scheduler = scheduler
        self._publishes = bool(url) and policy != "none"
        self._listed = frozenset(listed) if policy == "listed" else None
        self._is_reachable = is_reachable
        self._start_task = start_task
        self._clock = clock
        self._monotonic = monotonic
        self._uniform = uniform
        self._tracked: dict[bytes, TrackedHash] = {}
        self._is_closed, self._clock_sets = False, 0
        self._log = structlog.get_logger().bind(extension="dht")

    @property
    def url(self) -> str:
        """The URL that is published; empty if none is."""
        return self._publisher.url

    @property
    def tracked(self) -> Mapping[bytes, TrackedHash]:
        """The infohashes that matter now, read-only."""
        return MappingProxyType(self._tracked)

    @property
    def visits(self) -> int:
        """Visits under way."""
        return sum(tracked.visit is not None for tracked in self._tracked.values())

    @property
    def published(self) -> int:
        """Infohashes whose record has a valid entry of ours."""
        return self.knowledge.published

    @property
    def overdue(self) -> int:
        """Infohashes whose visit is due and has not begun."""
        return self._scheduler.overdue

    def is_published(self, info_hash: bytes) -> bool:
        """Return whether the record of an infohash has a valid entry of ours."""
        return self.knowledge.is_published(info_hash)

    def swarm(self, info_hash: bytes, peers: int, linked: bool) -> None:
        """Note that a swarm has this many local peers, at least one. `linked`: they can reach peers elsewhere."""
        tracked = self._track(info_hash)
        opened, lonely = not tracked.peers, tracked.is_lonely
        tracked.peers, tracked.linked = peers, linked
        if self._publishes and (self._listed is None or info_hash in self._listed):
            for added in self.publish_set.put(info_hash, peers):
                if added != info_hash:
                    self._visit_soon(self._track(added), Priority.REFRESHED)
        if opened:
            tracked.lonely_visits = 0
            # The result of a recent visit is still known; but our own entry may be missing.
            wait = RECENT if self._monotonic() - tracked.last_visit < RECENT else 0.0
            self._visit_soon(tracked, Priority.OPENED, wait)
        elif tracked.is_lonely and not lonely:
            tracked.lonely_visits = 0
            self._schedule_next(tracked)

    def swarm_closed(self, info_hash: bytes) -> None:
        """Note that a swarm has closed. Its entry stays in the record until it expires."""
        tracked = self._tracked.get(info_hash)
        if tracked:
            tracked.peers, tracked.linked = 0, False
            for added in self.publish_set.discard(info_hash):
                self._visit_soon(self._track(added), Priority.REFRESHED)
            self._drop_if_idle(tracked)

    def publish(self, info_hash: bytes) -> None:
        """Keep an entry of ours for an infohash, with or without a swarm here."""
        tracked = self._track(info_hash)
        tracked.pinned, tracked.withdrawn = True, False
        self._visit_soon(tracked, Priority.OPENED)

    def withdraw(self, info_hash: bytes) -> None:
        """Undo `publish`, and remove our entry from the record."""
        tracked = self._tracked.get(info_hash)
        if tracked and tracked.pinned:
            tracked.pinned = False
            # A visit under way may be about to store it.
            if not self._wants(tracked) and (tracked.visit or tracked.known.own_until > self._clock()):
                tracked.withdrawn = True
                self._visit_soon(tracked, Priority.REFRESHED)
            else:
                self._drop_if_idle(tracked)

    def on_clock_set(self) -> None:
        """Visit all records, because the clock was set: times in our entries, and the days of records, were wrong."""
        self._clock_sets += 1
        self._publisher.on_clock_set()
        self.sightings.on_clock_set()
        for tracked in self._tracked.values():
            if tracked.is_kept and not tracked.visit:
                self._schedule(tracked, self._monotonic(), Priority.REFRESHED)

    def learn(self, info_hash: bytes, entry: TrackerEntry) -> bool:
        """Note an entry that another tracker has passed on. Return whether it was new and valid.

        Entries for an infohash that does not matter here are ignored.
        """
        tracked = self._tracked.get(info_hash)
        return tracked is not None and self.sightings.learn(tracked, entry)

    async def forget(self, info_hash: bytes) -> None:
        """Forget an infohash, so that the next lookup depends on nothing known. Wait for the visit under way."""
        self.knowledge.forget(info_hash)
        self._scheduler.cancel(info_hash)
        tracked = self._tracked.pop(info_hash, None)
        if tracked and tracked.visit:
            await asyncio.wait([tracked.visit])

    async def trackers(self, info_hash: bytes, thorough: bool = False) -> AsyncIterator[Sighting]:
        """Yield the other trackers that serve an infohash, each once: first those known, then each as it is found.

        It ends with the lookup, which is shared by all callers that want the same infohash at that time. There is no
        lookup if one has ended in the last `RECENT` seconds. A `thorough` lookup always uses BEP 5, too.
        """
        tracked = self._track(info_hash)
        listener: asyncio.Queue[Sighting | None] = asyncio.Queue()
        tracked.listeners.add(listener)
        try:
            is_recent = self._monotonic() - tracked.last_visit < RECENT
            told = set()
            for sighting in self.sightings.known(info_hash):
                told.add(sighting.entry.tracker_id)
                yield sighting
            if self._is_closed or (is_recent and not thorough):
                return
            tracked.thorough |= thorough
            self._begin_visit(tracked, Job(Priority.ASKED, self._monotonic()))
            while (found := await listener.get()) is not None:
                if found.entry.tracker_id not in told:
                    told.add(found.entry.tracker_id)
                    yield found
        finally:
            tracked.listeners.discard(listener)
            self._drop_if_idle(tracked)

    async def close(self) -> None:
        """Cancel all visits, and end all lookups."""
        self._is_closed = True
        visits = [tracked.visit for tracked in self._tracked.values() if tracked.visit]
        for visit in visits:
            visit.cancel()
        await asyncio.gather(*visits, return_exceptions=True)
        for tracked in self._tracked.values():
            # A visit that was cancelled before it began has not done this itself.
            tracked.visit = None
            self._end_listening(tracked)

    def _track(self, info_hash: bytes) -> TrackedHash:
        tracked = self._tracked.get(info_hash)
        if tracked is None:
            known = self.knowledge.follow(info_hash)
            ago = self._clock() - known.looked
            last_visit = self._monotonic() - (ago if ago >= 0 else inf)
            tracked = self._tracked[info_hash] = TrackedHash(info_hash, known, last_visit)
        return tracked

    def _drop_if_idle(self, tracked: TrackedHash) -> None:
        if not tracked.is_needed and self._tracked.get(tracked.info_hash) is tracked:
            del self._tracked[tracked.info_hash]
            self.knowledge.unfollow(tracked.info_hash)
            self._scheduler.cancel(tracked.info_hash)

    def _wants(self, tracked: TrackedHash) -> bool:
        """Return whether our own entry should be in an infohash's record."""
        return self._publishes and (tracked.pinned or tracked.info_hash in self.publish_set)

    # The time of the next visit

    def _visit_soon(self, tracked: TrackedHash, priority: Priority, wait: float = 0.0) -> None:
        if tracked.visit:
            tracked.visit_again = True
        else:
            self._schedule(tracked, self._monotonic() + wait, priority)

    def _schedule(self, tracked: TrackedHash, due: float, priority: Priority) -> None:
        self._scheduler.schedule(tracked.info_hash, due, priority, self._begin)

    def _schedule_next(self, tracked: TrackedHash, wait: tuple[float, float] | None = None) -> None:
        own_left = tracked.known.own_until - self._clock()
        now = self._monotonic()
        self._schedule(tracked, *next_visit(tracked, self._wants(tracked), wait, own_left, now, self._uniform))

    def _begin(self, info_hash: bytes, job: Job) -> None:
        tracked = self._tracked.get(info_hash)
        if tracked is None or tracked.visit or self._is_closed:
            self._scheduler.release(job)
        else:
            self._begin_visit(tracked, job)

    def _begin_visit(self, tracked: TrackedHash, job: Job) -> None:
        if tracked.visit is None and not self._is_closed:
            self._scheduler.cancel(tracked.info_hash)
            tracked.visit = self._start_task("dht_visit", self._visit(tracked, job))

    # One visit

    async def _visit(self, tracked: TrackedHash, job: Job) -> None:
        wait: tuple[float, float] | None = RETRY
        has_failed = True
        started, clock_sets = self._monotonic(), self._clock_sets
        is_thorough = tracked.thorough or tracked.info_hash == RENDEZVOUS
        tracked.thorough = False
        try:
            tracked.known.forget_ended(tracked.info_hash, self._clock())
            days = days_to_read(self._clock())
            async with asyncio.TaskGroup() as together:
                reads = [together.create_task(self._read(tracked, day, job)) for day in days]
                bep5_fallback = None
                if is_thorough:
                    bep5_fallback = together.create_task(self._read_second(tracked, days, job))
                readings = [await read for read in reads]
                together.create_task(self._conclude(tracked, readings, bep5_fallback, job, started))
                # At the same time: our own entry must not wait until hosts answer over BEP 5.
                wait, has_failed = await self._update_own(tracked, readings, job)
        except Exception:
            self._log.exception("dht_lookup_failed")
            tracked.last_visit = self._monotonic()
        finally:
            self._scheduler.release(job)
            tracked.failures = tracked.failures + 1 if has_failed else 0
            tracked.visit = None
            tracked.visit_again |= self._clock_sets > clock_sets
            self._on_visit_ended(tracked, wait)

    def _on_visit_ended(self, tracked: TrackedHash, wait: tuple[float, float] | None) -> None:
        if tracked.thorough and tracked.listeners and not self._is_closed:
            # Their request came when this visit could not use the BEP 5 fallback any more.
            self._begin_visit(tracked, Job(Priority.ASKED, self._monotonic()))
            return
        self._end_listening(tracked)
        if tracked.is_kept and not self._is_closed:
            # A visit that could reach no node is due again as soon as it can reach one.
            if tracked.visit_again or not self._is_reachable():
                self._schedule(tracked, self._monotonic(), Priority.OPENED)
            else:
                self._schedule_next(tracked, wait)
        self._drop_if_idle(tracked)

    async def _read(self, tracked: TrackedHash, day: int, job: Job) -> RecordSnapshot:
        def on_entry(entry: TrackerEntry, where: str) -> None:
            self.sightings.note(tracked, Sighting(entry, where))

        return await record.read(
            self._client, tracked.info_hash, day, job, self._clock, self.counters.rejected, on_entry
        )

    async def _read_second(self, tracked: TrackedHash, days: list[int], job: Job) -> None:
        try:
            await self._bep5_fallback.find(
                tracked.info_hash, days, job, lambda entry: self.sightings.note(tracked, Sighting(entry, "bep5"))
            )
        except Exception:
            self._log.exception("dht_second_path_failed")

    async def _conclude(
        self,
        tracked: TrackedHash,
        readings: list[RecordSnapshot],
        bep5_fallback: asyncio.Task[None] | None,
        job: Job,
        started: float,
    ) -> None:
        """Use the BEP 5 fallback if necessary, then end the lookups that wait for this visit."""
        if bep5_fallback:
            await bep5_fallback
        elif tracked.thorough or any(reading.is_troubled for reading in readings):
            await self._read_second(tracked, [reading.day for reading in readings], job)
        tracked.thorough = False
        tracked.last_visit, tracked.known.looked = self._monotonic(), self._clock()
        if tracked.is_lonely:
            tracked.lonely_visits += 1
        if has_reached := any(reading.has_reached for reading in readings):
            self.knowledge.note_change(tracked.info_hash, tracked.known)
        is_found = any(one.entry.expires > self._clock() for one in tracked.known.seen.values())
        result = Looked.UNREACHABLE if not has_reached else Looked.FOUND if is_found else Looked.NONE
        self.counters.count_lookup(result, tracked.last_visit - started)
        self._end_listening(tracked)

    async def _update_own(
        self, tracked: TrackedHash, readings: list[RecordSnapshot], job: Job
    ) -> tuple[tuple[float, float] | None, bool]:
        """Write our own entry to the record if it should be there, and otherwise remove it.

        Return the seconds to the next visit (minimum, maximum), or None if there is no reason for an early one; and
        whether something failed.
        """
        tracked.visit_again = False

        def read_again(day: int) -> Awaitable[RecordSnapshot]:
            return self._read(tracked, day, job)

        if self._wants(tracked):
            published = await self._publisher.publish(readings[0], read_again)
            if published.until:
                self.knowledge.note_own(tracked.info_hash, tracked.known, published.until)
            wait = published.look_again
            if tracked.info_hash == RENDEZVOUS or any(reading.is_troubled for reading in readings):
                await self._bep5_fallback.announce(tracked.info_hash, readings[0].day, job)
                wait = wait or ANNOUNCE
            return wait, published.has_failed
        if tracked.withdrawn or tracked.known.own_until > self._clock():
            is_gone = await self._publisher.erase(readings, read_again)
            if is_gone:
                self.knowledge.note_own(tracked.info_hash, tracked.known, 0.0)
            if is_gone or tracked.failures >= MAX_ERASURES:
                tracked.withdrawn = False
            return None, not is_gone
        return None, not any(reading.has_reached for reading in readings)

    def _end_listening(self, tracked: TrackedHash) -> None:
        for listener in tracked.listeners:
            listener.put_nowait(None)
