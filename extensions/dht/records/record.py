"""Records: what says in the DHT which trackers serve an infohash (sans I/O). `docs/dht.md` specifies them.

Infohashes are 20 bytes, keys and signatures raw bytes, times whole Unix seconds. A tracker id is the hexadecimal text
of an Ed25519 public key, as in `tracker.identity`.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from hashlib import sha1, sha256
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import bencode
from extensions.signatures import is_signed

NAMESPACE: Final = b"peerservers/1"
SALTS: Final = (b"r0", b"r1", b"r2")
"""The salts of a record's slots, in the order in which they are filled and read."""

RENDEZVOUS: Final = sha1(b"peerservers rendezvous").digest()
"""The infohash under which every published tracker keeps an entry, so that trackers find each other."""

LIFETIME: Final = 2 * 3600
"""Seconds from the signing of an entry to its end."""

SKEW: Final = 15 * 60
"""Seconds that another tracker's clock may be ahead of ours."""

DAY: Final = 24 * 3600
MAX_VALUE: Final = 996
"""Bytes of a slot: a BEP 44 value has at most 1000, and four are the string's length."""

MAX_URL: Final = 128
MAX_ENTRY: Final = 1 + 3 + 32 + 12 + 4 + MAX_URL + 3 + 64 + 1
"""Bytes of the longest entry; a slot with less room than this is full."""

MAX_ENTRIES: Final = 16
LOCKED: Final = 2**52
"""A slot with this sequence number, or a greater one, is left alone: JavaScript counts exactly to 2^53 only."""


_URL: Final = re.compile(
    r"wss?://"
    r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"  # a name or IPv4 address, or an IPv6 address
    r"(?::([0-9]{1,5}))?"
    r"(?:[/?][!$%&()*+,./:;=?\[\]^_{|}~A-Za-z0-9-]*)?"
)


class Rejected(StrEnum):
    """Why a slot's value, or an entry in it, is ignored; the `reason` label of the metric."""

    NOT_A_STRING = "not_a_string"
    TOO_LONG = "too_long"
    NOT_BENCODE = "not_bencode"
    NOT_CANONICAL = "not_canonical"
    WRONG_TYPE = "wrong_type"
    WRONG_VERSION = "wrong_version"
    TOO_MANY = "too_many"
    WRONG_LENGTH = "wrong_length"
    INVALID_URL = "invalid_url"
    EXPIRED = "expired"
    FAR_EXPIRY = "far_expiry"
    INVALID_SIGNATURE = "invalid_signature"
    INVALID_ITEM = "invalid_item"
    INVALID_DESCRIPTOR = "invalid_descriptor"


@dataclass(frozen=True, slots=True)
class Entry:
    """One tracker's signed word that it serves an infohash at `url` until `expires`."""

    tracker_id: str
    expires: int
    url: str
    signature: bytes

    @property
    def size(self) -> int:
        """Bytes in a slot."""
        return len(bencode.encode(_wire(self)))


