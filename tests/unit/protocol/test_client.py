"""The client's half of the wire format: against the tracker's half, recorded clients, and other trackers' messages."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.protocol import codec
from tracker.protocol.client import WEBTORRENT_DEFAULTS, MessageError, decode, encode
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import (
    Announce,
    AnnounceReply,
    Answer,
    Failure,
    Message,
    RelayedAnswer,
    RelayedOffer,
    Scrape,
    ScrapeReply,
    SwarmCounts,
)
from tracker.reasons import DropReason

RECORDED = Path(__file__).parents[2] / "frames" / "webtorrent.jsonl"
HASH, PEER = "h" * 20, "p" * 20

ids = st.text(st.characters(max_codepoint=0xFF), min_size=20, max_size=20)
# Lone surrogates cannot be written as UTF-8.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
counts = st.integers(0, 2**53)
offers = st.lists(st.builds(codec.make_offer, ids, texts), max_size=5)
announces = st.builds(
    lambda info_hash, peer_id, event, seeder, offers: Announce(
        info_hash, peer_id, event == "stopped", seeder or event == "completed", offers, event == "completed"
    ),
    *(ids, ids, st.sampled_from(["stopped", "completed", ""]), st.booleans(), offers),
)
answers = st.builds(codec.make_answer, ids, ids, ids, ids, texts)
scrapes = st.builds(Scrape, st.none() | st.lists(ids, unique=True))
offer = codec.make_offer("o" * 20, "v=0\r\n")


def sent(peer: dict[str, Any]) -> Message:
    """Return the message that a recorded frame of webtorrent carries, made from its fields."""
    ids = peer["info_hash"], peer["peer_id"]
    if "answer" in peer:
        return codec.make_answer(*ids, peer["to_peer_id"], peer["offer_id"], peer["answer"]["sdp"])
    made = [codec.make_offer(item["offer_id"], item["offer"]["sdp"]) for item in peer.get("offers", [])]
    return Announce(*ids, peer.get("event") == "stopped", False, made)


def recorded() -> Iterator[Any]:
    seen = set()
    for row in map(json.loads, RECORDED.read_text().splitlines()):
        if row["dir"] == "send" and (key := (*row["json"], row["json"].get("event"))) not in seen:
            seen.add(key)
            yield pytest.param(row["raw"], row["json"], id=f"{row['json'].get('event')}-{len(row['json'])}")


@given(announces, st.booleans())
def test_the_tracker_reads_announces(announce: Announce, fields_first: bool) -> None:
    if announce.stopped:
        # An announce has one event: with "stopped", `left` alone cannot make a seeder.
        announce.complete = False
    announce.payload = encode(announce, fields_first=fields_first)
    assert codec.decode(announce.payload, 20) == announce


@given(answers | scrapes)
def test_the_tracker_reads_answers_and_scrapes(message: Message) -> None:
    assert codec.decode(encode(message), 20) == message


@given(ids, counts, counts, counts)
def test_the_client_reads_replies(info_hash: str, interval: int, complete: int, incomplete: int) -> None:
    written = codec.encode_reply(info_hash, interval, complete, incomplete)
    assert decode(written) == decode(written.decode()) == AnnounceReply(info_hash, interval, complete, incomplete)


@given(ids, ids, offers)
def test_the_client_reads_offers(info_hash: str, peer_id: str, offers: list[Any]) -> None:
    written = codec.encode_offers(info_hash, peer_id, offers)
    expected = [RelayedOffer(info_hash, peer_id, offer) for offer in offers]
    assert [decode(payload) for payload in written] == expected
    assert [decode(payload.decode()) for payload in written] == expected


@given(answers)
def test_the_client_reads_answers(answer: Answer) -> None:
    relayed = RelayedAnswer(answer.info_hash, answer.peer_id, answer.offer_id, answer.sdp)
    assert decode(codec.encode_answer(answer)) == relayed


@given(st.dictionaries(ids, st.tuples(counts, counts)))
def test_the_client_reads_scrapes(files: dict[str, tuple[int, int]]) -> None:
    written = codec.encode_scrape([(info_hash, *numbers) for info_hash, numbers in files.items()])
    assert decode(written) == ScrapeReply({key: SwarmCounts(a, b, a) for key, (a, b) in files.items()})


@given(texts, ids, st.sampled_from(["announce", "scrape"]))
def test_the_client_reads_failures(text: str, info_hash: str, action: str) -> None:
    written = codec.encode_failure(RequestError(DropReason.INVALID_JSON, text, info_hash, action))
    assert decode(written) == Failure(text, info_hash, action)


@pytest.mark.parametrize(("raw", "fields"), list(recorded()))
def test_webtorrents_frames_byte_for_byte(raw: str, fields: dict[str, Any]) -> None:
    own = {"action", "info_hash", "peer_id", "to_peer_id", "answer", "offer_id", "offers"}
    extra = {key: value for key, value in fields.items() if key not in own}
    assert encode(sent(fields), extra, fields_first=True).decode() == raw


def test_fields_stand_between_the_ids_and_the_offers() -> None:
    announce = Announce(HASH, PEER, False, False, [offer])
    keys = list(json.loads(encode(announce, {**WEBTORRENT_DEFAULTS, "event": "started"})))
    assert keys == ["action", "info_hash", "peer_id", "numwant", "uploaded", "downloaded", "left", "event", "offers"]


def test_given_fields_replace_derived_ones() -> None:
    announce = Announce(HASH, PEER, True, True, [offer])
    given = {"event": "paused", "left": -1, "offers": None, "peer_id": 7}
    assert json.loads(encode(announce, given)) == {"action": "announce", "info_hash": HASH, **given}


def test_one_swarm_is_scraped_as_a_string_as_webtorrent_does() -> None:
    assert encode(Scrape([HASH])) == b'{"action":"scrape","info_hash":"%b"}' % HASH.encode()


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"complete": 1, "incomplete": 2, "interval": 120}, AnnounceReply(None, 120, 1, 2)),
        ({"interval": 1.5}, AnnounceReply(None, 1.5, None, None)),
        ({"interval": "120", "complete": True, "info_hash": 5}, AnnounceReply(None, None, None, None)),
        ({"interval": 9, "failure reason": "no", "info_hash": HASH, "action": 3}, Failure("no", HASH, None)),
        ({"failure reason": 404}, Failure("404", None, None)),
        ({"interval": 9, "offer": None, "answer": None}, AnnounceReply(None, 9, None, None)),
        ({"action": "scrape", "files": {}, "flags": {"min_request_interval": 600}}, ScrapeReply({})),
        ({"files": {HASH: {"complete": 3, "incomplete": "x"}, PEER: 5}},
         ScrapeReply({HASH: SwarmCounts(3), PEER: SwarmCounts()})),
    ],
)  # fmt: skip
def test_messages_of_other_trackers(message: object, expected: object) -> None:
    assert decode(json.dumps(message)) == expected


def test_a_whole_answer_frame_is_an_answer() -> None:
    """wt-tracker passes on every field that the answering client sent, but `to_peer_id`."""
    answer = codec.make_answer(HASH, PEER, PEER, "o" * 20, "v=0\r\n")
    frame = json.loads(encode(answer, {"numwant": 5, "offers": None, "interval": 7}))
    del frame["to_peer_id"]
    assert decode(json.dumps(frame)) == RelayedAnswer(HASH, PEER, answer.offer_id, answer.sdp)


@pytest.mark.parametrize(
    ("payload", "meant"),
    [
        ("{", None),
        ("", None),
        ("null", None),
        ("[]", None),
        ("[" * 100_000, None),
        ('{"info_hash":' + "[" * 100_000, None),
        (b'{"info_hash":"\xff","interval":1}', None),
        ("\ud800", None),
        ("{}", None),
        ('{"action":"announce","warning message":"slow"}', None),
        ('{"action":"scrape"}', ScrapeReply),
        ('{"files":[]}', ScrapeReply),
        ('{"offer":{"type":"offer","sdp":"x"},"offer_id":"x"}', RelayedOffer),
        ('{"offer":{"type":"answer","sdp":"x"},"offer_id":"x","peer_id":"x"}', RelayedOffer),
        ('{"offer":{"type":"offer","sdp":5},"offer_id":"x","peer_id":"x"}', RelayedOffer),
        ('{"offer":{"type":"offer","sdp":"x"},"offer_id":5,"peer_id":"x"}', RelayedOffer),
        (b'{"offer":{"type":"offer","sdp":"\xff"},"offer_id":"x","peer_id":"x"}', RelayedOffer),
        ('{"answer":{"type":"answer"},"offer_id":"x","peer_id":"x"}', RelayedAnswer),
        ('{"answer":"x","offer_id":"x","peer_id":"x"}', RelayedAnswer),
    ],
)
def test_invalid_messages(payload: str | bytes, meant: type | None) -> None:
    with pytest.raises(MessageError) as failed:
        decode(payload)
    assert failed.value.meant is meant


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_any_frame_is_a_message_or_an_error(payload: str | bytes) -> None:
    with suppress(MessageError):
        decode(payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "sdp", HASH]), inner),
    max_leaves=8,
)
FIELDS = ["action", "info_hash", "peer_id", "interval", "complete", "failure reason", "files", "offer_id", "offer"]


@given(st.dictionaries(st.sampled_from([*FIELDS, "answer", "incomplete"]), json_values))
def test_any_object_is_a_message_or_an_error(message: dict[str, Any]) -> None:
    with suppress(MessageError):
        decode(json.dumps(message))
