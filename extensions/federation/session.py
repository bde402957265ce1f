"""One link between two trackers, without the socket: handshake, names, who has what, offers and answers (sans I/O).

The same object serves both ends. What is to be sent comes back as bytes, one message each; the transport may join
several with a newline between them. Times are seconds on any monotonic clock.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from hmac import compare_digest
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.federation import wire
from extensions.federation.limits import Room
from extensions.federation.reasons import Dropped, Fault
from extensions.signatures import is_signed
from tracker.extension import Answer, Offer

CONTEXT: Final = b"peerservers.federation.1"
MAX_SWARMS: Final = 100_000
"""Swarms that the other side may name; and that are named to it."""

BATCH: Final = 500
"""Swarms in one message."""


class LinkError(Exception):
    """The link must be closed. `fault` says why."""

    def __init__(self, fault: Fault, text: str = "") -> None:
        super().__init__(text or fault.value)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Opened:
    """The other side has proved who it is."""

    tracker_id: str


@dataclass(frozen=True, slots=True)
class Interest:
    """How many peers the other side has now in a swarm of ours."""

    info_hash: str
    complete: int
    incomplete: int


@dataclass(frozen=True, slots=True)
class Offered:
    """A peer there makes offers for peers here."""

    info_hash: str
    peer_id: str
    offers: list[Offer]


@dataclass(frozen=True, slots=True)
class Refused:
    """Offers of a peer here found nobody there."""

    info_hash: str
    peer_id: str
    offer_ids: list[str]


Event = Opened | Interest | Offered | Refused | Answer


class State(Enum):
    """How far the handshake has got."""

    HELLO = auto()
    PROOF = auto()
    OPEN = auto()


class Session:
    """One end. The dialing side gives the `url` that it has dialed; the other gives `accepts`, which says of a URL
    whether it is its own. `expected` is the tracker id that must be there, if one is known; `nonce` is 32 random bytes;
    `room` bounds what is remembered of all links together.
    """

    def __init__(
        self,
        key: Ed25519PrivateKey,
        nonce: bytes,
        url: str = "",
        accepts: Callable[[str], bool] | None = None,
        expected: str | None = None,
        room: Room | None = None,
    ) -> None:
        self.state = State.HELLO
        self.tracker_id = ""
        """Whose the other end is, once that is proved."""
        self.dropped: dict[Dropped, int] = {}
        self._key = key
        self._id = key.public_key().public_bytes_raw()
        self._nonce = nonce
        self._url = url
        self._accepts = accepts
        self._expected = expected
        self._transcript = b""
        self._their_id = b""
        self._secret = b""
        self._names: dict[str, bytes] = {}
        self._hashes: dict[str, str] = {}
        self._theirs: dict[str, tuple[int, int]] = {}
        self._room = room or Room(MAX_SWARMS)
        self.told = 0
        """Swarms that the other side has named, each time that it did."""

    @property
    def their_id(self) -> str:
        """Whom to blame: who has proved to be there, or was dialed; not whom anybody may pretend to be."""
        return self.tracker_id or self._expected or ""

    @property
    def rank(self) -> bytes:
        """The same at both ends, and of no two links: to choose between two."""
        return self._secret

    def release(self) -> None:
        """Give back the places that the other side's swarms took."""
        self._room.left += len(self._theirs)
        self._theirs.clear()

    def start(self) -> bytes:
        """The first message."""
        return wire.encode(wire.Hello(wire.VERSION, self._id.hex(), self._nonce.hex(), self._url))

    def receive(self, frame: bytes) -> tuple[list[Event], list[bytes]]:
        """What a frame means, and what to answer. Raises `LinkError`."""
        try:
            messages = wire.decode(frame)
        except wire.WireError:
            # The error quotes what came, which is nothing for our log.
            raise LinkError(Fault.INVALID_MESSAGE) from None
        events: list[Event] = []
        replies: list[bytes] = []
        for message in messages:
            if isinstance(message, wire.Offers | wire.Answered | wire.Refused):
                if self.state is not State.OPEN:
                    raise LinkError(Fault.OUT_OF_TURN)
                event = self._about_swarm(message)
                if event:
                    events.append(event)
            elif isinstance(message, wire.Hello):
                replies.append(self._hello(message))
            elif isinstance(message, wire.Proof):
                events.append(self._proof(message))
            elif isinstance(message, wire.Bye):
                raise LinkError(Fault.CLOSED_THERE, message.reason)
            elif self.state is not State.OPEN:
                raise LinkError(Fault.OUT_OF_TURN)
            else:
                events += self._have(message)
        return events, replies

    def counts(self, info_hash: str) -> tuple[int, int]:
        """How many seeders and leechers the other side says it has in a swarm of ours."""
        name = self._names.get(info_hash)
        return self._theirs.get(name.decode(), (0, 0)) if name is not None else (0, 0)

    def open_swarm(self, info_hash: str) -> Interest | None:
        """We have peers in a swarm, which is to be told; what the other side has, if it has some."""
        if len(self._names) >= MAX_SWARMS or info_hash in self._names:
            return None
        name = self._name(info_hash)
        self._names[info_hash] = name.encode()
        self._hashes[name] = info_hash
        counts = self._theirs.get(name)
        return Interest(info_hash, *counts) if counts else None

    def close_swarm(self, info_hash: str) -> list[bytes]:
        """We have no more peers in a swarm; what to send."""
        name = self._names.pop(info_hash, None)
        if name is None:
            return []
        del self._hashes[name.decode()]
        return [wire.encode(wire.Have([(name.decode(), 0, 0)]))]

    def tell(self, counts: Iterable[tuple[str, int, int]]) -> list[bytes]:
        """How many peers we have in swarms that are open: (info_hash, seeders, leechers)."""
        swarms = [
            (self._names[info_hash].decode(), min(complete, wire.MAX_COUNT), min(incomplete, wire.MAX_COUNT))
            for info_hash, complete, incomplete in counts
            if info_hash in self._names
        ]
        return [wire.encode(wire.Have(swarms[start : start + BATCH])) for start in range(0, len(swarms), BATCH)]

    def offer(self, info_hash: str, peer_id: str, offers: list[Offer]) -> list[bytes]:
        """A peer's offers; nothing to send if the other side has nobody there."""
        name = self._shared_name(info_hash)
        if name is None:
            return []
        messages = []
        batch: list[Offer] = []
        size = 0
        for offer in offers:
            length = memoryview(offer.description.sdp).nbytes
            if not wire.fits(offer.description.sdp):
                self._drop(Dropped.TOO_LONG)
                continue
            if batch and (size + length > wire.SOFT_FRAME or len(batch) == wire.MAX_OFFERS):
                messages.append(wire.encode_offers(name, peer_id, batch))
                batch, size = [], 0
            batch.append(offer)
            size += length
        return [*messages, wire.encode_offers(name, peer_id, batch)] if batch else messages

    def refuse(self, info_hash: str, peer_id: str, offer_ids: list[str]) -> list[bytes]:
        """Offers that came found nobody."""
        name = self._names.get(info_hash)
        return [] if name is None else [wire.encode(wire.Refused(name.decode(), peer_id, offer_ids))]

    def answer(self, answer: Answer) -> list[bytes]:
        """A peer's answer to an offer that came from there."""
        name = self._names.get(answer.info_hash)
        if not wire.fits(answer.sdp):
            self._drop(Dropped.TOO_LONG)
            return []
        return [] if name is None else [wire.encode_answer(name, answer)]

    def bye(self, fault: Fault) -> bytes:
        """The last message."""
        return wire.encode(wire.Bye(fault.value))

    def _hello(self, hello: wire.Hello) -> bytes:
        if self.state is not State.HELLO:
            raise LinkError(Fault.OUT_OF_TURN)
        if hello.version != wire.VERSION:
            raise LinkError(Fault.WRONG_VERSION)
        self._their_id = _from_hex(hello.id, 32)
        nonce = _from_hex(hello.nonce, 32)
        if self._their_id == self._id:
            raise LinkError(Fault.ITSELF)
        if self._expected and hello.id != self._expected:
            raise LinkError(Fault.WRONG_ID)
        if self._accepts:
            # A third tracker that passes the messages on between two would have to name its own.
            if not self._accepts(hello.url):
                raise LinkError(Fault.WRONG_URL)
            url, ids, nonces = hello.url, (self._their_id, self._id), (nonce, self._nonce)
        else:
            url, ids, nonces = self._url, (self._id, self._their_id), (self._nonce, nonce)
        if nonces[0] == nonces[1]:
            raise LinkError(Fault.INVALID_PROOF)
        hashed = hashlib.sha256(url.encode()).digest()
        self._transcript = b"".join((CONTEXT, *ids, *nonces, hashed))
        self._secret = hashlib.sha256(b"names" + self._transcript).digest()
        self.state = State.PROOF
        return wire.encode(wire.Proof(self._key.sign(self._role(ours=True) + self._transcript).hex()))

    def _proof(self, proof: wire.Proof) -> Opened:
        if self.state is not State.PROOF:
            raise LinkError(Fault.OUT_OF_TURN)
        signed = self._role(ours=False) + self._transcript
        if not is_signed(self._their_id, signed, _from_hex(proof.signature, 64)):
            raise LinkError(Fault.INVALID_PROOF)
        self.state = State.OPEN
        self.tracker_id = self._their_id.hex()
        return Opened(self.tracker_id)

    def _have(self, message: wire.Have) -> list[Event]:
        events: list[Event] = []
        self.told += len(message.swarms)
        for name, complete, incomplete in message.swarms:
            known = name in self._theirs
            if complete or incomplete:
                if not known and (len(self._theirs) >= MAX_SWARMS or not self._room.left):
                    self._drop(Dropped.TOO_MANY_SWARMS)
                    continue
                self._room.left -= not known
                self._theirs[name] = (complete, incomplete)
            elif known:
                self._room.left += 1
                del self._theirs[name]
            else:
                continue
            info_hash = self._hashes.get(name)
            if info_hash is not None:
                events.append(Interest(info_hash, complete, incomplete))
        return events

    def _about_swarm(self, message: wire.Offers | wire.Refused | wire.Answered) -> Event | None:
        info_hash = self._hashes.get(message.swarm)
        if info_hash is None:
            # It has closed here, while this was on its way.
            self._drop(Dropped.UNKNOWN_SWARM)
            return None
        if isinstance(message, wire.Offers):
            return Offered(info_hash, message.peer_id, message.offers)
        if isinstance(message, wire.Refused):
            return Refused(info_hash, message.peer_id, message.offer_ids)
        return Answer(info_hash, message.peer_id, message.to_peer_id, message.sdp, message.offer_id)

    def _shared_name(self, info_hash: str) -> bytes | None:
        name = self._names.get(info_hash)
        return name if name is not None and name.decode() in self._theirs else None

    def _name(self, info_hash: str) -> str:
        """What a swarm is called on this link: nothing to those who do not know the infohash already."""
        return hashlib.blake2b(
            info_hash.encode("latin-1"), digest_size=wire.NAME_LENGTH // 2, key=self._secret
        ).hexdigest()

    def _role(self, ours: bool) -> bytes:
        dialed = (self._accepts is None) == ours
        return b"dialer " if dialed else b"listener "

    def _drop(self, reason: Dropped) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def _from_hex(text: str, size: int) -> bytes:
    # Only one way to write it, so that an id has one name.
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise LinkError(Fault.INVALID_MESSAGE) from None
    if len(data) != size or not compare_digest(data.hex(), text):
        raise LinkError(Fault.INVALID_MESSAGE)
    return data
