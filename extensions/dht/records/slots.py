"""The slots of a record: their encoding, and their state (sans I/O).

`docs/dht.md` specifies them. Any party that knows the infohash can write any bytes to a slot.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from extensions.dht.krpc import bencode
from extensions.dht.records.keys import MAX_DEPTH, SALTS, shard_path
from extensions.entries import LIFETIME, MAX_ENTRY, Rejected, check_entry, from_fields, latest_first, merge, to_fields
from extensions.trackers import TrackerEntry

MAX_VALUE: Final = 996
"""Bytes of a slot's value: a BEP 44 value has at most 1000 bytes, and the string's length takes four of them."""

MAX_ENTRIES: Final = 16
"""Entries of a value that are read."""

LOCKED: Final = 2**52
"""The least sequence number of a locked slot, which is not written: JavaScript counts exactly up to 2^53 only."""


@dataclass(slots=True)
class Slot:
    """The contents of one slot or shard. Nodes may hold different values; the valid entries of all of them count."""

    salt: bytes
    seq: int = -1
    """The greatest sequence number seen; -1 if no node has a value."""
    entries: list[TrackerEntry] = field(default_factory=list)
    """The valid entries, one of each tracker."""
    size: int = 0
    """Bytes of the longest value seen, valid or not."""
    has_faults: bool = False
    """Whether anything was ignored for another reason than `expired`."""
    depth: int | None = None
    """The depth of shards that the newest valid value names, if it names one."""
    answers: int = 0
    """Closest nodes that have answered."""
    copies: int = 0
    """Closest nodes that have our own entry, as it was signed last."""
    is_dense: bool = False
    """Whether the closest nodes are so close that they must have chosen their ids."""
    is_doubtful: bool = False
    """Whether nodes may withhold its entries, so that readers and writers also use the next slot."""

    def add(self, seq: int, value: object, info_hash: bytes, now: float) -> Counter[Rejected]:
        """Add the value of one node. Return the reasons for which parts of it are ignored."""
        rejected: Counter[Rejected] = Counter()
        entries, depth = decode_slot(value, self.salt, info_hash, now, rejected)
        self.entries = merge([*self.entries, *entries])
        if depth is not None and seq >= self.seq:
            self.depth = depth
        self.seq = max(self.seq, seq)
        if isinstance(value, bytes):
            self.size = max(self.size, len(value))
        # Expired entries are no fault: they remain after a swarm has closed.
        self.has_faults |= any(reason is not Rejected.EXPIRED for reason in rejected)
        return rejected

    def ignore_few_locks(self, seqs: Sequence[int]) -> None:
        """Take the sequence numbers of the storing nodes, 0 without an item; a lock at half of them or fewer is none.

        Otherwise, a single node could lead a writer to the next slot, at which readers do not look.
        """
        free = [seq for seq in seqs if seq < LOCKED]
        if self.is_locked and 2 * len(free) >= len(seqs) > 0:
            self.seq = max(free)

    @property
    def is_locked(self) -> bool:
        """Whether the sequence number leaves no room for further writes."""
        return self.seq >= LOCKED

    @property
    def is_spoilt(self) -> bool:
        """Whether the slot has invalid contents and no valid entry."""
        return self.has_faults and not self.entries

    @property
    def is_blinded(self) -> bool:
        """Whether it has no valid entry, and the nodes nearest to it are so dense that they must have chosen their ids.

        With an entry, honest nodes were reached nevertheless.
        """
        return self.is_dense and not self.entries

    @property
    def is_full(self) -> bool:
        """Whether a writer may have found no room here and used the next slot.

        The entries of that time may have expired since, so the longest value seen counts. The valid entries of all
        values together count too, because a writer may have read several values of which no node has all entries.
        """
        return max(self.size, len(_encode(self.entries))) + MAX_ENTRY > MAX_VALUE

    @property
    def is_crowded(self) -> bool:
        """Whether another entry may find no room beside the valid ones."""
        return len(_encode(self.entries)) + MAX_ENTRY > MAX_VALUE

    @property
    def continues(self) -> bool:
        """Whether a reader must also read the next slot."""
        return self.is_locked or self.is_spoilt or self.is_full

    @property
    def written(self) -> float:
        """When the newest value was written, as far as its entries tell (Unix seconds); 0 if it has none."""
        return max((entry.expires - LIFETIME for entry in self.entries), default=0.0)

    def entry_of(self, tracker_id: str) -> TrackerEntry | None:
        """Return a tracker's entry, if it has a valid one here."""
        return next((entry for entry in self.entries if entry.tracker_id == tracker_id), None)

    def beside(self, own: TrackerEntry) -> list[TrackerEntry]:
        """Return the valid entries of the trackers other than that of `own`."""
        return [entry for entry in self.entries if entry.tracker_id != own.tracker_id]

    def has_room(self, own: TrackerEntry) -> bool:
        """Return whether `own` can be written here without the loss of another valid entry."""
        return not self.is_locked and fits([*self.beside(own), own])


def encode_slot(entries: Iterable[TrackerEntry], depth: int | None = None) -> bytes:
    """Return a slot's value, the entries that end last first. Raises `ValueError` if they do not fit."""
    value = _encode(latest_first(entries), depth)
    if len(value) > MAX_VALUE:
        raise ValueError(f"{len(value)} bytes are more than a slot holds")
    return value


def decode_slot(
    value: object, salt: bytes, info_hash: bytes, now: float, rejected: Counter[Rejected]
) -> tuple[list[TrackerEntry], int | None]:
    """Return the valid entries of a slot's value, one of each tracker, and the depth of shards that it names, if any.

    The value may be any decoded bencode. The ignored parts of it are counted in `rejected`.
    """
    parts = _parts(value)
    if isinstance(parts, Rejected):
        rejected[parts] += 1
        return [], None
    items, depth = parts
    if len(items) > MAX_ENTRIES:
        rejected[Rejected.TOO_MANY] += len(items) - MAX_ENTRIES
    valid = []
    for item in items[:MAX_ENTRIES]:
        entry = from_fields(item)
        fault = _fault(entry, salt, info_hash, now) if isinstance(entry, TrackerEntry) else entry
        if fault:
            rejected[fault] += 1
        elif isinstance(entry, TrackerEntry):
            valid.append(entry)
    return merge(valid), depth


def fits(entries: Iterable[TrackerEntry], depth: int | None = None) -> bool:
    """Return whether a slot can hold these entries."""
    return len(_encode(entries, depth)) <= MAX_VALUE


def _fault(entry: TrackerEntry, salt: bytes, info_hash: bytes, now: float) -> Rejected | None:
    if fault := check_entry(entry, info_hash, now):
        return fault
    if salt in SALTS or shard_path(info_hash, entry.tracker_id).startswith(salt[1:].decode()):
        return None
    # Otherwise, copies of one entry in all shards would lead every reader to one tracker.
    return Rejected.WRONG_SHARD


def _encode(entries: Iterable[TrackerEntry], depth: int | None = None) -> bytes:
    table = {b"e": [to_fields(entry) for entry in entries], b"v": 1}
    return bencode.encode(table if depth is None else {b"d": depth, **table})


def _parts(value: object) -> tuple[list[object], int | None] | Rejected:
    """Return the list of entries of a well-formed value, and the depth of shards that it names, if any."""
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
    items, depth = table.get(b"e"), table.get(b"d")
    if not isinstance(items, list):
        return Rejected.WRONG_TYPE
    return items, depth if isinstance(depth, int) and 0 <= depth <= MAX_DEPTH else None
