"""Visits of an infohash's records: reading them, and keeping our own entry in today's."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

import structlog

from extensions.dht.counters import Counters, Looked
from extensions.dht.knowledge import Knowledge
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.schedule import Job, Priority
from extensions.dht.publisher import Publisher
from extensions.dht.records.bep5 import Bep5Fallback
from extensions.dht.records.keys import day_of, days_to_read
from extensions.dht.records.record import Record, sample
from extensions.dht.records.shards import SHALLOW, Uniform
from extensions.dht.sightings import Sightings
from extensions.dht.tracked import ANNOUNCE, RETRY, TrackedHash
from extensions.trackers import RENDEZVOUS, Sighting, TrackerEntry

MAX_ERASURES: Final = 5
"""Visits that try to remove our entry from a record."""


@dataclass(slots=True)
class Outcome:
    """The result of a visit, as far as it decides when the next one is due."""

    look_again: tuple[float, float] | None = RETRY
    """The record should be read again after a time between these two (seconds); None: there is no reason to."""
    has_failed: bool = True


class Visits:
    """Carries out visits.

    `clock` gives Unix seconds, which may be set back; `monotonic` gives seconds that never go back; `uniform` gives a
    random float between two floats. `wants` tells whether our own entry should be in an infohash's record.
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
    ) -> None:
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
        self._log = structlog.get_logger().bind(extension="dht")

    async def visit(self, tracked: TrackedHash, job: Job, on_read: Callable[[], None]) -> Outcome:
        """Read the records of an infohash, and write or remove our own entry as needed.

        `on_read` is called when all trackers were found that this visit finds.
        """
        started, is_thorough = self._monotonic(), tracked.thorough
        tracked.thorough = False
        tracked.known.forget_ended(tracked.info_hash, self._clock())
        # An entry can be removed from slots only that were read.
        is_plain = job.priority != Priority.ASKED and (self._wants(tracked) or not tracked.known.own_until)
        skips = is_plain and tracked.shards.skips_slots(self._uniform)
        records = [self._record(tracked, day, job) for day in days_to_read(self._clock())]
        async with asyncio.TaskGroup() as together:
            fallback = together.create_task(self._find_by_bep5(tracked, records, job)) if is_thorough else None
            if not skips:
                async with asyncio.TaskGroup() as reads:
                    for record in records:
                        reads.create_task(record.read_slots())
                tracked.shards.note_slots(records[0].window)
            together.create_task(self._conclude(tracked, records, fallback, job, started, on_read))
            # At the same time: our own entry must not wait until hosts answer over BEP 5.
            return await self._update_own(tracked, records, job)

    async def announce(self, tracked: TrackedHash, job: Job) -> None:
        """Announce an infohash by BEP 5 once more, without a look at its record."""
        tracked.announce_due = self._monotonic() + self._uniform(*ANNOUNCE)
        await self._bep5_fallback.announce(tracked.info_hash, day_of(self._clock()), job)

    def _record(self, tracked: TrackedHash, day: int, job: Job) -> Record:
        def on_entry(entry: TrackerEntry, where: str) -> None:
            self._sightings.note(tracked, Sighting(entry, where))

        return Record(self._client, tracked.info_hash, day, job, self._clock, self._counters.rejected, on_entry)

    async def _conclude(
        self,
        tracked: TrackedHash,
        records: list[Record],
        fallback: asyncio.Task[None] | None,
        job: Job,
        started: float,
        on_read: Callable[[], None],
    ) -> None:
        """Read shards and use the BEP 5 fallback if necessary, and note the result."""
        await asyncio.gather(*(self._sample(tracked, one) for one in records if one.is_crowded or not one.slots))
        if fallback:
            await fallback
        elif tracked.thorough or self._needs_bep5(tracked, records):
            await self._find_by_bep5(tracked, records, job)
        tracked.thorough = False
        tracked.last_visit, tracked.known.looked = self._monotonic(), self._clock()
        if tracked.is_lonely:
            tracked.lonely_visits += 1
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

        At the rendezvous it is used in any case while that is small, and when no other tracker is found.
        """
        if any(record.is_troubled for record in records):
            return True
        return tracked.info_hash == RENDEZVOUS and not (tracked.shards.is_large and self._knows_any(tracked))

    def _knows_any(self, tracked: TrackedHash) -> bool:
        return any(one.entry.expires > self._clock() for one in tracked.known.seen.values())

    async def _find_by_bep5(self, tracked: TrackedHash, records: list[Record], job: Job) -> None:
        days = [record.day for record in records]
        try:
            await self._bep5_fallback.find(
                tracked.info_hash, days, job, lambda entry: self._sightings.note(tracked, Sighting(entry, "bep5"))
            )
        except Exception:
            self._log.exception("dht_second_path_failed")

    async def _update_own(self, tracked: TrackedHash, records: list[Record], job: Job) -> Outcome:
        """Write our own entry to the record if it should be there, and otherwise remove it."""
        tracked.visit_again = False
        if self._wants(tracked):
            published = await self._publisher.publish(records[0], tracked.shards)
            if published.until:
                self._knowledge.note_own(tracked.info_hash, tracked.known, published.until)
            if self._should_announce(tracked, records):
                await self.announce(tracked, job)
            else:
                tracked.announce_due = inf
            return Outcome(published.look_again, published.has_failed)
        tracked.announce_due = inf
        if tracked.withdrawn or tracked.known.own_until > self._clock():
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
        own_depth = tracked.shards.own_depth
        if own_depth is not None and own_depth > SHALLOW:
            return False
        return tracked.info_hash == RENDEZVOUS or any(record.is_troubled for record in records)
