"""Two ends of a link without a socket: a test hands the messages of one end to the other."""

import hashlib
import json
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.federation import wire
from extensions.federation.events import Event, Opened
from extensions.federation.filters import OwnSwarms
from extensions.federation.handshake import CONTEXT
from extensions.federation.limits import Budget
from extensions.federation.session import Session
from tests.client import HASH
from tests.unit.fakes import peer_id
from tracker.protocol import codec
from tracker.protocol.messages import Answer, Offer

URL = "wss://tracker.example.org"
A, B, C = peer_id(1), peer_id(2), peer_id(3)


def key(number: int) -> Ed25519PrivateKey:
    """Return a tracker's key pair."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def tracker_id(number: int) -> str:
    """Return the id of the tracker with this key."""
    return key(number).public_key().public_bytes_raw().hex()


def transcript(dialers_hello: bytes, listeners_hello: bytes) -> bytes:
    """Return the bytes that both ends sign after their roles, computed from the first messages."""
    dialer, listener = json.loads(dialers_hello), json.loads(listeners_hello)
    parts = [bytes.fromhex(end[field]) for field in ("id", "nonce") for end in (dialer, listener)]
    return b"".join((CONTEXT, *parts, hashlib.sha256(dialer["url"].encode()).digest()))


def own_swarms(*info_hashes: str) -> OwnSwarms:
    """Return the open swarms of a tracker."""
    swarms = OwnSwarms()
    for info_hash in info_hashes:
        swarms.add(info_hash)
    return swarms


def dialing(
    number: int = 1,
    url: str = URL,
    nonce: int = 10,
    expected: str | None = None,
    swarms: OwnSwarms | None = None,
    budget: Budget | None = None,
    wanted: Sequence[str] = (),
) -> Session:
    """Return the end of a tracker that has dialed `url`."""
    return Session(
        key(number), bytes([nonce]) * 32, url, expected=expected, swarms=swarms, budget=budget, wanted=wanted
    )


def listening(
    number: int = 2, url: str = URL, nonce: int = 11, swarms: OwnSwarms | None = None, budget: Budget | None = None
) -> Session:
    """Return the end of the tracker that was dialed; `url` is its only URL."""
    return Session(key(number), bytes([nonce]) * 32, accepts=lambda dialed: dialed == url, swarms=swarms, budget=budget)


def shake_hands(dialer: Session, listener: Session) -> list[bytes]:
    """Open a link. Return the four messages: hello and proof of the dialer, then those of the listener."""
    hello, greeting = dialer.start(), listener.start()
    events, (listeners_proof,) = listener.receive(hello)
    assert events == []
    events, (dialers_proof,) = dialer.receive(greeting)
    assert events == []
    assert all(isinstance(event, Opened) for event in give(listener, [dialers_proof]) + give(dialer, [listeners_proof]))
    assert dialer.tracker_id
    assert listener.tracker_id
    return [hello, dialers_proof, greeting, listeners_proof]


def linked(
    dialers: OwnSwarms | None = None,
    listeners: OwnSwarms | None = None,
    nonce: int = 10,
    budget: Budget | None = None,
    wanted: Sequence[str] = (),
) -> list[Session]:
    """Return both ends of an open link, the dialer first, with the open swarms of both. `budget` is the listener's."""
    ends = [dialing(nonce=nonce, swarms=dialers, wanted=wanted), listening(swarms=listeners, budget=budget)]
    shake_hands(*ends)
    return ends


def sharing(*info_hashes: str) -> list[Session]:
    """Return both ends of an open link. Each has told the other of one leecher in each swarm; by default in `HASH`."""
    info_hashes = info_hashes or (HASH,)
    ends = linked(own_swarms(*info_hashes), own_swarms(*info_hashes))
    for end, other in (ends, ends[::-1]):
        give(other, end.tell([(info_hash, 0, 1) for info_hash in info_hashes]))
    return ends


def names_in(messages: list[bytes]) -> list[str]:
    """Return the names of the swarms in `have` or `present`."""
    return [row[0] for message in messages for row in json.loads(message)["swarms"]]


def filter_of(swarms: OwnSwarms) -> list[bytes]:
    """Return the messages with the filter of a tracker's open swarms."""
    parts = swarms.parts
    return [wire.encode(wire.Filter(number, len(parts), bytes(part.bits))) for number, part in enumerate(parts)]


def opened(*tags: int) -> bytes:
    """Return the message that swarms with these tags have opened."""
    return wire.encode(wire.Opened("".join(f"{tag:016x}" for tag in tags)))


def give(session: Session, messages: list[bytes]) -> list[Event]:
    """Hand messages over in one frame. Return their events; there must be no replies."""
    if not messages:
        return []
    events, replies = session.receive(b"\n".join(messages))
    assert replies == []
    return events


def some_offers(count: int, sdp: str = "v=0\r\n", start: int = 0) -> list[Offer]:
    """Return offers with distinct ids."""
    return [codec.make_offer(f"{start + n:020}", sdp) for n in range(count)]


def ids_of(offers: list[Offer]) -> list[str]:
    """Return the offer_ids of offers."""
    return [codec.from_json(offer.offer_id) for offer in offers]


def an_answer(offer_id: str = "o" * 20, info_hash: str = HASH) -> Answer:
    """Return B's answer to A."""
    return codec.make_answer(info_hash, B, A, offer_id, "v=0\r\n")
