"""The client's half of the WebTorrent tracker protocol: encode requests, decode a tracker's messages (sans I/O).

There is no standard; the formats are those of bittorrent-tracker's client (webtorrent) and of the trackers
bittorrent-tracker, wt-tracker, aquatic and openwebtorrent-tracker. `tracker.protocol.codec` is the tracker's half.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct, field
from msgspec.json import Decoder, Encoder

from tracker.protocol.messages import (
    Announce,
    AnnounceReply,
    Answer,
    AnswerDescription,
    Failure,
    Message,
    Offer,
    OfferDescription,
    RawString,
    RelayedAnswer,
    RelayedOffer,
    Scrape,
    ScrapeReply,
    SwarmCounts,
    TrackerMessage,
)

WEBTORRENT_DEFAULTS: Final[Mapping[str, object]] = {"numwant": 5, "uploaded": 0, "downloaded": 0, "left": 1}
"""The fields of a webtorrent leecher's announce beside ids, event and offers, in webtorrent's order."""


class MessageError(ValueError):
    """A frame that is no message of a tracker.

    `meant` is the type of message that the frame's fields announce, None if there is no such field.
    """

    def __init__(self, text: str, meant: type[TrackerMessage] | None = None) -> None:
        super().__init__(text)
        self.meant = meant


class _TrackerFrame(Struct, gc=False):
    # `Any` where trackers disagree about types, or leave fields out.
    action: Any = None
    info_hash: Any = None
    peer_id: Any = None
    interval: Any = None
    complete: Any = None
    incomplete: Any = None
    failure: Any = field(name="failure reason", default=None)
    files: Any = None
    offer_id: Raw = Raw(b"null")
    offer: Raw = Raw(b"null")
    answer: Raw = Raw(b"null")


_encode: Final = Encoder().encode
_decode_frame: Final = Decoder(_TrackerFrame).decode
_decode_offer: Final = Decoder(OfferDescription).decode
_decode_answer: Final = Decoder(AnswerDescription).decode
_decode_text: Final = Decoder(str).decode
_NULL: Final = b"null"
_ERRORS: Final = (msgspec.MsgspecError, UnicodeError, RecursionError)


def encode(message: Message, fields: Mapping[str, object] | None = None, fields_first: bool = False) -> bytes:
    """Return the payload of the text frame that carries a client's message: UTF-8 JSON without spaces.

    An announce begins with `action`, `info_hash` and `peer_id`, goes on with `fields` (`numwant`, `left`, `event`,
    `key`, ... in the given order) and ends with `offers`, if there are any. `event` and `left` follow from the message
    where `fields` has none: "stopped", "completed", 0 for a seeder. With `fields_first`, `fields` come before `action`,
    as webtorrent has it. For the other messages, `fields` are added in the same place; the fields of an answer stand in
    webtorrent's order. A `fields` key replaces the message's own field of that name.
    """
    extra = dict(fields or {})
    head: dict[str, object]
    tail: dict[str, object] = {}
    if isinstance(message, Announce):
        head = {"action": "announce", "info_hash": message.info_hash, "peer_id": message.peer_id}
        if message.stopped or message.completed:
            extra.setdefault("event", "stopped" if message.stopped else "completed")
        elif message.complete:
            extra.setdefault("left", 0)
        if message.offers:
            tail = {"offers": message.offers}
    elif isinstance(message, Answer):
        head = {
            "action": "announce",
            "info_hash": message.info_hash,
            "peer_id": message.peer_id,
            "to_peer_id": message.to_peer_id,
            "answer": AnswerDescription("answer", message.sdp),
            "offer_id": message.offer_id,
        }
    else:
        head = {"action": "scrape", **_scraped(message)}
    parts = (extra, head) if fields_first else (head, extra)
    return _encode({**parts[0], **parts[1], **tail, **extra})


def decode(payload: str | bytes) -> TrackerMessage:
    """Return the message in the payload of a tracker's frame.

    Unknown fields are ignored, and so is `action`, which some trackers leave out: the other fields tell the type.
    Raise `MessageError` if the payload is not a JSON object in UTF-8, has none of the fields that tell the type, or has
    an invalid offer, answer or list of swarms.
    """
    try:
        frame = _decode_frame(payload)
    except _ERRORS:
        raise MessageError("not a JSON object in UTF-8") from None
    info_hash = _text_or_none(frame.info_hash)
    if frame.failure is not None:
        return Failure(str(frame.failure), info_hash, _text_or_none(frame.action))
    if bytes(frame.offer) != _NULL:
        return _relayed_offer(frame, info_hash)
    if bytes(frame.answer) != _NULL:
        return _relayed_answer(frame, info_hash)
    if frame.files is not None or frame.action == "scrape":
        return _scrape_reply(frame.files)
    if frame.interval is not None or frame.complete is not None:
        interval = frame.interval if type(frame.interval) in (int, float) else None
        return AnnounceReply(info_hash, interval, _count_or_none(frame.complete), _count_or_none(frame.incomplete))
    raise MessageError("none of the fields of a tracker's message")


def _scraped(scrape: Scrape) -> dict[str, object]:
    """Return the field that names the swarms: one as a string, several as a list, none for a full scrape."""
    if scrape.info_hashes is None:
        return {}
    return {"info_hash": scrape.info_hashes[0] if len(scrape.info_hashes) == 1 else scrape.info_hashes}


def _relayed_offer(frame: _TrackerFrame, info_hash: str | None) -> RelayedOffer:
    try:
        description = _decode_offer(frame.offer)
        peer_id, offer_id, sdp = _text(frame.peer_id), _string(frame.offer_id), _string(description.sdp)
    except _ERRORS:
        raise MessageError("invalid offer", RelayedOffer) from None
    return RelayedOffer(info_hash, peer_id, Offer(OfferDescription("offer", sdp), offer_id))


def _relayed_answer(frame: _TrackerFrame, info_hash: str | None) -> RelayedAnswer:
    try:
        description = _decode_answer(frame.answer)
        peer_id, offer_id, sdp = _text(frame.peer_id), _string(frame.offer_id), _string(description.sdp)
    except _ERRORS:
        raise MessageError("invalid answer", RelayedAnswer) from None
    return RelayedAnswer(info_hash, peer_id, offer_id, sdp)


def _scrape_reply(files: object) -> ScrapeReply:
    if not isinstance(files, dict):
        raise MessageError("invalid files", ScrapeReply)
    return ScrapeReply({info_hash: _counts(counts) for info_hash, counts in files.items()})


def _counts(value: object) -> SwarmCounts:
    counts = value if isinstance(value, dict) else {}
    return SwarmCounts(*(_count_or_none(counts.get(name)) or 0 for name in ("complete", "incomplete", "downloaded")))


def _string(raw: RawString) -> RawString:
    """Return `raw` if it is a JSON string in UTF-8; raise one of `_ERRORS` otherwise."""
    _decode_text(raw)
    return raw


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise msgspec.ValidationError("not a string")
    return value


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _count_or_none(value: object) -> int | None:
    return value if type(value) is int else None
