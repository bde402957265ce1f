"""Two ends of a link without a socket: what one end says reaches the other when the test hands it over."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.federation.limits import Room
from extensions.federation.session import Event, Opened, Session
from tests.client import HASH
from tests.unit.fakes import peer_id
from tracker.protocol import codec
from tracker.protocol.messages import Answer, Offer

URL = "wss://tracker.example.org"
A, B, C = peer_id(1), peer_id(2), peer_id(3)


def key(number: int) -> Ed25519PrivateKey:
    """A tracker's key pair."""
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def tracker_id(number: int) -> str:
    """The id of the tracker with this key."""
    return key(number).public_key().public_bytes_raw().hex()


def dialing(
    number: int = 1, url: str = URL, nonce: int = 10, expected: str | None = None, room: Room | None = None
) -> Session:
    """The end of a tracker that has dialed `url`."""
    return Session(key(number), bytes([nonce]) * 32, url=url, expected=expected, room=room)


def listening(number: int = 2, url: str = URL, nonce: int = 11, room: Room | None = None) -> Session:
    """The end of the tracker that was dialed, which has no other URL than `url`."""
    return Session(key(number), bytes([nonce]) * 32, accepts=lambda dialed: dialed == url, room=room)


def shake_hands(dialer: Session, listener: Session) -> list[bytes]:
    """Open a link; the four messages, in the order in which they were given: two to the listener, two back."""
    hello, greeting = dialer.start(), listener.start()
    events, (listeners_proof,) = listener.receive(hello)
    assert events == []
    events, (dialers_proof,) = dialer.receive(greeting)
    assert events == []
    assert all(isinstance(event, Opened) for event in give(listener, [dialers_proof]) + give(dialer, [listeners_proof]))
    assert dialer.tracker_id
    assert listener.tracker_id
    return [hello, dialers_proof, greeting, listeners_proof]


def linked(dialers_room: Room | None = None, listeners_room: Room | None = None, nonce: int = 10) -> list[Session]:
    """Both ends of an open link, the dialing one first."""
    ends = [dialing(nonce=nonce, room=dialers_room), listening(room=listeners_room)]
    shake_hands(*ends)
    return ends


def sharing(info_hash: str = HASH) -> list[Session]:
    """Both ends of an open link, each with one leecher in a swarm of which the other has heard."""
    ends = linked()
    for end in ends:
        end.open_swarm(info_hash)
    for end, other in (ends, ends[::-1]):
        give(other, end.tell([(info_hash, 0, 1)]))
    return ends


def shared(session: Session) -> int:
    """Swarms with peers on both sides."""
    return sum(session.counts(info_hash) != (0, 0) for info_hash in session._names)


def give(session: Session, messages: list[bytes]) -> list[Event]:
    """Hand messages over, in one frame; what they mean there, where nothing is to be answered."""
    if not messages:
        return []
    events, replies = session.receive(b"\n".join(messages))
    assert replies == []
    return events


def some_offers(count: int, sdp: str = "v=0\r\n", start: int = 0) -> list[Offer]:
    """Offers with distinct ids."""
    return [codec.make_offer(f"{start + n:020}", sdp) for n in range(count)]


def ids_of(offers: list[Offer]) -> list[str]:
    """Their offer_ids."""
    return [codec.from_json(offer.offer_id) for offer in offers]


def an_answer(offer_id: str = "o" * 20, info_hash: str = HASH) -> Answer:
    """B's answer to A."""
    return codec.make_answer(info_hash, B, A, offer_id, "v=0\r\n")
