"""The fields of an announce that only extensions read: as they were sent, and no more than a bounded amount."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client import announce, offers
from tracker.protocol import codec, fields
from tracker.protocol.errors import RequestError
from tracker.protocol.fields import other_fields
from tracker.protocol.messages import Announce

PEER = "p" * 20

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=20,
)


def test_the_fields_of_webtorrent_are_as_it_sent_them() -> None:
    message = announce(PEER, event="started", left=None, numwant=5, uploaded=7, downloaded=1.5, offers=offers(5))
    assert other_fields(json.dumps(message).encode()) == {
        "event": "started",
        "left": None,
        "numwant": 5,
        "uploaded": 7,
        "downloaded": 1.5,
    }


@given(st.dictionaries(st.sampled_from(["a", "token", "left", "ä\n\u2028", "event"]), values, max_size=5))
def test_other_values_are_those_of_the_json(more: dict[str, object]) -> None:
    message = {"action": "announce", "info_hash": "h" * 20, "peer_id": PEER, **more}
    for ensure_ascii in (True, False):
        assert other_fields(json.dumps(message, ensure_ascii=ensure_ascii).encode()) == more


@given(st.binary(max_size=80))
def test_anything_that_the_codec_takes_has_fields(tail: bytes) -> None:
    payload = b'{"action":"announce","info_hash":"%b","peer_id":"%b","x":%b}' % (b"h" * 20, b"p" * 20, tail)
    try:
        codec.decode(payload, 20)
    except (RequestError, UnicodeDecodeError):
        return
    other_fields(payload)


def test_the_last_of_two_values_counts_as_in_the_codec() -> None:
    payload = b'{"action":"announce","info_hash":"%b","peer_id":"%b","left":0,"left":1}' % (b"h" * 20, b"p" * 20)
    decoded = codec.decode(payload, 20)
    assert isinstance(decoded, Announce)
    assert (decoded.complete, other_fields(payload)) == (False, {"left": 1})


@pytest.mark.parametrize("value", [b'"\xff"', rb'"\ud800"', b"[" * 5000 + b"]" * 5000], ids=["utf-8", "alone", "deep"])
def test_values_that_cannot_be_decoded_are_left_out(value: bytes) -> None:
    assert other_fields(b'{"bad":%b,"left":1}' % value) in ({"left": 1}, {}), "msgspec may refuse all of the object"


def test_their_sum_is_bounded() -> None:
    many = {f"field{n:04}": "x" * 86 for n in range(300)}
    found = other_fields(json.dumps(many).encode())
    assert len(found) == fields.MAX_BYTES // (9 + 88)
    assert other_fields(json.dumps({"left": 1, "huge": "x" * fields.MAX_BYTES, "more": 2}).encode()) == {"left": 1}


def test_thousands_of_names_are_not_decoded() -> None:
    few = json.dumps({f"{n:x}": 0 for n in range(fields.MAX_QUOTES // 2)}).encode()
    assert len(other_fields(few)) == fields.MAX_QUOTES // 2
    assert other_fields(few[:-1] + b',"one":0}') == {}


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b"null", b'{"a":}'])
def test_no_object_has_no_fields(payload: bytes) -> None:
    assert other_fields(payload) == {}
