"""Reads and writes a record: its slots, one after the other."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from extensions.dht.krpc.client import Client, Found, Stored
from extensions.dht.krpc.messages import Item
from extensions.dht.krpc.schedule import Job
from extensions.dht.records import record
from extensions.dht.records.record import Entry, Rejected, Slot


@dataclass(slots=True)
class Reading:
    """One day's record of an infohash: the slots that were looked at, and the nodes that store them."""

    info_hash: bytes
    day: int
    slots: list[Slot] = field(default_factory=list)
    nodes: list[Found] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        """All valid entries, the freshest of each tracker."""
        return record.merge(entry for slot in self.slots for entry in slot.entries)

    @property
    def has_reached(self) -> bool:
        """Whether any node has answered."""
        return any(found.candidates for found in self.nodes)

    @property
    def is_troubled(self) -> bool:
        """Whether somebody keeps the record from being written or read, or it is too small for all."""
        is_crowded = len(self.slots) == len(record.SALTS) and all(slot.says_go_on for slot in self.slots)
        return is_crowded or any(slot.is_locked or slot.is_spoilt for slot in self.slots)


async def read(
    client: Client,
    info_hash: bytes,
    day: int,
    job: Job,
    clock: Callable[[], float],
    rejected: Counter[Rejected],
    on_entry: Callable[[Entry, str], None],
) -> Reading:
    """Read a record; `on_entry` is called with each valid entry and the name of its slot, as soon as it comes."""
    reading = Reading(info_hash, day)
    public_key = record.record_key(info_hash, day).public_key().public_bytes_raw()
    for index, salt in enumerate(record.SALTS):
        slot = Slot(index)
        collect = _Collector(slot, info_hash, salt.decode(), clock, rejected, on_entry)
        reading.nodes.append(await client.get(public_key, salt, job, collect))
        reading.slots.append(slot)
        if not slot.says_go_on:
            break
    return reading


async def write(client: Client, reading: Reading, own: Entry) -> Stored | None:
    """Write one's own entry to the record that was just read. None if every slot is locked."""
    chosen = record.place(reading.slots, own)
    if chosen is None:
        return None
    index, entries = chosen
    return await _put(client, reading, index, entries)


async def erase(client: Client, reading: Reading, tracker_id: str) -> Stored:
    """Take one's own entry out of the record that was just read. Nothing is stored where it is not."""
    total = Stored()
    for slot in reading.slots:
        rest = [entry for entry in slot.entries if entry.tracker_id != tracker_id]
        if len(rest) < len(slot.entries) and not slot.is_locked:
            rest = [entry for entry in record.carry_over(reading.slots, slot, rest) if entry.tracker_id != tracker_id]
            stored = await _put(client, reading, slot.index, rest)
            total.taken += stored.taken
            total.conflicts += stored.conflicts
            total.failed += stored.failed
    return total


async def _put(client: Client, reading: Reading, index: int, entries: list[Entry]) -> Stored:
    key = record.record_key(reading.info_hash, reading.day)
    seq = max(0, reading.slots[index].seq) + 1
    return await client.put(reading.nodes[index], key, record.SALTS[index], seq, record.encode_slot(entries))


class _Collector:
    """Takes one slot's values as they come, most of them several times."""

    def __init__(
        self,
        slot: Slot,
        info_hash: bytes,
        where: str,
        clock: Callable[[], float],
        rejected: Counter[Rejected],
        on_entry: Callable[[Entry, str], None],
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
