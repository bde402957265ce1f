"""Ids: `info_hash`, `peer_id`, `to_peer_id` and `offer_id` (sans I/O).

A *binary* id is 20 bytes: a string of exactly 20 code points, each below U+0100 (latin-1). BitTorrent clients use only
these. A *text* id is any other string of 1 to 64 code points that can be written as UTF-8. Applications that only
exchange offers and answers use them: go2rtc's info_hash has 44 characters.

The info_hash decides for its swarm. In a *binary swarm*, all ids must be binary: libtorrent closes its tracker socket
on any other id. In a *text swarm*, a text info_hash names the swarm, and its clients get all ids as they were sent.
"""

from hashlib import sha256
from typing import Final, TypeGuard

from msgspec import MsgspecError
from msgspec.json import Decoder

ID_LENGTH: Final = 20
"""Code points of a binary id, and bytes of a swarm's key."""

MAX_TEXT_ID: Final = 64
"""Most code points of a text id. It has at most four times as many bytes in UTF-8."""

KEY_CONTEXT: Final = b"peerservers/1 text id"
"""Is hashed before a text info_hash, so that no other protocol computes the same keys."""

_decode_text = Decoder(str).decode
_HEXADECIMAL: Final = frozenset("0123456789abcdefABCDEF")


def is_id(value: object) -> TypeGuard[str]:
    """Return whether `value` is a binary id: 20 code points, each below U+0100."""
    if type(value) is not str or len(value) != ID_LENGTH:
        return False
    if not value.isascii():
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            return False
    return True


def is_any_id(value: object) -> TypeGuard[str]:
    """Return whether `value` is a binary or a text id: 1 to 64 code points without lone surrogates."""
    if type(value) is not str or not 0 < len(value) <= MAX_TEXT_ID:
        return False
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def swarm_key(info_hash: str) -> bytes:
    """Return the 20 bytes that stand for a swarm where only bytes fit, as in the DHT.

    The key of a binary swarm is its infohash, and that of a text swarm a hash of its info_hash (docs/dht.md).
    """
    if is_id(info_hash):
        return info_hash.encode("latin-1")
    return sha256(KEY_CONTEXT + info_hash.encode()).digest()[:ID_LENGTH]


def parse_info_hash(text: str) -> str:
    """Return the info_hash that an operator has written: 40 hexadecimal digits, or a JSON string with its quotes.

    Raises:
        ValueError: if it is neither, or if the string is not an id.
    """
    if len(text) == 2 * ID_LENGTH and _HEXADECIMAL.issuperset(text):
        return bytes.fromhex(text).decode("latin-1")
    try:
        if text.startswith('"') and is_any_id(info_hash := _decode_text(text)):
            return info_hash
    except (MsgspecError, UnicodeEncodeError):
        pass
    raise ValueError('neither 40 hexadecimal digits nor an info_hash in quotes, as in "name"')
