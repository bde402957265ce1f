"""The tracker's half of the WebTorrent wire format: decode, validate, encode (sans I/O).

A message is one JSON object. Its ids stay `str`; `tracker.protocol.ids` says which ids a swarm takes. An SDP is opaque
(trystero encrypts it), so it is never decoded: it stays a raw JSON string, exactly as the client wrote it, with its
quotes.

Lenient in, strict out: `decode` accepts whatever a known client sends; the encoders write only what every known client
of the swarm accepts. libtorrent closes its tracker socket on a relayed message with a malformed id or SDP, and
bittorrent-tracker's client on one without a known `action`, so only checked values are relayed.
"""

from typing import Final, TypeGuard

import msgspec
from msgspec import Raw
from msgspec.json import Decoder, Encoder

from tracker.protocol.errors import RequestError
from tracker.protocol.ids import ID_LENGTH, is_any_id, is_id
from tracker.protocol.lenient import SPARE_ITEMS, decode_leniently
from tracker.protocol.messages import (
    NO_INFO_HASH,
    Announce,
    Answer,
    Frame,
    Message,
    Offer,
    OfferDescription,
    Ping,
    RawString,
    Scrape,
)
from tracker.reasons import DropReason

MAX_SDP_BYTES: Final = 64 * 1024
"""Length in UTF-8 bytes of the longest SDP that is relayed; libtorrent disconnects on longer ones."""

MAX_HEARTBEAT: Final = 64
"""Bytes of the longest message that can be a heartbeat."""

_decode_frame = Decoder(Frame).decode
_decode_text = Decoder(str).decode
_decode_ping = Decoder(Ping).decode
_encode = Encoder().encode

_LARGE: Final = 16 * 1024
_MANY_QUOTES: Final = 2000
"""Bytes, and quotation marks in them, from which on a message is decoded leniently at once: it repeats fields, or has a
list of thousands of short strings. A valid message has far fewer strings, and a short one cannot have many."""

_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_LONGEST_RAW: Final = MAX_SDP_BYTES + 2
"""Escapes make a raw string longer than its text, never shorter, so one of at most this length is short enough."""


def to_json(text: str) -> bytes:
    """Return `text` as a JSON string in UTF-8, with its quotes.

    Raises:
        UnicodeEncodeError: for lone surrogates.
    """
    return _encode(text)


def from_json(raw: RawString) -> str:
    """Return the text of a raw JSON string."""
    return _decode_text(raw)


def make_offer(offer_id: str, sdp: str, info_hash: str = NO_INFO_HASH) -> Offer:
    """Return an offer made of text, for instance one that came from elsewhere than a client's message.

    `info_hash` is that of the swarm, which decides about ids. By default, it is binary.

    Raises:
        ValueError: if `offer_id` is not an id of the swarm, or if the SDP is too long or not valid Unicode.
    """
    made = Offer(OfferDescription("offer", Raw(to_json(sdp))), Raw(to_json(offer_id)))
    if not (is_offer(made) if is_id(info_hash) else is_any_offer(made)):
        raise ValueError("offer_id must be an id of the swarm and the SDP at most 64 KiB")
    return made


def make_answer(info_hash: str, peer_id: str, to_peer_id: str, offer_id: str, sdp: str) -> Answer:
    """Return an answer made of text.

    Raises:
        ValueError: if one of the ids is not an id of the swarm, or if the SDP is too long or not valid Unicode.
    """
    made = Answer(info_hash, peer_id, to_peer_id, Raw(to_json(sdp)), Raw(to_json(offer_id)))
    if not is_answer(made):
        raise ValueError("all ids must be ids of the swarm and the SDP at most 64 KiB")
    return made


