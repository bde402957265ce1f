"""The messages of a link, valid and invalid."""

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extensions.federation import wire
from extensions.federation.filters import MAX_BYTES, MAX_FILL, MAX_PARTS
from extensions.federation.wire import (
    Answered,
    Bye,
    Filter,
    Have,
    Hello,
    Offers,
    Opened,
    Present,
    Proof,
    Refused,
    Seek,
    Trackers,
    WireError,
)
from tests.client import announce
from tests.unit.federation.links import A, B, an_answer, ids_of, some_offers
from tracker.protocol import codec
from tracker.protocol.messages import Announce, Answer, Offer

NAME = "0123456789abcdef" * 2
MARK = "0123456789abcdef"
SDP_LIMIT = codec.MAX_SDP_BYTES

Json = dict[str, Any]

ids = st.text(st.characters(max_codepoint=255), min_size=20, max_size=20)
names = st.text("0123456789abcdef", min_size=32, max_size=32)
counts = st.integers(0, wire.MAX_COUNT)
marks = st.integers(0, wire.MAX_PRESENT // 2).map(lambda count: "0123456789abcdef" * count)
sdps = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
words = st.text(st.characters(exclude_categories=["Cs"]))
parts = st.integers(0, 6).map(lambda power: 2**power)
bits = st.binary(min_size=1, max_size=64).map(lambda some: some + bytes(len(some)))
trackers = st.lists(st.tuples(words, st.integers(0, 2**63 - 1), words, words), max_size=wire.MAX_TRACKERS)
simple = st.one_of(
    st.builds(Hello, st.integers(-(2**63), 2**63 - 1), words, words, words, st.lists(words, max_size=3).map(tuple)),
    st.builds(Proof, words, st.lists(names, max_size=wire.MAX_WANTED).map(tuple)),
    st.builds(Have, st.lists(st.tuples(names, counts, counts), max_size=20), st.booleans()),
    st.builds(Present, st.lists(st.tuples(names, marks, marks), max_size=20), st.booleans()),
    parts.flatmap(lambda count: st.builds(Filter, st.integers(0, count - 1), st.just(count), bits)),
    st.builds(Opened, st.integers(0, 20).map(lambda count: "0123456789abcdef" * count)),
    st.builds(Seek, st.one_of(names, st.just(""))),
    st.builds(Trackers, st.one_of(names, st.just("")), trackers),
    st.builds(Refused, names, ids, st.lists(ids, max_size=wire.MAX_OFFERS), st.booleans()),
    st.builds(Bye, st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=wire.MAX_REASON)),
)
scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), ids, names)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(st.sampled_from(["offer", "sdp", "type", "offer_id", "x"]), inner, max_size=5),
    ),
    max_leaves=10,
)
types = st.sampled_from(
    [
        "hello",
        "proof",
        "filter",
        "opened",
        "have",
        "present",
        "offers",
        "refused",
        "answer",
        "seek",
        "trackers",
        "bye",
        "x",
    ]
)
fields = st.sampled_from(
    [
        "version",
        "id",
        "nonce",
        "url",
        "features",
        "known",
        "signature",
        "swarms",
        "swarm",
        "peer_id",
        "offers",
        "offer_ids",
        "sdp",
        "reason",
        "part",
        "parts",
        "bits",
        "tags",
        "reply",
        "trackers",
    ]
)


def offers_message(**changes: Any) -> Json:
    """A valid message of one offer, but for the changes."""
    offer = {"offer": {"type": "offer", "sdp": "v=0"}, "offer_id": "o" * 20}
    return {"type": "offers", "swarm": NAME, "peer_id": A, "offers": [offer], **changes}


def one_offer(**changes: Any) -> Json:
    """The same, with changes to the offer."""
    offer = {"offer": {"type": "offer", "sdp": "v=0"}, "offer_id": "o" * 20, **changes}
    return offers_message(offers=[offer])


def answer_message(**changes: Any) -> Json:
    """A valid answer, but for the changes."""
    return {
        "type": "answer",
        "swarm": NAME,
        "peer_id": B,
        "to_peer_id": A,
        "offer_id": "o" * 20,
        "sdp": "v=0",
        **changes,
    }


def refused_message(**changes: Any) -> Json:
    """A valid refusal, but for the changes."""
    return {"type": "refused", "swarm": NAME, "peer_id": A, "offer_ids": ["o" * 20], **changes}


