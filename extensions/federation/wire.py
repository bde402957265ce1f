"""The messages of a link: encode and decode them (sans I/O). `docs/federation.md` specifies them.

A frame is text: messages in JSON, one on each line. peer_ids and offer_ids are as between clients and trackers: in a
binary swarm, strings of 20 latin-1 characters. SDPs are JSON strings, which are relayed without being decoded.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import msgspec
from msgspec import Raw, Struct

from extensions.federation.filters import MAX_BYTES, MAX_PARTS, room_in
from tracker.extension import (
    MARK_LENGTH,
    NO_INFO_HASH,
    Answer,
    Offer,
    is_answer,
    is_any_id,
    is_any_offer,
    is_id,
    is_offer,
    to_json,
)

VERSION: Final = 1
MAX_FRAME: Final = 256 * 1024
"""Most bytes of a frame."""

OVERHEAD: Final = 2048
"""Bytes of a frame that are reserved for everything in a message but its longest SDP."""

SOFT_FRAME: Final = 32 * 1024
"""Bytes beyond which no further message is added to a frame."""

MAX_OFFERS: Final = 100
"""Most offers in one message."""

MAX_SWARMS: Final = 1000
"""Most swarms in one message."""

MAX_REASON: Final = 64
"""Most characters of the reason in `bye`."""

TAG_LENGTH: Final = 16
NAME_LENGTH: Final = 32
"""Hexadecimal digits in the tag of a swarm, and in its name: the tag and the proof."""

MAX_WANTED: Final = 8
"""Most swarms that a dialer names in `proof`."""

MAX_TAGS: Final = 1000
"""Most tags in one `opened`."""

MAX_TRACKERS: Final = 20
"""Most trackers in one `trackers`."""

MAX_PRESENT: Final = 32
"""Most own peers of a swarm for which their marks are told."""

PRESENT: Final = "present"
"""The feature in `hello` of a tracker that tells and understands marks."""

MAX_COUNT: Final = 1_000_000
"""Most seeders, and most leechers, that a tracker may tell for one swarm."""


class WireError(ValueError):
    """A frame contains something that is not a valid message."""


class Hello(Struct, tag="hello", tag_field="type", gc=False):
    """The first message of both sides. `url` is the URL that the dialer has dialed, empty from the listener.

    `features` names what the sender can do beyond the first form of this version. Other versions may have other fields:
    `decode` then sets only `version`.
    """

    version: int
    id: str
    nonce: str
    url: str = ""
    features: tuple[str, ...] = ()


class Proof(Struct, tag="proof", tag_field="type", omit_defaults=True, gc=False):
    """The second message of both sides: the signature of the transcript, in hexadecimal.

    `swarms` are the names of swarms for which the dialer makes the link, if there are any.
    """

    signature: str
    swarms: tuple[str, ...] = ()


class Filter(Struct, tag="filter", tag_field="type", gc=False):
    """One part of the filter of the sender's open swarms: see `filters`. `bits` are in Base64."""

    part: int
    parts: int
    bits: bytes


class Opened(Struct, tag="opened", tag_field="type", gc=False):
    """Swarms that have opened at the sender: their tags, concatenated."""

    tags: str


class Have(Struct, tag="have", tag_field="type", omit_defaults=True):
    """Swarms as (name, seeders, leechers): the sender's own peers. 0 and 0 end the exchange for a swarm.

    `reply`: the sender has the receiver's numbers already.
    """

    swarms: list[tuple[str, int, int]]
    reply: bool = False


class Present(Struct, tag="present", tag_field="type", omit_defaults=True):
    """Swarms with few peers as (name, seeders, leechers): the marks of the sender's own peers, concatenated."""

    swarms: list[tuple[str, str, str]]
    reply: bool = False


class Offers(Struct, tag="offers", tag_field="type"):
    """Offers of one peer, each to be given to another peer of the swarm."""

    swarm: str
    peer_id: str
    offers: list[Offer]


class Refused(Struct, tag="refused", tag_field="type", omit_defaults=True):
    """Offers, by offer_id, that the sender has given to no peer.

    `known`: the sender gets offers of this peer otherwise, because the peer is its own, or another neighbour's.
    """

    swarm: str
    peer_id: str
    offer_ids: list[str]
    known: bool = False


class Answered(Struct, tag="answer", tag_field="type", gc=False):
    """A peer's answer to an offer that came over this link."""

    swarm: str
    peer_id: str
    to_peer_id: str
    offer_id: Raw
    sdp: Raw


class Seek(Struct, tag="seek", tag_field="type", gc=False):
    """Asks for other trackers: of a swarm, or of any if `swarm` is empty."""

    swarm: str


class Trackers(Struct, tag="trackers", tag_field="type"):
    """Signed entries of trackers as (id, expires, URL, signature): of a swarm, or descriptors if `swarm` is empty."""

    swarm: str
    trackers: list[tuple[str, int, str, str]]


class Bye(Struct, tag="bye", tag_field="type", gc=False):
    """The last message, with the reason why the sender closes the link."""

    reason: str


Message = Hello | Proof | Filter | Opened | Have | Present | Offers | Refused | Answered | Seek | Trackers | Bye


class _AnyHello(Struct, gc=False):
    """A `hello` of any version. The type is no tag: msgspec would not require it."""

    type: Literal["hello"]
    version: int


class _Typed(Struct, gc=False):
    """A message of any type, valid or not."""

    type: str


