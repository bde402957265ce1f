"""Verifies Ed25519 signatures (RFC 8032)."""

from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_CACHED: Final = 8192
"""Results that are remembered. Each takes the memory of a hash, however long the message is."""

_results: Final[dict[bytes, bool]] = {}


def is_signed(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return whether `signature` (64 bytes) is that of `message` by `public_key` (32 bytes).

    Results are cached, because most signatures in the DHT arrive several times. If none can arrive twice, use `verify`.
    """
    # Without this check, the same bytes divided otherwise would have the same hash.
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key = sha256(public_key + signature + message).digest()
    result = _results.get(key)
    if result is None:
        result = _results[key] = verify(public_key, message, signature)
        if len(_results) > MAX_CACHED:
            del _results[next(iter(_results))]
    return result


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Return the same as `is_signed`, uncached."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
