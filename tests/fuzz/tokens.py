"""Tokens of private trackers: only those that were made with a secret are valid."""

from collections.abc import Iterator

from extensions.tokens.token import LOOKS_LIKE_ONE, Result, check_token, make_token
from tests.fuzz.target import Target

SECRETS = ("a secret of the operator", "another secret of the operator")
OTHER = "a secret of somebody else"
NOW = 1_000_000
INFO_HASH = "61" * 20
VALID = {make_token(secret, NOW + 1, scope) for secret in SECRETS for scope in ("", INFO_HASH)}


def check(data: bytes) -> None:
    """Check a token."""
    token = data.decode("latin-1")
    result = check_token(token, SECRETS, NOW, INFO_HASH)
    assert (result.result is Result.MISSING) == (token == "")
    if result.result is Result.VALID:
        assert token in VALID
        assert result.expires == NOW + 1
    if result.expires:
        assert LOOKS_LIKE_ONE.match(token)


def seeds() -> Iterator[bytes]:
    """Yield tokens."""
    for secret in (*SECRETS, OTHER):
        for expires in (NOW + 1, NOW, 0):
            for scope in ("", INFO_HASH, "62" * 20):
                yield make_token(secret, expires, scope).encode()
    yield b""
    yield b"1." + b"a" * 64


TARGET = Target(check, seeds, (b".", b"61" * 20, b"0" * 11), max_size=300)
