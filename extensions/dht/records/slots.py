"""The slots of a record: their encoding, their state, and the choice of the slot to write (sans I/O).

`docs/dht.md` specifies them. Anyone who knows the infohash can write any bytes to a slot.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from extensions.dht.krpc import bencode
from extensions.entries import MAX_ENTRY, Rejected, check_entry, from_fields, latest_first, merge, to_fields
from extensions.trackers import TrackerEntry

MAX_VALUE: Final = 996
"""Bytes of a slot's value: a BEP 44 value has at most 1000 bytes, and the string's length takes four of them."""

MAX_ENTRIES: Final = 16
"""Entries of a value that are read."""

LOCKED: Final = 2**52
"""The least sequence number of a locked slot, which is not written: JavaScript counts exactly up to 2^53 only."""


@dataclass(slots=True)
class Slot:
    """The contents of one slot. Nodes may hold different values; the valid entries of all of them count."""

    index: int
    seq: int = -1
    """The greatest sequence number seen; -1 if no node has a value."""
    entries: list[TrackerEntry] = field(default_factory=list)
    """The valid entries, one of each tracker."""
    size: int = 0
    """Bytes of the longest value seen, valid or not."""
    has_faults: bool = False
    """Whether anything was ignored for another reason than `expired`."""

    def add(self, seq: int, value: object, info_hash: bytes, now: float) -> Counter[Rejected]:
        """Add the value of one node. Return the reasons for which parts of it are ignored."""
        rejected: Counter[Rejected] = Counter()
        self.entries = merge([*self.entries, *decode_slot(value, info_hash, now, rejected)])
        self.seq = max(self.seq, seq)
        if isinstance(value, bytes):
            self.size = max(self.size, len(value))
        # Expired entries are no fault: they remain after a swarm has closed.
        self.has_faults |= any(reason is not Rejected.EXPIRED for reason in rejected)
        return rejected

    @property
    def is_locked(self) -> bool:
        """Whether the sequence number leaves no room for further writes."""
        return self.seq >= LOCKED

    @property
    def is_spoilt(self) -> bool:
        """Whether the slot has invalid contents and no valid entry."""
        return self.has_faults and not self.entries

    @property
    def is_full(self) -> bool:
        """Whether a writer may have found no room here and used the next slot.

        The entries of that time may have expired since, so the longest value seen counts. The valid entries of all
        values together count too, because a writer may have read several values of which no node has all entries.
        """
        return max(self.size, len(_encode(self.entries))) + MAX_ENTRY > MAX_VALUE

    @property
    def continues(self) -> bool:
        """Whether a reader must also read the next slot."""
        return self.is_locked or self.is_spoilt or self.is_full


def encode_slot(entries: Iterable[TrackerEntry]) -> bytes:
    """Return a slot's value, the entries that end last first. Raises `ValueError` if they do not fit."""
    value = _encode(latest_first(entries))
    if len(value) > MAX_VALUE:
        raise ValueError(f"{len(value)} bytes are more than a slot holds")
    return value


def decode_slot(value: object, info_hash: bytes, now: float, rejected: Counter[Rejected]) -> list[TrackerEntry]:
    """Return the valid entries of a slot's value, one of each tracker.

    The value may be any decoded bencode. The ignored parts of it are counted in `rejected`.
    """
    items = _items(value)
    if isinstance(items, Rejected):
        rejected[items] += 1
        return []
    if len(items) > MAX_ENTRIES:
        rejected[Rejected.TOO_MANY] += len(items) - MAX_ENTRIES
    valid = []
    for item in items[:MAX_ENTRIES]:
        entry = from_fields(item)
        fault = check_entry(entry, info_hash, now) if isinstance(entry, TrackerEntry) else entry
        if fault:
            rejected[fault] += 1
        elif isinstance(entry, TrackerEntry):
            valid.append(entry)
    return merge(valid)


def place(slots: list[Slot], own: TrackerEntry) -> tuple[int, list[TrackerEntry]] | None:
    """Choose the slot for `own`. Return its index and all entries to write there, or None if every slot is locked.

    The first slot with room is chosen. It also takes the entries of later slots, as far as they fit, because readers
    stop at a slot with room. If all slots are full, the entry of another tracker that ends first, in any slot, makes
    room.
    """
    usable = [slot for slot in slots if not slot.is_locked]
    for slot in usable:
        if _fits([*_others(slot, own), own]):
            return slot.index, carry_over(slots, slot, [*_others(slot, own), own])
    if not usable:
        return None
    slot = min(usable, key=lambda slot: min(entry.expires for entry in _others(slot, own)))
    entries = _others(slot, own)
    while not _fits([*entries, own]):
        entries.pop()
    return slot.index, [*entries, own]


def carry_over(slots: list[Slot], slot: Slot, entries: list[TrackerEntry]) -> list[TrackerEntry]:
    """Return `entries`, to be written to `slot`, and with them the entries of later slots as far as they fit."""
    kept = list(entries)
    for entry in merge(
        entry for later in slots if later.index > slot.index and not later.is_locked for entry in later.entries
    ):
        if entry.tracker_id not in {one.tracker_id for one in kept} and _fits([*kept, entry]):
            kept.append(entry)
    return kept


def _others(slot: Slot, own: TrackerEntry) -> list[TrackerEntry]:
    return [entry for entry in slot.entries if entry.tracker_id != own.tracker_id]


def _encode(entries: Iterable[TrackerEntry]) -> bytes:
    return bencode.encode({b"e": [to_fields(entry) for entry in entries], b"v": 1})


def _fits(entries: Iterable[TrackerEntry]) -> bool:
    return len(_encode(entries)) <= MAX_VALUE


def _items(value: object) -> list[object] | Rejected:
    if not isinstance(value, bytes):
        return Rejected.NOT_A_STRING
    if len(value) > MAX_VALUE:
        return Rejected.TOO_LONG
    try:
        table = bencode.decode(value)
    except ValueError:
        return Rejected.NOT_BENCODE
    if not isinstance(table, dict):
        return Rejected.WRONG_TYPE
    if bencode.encode(table) != value:
        return Rejected.NOT_CANONICAL
    if table.get(b"v") != 1:
        return Rejected.WRONG_VERSION
    items = table.get(b"e")
    return items if isinstance(items, list) else Rejected.WRONG_TYPE