def is_offer(offer: Offer) -> bool:
    """Return whether a decoded offer may be relayed in any swarm: its offer_id is binary.

    Raises:
        UnicodeDecodeError: if the SDP is not UTF-8.
    """
    # This runs for each offer of an announce: written out, it takes two thirds of the time that calls would take.
    sdp = bytes(offer.description.sdp)
    if (sdp[0] != _QUOTE or len(sdp) > _LONGEST_RAW or not sdp.isascii()) and not _valid_sdp(sdp):
        return False
    try:
        offer_id = _decode_text(offer.offer_id)
        if len(offer_id) != ID_LENGTH:
            return False
        if not offer_id.isascii():
            offer_id.encode("latin-1")
    except (msgspec.ValidationError, UnicodeEncodeError):
        return False
    return True


def is_any_offer(offer: Offer) -> bool:
    """Return whether a decoded offer may be relayed in a text swarm.

    Raises:
        UnicodeDecodeError: if the SDP is not UTF-8.
    """
    return _valid_sdp(bytes(offer.description.sdp)) and _is_raw_id(offer.offer_id, binary=False)


def is_answer(answer: Answer) -> bool:
    """Return whether a decoded answer may be relayed in its swarm."""
    binary = is_id(answer.info_hash)
    if not (binary or is_any_id(answer.info_hash)):
        return False
    ids = _is_id_of(answer.peer_id, binary) and _is_id_of(answer.to_peer_id, binary)
    return ids and _is_raw_id(answer.offer_id, binary) and _valid_sdp(bytes(answer.sdp))


def rebuilt_offers(texts: bytes, sizes: list[int], binary: bool) -> list[Offer]:
    """Return offers for a binary swarm, or a text swarm, from raw strings that another process has taken from some.

    The other process is one of the same tracker, which has checked them as a client's. `texts` has the offer_id and the
    SDP of each, one after the other, and `sizes` their lengths. An offer is left out if an id or a length is wrong, or
    if one of its texts is no string; invalid escapes and control characters in an SDP are not noticed.
    """
    offers: list[Offer] = []
    end = 0
    for index in range(0, len(sizes) - 1, 2):
        middle = end + sizes[index]
        raw_id, sdp = Raw(texts[end:middle]), texts[middle : middle + sizes[index + 1]]
        end = middle + sizes[index + 1]
        if _are_relayed(raw_id, sdp, binary):
            offers.append(Offer(OfferDescription("offer", Raw(sdp)), raw_id))
    return offers


def rebuilt_answer(info_hash: str, peer_id: str, to_peer_id: str, texts: bytes, size: int) -> Answer | None:
    """Return an answer from raw strings that another process has taken from one; see `rebuilt_offers`.

    `texts` has the offer_id, of `size` bytes, and the SDP. None if it may not be relayed.
    """
    binary = is_id(info_hash)
    if not (binary or is_any_id(info_hash)) or not (_is_id_of(peer_id, binary) and _is_id_of(to_peer_id, binary)):
        return None
    raw_id, sdp = Raw(texts[:size]), texts[size:]
    if not _are_relayed(raw_id, sdp, binary):
        return None
    return Answer(info_hash, peer_id, to_peer_id, Raw(sdp), raw_id)


def decode(payload: bytes, max_offers: int, max_scrape: int = 256) -> Message:
    """Decode a client's message (JSON in UTF-8).

    At most `max_offers` valid offers are kept, and fewer if `numwant` is less. Of lists, `SPARE_ITEMS` more items are
    looked at than offers are kept, or than `max_scrape`.

    Raises:
        RequestError: if the payload is not a message.
        UnicodeDecodeError: if the payload is not UTF-8. Fields that are ignored are not checked.
    """
    try:
        return _decode(payload, max_offers, max_scrape)
    except RequestError:
        payload.decode()
        raise


def is_heartbeat(payload: bytes) -> bool:
    """Return whether a payload that is no message is a heartbeat: nothing at all, or a ping.

    Pages cannot send the pings of WebSocket. To keep a connection open they send an empty message, `ping`, `"ping"`,
    or a JSON object with `ping` as its `action` or `type`.
    """
    if len(payload) > MAX_HEARTBEAT:
        return False
    text = payload.strip().lower()
    if text in (b"", b"ping", b'"ping"'):
        return True
    try:
        ping = _decode_ping(text)
    except msgspec.MsgspecError:
        return False
    return "ping" in (ping.action, ping.type)


