"""The steps of a message's life in the sans-I/O core, to be repeated."""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from benchmarks.load import SDP, SEEDERS, encode
from tracker.core.hub import Hub
from tracker.core.rules import Rules
from tracker.core.swarm import Connection, Peer
from tracker.protocol.codec import decode, encode_answer, encode_offers, encode_reply
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Announce, Answer, Offer

MAX_OFFERS: Final = 20
INFO_HASH: Final = "h" * 20
NAMES: Final = (
    "decode announce, 5 offers",
    "decode announce, 10 offers",
    "decode answer",
    "place 10 offers, 10 others",
    "place 10 offers, 10000 others",
    "encode reply",
    "encode 10 offers",
    "encode answer",
    "announce 10 offers, 10 others",
    "announce 10 offers, 10000 others",
)
"""`others` are the peers of a swarm beside the one that announces; `announce` is all of it, from bytes to bytes."""


class _Connection:
    def __init__(self) -> None:
        self.peers: set[Peer] = set()
        self.address = "127.0.0.1"

    @property
    def client(self) -> object:
        return self


class _Encoder:
    """An outbox that makes bytes of every message, and drops them."""

    def reply(self, _connection: Connection, info_hash: str, interval: int, complete: int, incomplete: int) -> None:
        encode_reply(info_hash, interval, complete, incomplete)

    def offers(self, info_hash: str, peer_id: str, _receivers: list[Peer], offers: list[Offer]) -> None:
        encode_offers(info_hash, peer_id, offers)

    def answer(self, _receiver: Peer, answer: Answer) -> None:
        encode_answer(answer)

    def scrape(self, connection: Connection, counts: list[tuple[str, int, int]]) -> None:
        raise NotImplementedError

    def failure(self, _connection: Connection, error: RequestError) -> None:
        raise error


def operation(name: str) -> Callable[[], object]:
    """One of `NAMES`, with what it needs made."""
    what, _, rest = name.partition(" ")
    announce, answer = decode(_announce(0, 10), MAX_OFFERS), decode(_answer(), MAX_OFFERS)
    if what == "decode":
        return partial(decode, _answer() if rest == "answer" else _announce(0, int(rest.split()[1])), MAX_OFFERS)
    if what == "encode":
        assert isinstance(announce, Announce)
        assert isinstance(answer, Answer)
        if rest == "answer":
            return partial(encode_answer, answer)
        return (
            partial(encode_offers, INFO_HASH, _id(0), announce.offers)
            if rest == "10 offers"
            else partial(encode_reply, INFO_HASH, 120, 10, 10)
        )
    others = int(rest.split()[2])
    hub, connection, outbox = Hub(Rules(), Random(1).random), _Connection(), _Encoder()

    def apply(sender: _Connection, payload: bytes) -> None:
        hub.apply(sender, decode(payload, MAX_OFFERS), 0.0, outbox)

    for number in range(others + 1):
        apply(_Connection() if number else connection, _announce(number, 0))
    if what == "announce":
        return partial(apply, connection, _announce(0, 10))
    swarm = hub.swarms[INFO_HASH]
    return partial(swarm.choose, swarm.peers[_id(0)], 10, 0.0, Random(2).random)


def _id(number: int) -> str:
    return f"{number:020}"


def _announce(number: int, offers: int) -> bytes:
    made = [{"offer": {"type": "offer", "sdp": SDP}, "offer_id": _id(offer)} for offer in range(offers)]
    ids = {"action": "announce", "info_hash": INFO_HASH, "peer_id": _id(number)}
    return encode({**ids, "left": number % SEEDERS, "numwant": 10, "uploaded": 0, "downloaded": 0, "offers": made})


def _answer() -> bytes:
    ids = {"action": "announce", "info_hash": INFO_HASH, "peer_id": _id(1), "to_peer_id": _id(0)}
    return encode({**ids, "offer_id": _id(0), "answer": {"type": "answer", "sdp": SDP}})
