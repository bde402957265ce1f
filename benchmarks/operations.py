"""The operations of the sans-I/O core on one message, for repeated measurement."""

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Final

from benchmarks.load import SDP, SEEDERS, announce, encode
from tracker.core.hub import Hub
from tracker.core.rules import Rules
from tracker.core.swarm import Connection, Peer
from tracker.protocol.codec import (
    decode,
    encode_answer,
    encode_failure,
    encode_offers,
    encode_reply,
    encode_scrape,
    make_offer,
)
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
"""`others` are the other peers of the announcing peer's swarm; `announce` is the whole way from bytes to bytes."""


class Client:
    """A client's connection, as the core sees it."""

    def __init__(self) -> None:
        self.peers: set[Peer] = set()
        self.address = self.network = "127.0.0.1"
        self.last_received = 0.0
        self.handshake = b""
        self.is_full = False

    def ping(self) -> None:
        """Do nothing."""

    @property
    def client(self) -> object:
        return self


class Encoder:
    """An outbox that makes bytes of every message, and counts them."""

    def __init__(self) -> None:
        self.size = 0

    def reply(self, _connection: Connection, info_hash: str, interval: int, complete: int, incomplete: int) -> None:
        self.size += len(encode_reply(info_hash, interval, complete, incomplete))

    def offers(self, info_hash: str, peer_id: str, _receivers: list[Peer], offers: list[Offer]) -> None:
        self.size += sum(map(len, encode_offers(info_hash, peer_id, offers)))

    def answer(self, _connection: Connection, answer: Answer) -> None:
        self.size += len(encode_answer(answer))

    def scrape(self, _connection: Connection, counts: list[tuple[str, int, int]]) -> None:
        self.size += len(encode_scrape(counts))

    def failure(self, _connection: Connection, error: RequestError) -> None:
        self.size += len(encode_failure(error))


def operation(name: str) -> Callable[[], object]:
    """Return one of `NAMES` as a function that can be called again and again."""
    step, _, rest = name.partition(" ")
    announced, answer = decode(_announce(0, 10), MAX_OFFERS), decode(_answer(), MAX_OFFERS)
    if step == "decode":
        return partial(decode, _answer() if rest == "answer" else _announce(0, int(rest.split()[1])), MAX_OFFERS)
    if step == "encode":
        assert isinstance(announced, Announce)
        assert isinstance(answer, Answer)
        if rest == "answer":
            return partial(encode_answer, answer)
        return (
            partial(encode_offers, INFO_HASH, peer_id(0), announced.offers)
            if rest == "10 offers"
            else partial(encode_reply, INFO_HASH, 120, 10, 10)
        )
    others = int(rest.split()[2])
    hub, connection, outbox = Hub(Rules(), Random(1).random), Client(), Encoder()

    def apply(sender: Client, payload: bytes) -> int:
        hub.apply(sender, decode(payload, MAX_OFFERS), 0.0, outbox)
        return outbox.size

    for number in range(others + 1):
        apply(Client() if number else connection, _announce(number, 0))
    if step == "announce":
        return partial(apply, connection, _announce(0, 10))
    swarm = hub.swarms[INFO_HASH]
    return partial(hub.offers.chooser.choose, swarm, swarm.peers[peer_id(0)], 10, 0.0)


def peer_id(number: int) -> str:
    return f"{number:020}"


def _announce(number: int, offers: int) -> bytes:
    made = [make_offer(peer_id(offer), SDP) for offer in range(offers)]
    fields = {"left": number % SEEDERS, "numwant": 10, "uploaded": 0, "downloaded": 0, "offers": made}
    return announce(INFO_HASH, peer_id(number), fields)


def _answer() -> bytes:
    ids = {"action": "announce", "info_hash": INFO_HASH, "peer_id": peer_id(1), "to_peer_id": peer_id(0)}
    return encode({**ids, "offer_id": peer_id(0), "answer": {"type": "answer", "sdp": SDP}})