def _decode(payload: bytes, max_offers: int, max_scrape: int) -> Message:
    invalid_offers = surplus_offers = surplus_info_hashes = 0
    try:
        if len(payload) > _LARGE and payload.count(b'"') > _MANY_QUOTES:
            raise msgspec.ValidationError
        frame = _decode_frame(payload)
    except (msgspec.MsgspecError, RecursionError):
        try:
            frame, invalid_offers, surplus_offers, surplus_info_hashes = decode_leniently(
                payload, max_offers, max_scrape
            )
        except (msgspec.MsgspecError, RecursionError):
            raise RequestError(DropReason.INVALID_JSON, "invalid message") from None

    action, info_hash = frame.action, frame.info_hash
    if action == "announce":
        return _announce_or_answer(frame, invalid_offers, surplus_offers, max_offers, payload)
    if action == "scrape":
        return _scrape(info_hash, surplus_info_hashes, max_scrape)
    raise RequestError(DropReason.UNKNOWN_ACTION, "unknown action", info_hash if is_any_id(info_hash) else NO_INFO_HASH)


def _announce_or_answer(
    frame: Frame, invalid_offers: int, surplus_offers: int, max_offers: int, payload: bytes
) -> Announce | Answer:
    info_hash, peer_id = frame.info_hash, frame.peer_id
    binary = is_id(info_hash)
    if not isinstance(info_hash, str) or not (binary or is_any_id(info_hash)):
        raise RequestError(DropReason.INVALID_INFO_HASH, "invalid info_hash")
    if not _is_id_of(peer_id, binary):
        raise RequestError(DropReason.INVALID_PEER_ID, "invalid peer_id", info_hash)
    if frame.answer is not None:
        return _answer(frame, info_hash, peer_id, binary)

    offers = frame.offers or []
    unseen = len(offers) - max_offers - SPARE_ITEMS
    if unseen > 0:
        del offers[-unseen:]
        surplus_offers += unseen
    valid = [offer for offer in offers if (is_offer(offer) if binary else is_any_offer(offer))]
    invalid_offers += len(offers) - len(valid)
    numwant = frame.numwant
    surplus = len(valid) - max_offers
    if numwant is not None and numwant < max_offers:
        surplus = len(valid) - int(max(0, numwant))
    completed = frame.event == "completed"
    return Announce(
        info_hash,
        peer_id,
        stopped=frame.event == "stopped",
        # JSON `false` is no number: only 0 itself makes a seeder.
        complete=completed or frame.left == 0,
        offers=valid[:-surplus] if surplus > 0 else valid,
        completed=completed,
        invalid_offers=invalid_offers,
        surplus_offers=surplus_offers + surplus if surplus > 0 else surplus_offers,
        payload=payload,
    )


def _answer(frame: Frame, info_hash: str, peer_id: str, binary: bool) -> Answer:
    answer, to_peer_id, offer_id = frame.answer, frame.to_peer_id, frame.offer_id
    if not _is_id_of(to_peer_id, binary):
        raise RequestError(DropReason.INVALID_ANSWER, "invalid to_peer_id", info_hash)
    if answer is None or not _valid_sdp(bytes(answer.sdp)):
        raise RequestError(DropReason.INVALID_ANSWER, "invalid answer", info_hash)
    if not _is_raw_id(offer_id, binary):
        raise RequestError(DropReason.INVALID_ANSWER, "invalid offer_id", info_hash)
    return Answer(info_hash, peer_id, to_peer_id, answer.sdp, offer_id)


def _scrape(info_hash: str | list[str] | None, surplus: int, max_scrape: int) -> Scrape:
    if info_hash is None:
        return Scrape(None)
    wanted = info_hash if isinstance(info_hash, list) else [info_hash]
    unseen = len(wanted) - max_scrape - SPARE_ITEMS
    if unseen > 0:
        del wanted[-unseen:]
        surplus += unseen
    # Most are binary, and `is_id` is the faster one for these.
    valid = [item for item in wanted if is_id(item) or is_any_id(item)]
    # A dict keeps the order and drops repetitions.
    return Scrape(list(dict.fromkeys(valid)), len(wanted) - len(valid), surplus)


