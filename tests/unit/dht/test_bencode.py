"""Hostile bencode: it is decoded or rejected, in a time that its length bounds."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from signal import ITIMER_REAL, SIGALRM, setitimer, signal
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.krpc import bencode, messages
from extensions.dht.records.slots import decode_slot
from extensions.entries import Rejected

# The negative length of the key leads back to the value before it.
CIRCLES = [b"d1:ai1e-6:", b"d1:ai1e-1:", b"d-1:", b"d-0:i1ee", b"ld1:ai1e-6:", b"d1:a1:b-6:i1ee", b"d1:ai1e -6:"]

reproducible = settings(derandomize=True)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `TimeoutError` in the block after so many seconds."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal(SIGALRM, give_up)
    setitimer(ITIMER_REAL, seconds)
    try:
        yield
    finally:
        setitimer(ITIMER_REAL, 0)
        signal(SIGALRM, before)


def rejects(data: bytes) -> bool:
    with pytest.raises(ValueError, match=r"not a valid|invalid|maximum depth"):
        bencode.decode(data)
    return True


def is_no_message(data: bytes) -> bool:
    return messages.decode(data) is None


def is_no_value(data: bytes) -> bool:
    rejected: Counter[Rejected] = Counter()
    return decode_slot(data, b"r0", bytes(20), 0, rejected) == ([], None) and rejected == {Rejected.NOT_BENCODE: 1}


@pytest.mark.parametrize("data", CIRCLES)
@pytest.mark.parametrize("rejected", [rejects, is_no_message, is_no_value])
def test_negative_lengths_do_not_make_the_decoder_loop(rejected: Callable[[bytes], bool], data: bytes) -> None:
    with at_most(0.5):
        assert rejected(data)


def canonical(value: Any) -> bytes:
    """Encode without the library."""
    match value:
        case int():
            return b"i%de" % value
        case bytes():
            return b"%d:%b" % (len(value), value)
        case list():
            return b"l%be" % b"".join(map(canonical, value))
        case _:
            return b"d%be" % b"".join(canonical(key) + canonical(value[key]) for key in sorted(value))


objects = st.recursive(
    st.integers() | st.integers(-(10**400), 10**400) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.binary(max_size=4), inner, max_size=5),
    max_leaves=15,
)
# Parts that confuse decoders, in any order.
tokens = st.lists(
    st.sampled_from(b"d l i e : - + _ 0 1 6 9 0: 1:a 1:b 2:ab i1e i-0e -6: -1: 99999999999: i1_0e".split(b" "))
    | objects,
    max_size=12,
).map(lambda parts: b"".join(part if isinstance(part, bytes) else canonical(part) for part in parts))


def decoded(data: bytes) -> Any:
    """Decode `data`. Return the value, or `ValueError` if it is rejected."""
    with at_most(2):
        try:
            return bencode.decode(data)
        except ValueError:
            return ValueError


@given(objects)
@settings(reproducible, max_examples=150)
def test_canonical_data_is_decoded_and_encoded_again(value: object) -> None:
    data = canonical(value)
    assert bencode.decode(data) == value
    assert bencode.encode(bencode.decode(data)) == bencode.encode(value) == data


@given(st.binary(max_size=200) | tokens)
@settings(reproducible, max_examples=400)
def test_any_data_is_decoded_or_rejected(data: bytes) -> None:
    value = decoded(data)
    if value is not ValueError:
        # The library accepts a few spellings that are not canonical; their values are canonical nevertheless.
        assert decoded(bencode.encode(value)) == value


@pytest.mark.parametrize("data", [b"l", b"d0:", b"d", b"i", b"1", b":", b"-", b"li", b"d1:al", b"ld"])
def test_long_data_is_rejected_quickly(data: bytes) -> None:
    text = data * (messages.MAX_DATAGRAM // len(data))
    with at_most(0.5):
        assert rejects(text)
        assert rejects(text + b"e" * len(text))


@pytest.mark.parametrize("unit", [b"i1e", b"le", b"de", b"0:", b"ld1:aleee"])
def test_a_message_of_too_many_parts_is_ignored(unit: bytes) -> None:
    def message(number: int) -> bytes:
        return b"d1:rd2:id20:" + bytes(20) + b"1:xl" + unit * number + b"ee1:t4:abcd1:y1:re"

    number = 1
    while messages.decode(message(number)) is not None:
        number += 1
    # An honest node names eight nodes in each family, and up to 150 peers of eight bytes.
    assert 3 <= number < 200
    assert messages.decode(message(2000)) is None
    assert bencode.decode(message(number))[b"t"] == b"abcd"


def test_a_message_full_of_peers_is_decoded() -> None:
    values = [b"%06d" % number for number in range(400)]
    data = bencode.encode({b"r": {b"id": bytes(20), b"values": values}, b"t": b"abcd", b"y": b"r"})
    message = messages.decode(data)
    assert isinstance(message, messages.Reply)
    assert len(message.peers) == messages.MAX_PEERS


def test_the_last_value_of_a_key_counts() -> None:
    assert bencode.decode(b"d1:ai1e1:ai2ee") == {b"a": 2}
