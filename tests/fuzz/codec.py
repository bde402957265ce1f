"""Clients' messages: decoded or refused, and only well-formed fields are relayed.

In an input, `~` stands for as many characters as the longest SDP has, so that short inputs reach the limit.
"""

import json
from collections.abc import Iterator
from typing import Any

from tests.fuzz import recorded
from tests.fuzz.target import Target
from tracker.protocol import client, codec
from tracker.protocol.errors import RequestError
from tracker.protocol.fields import other_fields
from tracker.protocol.ids import MAX_TEXT_ID, is_any_id, is_id, swarm_key
from tracker.protocol.messages import (
    Announce,
    Answer,
    Failure,
    Message,
    Offer,
    RelayedAnswer,
    RelayedOffer,
    Scrape,
    ScrapeReply,
)

MAX_OFFERS = 4
TAKEN = {"action", "info_hash", "peer_id", "offers", "answer"}


def expanded(data: bytes) -> bytes:
    """Return the payload that an input stands for."""
    return data.replace(b"~", bytes(b"x" * (codec.MAX_SDP_BYTES - 2)), 2)


def check(data: bytes) -> None:
    """Decode a message, and relay it."""
    payload = expanded(data)
    try:
        message = codec.decode(payload, MAX_OFFERS)
    except RequestError as error:
        check_refusal(error)
        assert type(codec.is_heartbeat(payload)) is bool
    except UnicodeDecodeError:
        assert not is_text(payload)
    else:
        check_message(message)
        assert TAKEN.isdisjoint(other_fields(payload))


def is_text(payload: bytes) -> bool:
    """Return whether a payload is UTF-8."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def check_refusal(error: RequestError) -> None:
    """The failure is one that clients read, and echoes nothing but an id."""
    failure = client.decode(codec.encode_failure(error))
    assert failure == Failure(error.text, error.info_hash, error.action)
    assert is_any_id(error.info_hash)


def check_message(message: Message) -> None:
    """The fields are as promised, and survive the way to another client."""
    if isinstance(message, Scrape):
        check_scrape(message)
        return
    binary = is_id(message.info_hash)
    assert is_relayed(message.info_hash, binary)
    assert is_relayed(message.peer_id, binary)
    assert len(swarm_key(message.info_hash)) == 20
    if isinstance(message, Answer):
        check_answer(message, binary)
        return
    assert len(message.offers) <= MAX_OFFERS
    made = made_offers(message.payload)
    assert min(message.invalid_offers, message.surplus_offers) >= 0
    assert made is None or len(message.offers) + message.invalid_offers + message.surplus_offers == made
    frames = codec.encode_offers(message.info_hash, message.peer_id, message.offers)
    for offer, frame in zip(message.offers, frames, strict=True):
        check_offer(message, offer, frame, binary)
    reencoded(message)


def made_offers(payload: bytes) -> int | None:
    """Return the number of offers in an announce, good or bad; None if they are no list, or no valid text."""
    try:
        offers = json.loads(payload).get("offers")
    except (ValueError, RecursionError):
        return None
    return len(offers) if isinstance(offers, list) else None


def check_offer(announce: Announce, offer: Offer, frame: bytes, binary: bool) -> None:
    """Another client reads an offer as it was made, and so does another process of the tracker."""
    relayed = client.decode(frame)
    assert isinstance(relayed, RelayedOffer)
    assert (relayed.info_hash, relayed.peer_id) == (announce.info_hash, announce.peer_id)
    assert is_relayed(codec.from_json(relayed.offer.offer_id), binary)
    check_sdp(relayed.offer.description.sdp)
    assert codec.from_json(relayed.offer.offer_id) == offer.id
    strict = strictly(frame)
    assert strict["offer_id"] == offer.id
    texts = [bytes(offer.offer_id), bytes(offer.description.sdp)]
    assert codec.rebuilt_offers(b"".join(texts), [len(text) for text in texts], binary) == [offer]


def check_answer(answer: Answer, binary: bool) -> None:
    """Another client reads an answer as it was made, and so does another process of the tracker."""
    assert is_relayed(answer.to_peer_id, binary)
    assert is_relayed(answer.id, binary)
    frame = codec.encode_answer(answer)
    relayed = client.decode(frame)
    assert isinstance(relayed, RelayedAnswer)
    assert (relayed.info_hash, relayed.peer_id) == (answer.info_hash, answer.peer_id)
    assert codec.from_json(relayed.offer_id) == answer.id == strictly(frame)["offer_id"]
    check_sdp(relayed.sdp)
    ids = answer.info_hash, answer.peer_id, answer.to_peer_id
    texts = bytes(answer.offer_id) + bytes(answer.sdp)
    assert codec.rebuilt_answer(*ids, texts, len(bytes(answer.offer_id))) == answer
    reencoded(answer)


def check_scrape(scrape: Scrape) -> None:
    """All ids are valid, none is there twice, and a client reads their counts."""
    ids = scrape.info_hashes or []
    assert all(map(is_any_id, ids))
    assert len(set(ids)) == len(ids)
    assert scrape.invalid >= 0
    reply = client.decode(codec.encode_scrape([(info_hash, 1, 2) for info_hash in ids]))
    assert isinstance(reply, ScrapeReply)
    assert list(reply.files) == ids
    reencoded(scrape)


def check_sdp(sdp: Any) -> None:
    """libtorrent disconnects on an SDP that is longer, or not in UTF-8."""
    text = codec.from_json(sdp)
    assert len(text.encode("utf-8", "surrogatepass")) <= codec.MAX_SDP_BYTES


def is_relayed(value: object, binary: bool) -> bool:
    """Return whether an id may be relayed, by the definition and not by the code under test."""
    if not isinstance(value, str) or any(0xD800 <= ord(char) < 0xE000 for char in value):
        return False
    if binary:
        return len(value) == 20 and all(ord(char) < 256 for char in value)
    return 1 <= len(value) <= MAX_TEXT_ID


def strictly(frame: bytes) -> dict[str, Any]:
    """Return a message as the parser of the standard library reads it."""
    message = json.loads(frame.decode())
    assert isinstance(message, dict)
    return message


def reencoded(message: Message) -> None:
    """What the client's half writes is the same message again."""
    again = codec.decode(client.encode(message), MAX_OFFERS)
    if isinstance(message, Announce):
        assert isinstance(again, Announce)
        assert (again.info_hash, again.peer_id, again.offers) == (message.info_hash, message.peer_id, message.offers)
        # A client that stops and completes at once is stopped.
        assert again.stopped == message.stopped
        assert message.stopped or (again.complete, again.completed) == (message.complete, message.completed)
    elif isinstance(message, Scrape):
        assert isinstance(again, Scrape)
        assert again.info_hashes == message.info_hashes
    else:
        assert again == message


