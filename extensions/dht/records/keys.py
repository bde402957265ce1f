"""Derives the keys of records and the hashes of announcements from infohashes and days (sans I/O).

`docs/dht.md` specifies them. Infohashes are 20 bytes, times are Unix seconds.
"""

from functools import lru_cache
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.entries import LIFETIME, NAMESPACE

SALTS: Final = (b"r0", b"r1", b"r2")
"""The salts of a record's slots, in the order in which slots are filled and read."""

WINDOW: Final = SALTS[-1]
"""The salt of the slot in which the latest writers replace the earlier ones."""

MAX_DEPTH: Final = 20
"""The most bits of a shard. A million shards have room for ten million trackers."""

DAY: Final = 24 * 3600


def day_of(now: float) -> int:
    """Return the day that keys are derived for: days since 1970 in UTC."""
    return int(now // DAY)


def days_to_read(now: float) -> list[int]:
    """Return today, and in its first two hours also yesterday, because yesterday's entries may still be valid."""
    today = day_of(now)
    return [today, today - 1] if now % DAY < LIFETIME else [today]


@lru_cache(512)
def record_key(info_hash: bytes, day: int) -> Ed25519PrivateKey:
    """Return the key pair of a record.

    Every party that knows the infohash can derive it. The key does not reveal the infohash.
    """
    seed = sha256(NAMESPACE + b" record" + day.to_bytes(4, "big") + info_hash).digest()
    return Ed25519PrivateKey.from_private_bytes(seed)


@lru_cache(4096)
def shard_path(info_hash: bytes, tracker_id: str) -> str:
    """Return the `MAX_DEPTH` bits, as "0" and "1", that say which shards a tracker may use.

    It may use the shard that is named by the first bits, however many these are.
    """
    digest = sha256(NAMESPACE + b" shard" + info_hash + bytes.fromhex(tracker_id)).digest()
    return f"{int.from_bytes(digest, 'big'):0256b}"[:MAX_DEPTH]


def shard_salt(bits: str) -> bytes:
    """Return the salt of a shard."""
    return b"s" + bits.encode()


def announce_hash(info_hash: bytes, day: int) -> bytes:
    """Return the 20 bytes that the BEP 5 fallback announces for an infohash."""
    return sha256(NAMESPACE + b" announce" + day.to_bytes(4, "big") + info_hash).digest()[:20]
