"""Signatures, and the memory for those that were verified."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from extensions.signatures import MAX_CACHED, is_signed, verify
from tests.unit.federation.links import key

PUBLIC = key(1).public_key().public_bytes_raw()


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_only_the_signature_of_the_message_is_valid(message: bytes, other: bytes) -> None:
    signature = key(1).sign(message)
    for _ in range(2):
        assert is_signed(PUBLIC, message, signature)
        assert is_signed(PUBLIC, other, signature) == (other == message)
        assert not is_signed(key(2).public_key().public_bytes_raw(), message, signature)
    assert verify(PUBLIC, message, signature)


def test_the_same_bytes_divided_otherwise_are_another_signature() -> None:
    message = b"message"
    signature = key(1).sign(message)
    assert is_signed(PUBLIC, message, signature)
    for public_key, signed in ((PUBLIC, signature[:-1]), (PUBLIC[:-1], PUBLIC[-1:] + signature)):
        assert not is_signed(public_key, signature[len(signed) :] + message, signed)
    assert not is_signed(PUBLIC, b"", signature + message)
    assert not is_signed(b"", b"", b"")


def test_verified_signatures_take_little_memory() -> None:
    """Thousands are remembered, of messages that other machines have chosen."""
    tracemalloc.start()
    try:
        for number in range(200):
            message = b"%01000d" % number
            assert is_signed(PUBLIC, message, key(1).sign(message))
            assert not is_signed(PUBLIC, message, bytes(64))
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert kept / 400 * MAX_CACHED < 4 << 20