def seeds() -> Iterator[bytes]:
    """Yield messages of real clients, and some that are odd."""
    for payload in recorded.sent():
        yield from recorded.variants(payload)
    head = b'{"action":"announce","info_hash":"%b","peer_id":"%b"' % (b"h" * 20, b"p" * 20)
    offer = b'{"offer":{"type":"offer","sdp":"%b"},"offer_id":"' + b"o" * 20 + b'"}'
    for offer_id in (b"\\u0100" * 20, b"\xc3\xbf" * 20, b"o" * 19, b"\xe2\x82\xac" * 64):
        yield head + b',"offers":[' + (offer % b"").replace(b"o" * 20, offer_id) + b"]}"
        yield (head + b',"offers":[' + (offer % b"").replace(b"o" * 20, offer_id) + b"]}").replace(b"h" * 20, b"a room")
    yield head + b',"offers":[' + offer % b"" + b'],"numwant":-3}'
    for sdp in (b"~", b"~~", b"~\\ud800\\u00e9", b"\\ud83d\\ude00", b"\xc3\xa9", b"\xff", b"\\q"):
        yield head + b',"offers":[' + offer % sdp + b"]}"
        yield head + b',"to_peer_id":"%b","offer_id":"%b","answer":{"type":"answer","sdp":"%b"}}' % (
            b"t" * 20,
            b"o" * 20,
            sdp,
        )
    yield head + b',"offers":[5,null,' + offer % b"" + b',{"offer":{}}],"numwant":1e9,"left":-0.0,"event":"completed"}'
    yield head + b',"offers":{},"left":false,"numwant":-1,"event":"stopped"}'
    yield b'{"action":"scrape","info_hash":["%b",5,"","\\ud800"]}' % (b"h" * 20)
    yield b'{"action":"scrape"}'
    yield b'{"action":"ping"}'
    yield b'{"type":"PING"}'
    yield b" ping\n"
    yield b'{"x":' * 50


TARGET = Target(
    check,
    seeds,
    (
        *(b'"action":', b'"announce"', b'"scrape"', b'"info_hash":', b'"peer_id":', b'"to_peer_id":', b'"offer_id":'),
        *(b'"offers":[', b'"offer":', b'"answer":', b'"type":', b'"sdp":', b'"event":', b'"stopped"', b'"completed"'),
        *(
            b'"left":',
            b'"numwant":',
            b"null",
            b"true",
            b"1e400",
            b"-1",
            b"{}",
            b"[]",
            b"\\ud800",
            b"\\u0000",
            b"\\u00ff",
        ),
        *(b"\xc3\xa9", b"\xed\xa0\x80", b"~", b"x" * 20, b"x" * 65, b'"ping"'),
    ),
    runs=8000,
)
