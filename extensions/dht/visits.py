"""Visits of an infohash's records: reading them, and keeping our own entry in today's."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Final

import structlog

from extensions.dht.alarms import Alarms
from extensions.dht.counters import Counters, Looked
from extensions.dht.knowledge import Knowledge
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.schedule import Job, Priority
from extensions.dht.publisher import ATTEMPTS, REPEATED_ATTEMPTS, Publisher
from extensions.dht.records.bep5 import REMEMBER, Bep5Fallback
from extensions.dht.records.keys import day_of, days_to_read
from extensions.dht.records.record import Record, sample
from extensions.dht.records.reports import Observer, VisitReport
from extensions.dht.records.shards import Uniform
from extensions.dht.records.trouble import MAX_AGE, Expected, Trouble, has_expected
from extensions.dht.refresh import REFRESH
from extensions.dht.sightings import Sightings
from extensions.dht.tracked import ANNOUNCE, ANNOUNCE_SLACK, RETRY, TrackedHash
from extensions.entries import LIFETIME
from extensions.trackers import RENDEZVOUS, Sighting, TrackerEntry

NONE: Final = frozenset[Trouble]()

MAX_ERASURES: Final = 5
"""Visits that try to remove our entry from a record."""


@dataclass(slots=True)
class Outcome:
    """The result of a visit, as far as it decides when the next one is due."""

    look_again: tuple[float, float] | None = RETRY
    """The record should be read again after a time between these two (seconds); None: there is no reason to."""
    has_failed: bool = True


@dataclass(slots=True)
class _Search:
    """The search of one visit for other trackers, outside the slot that must have them."""

    report: VisitReport | None
    """The report of the visit, if any is made."""
    is_missing: bool = False
    """Whether the first slot has no entry although one must be there."""
    has_found: bool = False
    """Whether the BEP 5 fallback has found another tracker."""
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)

    def conclude(self, tracked: TrackedHash, records: list[Record]) -> None:
        """Note whether it was in vain."""
        if self.is_missing:
            is_in_vain = not self.has_found and not any(slot.entries for one in records for slot in one.slots)
            tracked.vain_searches = tracked.vain_searches + 1 if is_in_vain else 0
        elif any(record.slots and record.slots[0].entries for record in records):
            tracked.vain_searches = 0


class Visits:
    """Carries out visits.

    `clock` gives Unix seconds, which may be set back; `monotonic` gives seconds that never go back; `uniform` gives a
    random float between two floats. `wants` tells whether our own entry should be in an infohash's record. `alarms` is
    told the troubles of records.
    """

    def __init__(
        self,
        client: Client,
        bep5_fallback: Bep5Fallback,
        publisher: Publisher,
        knowledge: Knowledge,
        sightings: Sightings,
        counters: Counters,
        wants: Callable[[TrackedHash], bool],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        uniform: Uniform,
        alarms: Alarms,
    ) -> None:
        self.observer: Observer | None = None
        self._client = client
        self._bep5_fallback = bep5_fallback
        self._publisher = publisher
        self._knowledge = knowledge
        self._sightings = sightings
        self._counters = counters
        self._wants = wants
        self._clock = clock
        self._monotonic = monotonic
        self._uniform = uniform
        self._alarms = alarms
        self._log = structlog.get_logger().bind(extension="dht")

    async def visit(self, tracked: TrackedHash, job: Job, on_read: Callable[[], None]) -> Outcome:
        """Read the records of an infohash, and write or remove our own entry as needed.

        `on_read` is called when all trackers were found that this visit finds.
        """
        started, is_thorough = self._monotonic(), tracked.thorough or tracked.is_thorough_turn
        reads_all = tracked.is_thorough_turn
        tracked.thorough = False
        tracked.known.forget_ended(tracked.info_hash, self._clock())
        # An entry can be removed from slots only that were read.
        is_plain = job.priority != Priority.ASKED and (self._wants(tracked) or not tracked.known.own_until)
        skips = is_plain and tracked.shards.skips_slots(self._uniform)
        search = _Search(self._report(tracked))
        records = [self._record(tracked, day, job, search) for day in days_to_read(self._clock())]
        async with asyncio.TaskGroup() as together:
            fallback = None
            if is_thorough:
                fallback = together.create_task(self._find_by_bep5(tracked, records, job, search))
            if not skips:
                async with asyncio.TaskGroup() as reads:
                    for record in records:
                        reads.create_task(record.read_slots(reads_all))
                self._note_slots(tracked, records[0])
            together.create_task(self._conclude(tracked, records, fallback, job, search, started, on_read))
            # At the same time: our own entry must not wait until hosts answer over BEP 5.
            outcome = await self._update_own(tracked, records, job, search)
        if not skips and any(record.has_reached for record in records):
            self._note_troubles(tracked, frozenset[Trouble]().union(*(record.troubles for record in records)))
        return outcome

    async def announce(self, tracked: TrackedHash, job: Job) -> None:
        """Announce an infohash by BEP 5 once more, without a look at its record."""
        tracked.announce_due = self._monotonic() + self._uniform(*ANNOUNCE)
        await self._bep5_fallback.announce(tracked.info_hash, day_of(self._clock()), job)

    def _report(self, tracked: TrackedHash) -> VisitReport | None:
        if self.observer is None:
            return None
        report = VisitReport(tracked.info_hash)
        self.observer(report)
        return report

    def _note_troubles(self, tracked: TrackedHash, troubles: frozenset[Trouble]) -> None:
        self._counters.troubles.update(troubles)
        self._alarms.note(tracked.info_hash, tracked.troubles, troubles)
        # Most sets are empty, and they can be the same object.
        tracked.troubles = troubles or NONE

    def _record(self, tracked: TrackedHash, day: int, job: Job, search: "_Search") -> Record:
        def on_entry(entry: TrackerEntry, where: str) -> None:
            self._sightings.note(tracked, Sighting(entry, where))

        def has_others() -> bool:
            # The slots of a record with shards may be empty.
            if tracked.shards.depth is not None:
                return False
            max_age = LIFETIME if Trouble.EMPTIED in tracked.troubles else MAX_AGE
            seen = tracked.known.seen.values()
            # The other day's record may lack entries although this one does not.
            is_missing = has_expected(seen, tracked.info_hash, day, self._clock(), max_age)
            search.is_missing |= is_missing
            return is_missing and tracked.may_search

        own = tracked.own.expected(day, self._clock()) if self._wants(tracked) else frozenset[bytes]()
        expected = Expected(self._publisher.tracker_id, own, has_others)
        return Record(
            self._client,
            tracked.info_hash,
            day,
            job,
            self._clock,
            self._counters.rejected,
            on_entry,
            expected,
            search.report,
        )

    def _note_slots(self, tracked: TrackedHash, record: Record) -> None:
        """Note the depth of shards and the copies of our own entry, as the slots of today's record show them."""
        tracked.shards.note_slots(record.window if record.is_crowded else None)
        tracked.own.alarms = tracked.own.alarms + 1 if Trouble.EMPTIED in record.troubles else 0
        tracked.own.is_doubtful = record.needs_bep5
        for slot in record.slots if not record.needs_bep5 else ():
            if slot.entry_of(self._publisher.tracker_id):
                now = self._clock()
                if copies := tracked.own.note_look(slot.salt, record.day, slot.written, now, slot.copies):
                    self._counters.note_look(copies, min(REFRESH[1], tracked.own.longest))

    async def _conclude(
        self,
        tracked: TrackedHash,
        records: list[Record],
        fallback: asyncio.Task[None] | None,
        job: Job,
        search: "_Search",
        started: float,
        on_read: Callable[[], None],
    ) -> None:
        """Read shards and use the BEP 5 fallback if necessary, and note the result."""
        await asyncio.gather(*(self._sample(tracked, one) for one in records if one.is_crowded or not one.slots))
        if fallback:
            await fallback
        elif tracked.thorough or self._needs_bep5(tracked, records):
            await self._find_by_bep5(tracked, records, job, search)
        search.has_ended.set()
        if search.report:
            search.report.needs_bep5 = any(record.needs_bep5 for record in records)
            search.report.is_complete = True
        tracked.thorough = False
        tracked.last_visit, tracked.known.looked = self._monotonic(), self._clock()
        if tracked.is_lonely:
            tracked.lonely_visits += 1
        search.conclude(tracked, records)
        if has_reached := any(record.has_reached for record in records):
            self._knowledge.note_change(tracked.info_hash, tracked.known)
        result = Looked.UNREACHABLE if not has_reached else Looked.FOUND if self._knows_any(tracked) else Looked.NONE
        self._counters.count_lookup(result, tracked.last_visit - started)
        on_read()

    async def _sample(self, tracked: TrackedHash, record: Record) -> None:
        depth = tracked.shards.depth
        if depth is None:
            depth = (record.window and record.window.depth) or 0
        found = await sample(record, depth, self._uniform)
        if record.day == day_of(self._clock()):
            # Without any entry, the slots must tell where the tree of shards ends, if there is one at all.
            tracked.shards.depth = found

    def _needs_bep5(self, tracked: TrackedHash, records: list[Record]) -> bool:
        """Return whether the BEP 5 fallback is needed.

        At the rendezvous it is used in any case while that is small, and when no other tracker is found. Elsewhere, it
        finds the same hosts as some minutes ago, most of which get no request again.
        """
        if tracked.info_hash != RENDEZVOUS and self._monotonic() - tracked.last_search < REMEMBER:
            return False
        if any(record.needs_bep5 for record in records):
            return True
        return tracked.info_hash == RENDEZVOUS and not (tracked.shards.is_large and self._knows_any(tracked))

    def _knows_any(self, tracked: TrackedHash) -> bool:
        return any(one.entry.expires > self._clock() for one in tracked.known.seen.values())

    async def _find_by_bep5(self, tracked: TrackedHash, records: list[Record], job: Job, search: "_Search") -> None:
        def on_entry(entry: TrackerEntry) -> bool:
            self._sightings.note(tracked, Sighting(entry, "bep5"))
            is_other = self._sightings.is_other(entry)
            search.has_found |= is_other
            return is_other

        tracked.last_search = self._monotonic()
        report = search.report.begin_bep5() if search.report else None
        try:
            await self._bep5_fallback.find(tracked.info_hash, [record.day for record in records], job, on_entry, report)
        except Exception:
            self._log.exception("dht_second_path_failed")

    async def _update_own(self, tracked: TrackedHash, records: list[Record], job: Job, search: "_Search") -> Outcome:
        """Write our own entry to the record if it should be there, and otherwise remove it."""
        tracked.visit_again = False
        if self._wants(tracked):
            attempts = REPEATED_ATTEMPTS if Trouble.CONTESTED in tracked.troubles else ATTEMPTS
            published = await self._publisher.publish(records[0], tracked.shards, tracked.own, attempts)
            if published.until:
                self._knowledge.note_own(tracked.info_hash, tracked.known, published.until)
            if self._should_announce(tracked, records):
                # The announcement goes to the nodes that the search has found.
                await search.has_ended.wait()
                if not self._monotonic() < tracked.announce_due - ANNOUNCE_SLACK < inf:
                    await self.announce(tracked, job)
            else:
                tracked.announce_due = inf
            look_again = published.look_again
            if Trouble.EMPTIED in records[0].troubles and tracked.own.alarms == 1:
                # Nodes may leave so fast that a look after an hour sees no copies: a sooner one shows how fast.
                look_again = look_again or ANNOUNCE
            return Outcome(look_again, published.has_failed)
        tracked.announce_due = inf
        if tracked.withdrawn or tracked.known.own_until > self._clock():
            tracked.own.forget()
            is_gone = await self._publisher.erase(records, tracked.shards)
            if is_gone:
                self._knowledge.note_own(tracked.info_hash, tracked.known, 0.0)
            if is_gone or tracked.failures >= MAX_ERASURES:
                tracked.withdrawn = False
            return Outcome(None, not is_gone)
        return Outcome(None, not any(record.has_reached for record in records))

    def _should_announce(self, tracked: TrackedHash, records: list[Record]) -> bool:
        """Return whether to announce the infohash by BEP 5.

        A tracker with a place deep among the shards leaves it to the hundred that are above.
        """
        if tracked.shards.is_among_many:
            return False
        return tracked.info_hash == RENDEZVOUS or any(record.needs_bep5 for record in records)