def present_message(*swarms: Any) -> Json:
    """A message with marks."""
    return {"type": "present", "swarms": swarms}


def have_message(*swarms: Any) -> Json:
    """Counts as they are given."""
    return {"type": "have", "swarms": list(swarms)}


def filter_message(part: Any = 0, parts: Any = 1, bits: Any = "AAAA") -> Json:
    """A part of a filter: by default three empty bytes."""
    return {"type": "filter", "part": part, "parts": parts, "bits": bits}


def trackers_message(*trackers: Any, swarm: Any = "") -> Json:
    """Trackers as they are given."""
    return {"type": "trackers", "swarm": swarm, "trackers": trackers}


def proof_message(*swarms: Any) -> Json:
    """A proof with the names of swarms."""
    return {"type": "proof", "signature": "", "swarms": swarms}


TRACKER = ["00" * 32, 1, "wss://tracker.example.org", "00" * 64]


def base64(data: bytes) -> str:
    """Bytes as they are in a filter."""
    return b64encode(data).decode()


def frame(message: object) -> bytes:
    """A frame as another implementation may write it."""
    return json.dumps(message).encode()


def is_message(data: bytes) -> bool:
    """Whether a frame is accepted; anything but `WireError` fails the test."""
    try:
        wire.decode(data)
    except WireError:
        return False
    return True


@given(st.lists(simple, min_size=1, max_size=5))
def test_messages_come_back_as_they_were_sent_several_in_a_frame(messages: list[Any]) -> None:
    assert wire.decode(b"\n".join(map(wire.encode, messages))) == messages


@given(names, ids, st.lists(st.tuples(ids, sdps), min_size=1, max_size=5))
def test_offers_come_back_as_they_were_sent(name: str, maker: str, made: list[tuple[str, str]]) -> None:
    offers = [codec.make_offer(offer_id, sdp) for offer_id, sdp in made]
    (message,) = wire.decode(wire.encode_offers(name.encode(), maker, offers))
    assert isinstance(message, Offers)
    assert (message.swarm, message.peer_id) == (name, maker)
    assert [(codec.from_json(o.offer_id), codec.from_json(o.description.sdp)) for o in message.offers] == made


@given(names, ids, ids, ids, sdps)
def test_answers_come_back_as_they_were_sent(name: str, maker: str, to: str, offer_id: str, sdp: str) -> None:
    answer = codec.make_answer("h" * 20, maker, to, offer_id, sdp)
    (message,) = wire.decode(wire.encode_answer(name.encode(), answer))
    assert isinstance(message, Answered)
    assert (message.swarm, message.peer_id, message.to_peer_id) == (name, maker, to)
    assert (codec.from_json(message.offer_id), codec.from_json(message.sdp)) == (offer_id, sdp)


@given(ids, ids, sdps, st.booleans())
def test_a_relayed_offer_is_json_and_valid_for_clients(maker: str, offer_id: str, sdp: str, escaped: bool) -> None:
    # As another implementation may write it, so that tokens are none of ours.
    text = json.dumps(
        one_offer(offer={"type": "offer", "sdp": sdp}, offer_id=offer_id) | {"peer_id": maker}, ensure_ascii=escaped
    )
    (message,) = wire.decode(text.encode())
    assert isinstance(message, Offers)
    (relayed,) = codec.encode_offers("h" * 20, maker, message.offers)
    content = json.loads(relayed)
    assert (content["peer_id"], content["offer_id"], content["offer"]["sdp"]) == (maker, offer_id, sdp)
    again = codec.decode(json.dumps(announce(maker, offers=[content])).encode(), 20)
    assert isinstance(again, Announce)
    assert (len(again.offers), again.invalid_offers) == (1, 0)


@given(ids, ids, sdps, st.booleans())
def test_a_relayed_answer_is_json(maker: str, offer_id: str, sdp: str, escaped: bool) -> None:
    text = json.dumps(answer_message(peer_id=maker, offer_id=offer_id, sdp=sdp), ensure_ascii=escaped)
    (message,) = wire.decode(text.encode())
    assert isinstance(message, Answered)
    answer = Answer("h" * 20, message.peer_id, message.to_peer_id, message.sdp, message.offer_id)
    relayed = json.loads(codec.encode_answer(answer))
    assert (relayed["answer"], relayed["offer_id"]) == ({"type": "answer", "sdp": sdp}, offer_id)


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_none(data: bytes) -> None:
    is_message(data)