_decoder: Final = msgspec.json.Decoder(Message)
_typed: Final = msgspec.json.Decoder(_Typed)
_any_hello: Final = msgspec.json.Decoder(_AnyHello)
_encode: Final = msgspec.json.Encoder().encode


def fits(sdp: Raw) -> bool:
    """Return whether an SDP, as JSON, fits a frame. JSON that consists of escapes is six times as long as its text."""
    return memoryview(sdp).nbytes <= MAX_FRAME - OVERHEAD


def encode(message: Hello | Proof | Filter | Opened | Have | Present | Refused | Seek | Trackers | Bye) -> bytes:
    """Encode a message without SDPs."""
    return _encode(message)


def encode_offers(swarm: bytes, peer_id: str, offers: list[Offer]) -> bytes:
    """Encode `Offers`. `swarm` is the name of the swarm."""
    head = b'{"type":"offers","swarm":"%b","peer_id":%b,"offers":[' % (swarm, to_json(peer_id))
    parts = [
        b"".join((b'{"offer":{"type":"offer","sdp":', offer.description.sdp, b'},"offer_id":', offer.offer_id, b"}"))
        for offer in offers
    ]
    return head + b",".join(parts) + b"]}"


def encode_answer(swarm: bytes, answer: Answer) -> bytes:
    """Encode `Answered`. `swarm` is the name of the swarm."""
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


def _all_binary(_name: str) -> bool:
    return True


def decode(frame: bytes, is_binary: Callable[[str], bool] = _all_binary) -> list[Message]:
    """Return the messages of a frame. Raise `WireError` if any of them is invalid.

    `is_binary` returns whether the ids of a swarm, given by its name, must be binary.
    """
    if len(frame) > MAX_FRAME:
        raise WireError("too long")
    try:
        messages = [_decode(line) for line in lines_of(frame)]
        for message in messages:
            _check(message, is_binary)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(str(error)) from None
    return messages


def lines_of(frame: bytes) -> Iterator[bytes]:
    """Yield the lines of a frame. A frame of newlines alone has as many as bytes, of which the first one is invalid."""
    start = 0
    while (end := frame.find(b"\n", start)) >= 0:
        yield frame[start:end]
        start = end + 1
    yield frame[start:]


def has_type(frame: bytes) -> bool:
    """Return whether the first message of a frame has a type, as each message of a link has, valid or not."""
    try:
        _typed.decode(frame.partition(b"\n")[0])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _decode(line: bytes) -> Message:
    try:
        message: Message = _decoder.decode(line)
    except msgspec.ValidationError:
        if b'"hello"' not in line:
            raise
        # In a `hello` of another version, ignore the other fields: it must be refused for its version.
        try:
            version = _any_hello.decode(line).version
        except msgspec.ValidationError:
            version = VERSION
        if version == VERSION:
            raise
        return Hello(version, "", "")
    return message


def _check(message: Any, is_binary: Callable[[str], bool]) -> None:
    valid = True
    if isinstance(message, Offers):
        binary = is_binary(message.swarm)
        valid = (
            (is_id(message.peer_id) if binary else is_any_id(message.peer_id))
            and 0 < len(message.offers) <= MAX_OFFERS
            and all(map(is_offer if binary else is_any_offer, message.offers))
        )
    elif isinstance(message, Answered):
        # Any info_hash of the kind will do, because only the other fields are checked.
        swarm = NO_INFO_HASH if is_binary(message.swarm) else "any"
        valid = is_answer(Answer(swarm, message.peer_id, message.to_peer_id, message.sdp, message.offer_id))
    elif isinstance(message, Refused):
        valid = len(message.offer_ids) <= MAX_OFFERS and all(
            map(is_id if is_binary(message.swarm) else is_any_id, (message.peer_id, *message.offer_ids))
        )
    elif isinstance(message, Bye):
        valid = len(message.reason) <= MAX_REASON and message.reason.isascii() and message.reason.isprintable()
    elif isinstance(message, Have):
        valid = len(message.swarms) <= MAX_SWARMS and all(
            len(name) == NAME_LENGTH and 0 <= complete <= MAX_COUNT and 0 <= incomplete <= MAX_COUNT
            for name, complete, incomplete in message.swarms
        )
    elif isinstance(message, Present):
        valid = len(message.swarms) <= MAX_SWARMS and all(
            len(name) == NAME_LENGTH
            and (len(seeders) + len(leechers)) <= MAX_PRESENT * MARK_LENGTH
            and not len(seeders) % MARK_LENGTH
            and not len(leechers) % MARK_LENGTH
            for name, seeders, leechers in message.swarms
        )
    elif isinstance(message, Filter):
        valid = (
            0 <= message.part < message.parts <= MAX_PARTS
            and message.parts.bit_count() == 1
            and 0 < len(message.bits) <= MAX_BYTES
            and room_in(message.bits) >= 0
        )
    elif isinstance(message, Opened):
        valid = len(message.tags) <= MAX_TAGS * TAG_LENGTH and not len(message.tags) % TAG_LENGTH
    elif isinstance(message, Proof):
        valid = len(message.swarms) <= MAX_WANTED and all(len(name) == NAME_LENGTH for name in message.swarms)
    elif isinstance(message, Seek):
        valid = len(message.swarm) in (0, NAME_LENGTH)
    elif isinstance(message, Trackers):
        valid = len(message.swarm) in (0, NAME_LENGTH) and len(message.trackers) <= MAX_TRACKERS
    if not valid:
        raise WireError(f"invalid {type(message).__name__.lower()}")
