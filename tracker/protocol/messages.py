"""WebTorrent tracker messages as typed values, and the JSON objects that they are decoded from (sans I/O).

An id (`info_hash`, `peer_id`, `to_peer_id`, `offer_id`) is 20 bytes; here it is a `str` of 20 code points below U+0100
(latin-1). This module is apart from `tracker.protocol.codec` because msgspec's structs cannot be compiled with mypyc.
"""

from typing import Any, Final, Literal, TypeAlias

from msgspec import Raw, Struct, field

NO_INFO_HASH: Final = "\0" * 20
"""The info_hash of a failure whose request had none that is valid: bittorrent-tracker's client throws without one."""

RawString: TypeAlias = Raw
"""A JSON string as it is on the wire, with quotes and escapes, in valid UTF-8. `bytes(raw)` copies it."""


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
    def size(self) -> int:
        """Bytes of the SDP on the wire."""
        return memoryview(self.description.sdp).nbytes

    def detached(self) -> "Offer":
        """Return a copy that does not keep the frame in memory that the offer came in."""
        return Offer(OfferDescription("offer", self.description.sdp.copy()), self.offer_id.copy())


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
    """A peer's answer to an offer that the tracker relayed to it. Raw strings as in `Offer`."""

    info_hash: str
    peer_id: str
    to_peer_id: str
    sdp: RawString
    offer_id: RawString

    @property
    def size(self) -> int:
        """Bytes of the SDP on the wire."""
        return memoryview(self.sdp).nbytes

    def detached(self) -> "Answer":
        """Return a copy that does not keep the frame in memory that the answer came in."""
        return Answer(self.info_hash, self.peer_id, self.to_peer_id, self.sdp.copy(), self.offer_id.copy())


class Scrape(Struct, gc=False):
    """A request for the counts of swarms; `info_hashes` is None for a full scrape."""

    info_hashes: list[str] | None
    invalid: int = 0


Message = Announce | Answer | Scrape
"""A message from a client to the tracker."""


class Fields(Struct, gc=False):
    """The fields of a client's JSON object.

    Their types are `Any` where clients disagree: libtorrent, trystero and anacrolix/torrent all differ.
    """

    action: Any = None
    info_hash: Any = None
    peer_id: Any = None
    to_peer_id: Any = None
    offer_id: Raw = Raw(b"null")
    event: Any = None
    left: Any = None
    numwant: Any = None


class Frame(Fields, gc=False):
    """A JSON object whose offers and answer are all well-formed."""

    offers: list[Offer] | None = None
    answer: AnswerDescription | None = None


class LenientFrame(Fields, gc=False):
    """Any other JSON object: one bad offer, or a malformed answer, must not spoil the rest."""

    offers: Raw = Raw(b"null")
    answer: Any = None
