"""Envelopes and messages: any bytes are refused without harm, and what a node writes another one reads."""

import hmac
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extensions.cluster import wire
from extensions.cluster.envelope import ALL, BROADCAST, HEADER_LENGTH, OVERHEAD, SINGLE, STREAM, Sealer, derive_key
from extensions.cluster.errors import RefusedError
from extensions.cluster.reasons import Refused

A, B = "a" * 16, "b" * 16
KEY = derive_key(b"secret", "test")
TO_B = bytes.fromhex(B)

ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=64)
numbers = st.integers(0, wire.MAX_SWARM)
serials = st.integers(0, 2**63 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=256)
messages = st.one_of(
    st.builds(wire.Begin, serials, st.booleans()),
    st.just(wire.Done()),
    st.builds(wire.Opened, st.lists(ids, max_size=4)),
    st.builds(wire.Closed, st.lists(ids, max_size=4)),
    st.builds(wire.Moved, st.lists(ids, max_size=4)),
    st.builds(wire.Shares, ids, st.lists(st.just(A)), st.booleans()),
    st.builds(wire.Roster, ids, st.integers(0, 7), st.lists(st.tuples(ids, st.integers(0, 3)), max_size=4)),
    st.builds(wire.Roster, ids, st.just(0), st.just([]), numbers, numbers, st.lists(ids, max_size=4), numbers, numbers),
    st.builds(wire.Linked, ids, numbers, numbers),
    st.builds(wire.Newcomers, ids, numbers),
    st.builds(wire.Heartbeat, *[texts] * 4, *[numbers] * 6, st.integers(0, 255)),
    st.just(wire.Bye()),
    st.builds(wire.AskAgain, serials),
    st.just(wire.Tick()),
    st.builds(wire.Ping, serials),
    st.builds(wire.Pong, serials),
    st.builds(wire.Ask, serials, texts, st.binary(max_size=20)),
)


def opened(sealer: Sealer, payload: bytes) -> tuple[Any, ...]:
    """Return all that a node reads of a message."""
    return (*sealer.open(payload), wire.messages_in(payload))


@pytest.mark.parametrize("key", [None, KEY])
@given(
    sent=st.lists(messages, max_size=5),
    kind=st.sampled_from([STREAM, SINGLE]),
    epoch=st.integers(0, 2**32 - 1),
    seq=st.integers(0, 2**64 - 1),
)
def test_messages_come_as_they_were_sent(key: bytes | None, sent: list[Any], kind: int, epoch: int, seq: int) -> None:
    parts = [wire.encode(message) for message in sent]
    payload = Sealer(A, "test", key).seal(kind, TO_B, epoch, seq, parts)
    assert len(payload) == OVERHEAD + sum(map(len, parts))
    assert opened(Sealer(B, "test", key), payload) == (kind, bytes.fromhex(A), epoch, seq, sent)


@pytest.mark.parametrize("key", [None, KEY])
@given(payload=st.binary(max_size=200))
def test_any_bytes_are_refused(key: bytes | None, payload: bytes) -> None:
    with pytest.raises(RefusedError):
        opened(Sealer(B, "test", key), payload)


values = st.recursive(st.none() | st.integers(-9, 30) | texts, st.lists).map(msgspec.msgpack.encode)


@given(body=st.binary(max_size=200) | values)
def test_any_body_is_a_list_of_messages_or_refused(body: bytes) -> None:
    with suppress(RefusedError):
        assert isinstance(wire.messages_in(bytes(HEADER_LENGTH) + body), list)


@given(sent=st.lists(messages, min_size=1, max_size=3), data=st.data())
def test_with_a_key_any_change_is_noticed(sent: list[Any], data: st.DataObject) -> None:
    payload = bytearray(Sealer(A, "test", KEY).seal(STREAM, TO_B, 1, 1, [wire.encode(message) for message in sent]))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RefusedError):
        Sealer(B, "test", KEY).open(bytes(payload))


def test_messages_of_others_are_refused() -> None:
    receiver = Sealer(B, "test", KEY)
    part = [wire.encode(wire.Tick())]

    def reason(payload: bytes) -> Refused:
        with pytest.raises(RefusedError) as error:
            receiver.open(payload)
        return error.value.reason

    good = Sealer(A, "test", KEY).seal(SINGLE, TO_B, 1, 1, part)
    receiver.open(good)
    assert reason(Sealer(A, "test", derive_key(b"other", "test")).seal(SINGLE, TO_B, 1, 1, part)) is Refused.WRONG_KEY
    assert reason(Sealer(A, "test", None).seal(SINGLE, TO_B, 1, 1, part)) is Refused.WRONG_KEY
    assert reason(Sealer(A, "other", KEY).seal(SINGLE, TO_B, 1, 1, part)) is Refused.WRONG_NAME
    assert reason(Sealer(A, "test", KEY).seal(SINGLE, bytes.fromhex(A), 1, 1, part)) is Refused.OTHER_NODE
    assert reason(Sealer(A, "test", KEY).seal(STREAM, ALL, 1, 1, part)) is Refused.OTHER_NODE
    assert reason(Sealer(B, "test", KEY).seal(BROADCAST, ALL, 1, 1, part)) is Refused.DUPLICATE
    assert reason(good[:3] + b"\2" + good[4:]) is Refused.OTHER_VERSION
    assert reason(b"GET / HTTP/1.1\r\n" + bytes(100)) is Refused.GARBAGE


def test_the_version_is_told_from_garbage_before_the_rest_is_read() -> None:
    """A later version may have another header, behind the ids."""
    payload = b"PSC\7\1" + bytes(4) + bytes.fromhex(A) + bytes(40)
    with pytest.raises(RefusedError) as error:
        Sealer(B, "test", KEY).open(payload)
    assert (error.value.reason, error.value.sender) == (Refused.OTHER_VERSION, A)


def test_the_mac_is_hmac_sha256() -> None:
    payload = Sealer(A, "test", KEY).seal(STREAM, TO_B, 1, 1, [wire.encode(wire.Tick())])
    head, mac, body = (
        payload[: HEADER_LENGTH - 16],
        payload[HEADER_LENGTH - 16 : HEADER_LENGTH],
        payload[HEADER_LENGTH:],
    )
    assert mac == hmac.digest(KEY, head + body, "sha256")[:16]
