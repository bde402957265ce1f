"""Frames in, messages out: what `decode` takes and refuses, and what the encoders write."""

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client import announce, answer, offers
from tracker.protocol import codec
from tracker.protocol.codec import MAX_SDP_BYTES, decode
from tracker.protocol.errors import RequestError
from tracker.protocol.ids import is_any_id, is_id
from tracker.protocol.messages import NO_INFO_HASH, Announce, Answer, Scrape
from tracker.reasons import DropReason

HASH = "h" * 20
PEER = "p" * 20
BINARY_ID = '\x00\x01\x1f"\\/\x7f\x80\xa0\xe9\xff' + "x" * 9

ids = st.text(st.characters(max_codepoint=0xFF), min_size=20, max_size=20)
any_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
text_ids = any_ids.filter(lambda text: not is_id(text))
# Lone surrogates cannot be written as UTF-8.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def frame(message: object) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode()


def decoded(max_offers: int = 20, **fields: Any) -> Announce:
    message = decode(frame(announce(PEER, **fields)), max_offers)
    assert isinstance(message, Announce)
    return message


def offer_ids(message: Announce) -> list[str]:
    return [codec.from_json(offer.offer_id) for offer in message.offers]


def refused(payload: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decode(payload, 20)
    return caught.value


@pytest.mark.parametrize(
    "event", [None, "", "empty", "update", "started", "paused", "<regular>", "anything", 5, {}, [], True]
)
def test_unknown_events_mean_update(event: object) -> None:
    message = decoded(event=event)
    assert not message.stopped
    assert not message.complete


def test_absent_event_means_update() -> None:
    assert not decoded().stopped


def test_stopped() -> None:
    assert decoded(event="stopped").stopped


@pytest.mark.parametrize("left", [0, 0.0, -0.0])
def test_left_zero_is_a_seeder(left: float) -> None:
    assert decoded(left=left).complete


@pytest.mark.parametrize("left", [None, "0", "", -1, 1, 1e30, 10**400, False, True, [], {}, 16384])
def test_any_other_left_is_a_leecher(left: object) -> None:
    assert not decoded(left=left).complete


def test_absent_left_is_a_leecher() -> None:
    message = announce(PEER)
    del message["left"]
    parsed = decode(frame(message), 20)
    assert isinstance(parsed, Announce)
    assert not parsed.complete


def test_completed_is_a_seeder() -> None:
    assert decoded(event="completed", left=7).complete


@pytest.mark.parametrize("absent", [{}, {"offers": None}, {"offers": []}])
def test_no_offers(absent: dict[str, Any]) -> None:
    message = decoded(**absent)
    assert message.offers == []
    assert message.invalid_offers == 0


@pytest.mark.parametrize(
    ("numwant", "expected"),
    [(2, 2), (0, 0), (-5, 0), (2.9, 2), (50, 7), (1e30, 7), (None, 7), ("2", 7), (True, 7), ([], 7), ({}, 7)],
)
def test_numwant_is_the_smaller_of_itself_and_the_offers(numwant: object, expected: int) -> None:
    message = decoded(offers=offers(7), numwant=numwant)
    assert len(message.offers) == expected
    assert message.surplus_offers == 7 - expected


def test_absent_numwant_means_as_many_as_offers() -> None:
    message = announce(PEER, offers=offers(7))
    del message["numwant"]
    parsed = decode(frame(message), 20)
    assert isinstance(parsed, Announce)
    assert len(parsed.offers) == 7


def test_offers_up_to_the_limit() -> None:
    message = decoded(max_offers=3, offers=offers(7), numwant=None)
    assert offer_ids(message) == [f"{n:020}" for n in range(3)]
    assert message.surplus_offers == 4


BAD_OFFERS: list[Any] = [
    None,
    5,
    "offer",
    [],
    {},
    {"fake_offer": "x"},
    {"offer": None, "offer_id": "i" * 20},
    {"offer": {"type": "offer", "sdp": "v=0"}},
    {"offer": {"type": "offer", "sdp": "v=0"}, "offer_id": None},
    {"offer": {"type": "offer", "sdp": "v=0"}, "offer_id": 5},
    {"offer": {"type": "offer", "sdp": "v=0"}, "offer_id": "short"},
    {"offer": {"type": "offer", "sdp": "v=0"}, "offer_id": "i" * 21},
    {"offer": {"type": "offer", "sdp": "v=0"}, "offer_id": "i" * 19 + "\u0100"},
    {"offer": {"type": "answer", "sdp": "v=0"}, "offer_id": "i" * 20},
    {"offer": {"sdp": "v=0"}, "offer_id": "i" * 20},
    {"offer": {"type": "offer"}, "offer_id": "i" * 20},
    {"offer": {"type": "offer", "sdp": None}, "offer_id": "i" * 20},
    {"offer": {"type": "offer", "sdp": {"v": 0}}, "offer_id": "i" * 20},
    {"offer": {"type": "offer", "sdp": ["v=0"]}, "offer_id": "i" * 20},
    {"offer": {"type": "offer", "sdp": "x" * (MAX_SDP_BYTES + 1)}, "offer_id": "i" * 20},
    {"offer": {"type": "offer", "sdp": "é" * (MAX_SDP_BYTES // 2 + 1)}, "offer_id": "i" * 20},
]


@pytest.mark.parametrize("bad", BAD_OFFERS, ids=lambda bad: json.dumps(bad)[:60])
def test_a_bad_offer_is_skipped_and_counted_and_the_rest_served(bad: Any) -> None:
    good = offers(2)
    message = decoded(offers=[good[0], bad, good[1]])
    assert offer_ids(message) == [item["offer_id"] for item in good]
    assert message.invalid_offers == 1


@pytest.mark.parametrize("wrong", ["text", 5, {}, True])
def test_offers_that_are_no_list_count_as_one_bad_offer(wrong: object) -> None:
    message = decoded(offers=wrong)
    assert message.offers == []
    assert message.invalid_offers == 1


@pytest.mark.parametrize("sdp", ["", "x" * MAX_SDP_BYTES, "\n" * MAX_SDP_BYTES, "é" * (MAX_SDP_BYTES // 2)])
def test_an_sdp_of_up_to_64_kib_is_taken_however_it_is_escaped(sdp: str) -> None:
    message = decode(json.dumps(announce(PEER, offers=offers(1, sdp=sdp))).encode(), 20)
    assert isinstance(message, Announce)
    assert codec.from_json(message.offers[0].description.sdp) == sdp


@given(sdp=texts, offer_id=ids, ascii_json=st.booleans())
def test_an_sdp_is_opaque_and_ids_are_any_latin_1(sdp: str, offer_id: str, ascii_json: bool) -> None:
    sent = announce(PEER, offers=[{"offer": {"type": "offer", "sdp": sdp}, "offer_id": offer_id}])
    message = decode(json.dumps(sent, ensure_ascii=ascii_json).encode(), 20)
    assert isinstance(message, Announce)
    (relayed,) = codec.encode_offers(HASH, PEER, message.offers)
    assert json.loads(relayed) == {
        "action": "announce",
        "info_hash": HASH,
        "peer_id": PEER,
        "offer": {"type": "offer", "sdp": sdp},
        "offer_id": offer_id,
    }


def test_offers_are_relayed_as_type_and_sdp_only() -> None:
    (item,) = offers(1)
    item["offer"]["evil"] = item["evil"] = True
    (relayed,) = codec.encode_offers(HASH, PEER, decoded(offers=[item]).offers)
    assert json.loads(relayed)["offer"] == {"type": "offer", "sdp": "v=0\r\n"}
    assert "evil" not in json.loads(relayed)


@given(sdp=texts, offer_id=ids, to_peer_id=ids)
def test_answers(sdp: str, offer_id: str, to_peer_id: str) -> None:
    sent = answer(PEER, to_peer_id, offer_id, sdp=sdp)
    sent["answer"]["evil"] = sent["trackerid"] = "x"
    message = decode(frame(sent), 20)
    assert isinstance(message, Answer)
    assert message.to_peer_id == to_peer_id
    relayed = codec.encode_answer(message)
    assert json.loads(relayed) == {
        "action": "announce",
        "info_hash": HASH,
        "peer_id": PEER,
        "answer": {"type": "answer", "sdp": sdp},
        "offer_id": offer_id,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"answer": 5},
        {"answer": {}},
        {"answer": {"type": "offer", "sdp": ""}},
        {"answer": {"type": "answer"}},
        {"answer": {"type": "answer", "sdp": 5}},
        {"answer": {"type": "answer", "sdp": "x" * (MAX_SDP_BYTES + 1)}},
        {"offer_id": None},
        {"offer_id": "short"},
        {"to_peer_id": None},
        {"to_peer_id": "short"},
        {"to_peer_id": ["p" * 20]},
    ],
    ids=str,
)
def test_a_bad_answer_gets_a_failure(wrong: dict[str, Any]) -> None:
    error = refused(frame(answer(PEER, "q" * 20, "o" * 20) | wrong))
    assert error.reason is DropReason.INVALID_ANSWER
    assert error.info_hash == HASH


def test_an_answer_without_offer_id_gets_a_failure() -> None:
    message = answer(PEER, "q" * 20, "o" * 20)
    del message["offer_id"]
    assert refused(frame(message)).reason is DropReason.INVALID_ANSWER


NO_IDS: list[Any] = [None, 5, "", "n" * 65, "\U0001f600" * 65, ["h" * 20], {}, True]


@pytest.mark.parametrize("bad", [*NO_IDS, "short", "h" * 19, "h" * 21, "h" * 19 + "\u0100"])
def test_a_binary_swarm_takes_only_peer_ids_of_twenty_latin_1_characters(bad: object) -> None:
    error = refused(frame(announce(PEER) | {"peer_id": bad}))
    assert (error.reason, error.info_hash) == (DropReason.INVALID_PEER_ID, HASH)


@pytest.mark.parametrize("bad", NO_IDS)
def test_an_id_is_text_of_1_to_64_characters(bad: object) -> None:
    error = refused(frame(announce(PEER) | {"info_hash": bad}))
    assert (error.reason, error.info_hash) == (DropReason.INVALID_INFO_HASH, NO_INFO_HASH)
    error = refused(frame(announce(PEER) | {"info_hash": "name", "peer_id": bad}))
    assert (error.reason, error.info_hash) == (DropReason.INVALID_PEER_ID, "name")
    error = refused(frame(answer(PEER, "q", "o", "name") | {"to_peer_id": bad}))
    assert (error.reason, error.info_hash) == (DropReason.INVALID_ANSWER, "name")
    error = refused(frame(answer(PEER, "q", "o", "name") | {"offer_id": bad}))
    assert (error.reason, error.info_hash) == (DropReason.INVALID_ANSWER, "name")
    message = decoded(info_hash="name", offers=[{**offers(1)[0], "offer_id": bad}, *offers(1)])
    assert (len(message.offers), message.invalid_offers) == (1, 1)


@given(info_hash=text_ids, ids=st.lists(any_ids, min_size=3, max_size=3), sdp=texts, ascii_json=st.booleans())
def test_a_text_swarm_passes_on_all_ids_as_they_are(info_hash: str, ids: list[str], sdp: str, ascii_json: bool) -> None:
    peer, to_peer, offer_id = ids
    sent = announce(peer, info_hash, offers=[{"offer": {"type": "offer", "sdp": sdp}, "offer_id": offer_id}])
    message = decode(json.dumps(sent, ensure_ascii=ascii_json).encode(), 20)
    assert isinstance(message, Announce)
    (relayed,) = codec.encode_offers(message.info_hash, message.peer_id, message.offers)
    assert json.loads(relayed) == {
        "action": "announce",
        "info_hash": info_hash,
        "peer_id": peer,
        "offer": {"type": "offer", "sdp": sdp},
        "offer_id": offer_id,
    }
    sent = answer(peer, to_peer, offer_id, info_hash, sdp)
    message = decode(json.dumps(sent, ensure_ascii=ascii_json).encode(), 20)
    assert isinstance(message, Answer)
    assert message.to_peer_id == to_peer
    seen = json.loads(codec.encode_answer(message))
    assert (seen["info_hash"], seen["peer_id"], seen["offer_id"]) == (info_hash, peer, offer_id)
    assert seen["answer"] == {"type": "answer", "sdp": sdp}
    assert json.loads(codec.encode_reply(info_hash, 120, 3, 4))["info_hash"] == info_hash
    assert json.loads(codec.encode_scrape([(info_hash, 1, 2)]))["files"].keys() == {info_hash}


@pytest.mark.parametrize("bad", BAD_OFFERS, ids=lambda bad: json.dumps(bad)[:60])
def test_a_text_swarm_skips_bad_offers_too(bad: Any) -> None:
    offer_id = bad.get("offer_id") if isinstance(bad, dict) else None
    is_fine_here = isinstance(offer_id, str) and offer_id != "i" * 20
    message = decoded(info_hash="name", offers=[*offers(1), bad])
    assert (len(message.offers), message.invalid_offers) == ((2, 0) if is_fine_here else (1, 1))


def test_lone_surrogates_are_no_ids() -> None:
    for field in ("info_hash", "peer_id"):
        with pytest.raises(RequestError):
            decode(json.dumps(announce(PEER, "name") | {field: "\ud800"}).encode(), 20)
    for offer_id in ("\ud800", "a\udc00"):
        with pytest.raises(RequestError):
            decode(json.dumps(answer(PEER, "q", "o", "name") | {"offer_id": offer_id}).encode(), 20)


@pytest.mark.parametrize("value", [BINARY_ID, "\xff" * 20, "\0" * 20, "printable-ascii-0123"])
def test_any_latin_1_id_is_taken(value: str) -> None:
    message = decode(frame(announce(value, info_hash=value)), 20)
    assert isinstance(message, Announce)
    assert (message.info_hash, message.peer_id) == (value, value)


@pytest.mark.parametrize(
    ("wanted", "hashes", "invalid"),
    [
        (HASH, [HASH], 0),
        ([HASH, "i" * 20, HASH], [HASH, "i" * 20], 0),
        ([], [], 0),
        (5, [], 1),
        ({}, [], 1),
        ("short", ["short"], 0),
        ("", [], 1),
        ([5, None, HASH, "name", "n" * 65], [HASH, "name"], 3),
    ],
)
def test_scrape(wanted: object, hashes: list[str], invalid: int) -> None:
    assert decode(frame({"action": "scrape", "info_hash": wanted}), 20) == Scrape(hashes, invalid)


@pytest.mark.parametrize("message", [{"action": "scrape"}, {"action": "scrape", "info_hash": None}])
def test_full_scrape(message: object) -> None:
    assert decode(frame(message), 20) == Scrape(None)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"5",
        b'"announce"',
        b"[]",
        b'[{"action":"announce"}]',
        b"{}x",
        b"\xef\xbb\xbf{}",
        b'{"action":NaN}',
        b"[" * 100_000,
        b'{"offers":' + b"[" * 100_000,
        b'{"action":"announce","offers":[{"offer":{"type":"offer","sdp":"\\ud800"}}]}',
        b'{"action":"announce","offers":[{"offer":{"type":"offer","sdp":"\x01"}}]}',
    ],
    ids=lambda payload: repr(payload[:30]),
)
def test_what_is_no_json_object_gets_a_failure(payload: bytes) -> None:
    error = refused(payload)
    assert error.reason is DropReason.INVALID_JSON
    assert json.loads(codec.encode_failure(error)) == {
        "action": "announce",
        "info_hash": NO_INFO_HASH,
        "failure reason": "invalid message",
    }


@pytest.mark.parametrize(
    "payload",
    [b"", b" ", b"\n", b"ping", b"PING\n", b'"ping"', b'{"action":"ping"}', b'{"type": "Ping", "id": 5}'],
)
def test_heartbeats_of_pages_are_recognized(payload: bytes) -> None:
    refused(payload)
    assert codec.is_heartbeat(payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"pong",
        b"{}",
        b"null",
        b"[]",
        b'["ping"]',
        b'{"action":"pings"}',
        b'{"action":["ping"]}',
        b"ping" * 30,
        b" " * 65,
    ],
)
def test_other_garbage_is_no_heartbeat(payload: bytes) -> None:
    refused(payload)
    assert not codec.is_heartbeat(payload)


@given(st.binary(max_size=80))
def test_any_payload_is_a_heartbeat_or_not(payload: bytes) -> None:
    assert codec.is_heartbeat(payload) in (True, False)


@pytest.mark.parametrize("action", [None, 5, "dance", ["announce"], {}])
def test_an_unknown_action_gets_a_failure(action: object) -> None:
    error = refused(frame(announce(PEER) | {"action": action}))
    assert (error.reason, error.info_hash) == (DropReason.UNKNOWN_ACTION, HASH)


@pytest.mark.parametrize("payload", [b"\xff", b'{"action":"announce","x":"\xed\xa0\x80"}', b'{"sdp":"\xc3"}'])
def test_invalid_utf_8_is_told_apart(payload: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode(payload, 20)


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", "é".encode()[:1]])
@pytest.mark.parametrize(
    "message",
    [
        announce(PEER, offers=offers(3, sdp="MARK")),
        announce(PEER, offers=[*offers(1), 5, *offers(1, sdp="MARK")]),
        answer(PEER, "q" * 20, "o" * 20, sdp="MARK"),
        answer(PEER, "q" * 20, "MARK"),
        announce("MARK"),
    ],
    ids=["offers", "one of few offers", "answer", "offer_id", "peer_id"],
)
def test_invalid_utf_8_inside_what_would_be_relayed(message: Any, bad: bytes) -> None:
    with pytest.raises(UnicodeDecodeError):
        decode(frame(message).replace(b"MARK", bad), 20)


def test_what_nobody_looks_at_may_be_anything() -> None:
    payload = frame(announce(PEER) | {"x": "MARK"}).replace(b"MARK", b"\xff")
    assert isinstance(decode(payload, 20), Announce)


@given(
    st.sampled_from(
        [
            announce(PEER, offers=offers(2, sdp="é")),
            announce(PEER, offers=[*offers(1), 5, *offers(1)]),
            answer(PEER, "q" * 20, "\xff" * 20, sdp="é"),
        ]
    ),
    st.integers(0, 400),
    st.integers(0, 3),
    st.one_of(st.binary(max_size=3), st.sampled_from([b"\xff", b"\xed\xa0\x80", b"\\ud800", b"\\u00ff", b"\0", b'"'])),
)
def test_of_damaged_frames_nothing_is_relayed_that_is_not_json(message: Any, at: int, cut: int, put: bytes) -> None:
    payload = frame(message)
    at %= len(payload)
    try:
        decoded = decode(payload[:at] + put + payload[at + cut :], 20)
    except (RequestError, UnicodeDecodeError):
        return
    relayed = []
    if isinstance(decoded, Announce):
        relayed = codec.encode_offers(HASH, PEER, decoded.offers)
    elif isinstance(decoded, Answer):
        relayed = [codec.encode_answer(decoded)]
    for one in map(json.loads, relayed):
        assert is_id(one["offer_id"])
        assert isinstance(one.get("offer", one.get("answer"))["sdp"], str)


@given(st.binary(max_size=400))
def test_random_bytes_never_raise_anything_else(payload: bytes) -> None:
    with suppress(RequestError, UnicodeDecodeError):
        decode(payload, 20)


KEYS = ["offer", "offer_id", "type", "sdp", "x"]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts | ids,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["action", "info_hash", "peer_id", "to_peer_id", "offer_id", "event", "left", "numwant", "offers", "answer"]


@given(st.dictionaries(st.sampled_from(FIELDS), json_values), st.sampled_from(["announce", "scrape", None]))
def test_mutated_messages_yield_only_what_may_be_relayed(mutation: dict[str, Any], action: str | None) -> None:
    base = announce(PEER, offers=offers(2)) | mutation
    if action:
        base["action"] = action
    try:
        message = decode(frame(base), 20)
    except RequestError as error:
        failure = json.loads(codec.encode_failure(error))
        assert set(failure) == {"action", "info_hash", "failure reason"}
        assert failure["action"] in ("announce", "scrape")
        assert is_any_id(failure["info_hash"])
        return
    if isinstance(message, Announce):
        for relayed in codec.encode_offers(message.info_hash, PEER, message.offers):
            seen = json.loads(relayed)
            assert is_any_id(seen["offer_id"])
            assert is_id(seen["offer_id"]) or not is_id(seen["info_hash"])
            assert set(seen["offer"]) == {"type", "sdp"}
            assert isinstance(seen["offer"]["sdp"], str)
    elif isinstance(message, Answer):
        seen = json.loads(codec.encode_answer(message))
        assert is_any_id(seen["offer_id"])
        assert is_id(seen["offer_id"]) or not is_id(seen["info_hash"])
        assert isinstance(seen["answer"]["sdp"], str)


sdps = st.one_of(
    st.text(st.characters(codec="utf-8")),
    st.sampled_from(["", '"', "\\", '\\"', "\n", '","sdp":"', "é", "x" * (MAX_SDP_BYTES + 1), "\n" * MAX_SDP_BYTES]),
)


def joined(strings: list[tuple[bytes, bytes]]) -> tuple[bytes, list[int]]:
    """Return the arguments of `rebuilt_offers` for pairs of offer_id and SDP."""
    return b"".join(text for pair in strings for text in pair), [len(text) for pair in strings for text in pair]


@given(st.lists(st.tuples(st.sampled_from([BINARY_ID, "o" * 20, "text", ""]), sdps), max_size=3), st.booleans())
def test_raw_strings_of_offers_make_the_same_ones_if_they_may_be_relayed(
    texts: list[tuple[str, str]], binary: bool
) -> None:
    name = HASH if binary else "text"
    made = []
    for offer_id, sdp in texts:
        raw = codec.to_json(offer_id), codec.to_json(sdp)
        answer = codec.rebuilt_answer(name, PEER, PEER, b"".join(raw), len(raw[0]))
        try:
            made.append(codec.make_offer(offer_id, sdp, name))
        except ValueError:
            assert answer is None
        else:
            assert answer == codec.make_answer(name, PEER, PEER, offer_id, sdp)
    raws = [(codec.to_json(offer_id), codec.to_json(sdp)) for offer_id, sdp in texts]
    assert codec.rebuilt_offers(*joined(raws), binary) == made


pieces = st.sampled_from([b'"', b"\\", b"\xff", b"\\u00ff", b"\\ud800", b"{", b"x", b",", b'"oooooooooooooooooooo"'])
damaged = st.binary(max_size=30) | st.lists(pieces, max_size=9).map(b"".join)


@given(st.lists(st.tuples(damaged | st.just(b'"oooooooooooooooooooo"'), damaged), min_size=1, max_size=3))
def test_bytes_that_are_not_strings_make_no_offers(strings: list[tuple[bytes, bytes]]) -> None:
    texts, sizes = joined(strings)
    answer = codec.rebuilt_answer(HASH, PEER, PEER, b"".join(strings[0]), sizes[0])
    for offer in codec.rebuilt_offers(texts, sizes, True) + codec.rebuilt_offers(texts, sizes[1:], True):
        (relayed,) = codec.encode_offers(HASH, PEER, [offer])
        relayed.decode()
        assert is_id(offer.id)
        assert re.fullmatch(rb'(?s)"([^"\\]|\\.)*"', bytes(offer.description.sdp)), (
            "a quote inside would end the string"
        )
    assert (answer is not None) is bool(codec.rebuilt_offers(*joined(strings[:1]), True))


def test_a_quote_missing_in_one_string_hides_none_in_another() -> None:
    good, bad = codec.to_json("o" * 20), b'"a"a"'
    assert codec.rebuilt_offers(*joined([(good, b'"'), (good, bad)]), True) == []
    assert codec.rebuilt_offers(*joined([(good, b""), (good, b'"""a"')]), True) == []
    assert codec.rebuilt_answer(HASH, PEER, PEER, good[:-1] + bad, len(good) - 1) is None


def test_raw_strings_make_no_answer_with_invalid_ids() -> None:
    raw = codec.to_json("o" * 20) + b'"v=0"', 22
    assert codec.rebuilt_answer(HASH, PEER, PEER, *raw)
    for ids in (("", PEER, PEER), (HASH, "short", PEER), (HASH, PEER, "short"), (HASH, PEER, "\u0100" * 20)):
        assert codec.rebuilt_answer(*ids, *raw) is None


def test_announce_reply() -> None:
    reply = codec.encode_reply(BINARY_ID, 120, 3, 4)
    assert json.loads(reply) == {
        "action": "announce",
        "interval": 120,
        "complete": 3,
        "incomplete": 4,
        "info_hash": BINARY_ID,
    }


def test_scrape_reply() -> None:
    reply = codec.encode_scrape([(BINARY_ID, 3, 4), (HASH, 0, 0)])
    assert json.loads(reply) == {
        "action": "scrape",
        "files": {
            BINARY_ID: {"complete": 3, "incomplete": 4, "downloaded": 3},
            HASH: {"complete": 0, "incomplete": 0, "downloaded": 0},
        },
    }
    assert json.loads(codec.encode_scrape([])) == {"action": "scrape", "files": {}}


def test_messages_made_of_text_are_checked_as_those_from_clients() -> None:
    assert codec.from_json(codec.make_offer("o" * 20, "v=0").description.sdp) == "v=0"
    assert codec.from_json(codec.make_answer(HASH, PEER, PEER, "o" * 20, "v=0").sdp) == "v=0"
    for offer_id, sdp in (("short", "v=0"), ("o" * 20, "x" * (MAX_SDP_BYTES + 1)), ("\u0100" * 20, "")):
        with pytest.raises(ValueError, match="of the swarm"):
            codec.make_offer(offer_id, sdp)
        with pytest.raises(ValueError, match="of the swarm"):
            codec.make_answer(HASH, PEER, PEER, offer_id, sdp)
    with pytest.raises(ValueError, match="of the swarm"):
        codec.make_answer(HASH, "short", PEER, "o" * 20, "")
    assert codec.from_json(codec.make_offer("short", "v=0", "name").offer_id) == "short"
    assert codec.make_answer("name", "a", "b", "c", "v=0").info_hash == "name"
    for offer_id, sdp in (("", "v=0"), ("o" * 65, "v=0"), ("short", "x" * (MAX_SDP_BYTES + 1))):
        with pytest.raises(ValueError, match="of the swarm"):
            codec.make_offer(offer_id, sdp, "name")
        with pytest.raises(ValueError, match="of the swarm"):
            codec.make_answer("name", PEER, PEER, offer_id, sdp)
    with pytest.raises(ValueError, match="of the swarm"):
        codec.make_answer("", "a", "b", "c", "v=0")
    with pytest.raises(UnicodeEncodeError):
        codec.make_offer("o" * 20, "\ud800")
