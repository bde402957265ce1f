"""The protocol of a link between two trackers: handshake, names of swarms, counts, offers and answers (sans I/O).

One class serves both ends. Messages to send are returned as bytes, one message each. The transport may join several
with a newline between them.
"""

import hashlib
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from enum import Enum, auto
from hmac import compare_digest
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.federation import wire
from extensions.federation.limits import Budget
from extensions.federation.reasons import NO_FEDERATION, Dropped, EndReason
from extensions.signatures import verify
from tracker.extension import MARK_LENGTH, Answer, Offer, is_id, swarm_key

CONTEXT: Final = b"peerservers.federation.1"
MAX_SWARMS: Final = 100_000
"""Swarms of the other side that are stored for one link, and own swarms that it is told of."""

BATCH: Final = 500
"""Swarms in one `have`."""

_PRESENT_OVERHEAD: Final = 12
"""Bytes of a swarm in `present` besides its name and the marks."""


class LinkError(Exception):
    """The link must be closed for `reason`. The text is for the log."""

    def __init__(self, reason: EndReason, text: str = "") -> None:
        super().__init__(text or reason.value)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Opened:
    """The other side has proved its tracker id."""

    tracker_id: str


@dataclass(frozen=True, slots=True)
class Interest:
    """The number of peers that the other side now has in a swarm that is open here.

    `marks` are those of the seeders and of the leechers, or None if the other side has told only numbers.
    """

    info_hash: str
    complete: int
    incomplete: int
    marks: tuple[list[str], list[str]] | None = None


@dataclass(frozen=True, slots=True)
class Offered:
    """A peer of the other side makes offers to peers of this side."""

    info_hash: str
    peer_id: str
    offers: list[Offer]


@dataclass(frozen=True, slots=True)
class Refused:
    """The other side has given offers of a local peer to no peer."""

    info_hash: str
    peer_id: str
    offer_ids: list[str]
    known: bool = False


Event = Opened | Interest | Offered | Refused | Answer


class State(Enum):
    """The message that is expected next, or OPEN after the handshake."""

    HELLO = auto()
    PROOF = auto()
    OPEN = auto()


