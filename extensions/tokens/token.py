"""Tokens that admit peers to a private tracker (sans I/O).

A token is `EXPIRES.SIGNATURE` or `EXPIRES.INFOHASH.SIGNATURE`. EXPIRES is in seconds of Unix time, INFOHASH has 40
hexadecimal digits in lower case, and SIGNATURE is the HMAC-SHA256 (RFC 2104) of the text before its dot, as 64 such
digits. All of it may stand in a URL without escapes.
"""

import hmac
import re
from collections.abc import Sequence
from enum import StrEnum
from hashlib import sha256
from typing import Final, NamedTuple

MIN_SECRET: Final = 16
"""Characters of the shortest secret, because anybody with a token can try secrets at leisure."""

MAX_SECRETS: Final = 16
"""Secrets that are valid at a time. Each costs another HMAC for an invalid token."""

# Eleven digits: a time in milliseconds is a mistake, and would never expire.
TOKEN: Final = re.compile(r"(([0-9]{1,11})(?:\.((?:[0-9a-f]{2}){1,256}))?)\.([0-9a-f]{64})")
LOOKS_LIKE_ONE: Final = re.compile(r"[0-9]+\.")
"""The start of a token, which tells one from the other parts of a path, even if the rest of it is damaged."""


class Result(StrEnum):
    """The results of checks: labels of the metric."""

    VALID = "valid"
    MISSING = "missing"
    INVALID = "invalid"
    EXPIRED = "expired"
    OTHER_INFOHASH = "other_infohash"


class Checked(NamedTuple):
    """The result of a check.

    Attributes:
        expires: Expiry in seconds of Unix time; 0 unless the signature is valid.
    """

    result: Result
    expires: int = 0


def make_token(secret: str, expires: int, info_hash_hex: str = "") -> str:
    """Return a token that is valid until `expires` (Unix time), for one infohash or for all."""
    text = f"{expires}.{info_hash_hex}" if info_hash_hex else str(expires)
    return f"{text}.{_signature(secret, text)}"


def check_token(token: str, secrets: Sequence[str], now: float, info_hash_hex: str) -> Checked:
    """Check a token against all secrets. `now` is in seconds of Unix time."""
    if not token:
        return Checked(Result.MISSING)
    match = TOKEN.fullmatch(token)
    if match is None:
        return Checked(Result.INVALID)
    text, expires, scope, signature = match.groups()
    # All are compared, so that the time does not tell which secret is the right one.
    matches = [hmac.compare_digest(signature, _signature(secret, text)) for secret in secrets]
    if not any(matches):
        return Checked(Result.INVALID)
    result = Result.VALID
    if int(expires) <= now:
        result = Result.EXPIRED
    elif scope is not None and scope != info_hash_hex:
        result = Result.OTHER_INFOHASH
    return Checked(result, int(expires))


def _signature(secret: str, text: str) -> str:
    return hmac.digest(secret.encode(), text.encode(), sha256).hex()
