"""WebTorrent tracker messages, and the frames that they are decoded from, as msgspec takes them apart (sans I/O).

In a room of their own because `tracker.protocol` is compiled, and msgspec's kind of class cannot be.
"""

from typing import Any, Final, Literal, TypeAlias

from msgspec import Raw, Struct, field

NO_INFO_HASH: Final = "\0" * 20
"""Stands in a failure for an info_hash that could not be read: bittorrent-tracker's client throws without one."""

RawString: TypeAlias = Raw
"""A JSON string as it stands on the wire, quotes and escapes included; valid UTF-8. `bytes(token)` copies it."""


class OfferDescription(Struct, gc=False):
    """An `RTCSessionDescription` of type "offer"."""

    type: Literal["offer"]
    sdp: RawString


class AnswerDescription(Struct, gc=False):
    """An `RTCSessionDescription` of type "answer"."""

    type: Literal["answer"]
    sdp: RawString


class Offer(Struct, gc=False):
    """One WebRTC offer of an announce. Both tokens are validated; they may point into the frame they came in."""

    description: OfferDescription = field(name="offer")
    offer_id: RawString


class Announce(Struct, gc=False):
    """A peer joins, refreshes, completes or leaves a swarm, and makes offers."""

    info_hash: str
    peer_id: str
    stopped: bool
    complete: bool
    offers: list[Offer]
    completed: bool = False
    invalid_offers: int = 0
    surplus_offers: int = 0


class Answer(Struct, gc=False):
    """A peer's answer to an offer that the tracker gave it. Tokens as in `Offer`."""

    info_hash: str
    peer_id: str
    to_peer_id: str
    sdp: RawString
    offer_id: RawString


class Scrape(Struct, gc=False):
    """A request for the counts of swarms; `info_hashes` is None for a full scrape."""

    info_hashes: list[str] | None
    invalid: int = 0


Message = Announce | Answer | Scrape


class Fields(Struct, gc=False):
    # `Any` where clients disagree about types: libtorrent, trystero and anacrolix/torrent all differ.
    action: Any = None
    info_hash: Any = None
    peer_id: Any = None
    to_peer_id: Any = None
    offer_id: Raw = Raw(b"null")
    event: Any = None
    left: Any = None
    numwant: Any = None


class Frame(Fields, gc=False):
    offers: list[Offer] | None = None
    answer: AnswerDescription | None = None


class LenientFrame(Fields, gc=False):
    # Where one bad offer, or an answer that is none, must not spoil the rest.
    offers: Raw = Raw(b"null")
    answer: Any = None


class AnnounceReply(Struct, gc=False):
    """A tracker's reply to an announce.

    A field is None if the tracker has left it out or has sent another type. `interval` is in seconds: the time until
    the client announces again. `complete` and `incomplete` are the numbers of seeders and leechers in the swarm.
    """

    info_hash: str | None
    interval: int | float | None
    complete: int | None
    incomplete: int | None


class RelayedOffer(Struct, gc=False):
    """Another peer's offer, which the tracker passes on. `peer_id` is that of the peer that made the offer.

    The tokens of `offer` are JSON strings; the length of an id or an SDP is not checked.
    """

    info_hash: str | None
    peer_id: str
    offer: Offer


class RelayedAnswer(Struct, gc=False):
    """Another peer's answer to this client's offer `offer_id`. `peer_id` is that of the peer that answers.

    `offer_id` and `sdp` are JSON strings; their length is not checked.
    """

    info_hash: str | None
    peer_id: str
    offer_id: RawString
    sdp: RawString


class SwarmCounts(Struct, gc=False):
    """The counts of one swarm in a scrape reply, 0 where the tracker has sent no number.

    `complete` and `incomplete` are the numbers of seeders and leechers. Most trackers repeat `complete` as
    `downloaded`; aquatic sends 0.
    """

    complete: int = 0
    incomplete: int = 0
    downloaded: int = 0


class ScrapeReply(Struct, gc=False):
    """A tracker's reply to a scrape: the counts by infohash. aquatic leaves out the swarms that it does not know."""

    files: dict[str, SwarmCounts]


class Failure(Struct, gc=False):
    """A tracker's refusal of a message.

    bittorrent-tracker and aquatic leave out `action` and `info_hash` if they could not read the message.
    """

    text: str
    info_hash: str | None = None
    action: str | None = None


TrackerMessage = AnnounceReply | RelayedOffer | RelayedAnswer | ScrapeReply | Failure
"""A message from a tracker to a client."""