class Session:
    """One end of a link.

    Args:
        key: The key pair of this tracker.
        nonce: 32 random bytes.
        url: For the dialer: the URL that it has dialed.
        accepts: For the listener: returns whether a URL is one of its own. None for the dialer.
        expected: The tracker id that the other side must prove, if it is known.
        budget: Bounds the number of swarms stored for all links together.
        own_nonces: The nonces of this tracker's other links in handshake.
        features: Those that this side offers, in `hello`.
    """

    def __init__(
        self,
        key: Ed25519PrivateKey,
        nonce: bytes,
        url: str = "",
        accepts: Callable[[str], bool] | None = None,
        expected: str | None = None,
        budget: Budget | None = None,
        own_nonces: Container[bytes] = (),
        features: tuple[str, ...] = (wire.PRESENT,),
    ) -> None:
        self.state = State.HELLO
        self.tracker_id = ""
        """The tracker id that the other side has proved."""
        self.dropped: dict[Dropped, int] = {}
        self.told = 0
        """Swarms in all `have` and `present` messages received so far; a swarm counts each time."""
        self.knows_marks = False
        """Whether the other side tells and understands the marks of peers."""
        self._key = key
        self._id = key.public_key().public_bytes_raw()
        self.nonce = nonce
        self._url = url
        self._accepts = accepts
        self._expected = expected
        self._own_nonces = own_nonces
        self._features = features
        self._transcript = b""
        self._their_id = b""
        self._secret = b""
        self._names: dict[str, bytes] = {}
        """The name of each swarm that is open here, by infohash."""
        self._hashes: dict[str, str] = {}
        """The same the other way round."""
        self._theirs: dict[str, tuple[int, int]] = {}
        """Seeders and leechers of the other side, by the name of the swarm."""
        self._budget = budget or Budget(MAX_SWARMS)

    @property
    def their_id(self) -> str:
        """The tracker id that is shunned if the other side breaks a rule: proved, or dialed. Never one only claimed."""
        return self.tracker_id or self._expected or ""

    @property
    def rank(self) -> bytes:
        """Bytes that are the same at both ends and different for every link: the tie-breaker between two links."""
        return self._secret

    @property
    def open_swarms(self) -> Iterable[str]:
        """The infohashes of the swarms that are open here and that the other side is told of."""
        return self._names.keys()

    def release(self) -> None:
        """Forget the other side's swarms and return their share of the budget."""
        self._budget.left += len(self._theirs)
        self._theirs.clear()

    def start(self) -> bytes:
        """Return the first message, `hello`."""
        return wire.encode(wire.Hello(wire.VERSION, self._id.hex(), self.nonce.hex(), self._url, self._features))

    def receive(self, frame: bytes) -> tuple[list[Event], list[bytes]]:
        """Return the events in a frame, and the messages to send in reply. Raise `LinkError` if the link must end."""
        try:
            messages = wire.decode(frame, self._is_binary)
        except wire.WireError:
            if self.state is State.HELLO and not self._accepts and not wire.has_type(frame):
                # npm's `ws` echoes any subprotocol, and a tracker on it answers `hello` as an invalid request.
                raise LinkError(EndReason.REFUSED, NO_FEDERATION) from None
            # The error quotes the message, which must not get into the log.
            raise LinkError(EndReason.INVALID_MESSAGE) from None
        events: list[Event] = []
        replies: list[bytes] = []
        for message in messages:
            if isinstance(message, wire.Offers | wire.Answered | wire.Refused):
                if self.state is not State.OPEN:
                    raise LinkError(EndReason.OUT_OF_TURN)
                event = self._about_swarm(message)
                if event:
                    events.append(event)
            elif isinstance(message, wire.Hello):
                replies.append(self._hello(message))
            elif isinstance(message, wire.Proof):
                events.append(self._proof(message))
            elif isinstance(message, wire.Bye):
                raise LinkError(EndReason.CLOSED_THERE, message.reason)
            elif self.state is not State.OPEN:
                raise LinkError(EndReason.OUT_OF_TURN)
            elif isinstance(message, wire.Present):
                events += self._present(message)
            else:
                events += self._have(message)
        return events, replies

    def counts(self, info_hash: str) -> tuple[int, int]:
        """Return the seeders and leechers that the other side has told for a swarm that is open here."""
        name = self._names.get(info_hash)
        return self._theirs.get(name.decode(), (0, 0)) if name is not None else (0, 0)

    def open_swarm(self, info_hash: str) -> Interest | None:
        """Have a swarm told from now on (`tell`). Return the counts of the other side, or None if they are 0."""
        if len(self._names) >= MAX_SWARMS or info_hash in self._names:
            return None
        name = self.name_of(info_hash)
        self._names[info_hash] = name.encode()
        self._hashes[name] = info_hash
        counts = self._theirs.get(name)
        return Interest(info_hash, *counts) if counts else None

    def close_swarm(self, info_hash: str) -> list[bytes]:
        """Return the message that a swarm has closed, if the other side was told of it."""
        name = self._names.pop(info_hash, None)
        if name is None:
            return []
        del self._hashes[name.decode()]
        return [wire.encode(wire.Have([(name.decode(), 0, 0)]))]

    def tell(self, counts: Iterable[tuple[str, int, int]]) -> list[bytes]:
        """Return messages with the counts of open swarms, given as (infohash, seeders, leechers)."""
        swarms = [
            (self._names[info_hash].decode(), min(complete, wire.MAX_COUNT), min(incomplete, wire.MAX_COUNT))
            for info_hash, complete, incomplete in counts
            if info_hash in self._names
        ]
        return [wire.encode(wire.Have(swarms[start : start + BATCH])) for start in range(0, len(swarms), BATCH)]

    def tell_present(self, swarms: Iterable[tuple[str, list[str], list[str]]]) -> list[bytes]:
        """Return messages with the peers of common swarms, given as (infohash, marks of seeders, of leechers)."""
        messages = []
        batch: list[tuple[str, str, str]] = []
        size = 0
        for info_hash, *marks in swarms:
            name = self._shared_name(info_hash)
            if name is None:
                continue
            batch.append((name.decode(), "".join(marks[0]), "".join(marks[1])))
            size += _PRESENT_OVERHEAD + sum(map(len, batch[-1]))
            if size > wire.SOFT_FRAME // 2:
                messages.append(wire.encode(wire.Present(batch)))
                batch, size = [], 0
        return [*messages, wire.encode(wire.Present(batch))] if batch else messages

    def offer(self, info_hash: str, peer_id: str, offers: list[Offer]) -> list[bytes]:
        """Return messages with a peer's offers: none if the other side has no peers in the swarm.

        Offers that are too long for a frame are dropped.
        """
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

    def refuse(self, info_hash: str, peer_id: str, offer_ids: list[str], known: bool = False) -> list[bytes]:
        """Return the message that no local peer was given these offers; `known`: and no more of this peer's will be."""
        name = self._names.get(info_hash)
        return [] if name is None else [wire.encode(wire.Refused(name.decode(), peer_id, offer_ids, known))]

    def answer(self, answer: Answer) -> list[bytes]:
        """Return the message with a local peer's answer to an offer that came over this link."""
        name = self._names.get(answer.info_hash)
        if not wire.fits(answer.sdp):
            self._drop(Dropped.TOO_LONG)
            return []
        return [] if name is None else [wire.encode_answer(name, answer)]

    def name_of(self, info_hash: str) -> str:
        """Return the name of a swarm on this link: a keyed hash, which reveals nothing without the infohash."""
        hashed = swarm_key(info_hash)
        if not is_id(info_hash):
            # The hash of a text swarm must not have the name of the binary swarm with this infohash.
            hashed = b"text" + hashed
        return hashlib.blake2b(hashed, digest_size=wire.NAME_LENGTH // 2, key=self._secret).hexdigest()

    def bye(self, reason: EndReason) -> bytes:
        """Return the last message."""
        return wire.encode(wire.Bye(reason.value))

    def _hello(self, hello: wire.Hello) -> bytes:
        if self.state is not State.HELLO:
            raise LinkError(EndReason.OUT_OF_TURN)
        if hello.version != wire.VERSION:
            raise LinkError(EndReason.WRONG_VERSION)
        self._their_id = _from_hex(hello.id, 32)
        nonce = _from_hex(hello.nonce, 32)
        # Any other tracker that has this id, and proves it, has a copy of the key.
        if self._their_id == self._id and (nonce == self.nonce or nonce in self._own_nonces):
            raise LinkError(EndReason.ITSELF)
        if self._expected and hello.id != self._expected:
            raise LinkError(EndReason.WRONG_ID)
        if self._accepts:
            # A third tracker that relays messages between two others was dialed by its own URL.
            if not self._accepts(hello.url):
                raise LinkError(EndReason.WRONG_URL)
            url, ids, nonces = hello.url, (self._their_id, self._id), (nonce, self.nonce)
        else:
            url, ids, nonces = self._url, (self._id, self._their_id), (self.nonce, nonce)
        if nonces[0] == nonces[1]:
            raise LinkError(EndReason.INVALID_PROOF)
        hashed = hashlib.sha256(url.encode()).digest()
        self._transcript = b"".join((CONTEXT, *ids, *nonces, hashed))
        self._secret = hashlib.sha256(b"names" + self._transcript).digest()
        self.knows_marks = wire.PRESENT in hello.features and wire.PRESENT in self._features
        self.state = State.PROOF
        return wire.encode(wire.Proof(self._key.sign(self._role(ours=True) + self._transcript).hex()))

    def _proof(self, proof: wire.Proof) -> Opened:
        if self.state is not State.PROOF:
            raise LinkError(EndReason.OUT_OF_TURN)
        signed = self._role(ours=False) + self._transcript
        if not verify(self._their_id, signed, _from_hex(proof.signature, 64)):
            raise LinkError(EndReason.INVALID_PROOF)
        if self._their_id == self._id:
            raise LinkError(EndReason.SAME_KEY)
        self.state = State.OPEN
        self.tracker_id = self._their_id.hex()
        return Opened(self.tracker_id)

    def _have(self, message: wire.Have) -> list[Event]:
        events: list[Event] = []
        self.told += len(message.swarms)
        for name, complete, incomplete in message.swarms:
            events += self._note(name, complete, incomplete)
        return events

    def _present(self, message: wire.Present) -> list[Event]:
        events: list[Event] = []
        self.told += len(message.swarms)
        for name, *texts in message.swarms:
            seeders, leechers = (
                [text[at : at + MARK_LENGTH] for at in range(0, len(text), MARK_LENGTH)] for text in texts
            )
            events += self._note(name, len(seeders), len(leechers), (seeders, leechers))
        return events

    def _note(
        self, name: str, complete: int, incomplete: int, marks: tuple[list[str], list[str]] | None = None
    ) -> list[Event]:
        """Store the numbers of a swarm. Return the event, if the swarm is open here."""
        known = name in self._theirs
        if complete or incomplete:
            if not known and (len(self._theirs) >= MAX_SWARMS or not self._budget.left):
                self._drop(Dropped.TOO_MANY_SWARMS)
                return []
            self._budget.left -= not known
            self._theirs[name] = (complete, incomplete)
        elif known:
            self._budget.left += 1
            del self._theirs[name]
        else:
            return []
        info_hash = self._hashes.get(name)
        return [] if info_hash is None else [Interest(info_hash, complete, incomplete, marks)]

    def _about_swarm(self, message: wire.Offers | wire.Refused | wire.Answered) -> Event | None:
        info_hash = self._hashes.get(message.swarm)
        if info_hash is None:
            # It has closed here while the message was on its way.
            self._drop(Dropped.UNKNOWN_SWARM)
            return None
        if isinstance(message, wire.Offers):
            return Offered(info_hash, message.peer_id, message.offers)
        if isinstance(message, wire.Refused):
            return Refused(info_hash, message.peer_id, message.offer_ids, message.known)
        return Answer(info_hash, message.peer_id, message.to_peer_id, message.sdp, message.offer_id)

    def _is_binary(self, name: str) -> bool:
        """Return whether a swarm is open here and binary. Of other swarms nothing is relayed."""
        info_hash = self._hashes.get(name)
        return info_hash is not None and is_id(info_hash)

    def _shared_name(self, info_hash: str) -> bytes | None:
        name = self._names.get(info_hash)
        return name if name is not None and name.decode() in self._theirs else None

    def _role(self, ours: bool) -> bytes:
        dialed = (self._accepts is None) == ours
        return b"dialer " if dialed else b"listener "

    def _drop(self, reason: Dropped) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def _from_hex(text: str, size: int) -> bytes:
    # `fromhex` also takes upper case and spaces, but an id must have one form only.
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise LinkError(EndReason.INVALID_MESSAGE) from None
    if len(data) != size or not compare_digest(data.hex(), text):
        raise LinkError(EndReason.INVALID_MESSAGE)
    return data
