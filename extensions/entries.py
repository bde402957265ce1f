"""Signs, verifies and encodes the entries of trackers (sans I/O). `docs/dht.md` specifies them.

Infohashes are 20 bytes and times are Unix seconds. A tracker id is the hexadecimal text of an Ed25519 public key, as
in `extensions.identity`.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.signatures import is_signed
from extensions.trackers import MAX_URL, RENDEZVOUS, TrackerEntry, is_url

NAMESPACE: Final = b"peerservers/1"
"""The prefix of everything that is hashed or signed, with the version of the specification."""

LIFETIME: Final = 2 * 3600
"""Seconds from the signing of an entry to its end."""

SKEW: Final = 15 * 60
"""Seconds by which another tracker's clock may be ahead of ours."""

MAX_ENTRY: Final = 1 + 3 + 32 + 12 + 4 + MAX_URL + 3 + 64 + 1
"""Bytes of the longest encoded entry."""


class Rejected(StrEnum):
    """Why an item, a slot's value, an entry or a descriptor is ignored; the `reason` label of the metric."""

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
    WRONG_SHARD = "wrong_shard"
    INVALID_ITEM = "invalid_item"
    INVALID_DESCRIPTOR = "invalid_descriptor"


def sign_entry(key: Ed25519PrivateKey, info_hash: bytes, url: str, now: float) -> TrackerEntry:
    """Return a new entry, which ends `LIFETIME` seconds after `now`.

    An entry of the rendezvous is signed for the empty infohash: it is the tracker's descriptor. Raises `ValueError` for
    a URL that no tracker may have.
    """
    if not is_url(url):
        raise ValueError(f"not a tracker's URL: {url}")
    tracker_id = key.public_key().public_bytes_raw()
    expires = int(now) + LIFETIME
    signature = key.sign(_signed_bytes(info_hash, tracker_id, expires, url.encode()))
    return TrackerEntry(tracker_id.hex(), expires, url, signature)


def check_entry(entry: TrackerEntry, info_hash: bytes, now: float) -> Rejected | None:
    """Return why an entry is invalid for an infohash at `now`, or None if it is valid."""
    try:
        tracker_id = bytes.fromhex(entry.tracker_id)
    except ValueError:
        return Rejected.WRONG_LENGTH
    # Other forms of the text mean the same tracker, which must not look like several.
    if tracker_id.hex() != entry.tracker_id or len(tracker_id) != 32 or len(entry.signature) != 64:
        return Rejected.WRONG_LENGTH
    if entry.expires <= now:
        return Rejected.EXPIRED
    if entry.expires > now + LIFETIME + SKEW:
        return Rejected.FAR_EXPIRY
    if not is_url(entry.url):
        return Rejected.INVALID_URL
    signed = _signed_bytes(info_hash, tracker_id, entry.expires, entry.url.encode())
    if not is_signed(tracker_id, signed, entry.signature):
        return Rejected.INVALID_SIGNATURE
    return None


def merge(entries: Iterable[TrackerEntry]) -> list[TrackerEntry]:
    """Return one entry of each tracker, the one that expires last, in the order of `latest_first`."""
    latest: dict[str, TrackerEntry] = {}
    for entry in entries:
        known = latest.get(entry.tracker_id)
        # The signature decides between entries that expire together, so that all implementations keep the same one.
        if known is None or (entry.expires, entry.signature) > (known.expires, known.signature):
            latest[entry.tracker_id] = entry
    return latest_first(latest.values())


def latest_first(entries: Iterable[TrackerEntry]) -> list[TrackerEntry]:
    """Return the entries by their end, the latest first, and those that end together by tracker id."""
    return sorted(entries, key=lambda entry: (-entry.expires, entry.tracker_id))


def to_fields(entry: TrackerEntry) -> list[Any]:
    """Return an entry as the list that a slot holds."""
    return [bytes.fromhex(entry.tracker_id), entry.expires, entry.url.encode(), entry.signature]


def from_fields(item: object) -> TrackerEntry | Rejected:
    """Return an entry, not yet verified, from a decoded item of a slot's list, or why it is none."""
    match item:
        case [bytes(tracker_id), int(expires), bytes(url), bytes(signature)]:
            # Text that is not ASCII becomes U+FFFD, which no URL may have.
            return TrackerEntry(tracker_id.hex(), expires, url.decode("ascii", "replace"), signature)
        case _:
            return Rejected.WRONG_TYPE


def _signed_bytes(info_hash: bytes, tracker_id: bytes, expires: int, url: bytes) -> bytes:
    """Return the signed bytes: a bencoded dictionary."""
    signed_for = b"" if info_hash == RENDEZVOUS else info_hash
    strings = ((b"h", signed_for), (b"i", tracker_id), (b"n", NAMESPACE + b" entry"), (b"u", url))
    return b"d1:ei%de%be" % (expires, b"".join(b"1:%b%d:%b" % (key, len(text), text) for key, text in strings))
