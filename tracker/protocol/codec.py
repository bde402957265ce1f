"""WebTorrent tracker messages: decode, validate, encode (sans I/O).

A frame is one JSON object. Ids (`info_hash`, `peer_id`, `to_peer_id`, `offer_id`) are strings of exactly twenty code
points, each U+0000 to U+00FF: binary ids as latin-1 text. Here they stay `str`. An SDP is opaque (trystero encrypts
it), so it is never decoded: it stays a *token*, the JSON string exactly as the client wrote it, quotes included.

Lenient in, strict out: `decode` takes whatever a known client sends; the encoders write only what every known client
accepts. libtorrent closes its tracker socket on a relayed message with a malformed id or SDP, and bittorrent-tracker's
client on one without a known `action`, so nothing that `decode` has not checked may be relayed.
"""

from typing import Final, TypeGuard

import msgspec
from msgspec import Raw
from msgspec.json import Decoder, Encoder

from tracker.protocol.errors import RequestError
from tracker.protocol.messages import (
    NO_INFO_HASH,
    Announce,
    Answer,
    AnswerDescription,
    Frame,
    LenientFrame,
    Message,
    Offer,
    OfferDescription,
    RawString,
    Scrape,
)
from tracker.reasons import DropReason

MAX_SDP_BYTES: Final = 64 * 1024
"""Longest SDP, in UTF-8 bytes, that is relayed; libtorrent disconnects on longer ones."""

ID_LENGTH: Final = 20

_decode_frame = Decoder(Frame).decode
_decode_lenient_frame = Decoder(LenientFrame).decode
_decode_offer = Decoder(Offer).decode
_decode_raw_list = Decoder(list[Raw]).decode
_decode_text = Decoder(str).decode
_encode = Encoder().encode

_QUOTE: Final = ord('"')
_LONGEST_TOKEN: Final = MAX_SDP_BYTES + 2
"""Escapes only ever make a token longer than its text, so one of no more bytes needs no closer look."""


def is_id(value: object) -> TypeGuard[str]:
    """Whether `value` is an id: twenty code points, each below U+0100."""
    if type(value) is not str or len(value) != ID_LENGTH:
        return False
    if not value.isascii():
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            return False
    return True


def to_json(text: str) -> bytes:
    """`text` as a JSON string in UTF-8, quotes included. Raises `UnicodeEncodeError` for lone surrogates."""
    return _encode(text)


def from_json(raw: RawString) -> str:
    """The text of a JSON string token."""
    return _decode_text(raw)


def make_offer(offer_id: str, sdp: str) -> Offer:
    """An offer from text, for those who have one from elsewhere than a client's frame.

    Raises `ValueError` if the id is no id or the SDP is too long or not valid Unicode.
    """
    made = Offer(OfferDescription("offer", Raw(to_json(sdp))), Raw(to_json(offer_id)))
    if not is_offer(made):
        raise ValueError("offer_id must be 20 latin-1 characters and the SDP at most 64 KiB")
    return made


def make_answer(info_hash: str, peer_id: str, to_peer_id: str, offer_id: str, sdp: str) -> Answer:
    """An answer from text, checked as one from a client is. Raises `ValueError`."""
    made = Answer(info_hash, peer_id, to_peer_id, Raw(to_json(sdp)), Raw(to_json(offer_id)))
    if not is_answer(made):
        raise ValueError("ids must be 20 latin-1 characters and the SDP at most 64 KiB")
    return made


def is_offer(offer: Offer) -> bool:
    """Whether an offer that was decoded elsewhere than here may be relayed.

    Raises `UnicodeDecodeError` if the SDP is not UTF-8.
    """
    # Once for each offer of an announce: written out, it takes two thirds of the time of the calls.
    sdp = bytes(offer.description.sdp)
    if (sdp[0] != _QUOTE or len(sdp) > _LONGEST_TOKEN or not sdp.isascii()) and not _valid_sdp(sdp):
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


def is_answer(answer: Answer) -> bool:
    """Whether an answer that was decoded elsewhere than here may be relayed."""
    ids = is_id(answer.info_hash) and is_id(answer.peer_id) and is_id(answer.to_peer_id)
    return ids and _valid_id_token(answer.offer_id) and _valid_sdp(bytes(answer.sdp))


def detached(offers: list[Offer]) -> list[Offer]:
    """Copies whose tokens do not point into the frame they came in, which would stay in memory as long as they do."""
    return [Offer(OfferDescription("offer", offer.description.sdp.copy()), offer.offer_id.copy()) for offer in offers]


def decode(payload: bytes, max_offers: int) -> Message:
    """The message in one frame's payload (UTF-8 JSON).

    At most `max_offers` valid offers are kept, fewer if `numwant` says so.
    Raises `RequestError` if it is no message, and `UnicodeDecodeError` if the payload is not UTF-8, unless only what is
    ignored of a message is not: nobody reads that, and nothing of it is relayed.
    """
    try:
        return _decode(payload, max_offers)
    except RequestError:
        payload.decode()
        raise


def _decode(payload: bytes, max_offers: int) -> Message:
    invalid_offers = 0
    frame: Frame | LenientFrame
    try:
        frame = _decode_frame(payload)
        offers = frame.offers or []
    except (msgspec.MsgspecError, RecursionError):
        try:
            frame = _decode_lenient_frame(payload)
        except (msgspec.MsgspecError, RecursionError):
            raise RequestError(DropReason.INVALID_JSON, "invalid message") from None
        offers, invalid_offers = _pick_offers(frame.offers)

    action = frame.action
    if action == "announce":
        return _announce_or_answer(frame, offers, invalid_offers, max_offers)
    if action == "scrape":
        return _scrape(frame.info_hash)
    raise RequestError(
        DropReason.UNKNOWN_ACTION, "unknown action", frame.info_hash if is_id(frame.info_hash) else NO_INFO_HASH
    )


