"""Reads and writes a record: its slots, one after the other, in the DHT."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from extensions.dht.krpc.client import Client, Found, Stored
from extensions.dht.krpc.messages import Item
from extensions.dht.krpc.schedule import Job
from extensions.dht.records.keys import SALTS, record_key
from extensions.dht.records.slots import Slot, carry_over, encode_slot, place
from extensions.entries import Rejected, merge
from extensions.trackers import TrackerEntry


@dataclass(slots=True)
class RecordSnapshot:
    """One day's record of an infohash as it was read: the slots that were read, and the nodes that store them."""

    info_hash: bytes
    day: int
    slots: list[Slot] = field(default_factory=list)
    nodes: list[Found] = field(default_factory=list)
    """For each slot the nodes closest to its target."""

    @property
    def entries(self) -> list[TrackerEntry]:
        """The valid entries of all slots, one of each tracker."""
        return merge(entry for slot in self.slots for entry in slot.entries)

    @property
    def has_reached(self) -> bool:
        """Whether any node has answered."""
        return any(found.candidates for found in self.nodes)

    @property
    def is_troubled(self) -> bool:
        """Whether the BEP 5 fallback is needed, because a slot is unusable or the record has no room for all trackers.

        A slot that was not read may have room.
        """
        is_crowded = len(self.slots) == len(SALTS) and all(slot.continues for slot in self.slots)
        return is_crowded or any(slot.is_locked or slot.is_spoilt for slot in self.slots)


async def read(
    client: Client,
    info_hash: bytes,
    day: int,
    job: Job,
    clock: Callable[[], float],
    rejected: Counter[Rejected],
    on_entry: Callable[[TrackerEntry, str], None],
) -> RecordSnapshot:
    """Read a record.

    `on_entry` is called with each valid entry and the name of its slot as soon as it arrives. The ignored parts of
    values are counted in `rejected`. `clock` gives Unix seconds.
    """
    snapshot = RecordSnapshot(info_hash, day)
    public_key = record_key(info_hash, day).public_key().public_bytes_raw()
    for index, salt in enumerate(SALTS):
        slot = Slot(index)
        collect = _Collector(slot, info_hash, salt.decode(), clock, rejected, on_entry)
        snapshot.nodes.append(await client.get(public_key, salt, job, collect))
        snapshot.slots.append(slot)
        if not slot.continues:
            break
    return snapshot


async def write(client: Client, snapshot: RecordSnapshot, own: TrackerEntry) -> Stored | None:
    """Write our own entry to a record that was just read. Return None, unwritten, if every slot is locked."""
    chosen = place(snapshot.slots, own)
    if chosen is None:
        return None
    index, entries = chosen
    return await put(client, snapshot, index, entries)


async def erase(client: Client, snapshot: RecordSnapshot, tracker_id: str) -> Stored:
    """Remove a tracker's entry from a record that was just read. Slots without the entry are not written."""
    total = Stored()
    for slot in snapshot.slots:
        rest = [entry for entry in slot.entries if entry.tracker_id != tracker_id]
        if len(rest) < len(slot.entries) and not slot.is_locked:
            rest = [entry for entry in carry_over(snapshot.slots, slot, rest) if entry.tracker_id != tracker_id]
            stored = await put(client, snapshot, slot.index, rest)
            total.taken += stored.taken
            total.conflicts += stored.conflicts
            total.failed += stored.failed
    return total


async def put(client: Client, snapshot: RecordSnapshot, index: int, entries: list[TrackerEntry]) -> Stored:
    """Write these entries, and no others, to one slot of a record that was just read."""
    key = record_key(snapshot.info_hash, snapshot.day)
    seq = max(0, snapshot.slots[index].seq) + 1
    return await client.put(snapshot.nodes[index], key, SALTS[index], seq, encode_slot(entries))


class _Collector:
    """Adds the values of one slot as they arrive. Most nodes send the same value, which is decoded once."""

    def __init__(
        self,
        slot: Slot,
        info_hash: bytes,
        where: str,
        clock: Callable[[], float],
        rejected: Counter[Rejected],
        on_entry: Callable[[TrackerEntry, str], None],
    ) -> None:
        self._slot = slot
        self._info_hash = info_hash
        self._where = where
        self._clock = clock
        self._rejected = rejected
        self._on_entry = on_entry
        self._seen: set[bytes] = set()

    def __call__(self, item: Item) -> None:
        if item.signature in self._seen:
            return
        self._seen.add(item.signature)
        known = set(self._slot.entries)
        self._rejected.update(self._slot.add(item.seq, item.value, self._info_hash, self._clock()))
        for entry in self._slot.entries:
            if entry not in known:
                self._on_entry(entry, self._where)
