"""Writes our own entry into records, and removes it again."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.counters import Written
from extensions.dht.krpc.client import Stored
from extensions.dht.records.keys import MAX_DEPTH, SALTS, WINDOW, shard_path
from extensions.dht.records.placing import carry_over, fitting, with_own, with_own_in_window
from extensions.dht.records.record import Record
from extensions.dht.records.shards import TRIES, DepthSearch, ShardMemory, Uniform
from extensions.dht.records.slots import Slot
from extensions.dht.records.trouble import Trouble
from extensions.dht.refresh import OwnEntry
from extensions.dht.tracked import ANNOUNCE, READ_BACK, RETRY
from extensions.entries import LIFETIME, sign_entry
from extensions.trackers import TrackerEntry

ATTEMPTS: Final = 5
"""Writes to one slot, and to shards, of one publication, if other trackers write at the same time."""

REPEATED_ATTEMPTS: Final = 2
"""The same if the last publication met conflicts only: nodes that refuse every write would cost us the most."""

BACKOFF: Final = (0.1, 0.5)
"""Seconds until the second attempt, drawn at random between these two; doubled for each further attempt."""


@dataclass(frozen=True, slots=True)
class Published:
    """The result of a publication."""

    until: float
    """When our entry ends (Unix seconds); 0 if there is none."""
    look_again: tuple[float, float] | None = None
    """The record should be read again after a time between these two (seconds); None: when the entry is refreshed."""
    has_failed: bool = False


class Publisher:
    """Publishes `url`. `clock` gives Unix seconds, `uniform` a random float between two floats."""

    def __init__(self, key: Ed25519PrivateKey, url: str, clock: Callable[[], float], uniform: Uniform) -> None:
        self.written: Counter[str] = Counter()
        """Publications by `Written`."""
        self.tracker_id = key.public_key().public_bytes_raw().hex()
        self.url = url
        self._key = key
        self._clock = clock
        self._uniform = uniform
        self._first_signed = inf
        """When the first entry was signed after the start, or after the clock was set."""
        self._has_copy = False
        """Whether another tracker is known to have the same key."""

    def on_clock_set(self) -> None:
        """Note that times before this moment cannot be compared with later ones."""
        self._first_signed = inf

    async def publish(
        self, record: Record, memory: ShardMemory, kept: OwnEntry | None = None, attempts: int = ATTEMPTS
    ) -> Published:
        """Write our entry into a record whose slots were just read or skipped, unless a fresh one is there already.

        It gets a place in the first slot before the window that has room, and otherwise in a shard. In the latter case
        it is also written to the window, if that was read. A doubtful slot is written, and so is the next place after
        it. `kept` is the knowledge about our entry, and `attempts` limits the writes to a slot that meet conflicts.
        """
        kept = kept or OwnEntry()
        placed = None
        if record.slots:
            placed, is_enough = await self._publish_in_slots(record, kept, attempts)
            if placed and is_enough:
                memory.own_depth = None
                return placed
            if record.window is None:
                # The slots before it were filled since they were read, or the first one is doubtful.
                await record.read_again(len(SALTS) - 1)
            memory.note_slots(record.window)
        in_shard = await self._publish_in_shard(record, memory, kept)
        if in_shard:
            return _both(placed, in_shard)
        if placed:
            return placed
        self.written[Written.LOCKED] += 1
        # The next visit must not leave out the slots: they are all that there is.
        memory.depth = None
        if record.slots and all(slot.is_locked for slot in record.slots):
            return Published(0.0, ANNOUNCE)
        return Published(await self._publish_in_window(record, memory), READ_BACK, has_failed=True)

    async def erase(self, records: list[Record], memory: ShardMemory) -> bool:
        """Remove our entry from records whose slots were just read. Return whether none of them had it.

        A write proves nothing: a node that did not answer may keep the entry. Only a further reading shows whether it
        is gone.
        """
        return all([await self._erase_from(record, memory) for record in records])

    # The places of an entry

    async def _publish_in_slots(self, record: Record, kept: OwnEntry, attempts: int) -> tuple[Published | None, bool]:
        """Write to the first slot before the window that has room, and after a doubtful one to the next, too.

        Return the result, None if there is no room, and whether no other place is needed.
        """
        places = range(len(SALTS) - 1)
        fresh: dict[bytes, float] = {}
        for slot in record.slots[: len(places)]:
            own = slot.entry_of(self.tracker_id)
            if own and self._is_fresh(own, kept):
                fresh[slot.salt] = own.expires
            elif not own and (until := kept.withheld_until(slot.salt, record.day, self._clock())):
                fresh[slot.salt] = until
        if fresh and not any(slot.is_doubtful for slot in record.slots[: len(places)]):
            return Published(next(iter(fresh.values()))), True
        placed: Published | None = None
        for index in places:
            slot = record.slots[index] if index < len(record.slots) else await record.read_again(index)
            if slot.salt in fresh:
                result: Published | None = Published(fresh[slot.salt])
            else:
                result = await self._publish_in_slot(record, index, slot, kept, attempts)
            if result:
                placed = _both(placed, result)
                if not record.slots[index].is_doubtful:
                    return placed, True
        return placed, False

    async def _publish_in_slot(
        self, record: Record, index: int, slot: Slot, kept: OwnEntry, attempts: int
    ) -> Published | None:
        """Write to a slot that was just read. Return None if it has no room."""
        until = 0.0
        for attempt in range(attempts):
            if attempt:
                # Another tracker wrote at the same time: neither entry may be lost.
                await self._pause(attempt - 1)
                slot = await record.read_again(index)
            own = slot.entry_of(self.tracker_id)
            if own and attempt and self._is_fresh(own, kept):
                self.written[Written.STORED] += 1
                return Published(own.expires)
            is_foreign = own is not None and self._is_foreign(own)
            entry = self._sign(record)
            if not slot.has_room(entry):
                return None
            stored = await record.write(slot, with_own(record.slots, index, entry))
            until = entry.expires if stored.taken else until
            if not stored.conflicts or stored.taken > stored.conflicts:
                if stored.taken > stored.conflicts + stored.failed:
                    kept.note_stored(slot.salt, record.day, self._clock(), stored.taken)
                # With a conflict, the other writer reaches fewer nodes than we do: it repeats its write, with our
                # entry. If the record is crowded, many write to it, and more lookups would be a burden.
                is_unread = bool(stored.conflicts) and not attempt
                has_others = is_unread or any(slot.beside(entry) for slot in record.slots)
                look_again = is_foreign or (has_others and not record.is_crowded)
                return self._result(stored, until, READ_BACK if look_again else None)
            self._count_conflict(record)
        record.troubles.add(Trouble.CONTESTED)
        return Published(until, RETRY, has_failed=True)

    async def _publish_in_shard(self, record: Record, memory: ShardMemory, kept: OwnEntry) -> Published | None:
        """Write to the first shard on our path that has room. Return None if none was found.

        The search starts where our entry was the last time. On the first write of a day that place is taken again,
        although shards above have room, because every other tracker does the same.
        """
        path, entry = shard_path(record.info_hash, self.tracker_id), self._sign(record)
        kept_depth = None if memory.own_day == record.day else memory.own_depth
        search = DepthSearch(memory.depth or 0 if memory.own_depth is None else memory.own_depth, TRIES)
        chosen, depth, is_foreign, is_locked = None, 0, False, False
        while search.depth is not None:
            shard = await record.read_shard(path[: search.depth])
            own = shard.entry_of(self.tracker_id)
            if own and self._is_fresh(own, kept):
                memory.note_own(search.depth, record.day)
                return Published(own.expires)
            is_foreign |= own is not None and self._is_foreign(own)
            is_locked |= shard.is_locked
            if not shard.has_room(entry):
                search.deeper()
                continue
            chosen, depth = shard, search.depth
            if depth == kept_depth:
                search.stop()
            else:
                search.shallower()
        if chosen is None:
            return None
        memory.is_forced_down = is_locked
        placed = await self._write_to_shard(record, memory, kept, chosen, depth, is_foreign)
        if not record.conflicts:
            await self._publish_in_window(record, memory)
        return placed

    async def _write_to_shard(
        self, record: Record, memory: ShardMemory, kept: OwnEntry, shard: Slot, depth: int, is_foreign: bool
    ) -> Published:
        path, entry, until = shard_path(record.info_hash, self.tracker_id), self._sign(record), 0.0
        for attempt in range(ATTEMPTS):
            if shard.has_room(entry):
                stored = await record.write(shard, [*shard.beside(entry), entry])
                if stored.taken:
                    until = entry.expires
                    memory.note_own(depth, record.day)
                if not stored.conflicts or stored.taken > stored.conflicts:
                    return self._result(stored, until, READ_BACK if is_foreign else None)
                self._count_conflict(record)
                await self._pause(attempt)
                # After two conflicts it is contended: deeper, fewer write to each shard.
                depth += max(0, record.conflicts - 1)
            else:
                depth += 1
            depth = min(depth, MAX_DEPTH)
            shard = await record.read_shard(path[:depth])
            own = shard.entry_of(self.tracker_id)
            if own and self._is_fresh(own, kept):
                self.written[Written.STORED] += 1
                memory.note_own(depth, record.day)
                return Published(own.expires)
        return Published(until, READ_BACK, has_failed=True)

    async def _publish_in_window(self, record: Record, memory: ShardMemory) -> float:
        """Write to the window unless it rests. Return when our entry there ends (Unix seconds), or 0 without one."""
        if record.window is None:
            return 0.0
        entry, depth = self._sign(record), memory.depth or 0
        entries = with_own_in_window(record.window, entry, depth, self._clock())
        if entries is None:
            return 0.0
        # A conflict means that the window has got another entry, and rests.
        stored = await record.write(record.window, entries, depth)
        return entry.expires if stored.taken else 0.0

    async def _erase_from(self, record: Record, memory: ShardMemory) -> bool:
        is_gone = record.has_reached
        for index, slot in enumerate(record.slots):
            is_gone &= await self._erase_from_slot(record, slot, index)
        if memory.own_depth is not None and memory.own_day == record.day:
            shard = await record.read_shard(shard_path(record.info_hash, self.tracker_id)[: memory.own_depth])
            is_gone &= await self._erase_from_slot(record, shard, None)
        return is_gone

    async def _erase_from_slot(self, record: Record, slot: Slot, index: int | None) -> bool:
        """Remove our entry from a slot, or from a shard if there is no `index`. Return whether it was not there."""
        for attempt in range(ATTEMPTS):
            if slot.is_locked or slot.entry_of(self.tracker_id) is None:
                return attempt == 0
            rest = [entry for entry in slot.entries if entry.tracker_id != self.tracker_id]
            if index is not None:
                rest = [one for one in carry_over(record.slots, index, rest) if one.tracker_id != self.tracker_id]
            depth = slot.depth if slot.salt == WINDOW else None
            stored = await record.write(slot, fitting(rest, depth), depth)
            if not stored.conflicts:
                return False
            self._count_conflict(record)
            await self._pause(attempt)
            slot = await record.read(slot.salt)
        return False

    # Parts of it

    def _result(self, stored: Stored, until: float, look_again: tuple[float, float] | None) -> Published:
        """Return the result of a publication after a write that is not repeated, and count it."""
        if not stored.taken:
            self.written[Written.UNREACHABLE] += 1
            return Published(until, RETRY, has_failed=True)
        self.written[Written.STORED] += 1
        return Published(until, look_again)

    def _sign(self, record: Record) -> TrackerEntry:
        now = self._clock()
        self._first_signed = min(self._first_signed, now)
        return sign_entry(self._key, record.info_hash, self.url, now)

    def _is_fresh(self, own: TrackerEntry, kept: OwnEntry) -> bool:
        """Return whether our entry in a record needs no renewal."""
        return own.url == self.url and kept.is_fresh(own.expires - self._clock())

    def _is_foreign(self, own: TrackerEntry) -> bool:
        """Return whether an entry with our key may be that of another tracker with a copy of the key.

        Log if it must be: this process has had the key to itself since the other URL was signed.
        """
        if own.url == self.url or self._has_copy:
            return False
        if own.expires - LIFETIME > self._first_signed:
            self._has_copy = True
            structlog.get_logger().error("identity_copied", extension="dht", url=own.url)
            return False
        # Or it was ours until a restart with another URL. The next look will tell.
        return True

    def _count_conflict(self, record: Record) -> None:
        record.conflicts += 1
        self.written[Written.CONFLICT] += 1

    async def _pause(self, attempt: int) -> None:
        await asyncio.sleep(self._uniform(*BACKOFF) * 2**attempt)


def _both(first: Published | None, second: Published) -> Published:
    """Return the result of writing to two places of a record: one that was stored is enough."""
    if first is None:
        return second
    has_failed = first.has_failed and second.has_failed
    waits = [one.look_again for one in (first, second) if one.look_again and one.has_failed == has_failed]
    return Published(max(first.until, second.until), min(waits, default=None), has_failed)