def _announce_or_answer(
    frame: Frame | LenientFrame, offers: list[Offer], invalid_offers: int, max_offers: int
) -> Announce | Answer:
    info_hash, peer_id = frame.info_hash, frame.peer_id
    if not is_id(info_hash):
        raise RequestError(DropReason.INVALID_INFO_HASH, "invalid info_hash")
    if not is_id(peer_id):
        raise RequestError(DropReason.INVALID_PEER_ID, "invalid peer_id", info_hash)
    if frame.answer is not None:
        return _answer(frame, info_hash, peer_id)

    valid = [offer for offer in offers if is_offer(offer)]
    invalid_offers += len(offers) - len(valid)
    numwant = frame.numwant
    surplus = len(valid) - max_offers
    if type(numwant) in (int, float) and numwant < max_offers:
        surplus = len(valid) - int(max(0, numwant))
    left = frame.left
    completed = frame.event == "completed"
    return Announce(
        info_hash,
        peer_id,
        stopped=frame.event == "stopped",
        # JSON `false` is no number: only 0 itself makes a seeder.
        complete=completed or (type(left) in (int, float) and left == 0),
        offers=valid[:-surplus] if surplus > 0 else valid,
        completed=completed,
        invalid_offers=invalid_offers,
        surplus_offers=surplus if surplus > 0 else 0,
    )


def _answer(frame: Frame | LenientFrame, info_hash: str, peer_id: str) -> Answer:
    answer, to_peer_id, offer_id = frame.answer, frame.to_peer_id, frame.offer_id
    if not is_id(to_peer_id):
        raise RequestError(DropReason.INVALID_ANSWER, "invalid to_peer_id", info_hash)
    if type(answer) is not AnswerDescription or not _valid_sdp(bytes(answer.sdp)):
        raise RequestError(DropReason.INVALID_ANSWER, "invalid answer", info_hash)
    if not _valid_id_token(offer_id):
        raise RequestError(DropReason.INVALID_ANSWER, "invalid offer_id", info_hash)
    return Answer(info_hash, peer_id, to_peer_id, answer.sdp, offer_id)


def _scrape(info_hash: object) -> Scrape:
    if info_hash is None:
        return Scrape(None)
    wanted = info_hash if isinstance(info_hash, list) else [info_hash]
    # A dict keeps the order and drops repetitions.
    valid = list(dict.fromkeys(item for item in wanted if is_id(item)))
    return Scrape(valid, invalid=sum(not is_id(item) for item in wanted))


def _pick_offers(offers: Raw) -> tuple[list[Offer], int]:
    """The well-formed ones of a list that may have others too, and how many others."""
    if bytes(offers) == b"null":
        return [], 0
    try:
        items = _decode_raw_list(offers)
    except (msgspec.MsgspecError, RecursionError):
        return [], 1
    picked = []
    for item in items:
        try:
            picked.append(_decode_offer(item))
        except (msgspec.MsgspecError, RecursionError):
            continue
    return picked, len(items) - len(picked)


def _valid_sdp(sdp: bytes) -> bool:
    if sdp[0] != _QUOTE:
        return False
    # msgspec checks the strings that it decodes; over tokens it only skips.
    if not sdp.isascii():
        sdp.decode()
    return len(sdp) <= _LONGEST_TOKEN or len(_decode_text(sdp).encode()) <= MAX_SDP_BYTES


def _valid_id_token(offer_id: RawString) -> bool:
    try:
        return is_id(_decode_text(offer_id))
    except msgspec.ValidationError:
        return False


def announce_reply(info_hash: bytes, interval: int, complete: int, incomplete: int) -> bytes:
    """The answer to an announce. `info_hash` is a token, `interval` in seconds."""
    return b'{"action":"announce","interval":%d,"complete":%d,"incomplete":%d,"info_hash":%b}' % (
        interval,
        complete,
        incomplete,
        info_hash,
    )


def relayed_offers(info_hash: bytes, peer_id: bytes, offers: list[Offer]) -> list[bytes]:
    """The frames that carry a peer's offers to others, in order. `info_hash` and `peer_id` are tokens."""
    head = b'{"action":"announce","info_hash":%b,"peer_id":%b,"offer":{"type":"offer","sdp":' % (info_hash, peer_id)
    join = b"".join
    return [join((head, offer.description.sdp, b'},"offer_id":', offer.offer_id, b"}")) for offer in offers]


def relayed_answer(info_hash: bytes, peer_id: bytes, answer: Answer) -> bytes:
    """The frame that carries an answer to the peer that made the offer. `info_hash` and `peer_id` are tokens."""
    return b"".join(
        (
            b'{"action":"announce","info_hash":',
            info_hash,
            b',"peer_id":',
            peer_id,
            b',"answer":{"type":"answer","sdp":',
            answer.sdp,
            b'},"offer_id":',
            answer.offer_id,
            b"}",
        )
    )


def scrape_reply(files: list[tuple[bytes, int, int]]) -> bytes:
    """The answer to a scrape: (info_hash token, complete, incomplete) for each swarm.

    `downloaded` repeats `complete`, as every other WebTorrent tracker has it.
    """
    return b'{"action":"scrape","files":{%b}}' % b",".join(
        b'%b:{"complete":%d,"incomplete":%d,"downloaded":%d}' % (info_hash, complete, incomplete, complete)
        for info_hash, complete, incomplete in files
    )


def failure(malformed: RequestError) -> bytes:
    """A failure in the one form that no client treats as a reason to disconnect: with action and info_hash."""
    return _encode(
        {"action": malformed.action, "info_hash": malformed.info_hash, "failure reason": malformed.text},
    )
