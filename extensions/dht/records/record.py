"""Reads and writes the slots and shards of a record in the DHT."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from extensions.dht.krpc import messages
from extensions.dht.krpc.client import Client, Found, Stored
from extensions.dht.krpc.messages import Item
from extensions.dht.krpc.schedule import Job
from extensions.dht.records.keys import MAX_DEPTH, SALTS, record_key, shard_salt
from extensions.dht.records.reports import VisitReport
from extensions.dht.records.shards import SAMPLES, DepthSearch, Uniform, depth_above, random_bits
from extensions.dht.records.slots import Slot, encode_slot
from extensions.dht.records.trouble import NOTHING, Expected, Trouble
from extensions.entries import Rejected
from extensions.trackers import TrackerEntry

_UNUSABLE: Final = frozenset({Trouble.LOCKED, Trouble.SPOILT, Trouble.EMPTIED})
"""Troubles for each of which BEP 5 is needed."""


class Record:
    """One day's record of an infohash, for one visit.

    `on_entry` is called with each valid entry and the name of its slot as soon as it arrives. The ignored parts of
    values are counted in `rejected`. `clock` gives Unix seconds. A slot without an entry that is `expected` in it is
    doubtful. All lookups are added to the `report`, if there is one.
    """

    def __init__(
        self,
        client: Client,
        info_hash: bytes,
        day: int,
        job: Job,
        clock: Callable[[], float],
        rejected: Counter[Rejected],
        on_entry: Callable[[TrackerEntry, str], object],
        expected: Expected = NOTHING,
        report: VisitReport | None = None,
    ) -> None:
        self.info_hash = info_hash
        self.day = day
        self.slots: list[Slot] = []
        """The slots that were read, in their order; none if the visit has skipped them."""
        self.troubles: set[Trouble] = set()
        """The troubles of its slots. Shards do not count."""
        self.has_reached = False
        """Whether any node has answered."""
        self.conflicts = 0
        """Writes of this visit that met a newer value, so far: many others are writing, too."""
        self._client = client
        self._job = job
        self._clock = clock
        self._rejected = rejected
        self._on_entry = on_entry
        self._expected = expected
        self._report = report
        self._nodes: dict[bytes, Found] = {}
        """For each slot and shard that was read the nodes closest to its target."""

    @property
    def is_crowded(self) -> bool:
        """Whether entries may be in shards, because the slots before the window have, or had, no room."""
        if len(self.slots) < len(SALTS):
            return False
        first, second, _ = self.slots
        return second.continues and (first.continues or first.is_doubtful)

    @property
    def window(self) -> Slot | None:
        """The window, if it was read."""
        return self.slots[-1] if len(self.slots) == len(SALTS) else None

    @property
    def needs_bep5(self) -> bool:
        """Whether the BEP 5 fallback is needed, because a slot cannot be used or trusted.

        If only the first slot is blinded, the second one is enough.
        """
        is_blinded = any(slot.salt == SALTS[1] and slot.is_blinded for slot in self.slots)
        return is_blinded or not self.troubles.isdisjoint(_UNUSABLE)

    async def read_slots(self, everything: bool = False) -> None:
        """Read the slots, one after the other, as far as entries may be in the next one; or all of them."""
        for salt in SALTS:
            slot = await self.read(salt)
            self.slots.append(slot)
            if not (everything or slot.continues or slot.is_doubtful):
                break

    async def read_again(self, index: int) -> Slot:
        """Read one of the slots anew, or for the first time if it is the next one. Return it."""
        self.slots[index : index + 1] = [await self.read(SALTS[index])]
        return self.slots[index]

    async def read_shard(self, bits: str) -> Slot:
        """Read the shard that these bits name."""
        return await self.read(shard_salt(bits))

    async def read(self, salt: bytes) -> Slot:
        """Read a slot or a shard by its salt."""
        slot = Slot(salt)
        public_key = record_key(self.info_hash, self.day).public_key().public_bytes_raw()
        collect: Callable[[Item], None]
        collect = collector = _Collector(slot, self.info_hash, self._clock, self._rejected, self._on_entry)
        reading = None
        if self._report:
            reading = self._report.begin(self.day, slot, messages.item_target(public_key, salt), self._clock)
            collect = reading.collecting(collect)
        found = self._nodes[salt] = await self._client.get(public_key, salt, self._job, collect)
        if reading:
            reading.end(found)
        self.has_reached |= bool(found.candidates)
        slot.answers, slot.is_dense = len(found.candidates), found.is_dense
        slot.ignore_few_locks([candidate.seq for candidate in found.candidates])
        if own := slot.entry_of(self._expected.own_id):
            # Not those with the newest value: any party can write a newer one to a few nodes.
            seqs = collector.seqs_with(own)
            slot.copies = sum(candidate.seq in seqs for candidate in found.candidates)
        if salt in SALTS:
            self._judge(slot)
        return slot

    def _judge(self, slot: Slot) -> None:
        """Note the troubles of a slot that was just read, and whether it is doubtful."""
        doubts = self._expected.troubles(slot)
        # Of the others, r2 is no better than r1, and each lookup more is a gain for an attacker.
        slot.is_doubtful = bool(doubts) and slot.salt == SALTS[0]
        self.troubles |= doubts
        if slot.is_locked:
            self.troubles.add(Trouble.LOCKED)
        if slot.is_spoilt:
            self.troubles.add(Trouble.SPOILT)

    async def write(self, slot: Slot, entries: Sequence[TrackerEntry], depth: int | None = None) -> Stored:
        """Write these entries, and no others, to a slot or shard that was just read; also a depth of shards, if given.

        It replaces only the values that were read. Raises `ValueError` if the entries do not fit.
        """
        key = record_key(self.info_hash, self.day)
        value = encode_slot(entries, depth)
        return await self._client.put(self._nodes[slot.salt], key, slot.salt, max(0, slot.seq) + 1, value)


async def sample(record: Record, depth: int, uniform: Uniform) -> int | None:
    """Read some random shards. `depth` is where the tree of shards is expected to end; return where it does.

    Usually they are two: one where the tree ends, and one above. Together they hold every entry with about the same
    probability. Return None if no shard had a valid entry.
    """
    search = DepthSearch(depth, SAMPLES)
    bits, has_entries = random_bits(MAX_DEPTH, uniform), False
    while search.depth is not None:
        shard = await record.read_shard(bits[: search.depth])
        has_entries |= bool(shard.entries)
        if shard.is_locked or shard.is_crowded:
            search.deeper()
        elif not shard.entries:
            search.shallower()
        else:
            search.stop()
    if search.found > 0:
        shard = await record.read_shard(random_bits(depth_above(search.found, uniform), uniform))
        has_entries |= bool(shard.entries)
    return search.found if has_entries else None


class _Collector:
    """Adds the values of one slot as they arrive. Most nodes send the same value, which is decoded once."""

    def __init__(
        self,
        slot: Slot,
        info_hash: bytes,
        clock: Callable[[], float],
        rejected: Counter[Rejected],
        on_entry: Callable[[TrackerEntry, str], object],
    ) -> None:
        self._slot = slot
        self._info_hash = info_hash
        self._where = slot.salt.decode()
        self._clock = clock
        self._rejected = rejected
        self._on_entry = on_entry
        self._seen: dict[bytes, Item] = {}

    def seqs_with(self, entry: TrackerEntry) -> set[int]:
        """Return the sequence numbers of the values that have an entry."""
        return {
            item.seq for item in self._seen.values() if isinstance(item.value, bytes) and entry.signature in item.value
        }

    def __call__(self, item: Item) -> None:
        if item.signature in self._seen:
            return
        self._seen[item.signature] = item
        known = set(self._slot.entries)
        self._rejected.update(self._slot.add(item.seq, item.value, self._info_hash, self._clock()))
        for entry in self._slot.entries:
            if entry not in known:
                self._on_entry(entry, self._where)