@given(types, st.dictionaries(fields, values, max_size=6))
def test_any_json_is_a_message_or_none(kind: str, content: Json) -> None:
    is_message(frame({"type": kind, **content}))


@given(
    st.sampled_from(
        [
            offers_message(),
            answer_message(),
            refused_message(),
            have_message([NAME, 1, 2]),
            filter_message(),
            trackers_message(TRACKER),
        ]
    ),
    st.binary(min_size=1, max_size=4),
    st.integers(0),
)
def test_a_damaged_message_is_none_or_can_still_be_relayed(message: Json, noise: bytes, where: int) -> None:
    data = frame(message)
    at = where % len(data)
    damaged = data[:at] + noise + data[at + len(noise) :]
    if is_message(damaged):
        for found in wire.decode(damaged):
            tokens = [found.sdp, found.offer_id] if isinstance(found, Answered) else []
            if isinstance(found, Offers):
                tokens = [token for o in found.offers for token in (o.description.sdp, o.offer_id)]
            assert all(isinstance(json.loads(bytes(token)), str) for token in tokens)


@pytest.mark.parametrize(
    "message",
    [
        offers_message(),
        answer_message(),
        refused_message(),
        have_message([NAME, 0, 0]),
        filter_message(),
        proof_message(NAME),
        trackers_message(TRACKER),
        {"type": "opened", "tags": ""},
        {"type": "seek", "swarm": ""},
        {"type": "bye", "reason": ""},
    ],
    ids=lambda message: message["type"],
)
def test_fields_that_are_not_known_are_passed_over(message: Json) -> None:
    assert is_message(frame(message))
    assert is_message(frame(message | {"later": [{"x": None}]}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"null",
        b"[]",
        b"5",
        b'"hello"',
        b"{}",
        b"{",
        b'{"type":"bye","reason":"a"}x',
        b'{"type":"bye","reason":"a"}\n',
        b'\n{"type":"bye","reason":"a"}',
        b'{"type":"bye",\n"reason":"a"}',
        b'{"type":"bye","reason":"a"} {"type":"bye","reason":"a"}',
        b'\xef\xbb\xbf{"type":"bye","reason":"a"}',
        b'{"type":"bye","reason":"\xff"}',
        b"[" * 100_000,
        b'{"type":"have","swarms":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b'{"type":"bye","reason":"a","x":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    ],
)
def test_bytes_that_are_no_json_are_no_message(data: bytes) -> None:
    assert not is_message(data)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "offer"},
        {"type": "Have", "swarms": []},
        {"type": 5},
        {"reason": "a"},
        {"version": 2},
        {"type": "hello"},
        {"type": "hello", "version": "1", "id": "", "nonce": ""},
        {"type": "hello", "version": True, "id": "", "nonce": ""},
        {"type": "hello", "version": 1, "id": 5, "nonce": ""},
        {"type": "hello", "version": 1, "id": "", "nonce": "", "url": None},
        {"type": "hello", "version": 1, "id": "", "nonce": "", "url": "\ud800"},
        {"type": "proof", "signature": None},
        proof_message(*[NAME] * (wire.MAX_WANTED + 1)),
        proof_message(""),
        proof_message(NAME[1:]),
        proof_message(NAME + "0"),
        proof_message(5),
        {"type": "proof", "signature": "", "swarms": NAME},
        {"type": "proof", "signature": "", "swarms": None},
        {"type": "filter"},
        filter_message(part=1),
        filter_message(part=-1),
        filter_message(part=2, parts=2),
        filter_message(part=0.5),
        filter_message(part=None),
        filter_message(parts=0),
        filter_message(parts=-1),
        filter_message(parts=3),
        filter_message(parts=63),
        filter_message(parts=2 * MAX_PARTS),
        filter_message(parts=2**70),
        filter_message(parts="1"),
        filter_message(bits=""),
        filter_message(bits=None),
        filter_message(bits=[0, 0, 0]),
        filter_message(bits="AAA"),
        filter_message(bits="A"),
        filter_message(bits="AA!A"),
        filter_message(bits="AA\nAA"),
        filter_message(bits="äAAA"),
        filter_message(bits="////"),
        filter_message(bits=base64(bytes(MAX_BYTES + 1))),
        filter_message(bits=base64(b"\xff" * 26 + bytes(14))),
        {"type": "opened"},
        {"type": "opened", "tags": None},
        {"type": "opened", "tags": ["0" * 16]},
        {"type": "opened", "tags": "0" * 15},
        {"type": "opened", "tags": "0" * 17},
        {"type": "opened", "tags": "0" * 16 * (wire.MAX_TAGS + 1)},
        {"type": "seek"},
        {"type": "seek", "swarm": None},
        {"type": "seek", "swarm": NAME[1:]},
        {"type": "seek", "swarm": NAME + "0"},
        {"type": "trackers", "swarm": ""},
        {"type": "trackers", "trackers": []},
        trackers_message(swarm=NAME[1:]),
        trackers_message(swarm=None),
        trackers_message(*[TRACKER] * (wire.MAX_TRACKERS + 1)),
        trackers_message(TRACKER[:3]),
        trackers_message([*TRACKER, ""]),
        trackers_message([TRACKER[0], "1", *TRACKER[2:]]),
        trackers_message([TRACKER[0], 1.5, *TRACKER[2:]]),
        trackers_message([TRACKER[0], True, *TRACKER[2:]]),
        trackers_message([None, *TRACKER[1:]]),
        trackers_message([*TRACKER[:3], None]),
        trackers_message({"id": ""}),
        {"type": "bye"},
        {"type": "bye", "reason": "x" * (wire.MAX_REASON + 1)},
        {"type": "bye", "reason": "ü"},
        {"type": "bye", "reason": "a\nb"},
        {"type": "have"},
        {"type": "have", "swarms": [], "reply": 1},
        {"type": "present", "swarms": [], "reply": None},
        have_message([NAME, 1]),
        have_message([NAME, 1, 1, 1]),
        have_message([NAME[:-1], 1, 1]),
        have_message([NAME + "0", 1, 1]),
        have_message([NAME, -1, 1]),
        have_message([NAME, 1, -1]),
        have_message([NAME, wire.MAX_COUNT + 1, 1]),
        have_message([NAME, 1, 10**30]),
        have_message([NAME, 1.5, 1]),
        have_message([NAME, True, 1]),
        have_message([NAME, None, 1]),
        have_message([5, 1, 1]),
        have_message([NAME, 1, 1], [NAME, -1, 1]),
        present_message([NAME, "", 1]),
        present_message([NAME, MARK]),
        present_message([NAME, MARK, MARK, ""]),
        present_message([NAME[1:], MARK, ""]),
        present_message([NAME, MARK[1:], ""]),
        present_message([NAME, "", MARK + "0"]),
        present_message([NAME, MARK[:8], MARK[:8]]),
        present_message([NAME, MARK, MARK * wire.MAX_PRESENT]),
        present_message(*[[NAME, "", MARK]] * (wire.MAX_SWARMS + 1)),
        refused_message(known=None),
        refused_message(known="true"),
        refused_message(peer_id="short"),
        refused_message(peer_id="ā" * 20),
        refused_message(offer_ids=["short"]),
        refused_message(offer_ids=["o" * 20, "ā" * 20]),
        refused_message(offer_ids=["o" * 20] * (wire.MAX_OFFERS + 1)),
        refused_message(offer_ids="o" * 20),
        refused_message(swarm=5),
        offers_message(offers=[]),
        offers_message(offers=None),
        offers_message(offers=offers_message()["offers"] * (wire.MAX_OFFERS + 1)),
        offers_message(offers=offers_message()["offers"] + [None]),
        offers_message(peer_id="a" * 21),
        offers_message(peer_id="ā" * 20),
        offers_message(peer_id=5),
        one_offer(offer={"type": "answer", "sdp": "v=0"}),
        one_offer(offer={"sdp": "v=0"}),
        one_offer(offer={"type": "offer"}),
        one_offer(offer={"type": "offer", "sdp": None}),
        one_offer(offer={"type": "offer", "sdp": 5}),
        one_offer(offer={"type": "offer", "sdp": {}}),
        one_offer(offer={"type": "offer", "sdp": "\ud800"}),
        one_offer(offer={"type": "offer", "sdp": "v" * (SDP_LIMIT + 1)}),
        one_offer(offer={"type": "offer", "sdp": "ü" * (SDP_LIMIT // 2 + 1)}),
        one_offer(offer_id="short"),
        one_offer(offer_id=None),
        one_offer(offer_id=[["o" * 20]]),
        one_offer(offer_id=12345678901234567890),
        one_offer(offer_id="ā" * 20),
        answer_message(to_peer_id="short"),
        answer_message(peer_id=None),
        answer_message(offer_id=5),
        answer_message(offer_id="ā" * 20),
        answer_message(sdp=None),
        answer_message(sdp=["v=0"]),
        answer_message(sdp="v" * (SDP_LIMIT + 1)),
    ],
    ids=repr,
)
def test_a_message_of_another_form_is_none(message: Json) -> None:
    assert not is_message(frame(message))


@pytest.mark.parametrize("name", ["type", "swarm", "peer_id", "to_peer_id", "offer_id", "sdp"])
def test_an_answer_has_all_its_fields(name: str) -> None:
    message = answer_message()
    del message[name]
    assert not is_message(frame(message))


@pytest.mark.parametrize("sdp", [b'"\\x"', b'"a\x01"', b'"\\ud800"', b'"\\ud800\\u0061"', b"'v=0'", b'"v=0', b"v=0"])
@pytest.mark.parametrize("padding", [b"", b"v" * 65_600], ids=["short", "long"])
def test_an_sdp_that_is_no_string_of_json_is_not_relayed(sdp: bytes, padding: bytes) -> None:
    for message in (one_offer(offer={"type": "offer", "sdp": "@"}), answer_message(sdp="@")):
        assert not is_message(frame(message).replace(b'"@"', sdp[:1] + padding + sdp[1:]))


def test_one_message_that_is_none_spoils_the_frame() -> None:
    good = wire.encode(Have([(NAME, 1, 1)]))
    assert is_message(good + b"\n" + good)
    assert not is_message(good + b"\n" + frame(have_message([NAME, -1, 0])))


def test_the_longest_of_everything() -> None:
    assert is_message(frame({"type": "bye", "reason": "x" * wire.MAX_REASON}))
    assert is_message(frame(have_message([NAME, wire.MAX_COUNT, wire.MAX_COUNT])))
    assert is_message(frame(present_message([NAME, MARK, MARK * (wire.MAX_PRESENT - 1)])))
    assert is_message(frame(present_message(*[[NAME, "", MARK]] * wire.MAX_SWARMS)))
    assert is_message(frame(offers_message(offers=offers_message()["offers"] * wire.MAX_OFFERS)))
    assert is_message(frame(refused_message(offer_ids=["o" * 20] * wire.MAX_OFFERS)))
    assert is_message(frame(one_offer(offer={"type": "offer", "sdp": "v" * SDP_LIMIT})))
    assert is_message(frame(answer_message(sdp="v" * SDP_LIMIT)))
    assert is_message(frame(filter_message(part=MAX_PARTS - 1, parts=MAX_PARTS, bits=base64(bytes(MAX_BYTES)))))
    assert is_message(frame(filter_message(bits=base64(b"\xff" * int(40 * MAX_FILL) + bytes(40 - int(40 * MAX_FILL))))))
    assert is_message(frame({"type": "opened", "tags": "0" * 16 * wire.MAX_TAGS}))
    assert is_message(frame(trackers_message(*[TRACKER] * wire.MAX_TRACKERS, swarm=NAME)))
    assert is_message(frame(proof_message(*[NAME] * wire.MAX_WANTED)))
    padded = frame({"type": "bye", "reason": "a"})
    assert is_message(padded + b" " * (wire.MAX_FRAME - len(padded)))
    assert not is_message(padded + b" " * (wire.MAX_FRAME - len(padded) + 1))


@pytest.mark.parametrize(
    "encode",
    [
        lambda offers: wire.encode_offers(NAME.encode(), A, offers),
        lambda _: wire.encode_answer(NAME.encode(), an_answer()),
        lambda offers: wire.encode(Refused(NAME, A, ids_of(offers))),
        lambda _: wire.encode(Hello(1, "a", "b", "line\nbreak")),
    ],
)
def test_a_message_is_one_line_of_utf8(encode: Callable[[list[Offer]], bytes]) -> None:
    data = encode(some_offers(2, "v=0\r\nü\u2028"))
    assert b"\n" not in data
    json.loads(data.decode())
