"""Entries of made-up trackers, and slots' values with whatever in them."""

from functools import lru_cache
from typing import Any

import bencodepy
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.records import record
from extensions.dht.records.record import DAY, LIFETIME, Entry

HASH, OTHER_HASH = bytes(range(20)), b"o" * 20
NOW = 20000 * DAY
URL = "wss://tracker.example.org"


@lru_cache
def identity(number: int) -> Ed25519PrivateKey:
    """The key of tracker `number`."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def entry_of(number: int, age: float = 0, url: str = URL) -> Entry:
    """What tracker `number` signed `age` seconds ago."""
    return record.sign_entry(identity(number), HASH, url, NOW - age)


def unsigned(number: int, expires: int = NOW + LIFETIME, url: str = URL) -> Entry:
    """For what does not look at signatures, and is faster without."""
    return Entry(bytes([number]).hex() * 32, expires, url, bytes(64))


def wire(entry: Entry) -> list[Any]:
    """An entry as it is in a slot."""
    return [bytes.fromhex(entry.tracker_id), entry.expires, entry.url.encode(), entry.signature]


def slot_value(*items: object, **others: object) -> bytes:
    """A slot's value of any items, in the right form."""
    value: bytes = bencodepy.encode({"e": items, "v": 1, **others})
    return value
