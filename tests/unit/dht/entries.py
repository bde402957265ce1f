"""Entries of made-up trackers, and values of slots with any contents."""

from functools import lru_cache
from typing import Any

import bencodepy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.records.keys import DAY, SALTS
from extensions.dht.records.slots import Slot, encode_slot
from extensions.entries import LIFETIME, sign_entry
from extensions.trackers import TrackerEntry

HASH, OTHER_HASH = bytes(range(20)), b"o" * 20
NOW = 20000 * DAY
URL = "wss://tracker.example.org"


@lru_cache
def identity(number: int) -> Ed25519PrivateKey:
    """Return the key of tracker `number`."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def entry_of(number: int, age: float = 0, url: str = URL) -> TrackerEntry:
    """Return an entry that tracker `number` signed `age` seconds before `NOW`."""
    return sign_entry(identity(number), HASH, url, NOW - age)


def unsigned(number: int, expires: int = NOW + LIFETIME, url: str = URL) -> TrackerEntry:
    """Return an entry with an invalid signature, for tests of code that does not verify it: signing is slow."""
    return TrackerEntry(bytes([number]).hex() * 32, expires, url, bytes(64))


def wire(entry: TrackerEntry) -> list[Any]:
    """Return an entry as the list that a slot holds."""
    return [bytes.fromhex(entry.tracker_id), entry.expires, entry.url.encode(), entry.signature]


def slot_value(*items: object, **others: object) -> bytes:
    """Return a well-formed value of a slot with any items."""
    value: bytes = bencodepy.encode({"e": items, "v": 1, **others})
    return value


FULL = [unsigned(number, NOW + 7200 - number) for number in range(1, 7)]
SECOND = [unsigned(number, NOW + 7200 - number) for number in range(11, 17)]
"""As many entries as a slot holds, for each of two slots."""


def slot_of(index: int, entries: list[TrackerEntry], seq: int = 1) -> Slot:
    """Return a slot that was read with these entries."""
    return Slot(SALTS[index], seq, entries, len(encode_slot(entries)))
