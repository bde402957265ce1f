"""The messages of a link: encode, decode (sans I/O). `docs/federation.md` specifies them.

A frame is text: messages in JSON, one on each line. Ids of peers and offers are latin-1 text of twenty characters, as
in the tracker's own protocol; SDPs are JSON strings that are relayed as they are, never decoded.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from tracker.extension import NO_INFO_HASH, Answer, Offer, is_answer, is_id, is_offer, to_json

VERSION: Final = 1
MAX_FRAME: Final = 256 * 1024
"""Bytes of the longest frame."""

OVERHEAD: Final = 1024
"""Bytes that a message may take besides its longest SDP."""

SOFT_FRAME: Final = 32 * 1024
"""Bytes beyond which nothing more is put into a frame."""

MAX_OFFERS: Final = 100
"""Offers in one message."""

MAX_SWARMS: Final = 1000
"""Swarms in one message."""

MAX_REASON: Final = 64

NAME_LENGTH: Final = 24
"""Hexadecimal digits of a swarm's name."""

MAX_COUNT: Final = 1_000_000
"""Peers that a tracker may say it has in a swarm."""


class WireError(ValueError):
    """What came is no message."""


class Hello(Struct, tag="hello", tag_field="type", gc=False):
    """The first message of both sides. `url` is what the dialing side has dialed; the other leaves it empty."""

    version: int
    id: str
    nonce: str
    url: str = ""


class Proof(Struct, tag="proof", tag_field="type", gc=False):
    """The second message of both sides: a signature, in hexadecimal, of the transcript."""

    signature: str


class Have(Struct, tag="have", tag_field="type"):
    """Swarms by name, and how many seeders and leechers the sender itself has in each; none when it has closed."""

    swarms: list[tuple[str, int, int]]


class Offers(Struct, tag="offers", tag_field="type"):
    """Offers of one peer for as many distinct peers of a swarm."""

    swarm: str
    peer_id: str
    offers: list[Offer]


class Refused(Struct, tag="refused", tag_field="type"):
    """Offers that found nobody, by offer_id."""

    swarm: str
    peer_id: str
    offer_ids: list[str]


class Answered(Struct, tag="answer", tag_field="type", gc=False):
    """A peer's answer to an offer that came over this link."""

    swarm: str
    peer_id: str
    to_peer_id: str
    offer_id: Raw
    sdp: Raw


class Bye(Struct, tag="bye", tag_field="type", gc=False):
    """The last message: why the sender closes the link."""

    reason: str


Message = Hello | Proof | Have | Offers | Refused | Answered | Bye

_decoder: Final = msgspec.json.Decoder(Message)
_encode: Final = msgspec.json.Encoder().encode


def fits(sdp: Raw) -> bool:
    """Whether an SDP, in JSON, can be sent: written in escapes only, it may be six times as long as it is."""
    return memoryview(sdp).nbytes <= MAX_FRAME - OVERHEAD


def encode(message: Hello | Proof | Have | Refused | Bye) -> bytes:
    """A message without SDPs."""
    return _encode(message)


def encode_offers(swarm: bytes, peer_id: str, offers: list[Offer]) -> bytes:
    """A message `Offers`; `swarm` is a name."""
    head = b'{"type":"offers","swarm":"%b","peer_id":%b,"offers":[' % (swarm, to_json(peer_id))
    parts = [
        b"".join((b'{"offer":{"type":"offer","sdp":', offer.description.sdp, b'},"offer_id":', offer.offer_id, b"}"))
        for offer in offers
    ]
    return head + b",".join(parts) + b"]}"


def encode_answer(swarm: bytes, answer: Answer) -> bytes:
    """A message `Answered`."""
    return b"".join(
        (
            b'{"type":"answer","swarm":"',
            swarm,
            b'","peer_id":',
            to_json(answer.peer_id),
            b',"to_peer_id":',
            to_json(answer.to_peer_id),
            b',"offer_id":',
            answer.offer_id,
            b',"sdp":',
            answer.sdp,
            b"}",
        )
    )


def decode(frame: bytes) -> list[Message]:
    """The messages of a frame. Raises `WireError` if one is none: half a frame is not to be trusted."""
    if len(frame) > MAX_FRAME:
        raise WireError("too long")
    try:
        messages = [_decoder.decode(line) for line in frame.split(b"\n")]
        for message in messages:
            _check(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from None
    return messages


def _check(message: Any) -> None:
    valid = True
    if isinstance(message, Offers):
        valid = (
            is_id(message.peer_id)
            and 0 < len(message.offers) <= MAX_OFFERS
            and all(is_offer(offer) for offer in message.offers)
        )
    elif isinstance(message, Answered):
        # The swarm's name stands in for its infohash, which is not known here.
        valid = is_answer(Answer(NO_INFO_HASH, message.peer_id, message.to_peer_id, message.sdp, message.offer_id))
    elif isinstance(message, Refused):
        valid = len(message.offer_ids) <= MAX_OFFERS and all(map(is_id, (message.peer_id, *message.offer_ids)))
    elif isinstance(message, Bye):
        valid = len(message.reason) <= MAX_REASON and message.reason.isascii() and message.reason.isprintable()
    elif isinstance(message, Have):
        valid = len(message.swarms) <= MAX_SWARMS and all(
            len(name) == NAME_LENGTH and 0 <= complete <= MAX_COUNT and 0 <= incomplete <= MAX_COUNT
            for name, complete, incomplete in message.swarms
        )
    if not valid:
        raise WireError(f"invalid {type(message).__name__.lower()}")