def day_of(now: float) -> int:
    """The day that a record's keys are derived for: days since 1970 in UTC."""
    return int(now // DAY)


def days_to_read(now: float) -> list[int]:
    """Today, and in its first two hours yesterday too, since entries of then are still good."""
    today = day_of(now)
    return [today, today - 1] if now % DAY < LIFETIME else [today]


@lru_cache(4096)
def record_key(info_hash: bytes, day: int) -> Ed25519PrivateKey:
    """The key pair of a record: anyone who knows the infohash can derive it, and nobody learns that from it."""
    seed = sha256(NAMESPACE + b" record" + day.to_bytes(4, "big") + info_hash).digest()
    return Ed25519PrivateKey.from_private_bytes(seed)


def announce_hash(info_hash: bytes, day: int) -> bytes:
    """The 20 bytes announced with BEP 5 for an infohash, as the second path."""
    return sha256(NAMESPACE + b" announce" + day.to_bytes(4, "big") + info_hash).digest()[:20]


def sign_entry(key: Ed25519PrivateKey, info_hash: bytes, url: str, now: float) -> Entry:
    """An entry that lives from now on. For a descriptor the infohash is empty. Raises `ValueError` for a bad URL."""
    if not is_url(url):
        raise ValueError(f"not a tracker's URL: {url}")
    tracker_id = key.public_key().public_bytes_raw()
    expires = int(now) + LIFETIME
    return Entry(tracker_id.hex(), expires, url, key.sign(_signed(info_hash, tracker_id, expires, url.encode())))


def is_url(url: str) -> bool:
    """Whether `url` is one that a tracker may have: ws or wss, a host, printable ASCII, no userinfo, no fragment.

    Whether it may be dialed (its scheme, its address) is for those to say who dial.
    """
    match = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    return match is not None and (match[1] is None or 0 < int(match[1]) < 65536)


def check_entry(entry: Entry, info_hash: bytes, now: float) -> Rejected | None:
    """What is wrong with an entry, None if nothing is."""
    tracker_id = bytes.fromhex(entry.tracker_id)
    if len(tracker_id) != 32 or len(entry.signature) != 64:
        return Rejected.WRONG_LENGTH
    if entry.expires <= now:
        return Rejected.EXPIRED
    if entry.expires > now + LIFETIME + SKEW:
        return Rejected.FAR_EXPIRY
    if not is_url(entry.url):
        return Rejected.INVALID_URL
    if not is_signed(tracker_id, _signed(info_hash, tracker_id, entry.expires, entry.url.encode()), entry.signature):
        return Rejected.INVALID_SIGNATURE
    return None


def encode_slot(entries: Iterable[Entry]) -> bytes:
    """A slot's value, the freshest entries first. Raises `ValueError` if they do not fit."""
    value = _encode_all(_freshest(entries))
    if len(value) > MAX_VALUE:
        raise ValueError(f"{len(value)} bytes are more than a slot holds")
    return value


def decode_slot(value: object, info_hash: bytes, now: float, rejected: Counter[Rejected]) -> list[Entry]:
    """The valid entries of a slot's value, whatever that is; what is ignored is counted in `rejected`."""
    items = _items(value)
    if isinstance(items, Rejected):
        rejected[items] += 1
        return []
    if len(items) > MAX_ENTRIES:
        rejected[Rejected.TOO_MANY] += len(items) - MAX_ENTRIES
    valid = []
    for item in items[:MAX_ENTRIES]:
        entry = _entry(item)
        fault = check_entry(entry, info_hash, now) if isinstance(entry, Entry) else entry
        if fault:
            rejected[fault] += 1
        elif isinstance(entry, Entry):
            valid.append(entry)
    return merge(valid)


def merge(entries: Iterable[Entry]) -> list[Entry]:
    """The last of each tracker's entries, the freshest first."""
    newest: dict[str, Entry] = {}
    for entry in entries:
        known = newest.get(entry.tracker_id)
        # Between equals any rule will do, as long as everybody has the same.
        if known is None or (entry.expires, entry.signature) > (known.expires, known.signature):
            newest[entry.tracker_id] = entry
    return _freshest(newest.values())


@dataclass(slots=True)
class Slot:
    """What was read of one slot: values may differ from node to node, and the entries of all of them count."""

    index: int
    seq: int = -1
    """The greatest sequence number seen; -1 if there is no value."""
    entries: list[Entry] = field(default_factory=list)
    size: int = 0
    """Bytes of the longest value seen, whatever of it is still valid."""
    has_faults: bool = False

    def add(self, seq: int, value: object, info_hash: bytes, now: float) -> Counter[Rejected]:
        """One node's value; what is ignored of it."""
        rejected: Counter[Rejected] = Counter()
        self.entries = merge([*self.entries, *decode_slot(value, info_hash, now, rejected)])
        self.seq = max(self.seq, seq)
        if isinstance(value, bytes):
            self.size = max(self.size, len(value))
        # Entries end: that is no fault. It is how a record looks when its swarm has closed.
        self.has_faults |= any(reason is not Rejected.EXPIRED for reason in rejected)
        return rejected

    @property
    def is_locked(self) -> bool:
        """Whether somebody has put the sequence number where it leaves no room for others."""
        return self.seq >= LOCKED

    @property
    def is_spoilt(self) -> bool:
        """Whether somebody has written rubbish, and nothing valid is left."""
        return self.has_faults and not self.entries

    @property
    def is_full(self) -> bool:
        """Whether somebody may have had to go to the next slot.

        Be it that entries of this one have ended since, or that no node has all of them and who wrote had read several.
        """
        return max(self.size, len(_encode_all(self.entries))) + MAX_ENTRY > MAX_VALUE

    @property
    def says_go_on(self) -> bool:
        """Whether a reader must look at the next slot too."""
        return self.is_locked or self.is_spoilt or self.is_full


def place(slots: list[Slot], own: Entry) -> tuple[int, list[Entry]] | None:
    """Where to write `own`: the index of the slot and all of its entries then. None if every slot is locked.

    The first slot with room, which also takes what later ones have as far as it fits, since with room in this one
    readers go no further. If all are full, the entry that ends first, in any of them, makes room.
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


def carry_over(slots: list[Slot], slot: Slot, entries: list[Entry]) -> list[Entry]:
    """What to write to a slot that is to have `entries`: also what later slots have, as far as it fits."""
    kept = list(entries)
    for entry in merge(
        entry for later in slots if later.index > slot.index and not later.is_locked for entry in later.entries
    ):
        if entry.tracker_id not in {one.tracker_id for one in kept} and _fits([*kept, entry]):
            kept.append(entry)
    return kept


def _others(slot: Slot, own: Entry) -> list[Entry]:
    return [entry for entry in slot.entries if entry.tracker_id != own.tracker_id]


def _freshest(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: (-entry.expires, entry.tracker_id))


def _wire(entry: Entry) -> list[Any]:
    return [bytes.fromhex(entry.tracker_id), entry.expires, entry.url.encode(), entry.signature]


def _encode_all(entries: Iterable[Entry]) -> bytes:
    return bencode.encode({b"e": [_wire(entry) for entry in entries], b"v": 1})


def _fits(entries: Iterable[Entry]) -> bool:
    return len(_encode_all(entries)) <= MAX_VALUE


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


def _entry(item: object) -> Entry | Rejected:
    match item:
        case [bytes(tracker_id), int(expires), bytes(url), bytes(signature)]:
            # Text that is not ASCII turns into a character that no URL may have.
            return Entry(tracker_id.hex(), expires, url.decode("ascii", "replace"), signature)
        case _:
            return Rejected.WRONG_TYPE


def _signed(info_hash: bytes, tracker_id: bytes, expires: int, url: bytes) -> bytes:
    return bencode.encode({b"e": expires, b"h": info_hash, b"i": tracker_id, b"n": NAMESPACE + b" entry", b"u": url})
