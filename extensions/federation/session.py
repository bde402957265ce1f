"""The protocol of a link between two trackers: handshake, filters, counts, offers and answers (sans I/O).

One class serves both ends. Messages to send are returned as bytes, one message each. The transport may join several
with a newline between them.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from enum import Enum, auto
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.federation import wire
from extensions.federation.events import Event, Interest, MayHave, Offered, Opened, Refused, Sought, Told
from extensions.federation.filters import OwnSwarms, TheirFilter, swarms_in
from extensions.federation.handshake import Handshake, LinkError, from_hex
from extensions.federation.limits import Budget
from extensions.federation.names import LinkNames
from extensions.federation.reasons import NO_FEDERATION, Dropped, EndReason
from extensions.trackers import TrackerEntry
from tracker.extension import MARK_LENGTH, Answer, Offer, is_id

MAX_FILTERS: Final = 128 << 20
"""Bytes of the filters of all neighbours."""

BATCH: Final = 500
"""Swarms in one `have`."""

_PRESENT_OVERHEAD: Final = 12
"""Bytes of a swarm in `present` besides its name and the marks."""


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
        swarms: The swarms that are open at this tracker.
        budget: Bounds the bytes of the filters of all links together.
        own_nonces: The nonces of this tracker's other links in handshake.
        features: Those that this side offers, in `hello`.
        wanted: For the dialer: infohashes of open swarms for which it makes the link. Only the first few are named.
    """

    def __init__(
        self,
        key: Ed25519PrivateKey,
        nonce: bytes,
        url: str = "",
        accepts: Callable[[str], bool] | None = None,
        expected: str | None = None,
        swarms: OwnSwarms | None = None,
        budget: Budget | None = None,
        own_nonces: Container[bytes] = (),
        features: tuple[str, ...] = (wire.PRESENT,),
        wanted: Sequence[str] = (),
    ) -> None:
        self.state = State.HELLO
        self.tracker_id = ""
        """The tracker id that the other side has proved."""
        self.dropped: dict[Dropped, int] = {}
        self.told = 0
        """Swarms in all messages received so far that tell of swarms; a swarm counts each time."""
        self.filtered = 0.0
        """The shares of filters received so far: 1 for each whole filter."""
        self.knows_marks = False
        """Whether the other side tells and understands the marks of peers."""
        self.wanted: list[str] = []
        """At the listener: swarms that are open here and for which the other side has dialed."""
        self.nonce = nonce
        self._handshake = Handshake(key, nonce, url, accepts, expected, own_nonces)
        self._expected = expected
        self._features = features
        self._wants = wanted
        self._swarms = OwnSwarms() if swarms is None else swarms
        self._names = LinkNames(self._swarms, b"", b"", b"")
        self._filter = TheirFilter()
        self._theirs: dict[str, tuple[int, int]] = {}
        """Seeders and leechers of the other side by infohash, in swarms that are open here."""
        self._budget = Budget(MAX_FILTERS, 1) if budget is None else budget

    @property
    def their_id(self) -> str:
        """The tracker id that is shunned if the other side breaks a rule: proved, or dialed. Never one only claimed."""
        return self.tracker_id or self._expected or ""

    @property
    def rank(self) -> bytes:
        """Bytes that are the same at both ends and different for every link: the tie-breaker between two links."""
        return self._handshake.secret

    def release(self) -> None:
        """Forget the filter of the other side, and return its share of the budget."""
        self._budget.take(self._filter.size, -self._filter.size)
        self._filter = TheirFilter()

    def start(self) -> bytes:
        """Return the first message, `hello`."""
        return self._handshake.hello(self._features)

    def receive(self, frame: bytes) -> tuple[list[Event], list[bytes]]:
        """Return the events in a frame, and the messages to send in reply. Raise `LinkError` if the link must end."""
        try:
            messages = wire.decode(frame, self._is_binary)
        except wire.WireError:
            if self.state is State.HELLO and self._handshake.is_dialer and not wire.has_type(frame):
                # npm's `ws` echoes any subprotocol, and a tracker on it answers `hello` as an invalid request.
                raise LinkError(EndReason.REFUSED, NO_FEDERATION) from None
            # The error quotes the message, which must not get into the log.
            raise LinkError(EndReason.INVALID_MESSAGE) from None
        events: list[Event] = []
        replies: list[bytes] = []
        for message in messages:
            if isinstance(message, wire.Hello):
                replies.append(self._on_hello(message))
            elif isinstance(message, wire.Proof):
                events.append(self._on_proof(message))
            elif isinstance(message, wire.Bye):
                raise LinkError(EndReason.CLOSED_THERE, message.reason)
            elif self.state is not State.OPEN:
                raise LinkError(EndReason.OUT_OF_TURN)
            elif isinstance(message, wire.Have):
                events += self._on_have(message)
            elif isinstance(message, wire.Present):
                events += self._on_present(message)
            elif isinstance(message, wire.Filter):
                events += self._on_filter(message)
            elif isinstance(message, wire.Opened):
                events += self._on_opened(message)
            elif event := self._about_swarm(message):
                events.append(event)
        return events, replies

    def may_have(self, tag: int) -> bool:
        """Return whether the other side may have a swarm, by its filter."""
        return self._filter.has(tag)

    def counts(self, info_hash: str) -> tuple[int, int]:
        """Return the seeders and leechers that the other side has told for a swarm that is open here."""
        return self._theirs.get(info_hash, (0, 0))

    def leave_swarm(self, info_hash: str) -> list[bytes]:
        """Return the message that no more offers of an open swarm are wanted. The other side does the same by it."""
        self._theirs.pop(info_hash, None)
        return [wire.encode(wire.Have([(self._names.name_of(info_hash).decode(), 0, 0)]))]

    def forget_swarm(self, info_hash: str) -> None:
        """Forget a swarm that closes here."""
        self._theirs.pop(info_hash, None)
        self._names.forget(info_hash)

    def tell(self, counts: Iterable[tuple[str, int, int]], reply: bool = False) -> list[bytes]:
        """Return messages with the counts of open swarms, given as (infohash, seeders, leechers).

        `reply`: the other side has told its own counts of these swarms.
        """
        swarms = []
        for info_hash, complete, incomplete in counts:
            if info_hash in self._swarms:
                name = self._names.name_of(info_hash).decode()
                swarms.append((name, min(complete, wire.MAX_COUNT), min(incomplete, wire.MAX_COUNT)))
        return [wire.encode(wire.Have(swarms[start : start + BATCH], reply)) for start in range(0, len(swarms), BATCH)]

    def tell_present(self, swarms: Iterable[tuple[str, list[str], list[str]]], reply: bool = False) -> list[bytes]:
        """Return messages with the peers of open swarms, given as (infohash, marks of seeders, of leechers)."""
        messages = []
        batch: list[tuple[str, str, str]] = []
        size = 0
        for info_hash, *marks in swarms:
            if info_hash not in self._swarms:
                continue
            batch.append((self._names.name_of(info_hash).decode(), "".join(marks[0]), "".join(marks[1])))
            size += _PRESENT_OVERHEAD + sum(map(len, batch[-1]))
            if size > wire.SOFT_FRAME // 2:
                messages.append(wire.encode(wire.Present(batch, reply)))
                batch, size = [], 0
        return [*messages, wire.encode(wire.Present(batch, reply))] if batch else messages

    def offer(self, info_hash: str, peer_id: str, offers: list[Offer]) -> list[bytes]:
        """Return messages with a peer's offers: none if the other side has no peers in the swarm.

        Offers that are too long for a frame are dropped.
        """
        if info_hash not in self._theirs:
            return []
        name = self._names.name_of(info_hash)
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
        if info_hash not in self._swarms:
            return []
        name = self._names.name_of(info_hash).decode()
        return [wire.encode(wire.Refused(name, peer_id, offer_ids, known))]

    def answer(self, answer: Answer) -> list[bytes]:
        """Return the message with a local peer's answer to an offer that came over this link."""
        if not wire.fits(answer.sdp):
            self._drop(Dropped.TOO_LONG)
            return []
        if answer.info_hash not in self._swarms:
            return []
        return [wire.encode_answer(self._names.name_of(answer.info_hash), answer)]

    def seek(self, info_hash: str) -> list[bytes]:
        """Return the message that asks for other trackers of an open swarm; of any, if `info_hash` is empty."""
        name = self._name_or_empty(info_hash)
        return [] if name is None else [wire.encode(wire.Seek(name))]

    def trackers(self, info_hash: str, entries: Sequence[TrackerEntry]) -> list[bytes]:
        """Return the message with trackers of an open swarm, or with descriptors if `info_hash` is empty."""
        name = self._name_or_empty(info_hash)
        rows = [(one.tracker_id, one.expires, one.url, one.signature.hex()) for one in entries[: wire.MAX_TRACKERS]]
        return [] if name is None else [wire.encode(wire.Trackers(name, rows))]

    def bye(self, reason: EndReason) -> bytes:
        """Return the last message."""
        return wire.encode(wire.Bye(reason.value))

    def _on_hello(self, hello: wire.Hello) -> bytes:
        if self.state is not State.HELLO:
            raise LinkError(EndReason.OUT_OF_TURN)
        handshake = self._handshake
        handshake.on_hello(hello)
        self._names = LinkNames(self._swarms, handshake.secret, handshake.own_id, handshake.their_id)
        self.knows_marks = wire.PRESENT in hello.features and wire.PRESENT in self._features
        self.state = State.PROOF
        wanted = [info_hash for info_hash in self._wants if info_hash in self._swarms][: wire.MAX_WANTED]
        names = tuple(self._names.name_of(info_hash).decode() for info_hash in wanted)
        return wire.encode(wire.Proof(handshake.proof(), names))

    def _on_proof(self, proof: wire.Proof) -> Opened:
        if self.state is not State.PROOF:
            raise LinkError(EndReason.OUT_OF_TURN)
        self._handshake.on_proof(proof.signature)
        self.state = State.OPEN
        self.tracker_id = self._handshake.their_id.hex()
        self.wanted = [info_hash for name in proof.swarms if (info_hash := self._names.info_hash_of(name)) is not None]
        return Opened(self.tracker_id)

    def _on_filter(self, message: wire.Filter) -> list[Event]:
        part, parts, bits = message.part, message.parts, message.bits
        self.filtered += 1 / parts
        if not self._budget.take(self._filter.size, self._filter.growth(part, parts, bits)):
            self._drop(Dropped.TOO_MANY_SWARMS)
            return []
        self._filter.put(part, parts, bits)
        found = swarms_in(bits, self._swarms.within(part, parts))
        return [MayHave(found)] if found else []

    def _on_opened(self, message: wire.Opened) -> list[Event]:
        found = []
        tags = from_hex(message.tags, len(message.tags) // 2)
        for at in range(0, len(tags), wire.TAG_LENGTH // 2):
            self.told += 1
            tag = int.from_bytes(tags[at : at + wire.TAG_LENGTH // 2], "big")
            self._filter.add(tag)
            info_hash = self._swarms.info_hash_of(tag)
            if info_hash is not None:
                found.append(info_hash)
        return [MayHave(found, has_opened=True)] if found else []

    def _on_have(self, message: wire.Have) -> list[Event]:
        events: list[Event] = []
        self.told += len(message.swarms)
        for name, complete, incomplete in message.swarms:
            events += self._note(name, complete, incomplete, message.reply)
        return events

    def _on_present(self, message: wire.Present) -> list[Event]:
        events: list[Event] = []
        self.told += len(message.swarms)
        for name, *texts in message.swarms:
            seeders, leechers = (
                [text[at : at + MARK_LENGTH] for at in range(0, len(text), MARK_LENGTH)] for text in texts
            )
            events += self._note(name, len(seeders), len(leechers), message.reply, (seeders, leechers))
        return events

    def _note(
        self,
        name: str,
        complete: int,
        incomplete: int,
        reply: bool,
        marks: tuple[list[str], list[str]] | None = None,
    ) -> list[Event]:
        """Store the numbers of a swarm. Return the event, if the swarm is open here."""
        info_hash = self._names.info_hash_of(name)
        if info_hash is None:
            self._drop(Dropped.UNKNOWN_SWARM)
            return []
        is_new = info_hash not in self._theirs
        if complete or incomplete:
            self._theirs[info_hash] = (complete, incomplete)
        else:
            self._theirs.pop(info_hash, None)
        return [Interest(info_hash, complete, incomplete, marks, is_new, reply)]

    def _about_swarm(
        self, message: wire.Offers | wire.Refused | wire.Answered | wire.Seek | wire.Trackers
    ) -> Event | None:
        is_general = not message.swarm and isinstance(message, wire.Seek | wire.Trackers)
        info_hash = "" if is_general else self._names.info_hash_of(message.swarm)
        if info_hash is None:
            # It has closed here while the message was on its way.
            self._drop(Dropped.UNKNOWN_SWARM)
            return None
        if isinstance(message, wire.Offers):
            return Offered(info_hash, message.peer_id, message.offers)
        if isinstance(message, wire.Refused):
            return Refused(info_hash, message.peer_id, message.offer_ids, message.known)
        if isinstance(message, wire.Answered):
            return Answer(info_hash, message.peer_id, message.to_peer_id, message.sdp, message.offer_id)
        if isinstance(message, wire.Seek):
            return Sought(info_hash)
        entries = [
            TrackerEntry(from_hex(tracker_id, 32).hex(), expires, url, from_hex(signature, 64))
            for tracker_id, expires, url, signature in message.trackers
        ]
        return Told(info_hash, entries)

    def _name_or_empty(self, info_hash: str) -> str | None:
        if not info_hash:
            return ""
        return self._names.name_of(info_hash).decode() if info_hash in self._swarms else None

    def _is_binary(self, name: str) -> bool:
        """Return whether a swarm is open here and binary. Of other swarms nothing is relayed."""
        info_hash = self._names.info_hash_of(name)
        return info_hash is not None and is_id(info_hash)

    def _drop(self, reason: Dropped) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
