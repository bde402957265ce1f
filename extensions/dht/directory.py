"""The trackers that serve each infohash: when its records are visited, and the callers that receive the results.

Each visit of a record is also the check of our own entry in it, and each publication begins with a visit.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from math import inf
from types import MappingProxyType
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.alarms import Alarms
from extensions.dht.cache import Known
from extensions.dht.counters import Counters
from extensions.dht.knowledge import Knowledge
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.schedule import Job, Priority
from extensions.dht.krpc.scheduler import Scheduler
from extensions.dht.publish_set import PublishSet
from extensions.dht.publisher import Publisher
from extensions.dht.records.bep5 import Bep5Fallback
from extensions.dht.records.reports import Observer
from extensions.dht.sightings import Sightings
from extensions.dht.tracked import ANNOUNCE_SLACK, NextVisit, TrackedHash, next_visit
from extensions.dht.visits import Outcome, Visits
from extensions.trackers import Sighting, TrackerEntry

RECENT: Final = 10.0
"""Seconds for which the result of a lookup is used instead of a new one."""

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
        self._publisher = Publisher(key, url, clock, uniform)
        self.counters = Counters(self._publisher.written, bep5_fallback.rejected)
        self.knowledge = Knowledge(known, clock)
        self.sightings = Sightings(self._publisher.tracker_id, self.knowledge, bep5_fallback.rejected, clock, monotonic)
        self.publish_set = PublishSet(max_published)
        self.alarms = Alarms(monotonic)
        self._visits = Visits(
            client,
            bep5_fallback,
            self._publisher,
            self.knowledge,
            self.sightings,
            self.counters,
            self._wants,
            clock,
            monotonic,
            uniform,
            self.alarms,
        )
        self._scheduler = scheduler
        self._publishes = bool(url) and policy != "none"
        self._listed = frozenset(listed) if policy == "listed" else None
        self._is_reachable = is_reachable
        self._start_task = start_task
        self._clock = clock
        self._monotonic = monotonic
        self._uniform = uniform
        self._tracked: dict[bytes, TrackedHash] = {}
        self._is_closed, self._clock_sets, self._outages = False, 0, 0
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

    def observe(self, observer: Observer) -> None:
        """Let `observer` receive a report of each visit as it begins."""
        self._visits.observer = observer

    def is_published(self, info_hash: bytes) -> bool:
        """Return whether the record of an infohash has a valid entry of ours."""
        return self.knowledge.is_published(info_hash)

    def swarm(self, info_hash: bytes, peers: int, linked: bool) -> None:
        """Note that a swarm has this many local peers, at least one. `linked`: they can reach peers elsewhere."""
        tracked = self._track(info_hash)
        opened, lonely, was_linked = not tracked.peers, tracked.is_lonely, tracked.linked
        tracked.peers, tracked.linked = peers, linked
        if self._publishes and (self._listed is None or info_hash in self._listed):
            added, removed = self.publish_set.put(info_hash, peers)
            for other in {*added, *removed} - ({info_hash} if opened else set()):
                self._on_wants_changed(self._track(other))
        if opened:
            tracked.lonely_visits = 0
            # The result of a recent visit is still known; but our own entry may be missing.
            wait = RECENT if self._monotonic() - tracked.last_visit < RECENT else 0.0
            self._visit_soon(tracked, self._first_priority(tracked), wait)
        elif tracked.is_first_visit and not tracked.visit:
            # Neighbours may have told of its other peers by now: then others need the turn more.
            if linked != was_linked:
                self._schedule(tracked, tracked.next_visit.due, self._first_priority(tracked))
        elif tracked.is_lonely and not lonely:
            tracked.lonely_visits = 0
            self._schedule_next(tracked)

    def swarm_closed(self, info_hash: bytes) -> None:
        """Note that a swarm has closed. Its entry stays in the record until it expires."""
        tracked = self._tracked.get(info_hash)
        if tracked:
            tracked.peers, tracked.linked = 0, False
            for added in self.publish_set.discard(info_hash):
                self._on_wants_changed(self._track(added))
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
            tracked.own.forget()
            if tracked.is_kept and not tracked.visit:
                self._schedule(tracked, self._monotonic(), Priority.REFRESHED)

    def on_outage_ended(self, began: float) -> None:
        """Visit at once, by the rate of lookups, the records of which a visit has failed since `began` (monotonic)."""
        self._outages += 1
        for tracked in self._tracked.values():
            if tracked.failed_at >= began:
                tracked.failures, tracked.failed_at = 0, -inf
                if tracked.is_kept and not tracked.visit:
                    wants = self._wants(tracked) or tracked.withdrawn
                    self._visit_soon(tracked, Priority.REFRESHED if wants else tracked.next_visit.priority)

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
            self._scheduler.fit(len(self._tracked))
        return tracked

    def _drop_if_idle(self, tracked: TrackedHash) -> None:
        if not tracked.is_needed and self._tracked.get(tracked.info_hash) is tracked:
            del self._tracked[tracked.info_hash]
            self.knowledge.unfollow(tracked.info_hash)
            self._scheduler.cancel(tracked.info_hash)
            self._scheduler.fit(len(self._tracked))

    def _wants(self, tracked: TrackedHash) -> bool:
        """Return whether our own entry should be in an infohash's record."""
        return self._publishes and (tracked.pinned or tracked.info_hash in self.publish_set)

    def _on_wants_changed(self, tracked: TrackedHash) -> None:
        """Note that an open swarm has become one of those to publish, or is one no more."""
        if tracked.is_first_visit and not tracked.visit:
            self._schedule(tracked, tracked.next_visit.due, self._first_priority(tracked))
        elif self._wants(tracked):
            self._visit_soon(tracked, Priority.REFRESHED)
        elif not tracked.visit:
            self._schedule_next(tracked)

    # The time of the next visit

    def _first_priority(self, tracked: TrackedHash) -> Priority:
        if tracked.linked:
            return Priority.LINKED
        return Priority.OPENED if self._wants(tracked) else Priority.UNPUBLISHED

    def _again_priority(self, tracked: TrackedHash) -> Priority:
        """Return the priority of a visit that the last one has made necessary at once."""
        return Priority.OPENED if self._wants(tracked) or tracked.withdrawn else self._first_priority(tracked)

    def _visit_soon(self, tracked: TrackedHash, priority: Priority, wait: float = 0.0) -> None:
        if tracked.visit:
            tracked.visit_again = True
        else:
            self._schedule(tracked, self._monotonic() + wait, priority)

    def _schedule(self, tracked: TrackedHash, due: float, priority: Priority) -> None:
        tracked.next_visit = NextVisit(due, priority)
        self._enter(tracked)

    def _schedule_next(self, tracked: TrackedHash, wait: tuple[float, float] | None = None) -> None:
        own_left = tracked.known.own_until - self._clock()
        now = self._monotonic()
        tracked.next_visit = next_visit(tracked, self._wants(tracked), wait, own_left, now, self._uniform)
        self._enter(tracked)

    def _enter(self, tracked: TrackedHash) -> None:
        """Enter a visit, or an announcement that is due much earlier, into the schedule."""
        due, priority, refresh_due = tracked.next_visit
        if tracked.announce_due < due - ANNOUNCE_SLACK:
            due, priority = tracked.announce_due, Priority.REFRESHED
        self._scheduler.schedule(tracked.info_hash, due, priority, self._begin, refresh_due)

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
        if job.priority != Priority.ASKED and tracked.announce_due <= self._monotonic() < tracked.next_visit.due:
            await self._announce(tracked, job)
            return
        outcome, clock_sets, outages = Outcome(), self._clock_sets, self._outages
        try:
            outcome = await self._visits.visit(tracked, job, lambda: self._end_listening(tracked))
        except Exception:
            self._log.exception("dht_lookup_failed")
            tracked.last_visit = self._monotonic()
        finally:
            self._scheduler.release(job)
            self._count_failure(tracked, outcome.has_failed, self._outages > outages)
            tracked.visit = None
            tracked.visit_again |= self._clock_sets > clock_sets
            self._on_visit_ended(tracked, outcome.look_again)

    def _count_failure(self, tracked: TrackedHash, has_failed: bool, was_outage: bool) -> None:
        """Count the failure of a visit, unless our own network was at fault: then the visit is repeated at once."""
        if not has_failed:
            tracked.failures = 0
        elif was_outage:
            tracked.visit_again = True
        elif self._is_reachable():
            tracked.failures += 1
            tracked.failed_at = self._monotonic()

    async def _announce(self, tracked: TrackedHash, job: Job) -> None:
        try:
            await self._visits.announce(tracked, job)
        except Exception:
            self._log.exception("dht_announce_failed")
        finally:
            self._scheduler.release(job)
            tracked.visit = None
            if tracked.listeners:
                # Their request came meanwhile.
                self._begin_visit(tracked, Job(Priority.ASKED, self._monotonic()))
            elif tracked.is_kept and not self._is_closed:
                if tracked.visit_again:
                    self._schedule(tracked, self._monotonic(), self._again_priority(tracked))
                else:
                    self._enter(tracked)
            self._drop_if_idle(tracked)

    def _on_visit_ended(self, tracked: TrackedHash, wait: tuple[float, float] | None) -> None:
        if tracked.thorough and tracked.listeners and not self._is_closed:
            # Their request came when this visit could not use the BEP 5 fallback any more.
            self._begin_visit(tracked, Job(Priority.ASKED, self._monotonic()))
            return
        self._end_listening(tracked)
        if tracked.is_kept and not self._is_closed:
            # A visit that could reach no node is due again as soon as it can reach one.
            if tracked.visit_again or not self._is_reachable():
                self._schedule(tracked, self._monotonic(), self._again_priority(tracked))
            else:
                self._schedule_next(tracked, wait)
        self._drop_if_idle(tracked)

    def _end_listening(self, tracked: TrackedHash) -> None:
        for listener in tracked.listeners:
            listener.put_nowait(None)