def _valid_sdp(sdp: bytes) -> bool:
    if sdp[0] != _QUOTE:
        return False
    # msgspec checks the strings that it decodes; raw strings it only skips.
    if not sdp.isascii():
        sdp.decode()
    return len(sdp) <= _LONGEST_RAW or len(_decode_text(sdp).encode()) <= MAX_SDP_BYTES


def _are_relayed(offer_id: RawString, sdp: bytes, binary: bool) -> bool:
    """Return whether raw strings that were an offer_id and an SDP still are: no other JSON can be in the SDP."""
    size = len(sdp)
    try:
        if not _is_id_of(_decode_text(offer_id), binary) or size < 2 or sdp[0] != _QUOTE:
            return False
        # Decoding it takes much longer. `find` is the fastest way: `count` looks at each byte.
        if sdp.find(b'"', 1) == size - 1 and sdp[size - 2] != _BACKSLASH and size <= _LONGEST_RAW:
            if not sdp.isascii():
                sdp.decode()
            return True
        return len(_decode_text(sdp).encode()) <= MAX_SDP_BYTES
    except (msgspec.MsgspecError, UnicodeError):
        return False


def _is_id_of(value: object, binary: bool) -> TypeGuard[str]:
    """Return whether `value` is an id of a binary swarm, or of a text swarm."""
    return is_id(value) if binary else is_any_id(value)


def _is_raw_id(offer_id: RawString, binary: bool) -> bool:
    try:
        return _is_id_of(_decode_text(offer_id), binary)
    except msgspec.ValidationError:
        return False


def encode_reply(info_hash: str, interval: int, complete: int, incomplete: int) -> bytes:
    """Return the reply to an announce; `interval` is in seconds."""
    return b'{"action":"announce","interval":%d,"complete":%d,"incomplete":%d,"info_hash":%b}' % (
        interval,
        complete,
        incomplete,
        _encode(info_hash),
    )


def encode_offers(info_hash: str, peer_id: str, offers: list[Offer]) -> list[bytes]:
    """Return one message for each offer of a peer, in order."""
    # The head is the same in all: an announce has up to ten offers and more.
    head = b'{"action":"announce","info_hash":%b,"peer_id":%b,"offer":{"type":"offer","sdp":' % (
        _encode(info_hash),
        _encode(peer_id),
    )
    join = b"".join
    return [join((head, offer.description.sdp, b'},"offer_id":', offer.offer_id, b"}")) for offer in offers]


def encode_answer(answer: Answer) -> bytes:
    """Return the message that gives an answer to the peer that made the offer."""
    return b"".join(
        (
            b'{"action":"announce","info_hash":',
            _encode(answer.info_hash),
            b',"peer_id":',
            _encode(answer.peer_id),
            b',"answer":{"type":"answer","sdp":',
            answer.sdp,
            b'},"offer_id":',
            answer.offer_id,
            b"}",
        )
    )


def encode_scrape(counts: list[tuple[str, int, int]]) -> bytes:
    """Return the reply to a scrape: (info_hash, complete, incomplete) for each swarm.

    `downloaded` repeats `complete`, as in every other WebTorrent tracker.
    """
    return b'{"action":"scrape","files":{%b}}' % b",".join(
        b'%b:{"complete":%d,"incomplete":%d,"downloaded":%d}' % (_encode(info_hash), complete, incomplete, complete)
        for info_hash, complete, incomplete in counts
    )


def encode_failure(error: RequestError) -> bytes:
    """Return a failure in the only form that no client takes as a reason to disconnect: with action and info_hash.

    libtorrent does not announce the torrent again on this connection unless the failure has an interval.
    """
    failure: dict[str, str | int] = {
        "action": error.action,
        "info_hash": error.info_hash,
        "failure reason": error.text,
    }
    if error.interval:
        failure["interval"] = error.interval
    return _encode(failure)
