"""WebTorrent tracker messages as typed values, and the JSON objects that they are decoded from (sans I/O).

Ids (`info_hash`, `peer_id`, `to_peer_id`, `offer_id`) are `str`; `tracker.protocol.ids` describes them. This module is
apart from `tracker.protocol.codec` because msgspec's structs cannot be compiled with mypyc.
"""

from typing import Annotated, Any, Final, Literal, TypeAlias

from msgspec import Meta, Raw, Struct, field
from msgspec.json import Decoder

NO_INFO_HASH: Final = "\0" * 20
"""The info_hash of a failure whose request had none that is valid: bittorrent-tracker's client throws without one."""

NULL: Final = Raw(b"null")
"""The value of a raw field that is absent."""

RawString: TypeAlias = Raw
"""A JSON string as it is on the wire, with quotes and escapes, in valid UTF-8. `bytes(raw)` copies it."""

Int64: TypeAlias = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
"""An integer of usual size. Numbers of more digits, and some floats, take the parser hundreds of times as long."""

_decode_text = Decoder(str).decode


class OfferDescription(Struct, gc=False):
    """An `RTCSessionDescription` of type "offer"."""

    type: Literal["offer"]
    sdp: RawString


class AnswerDescription(Struct, gc=False):
    """An `RTCSessionDescription` of type "answer"."""

    type: Literal["answer"]
    sdp: RawString


class Offer(Struct, gc=False):
    """One WebRTC offer of an announce. Its raw strings are valid; they may point into the frame that held them."""

    description: OfferDescription = field(name="offer")
    offer_id: RawString

    @property
    def id(self) -> str:
        """The offer_id as text: clients escape the same id in different ways."""
        return _decode_text(self.offer_id)

    @property
    def size(self) -> int:
        """Bytes of the SDP and the offer_id on the wire."""
        return memoryview(self.description.sdp).nbytes + memoryview(self.offer_id).nbytes

    def detached(self) -> "Offer":
        """Return a copy that does not keep the frame in memory that the offer came in."""
        return Offer(OfferDescription("offer", self.description.sdp.copy()), self.offer_id.copy())


class Announce(Struct, gc=False):
    """A peer joins, refreshes, completes or leaves a swarm, and makes offers.

    `limited_offers` is the number of offers that were removed because of a limit of the client.
    """

    info_hash: str
    peer_id: str
    stopped: bool
    complete: bool
    offers: list[Offer]
    completed: bool = False
    invalid_offers: int = 0
    surplus_offers: int = 0
    payload: bytes = b""
    """The message as it came, in which `tracker.protocol.fields` finds the other fields."""
    limited_offers: int = 0


class Answer(Struct, gc=False):
    """A peer's answer to an offer that the tracker relayed to it. Raw strings as in `Offer`."""

    info_hash: str
    peer_id: str
    to_peer_id: str
    sdp: RawString
    offer_id: RawString

    @property
    def id(self) -> str:
        """The offer_id as text: clients escape the same id in different ways."""
        return _decode_text(self.offer_id)

    @property
    def size(self) -> int:
        """Bytes of the SDP and the offer_id on the wire."""
        return memoryview(self.sdp).nbytes + memoryview(self.offer_id).nbytes

    def detached(self) -> "Answer":
        """Return a copy that does not keep the frame in memory that the answer came in."""
        return Answer(self.info_hash, self.peer_id, self.to_peer_id, self.sdp.copy(), self.offer_id.copy())


class Scrape(Struct, gc=False):
    """A request for the counts of swarms; `info_hashes` is None for a full scrape.

    `surplus` is the number of further info_hashes, which were not looked at.
    """

    info_hashes: list[str] | None
    invalid: int = 0
    surplus: int = 0


Message = Announce | Answer | Scrape
"""A message from a client to the tracker."""


class Ping(Struct, gc=False):
    """The fields by which a page's heartbeat is recognized."""

    action: Any = None
    type: Any = None


class Frame(Struct, gc=False):
    """A client's JSON object in the form that most clients give it.

    Clients disagree about the types: libtorrent, trystero and anacrolix/torrent all differ. `tracker.protocol.lenient`
    decodes all other objects. No field is of the type `Any`: a small message could make many thousand objects of it.
    """

    action: str | None = None
    info_hash: str | list[str] | None = None
    peer_id: str | None = None
    to_peer_id: str | None = None
    offer_id: Raw = NULL
    event: str | None = None
    left: Int64 | None = None
    numwant: Int64 | None = None
    offers: list[Offer] | None = None
    answer: AnswerDescription | None = None


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
