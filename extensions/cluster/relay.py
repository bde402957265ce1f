"""Carries offers and answers between the hub and the other nodes (sans I/O).

All times are seconds on any monotonic clock.
"""

from collections.abc import Callable, Iterator

from extensions.cluster.envelope import OVERHEAD
from extensions.cluster.reasons import Dropped
from extensions.cluster.routes import Routes
from extensions.cluster.session import Session, Sessions
from extensions.cluster.transport import MIN_PAYLOAD
from extensions.cluster.wire import (
    ANSWER,
    MAX_RECEIVERS,
    OFFERS,
    OFFERS_TO_EACH,
    RETURNED,
    Answered,
    Offers,
    OffersToEach,
    Returned,
    encode,
    message_in,
)
from extensions.cluster.work import SLICE
from tracker.extension import (
    LINKED,
    PEER,
    Answer,
    NodeMember,
    NodePeers,
    Offer,
    RawString,
    is_any_id,
    is_id,
    rebuilt_answer,
    rebuilt_offers,
)


class Relay:
    """The offers and answers of this node."""

    def __init__(self, peers: NodePeers, sessions: Sessions, clock: Callable[[], float]) -> None:
        self.routes = Routes(clock())
        self._peers = peers
        self._sessions = sessions
        self._clock = clock

    # From the hub

    def offers(self, member: NodeMember, peer_id: str, offers: list[Offer], flags: int) -> None:
        """Send offers to the node of a member."""
        sessions = self._sessions
        session = sessions.by_id.get(member.node)
        count = len(offers)
        if session is None:
            sessions.dropped[Dropped.NO_ROUTE] += count
            return
        key = member.swarm.info_hash
        sizes, texts = _joined(offers)
        part = encode((OFFERS, key, peer_id, member.kind, member.peer_id, flags, sizes, texts))
        if len(part) > MIN_PAYLOAD and count > 1 and len(part) > sessions.transport.max_payload - OVERHEAD:
            half = count // 2
            self.offers(member, peer_id, offers[:half], flags)
            self.offers(member, peer_id, offers[half:], flags)
            return
        session.put_traffic(part)
        session.traffic.offers_out += count
        sessions.traffic.offers_out += count

    def offers_to_each(self, members: list[NodeMember], peer_id: str, offers: list[Offer], flags: int) -> None:
        """Send offers to members of the kind PEER at one node, one to each."""
        sessions = self._sessions
        member = members[0]
        session = sessions.by_id.get(member.node)
        count = len(members)
        if session is None:
            sessions.dropped[Dropped.NO_ROUTE] += count
            return
        receivers = [one.peer_id for one in members]
        sizes, texts = _joined(offers[:count])
        part = encode((OFFERS_TO_EACH, member.swarm.info_hash, peer_id, receivers, flags, sizes, texts))
        if count > MAX_RECEIVERS or (len(part) > MIN_PAYLOAD and len(part) > sessions.transport.max_payload - OVERHEAD):
            half = count // 2
            if half:
                self.offers_to_each(members[:half], peer_id, offers[:half], flags)
                self.offers_to_each(members[half:], peer_id, offers[half:], flags)
                return
        session.put_traffic(part)
        session.traffic.offers_out += count
        sessions.traffic.offers_out += count

    def answer(self, answer: Answer, complete: bool) -> bool:
        """Send an answer to all nodes from which offers of its receiver came; return whether there are any."""
        nodes = self.routes.find(answer.info_hash, answer.to_peer_id)
        if not nodes:
            return False
        sessions = self._sessions
        text, key = b"".join((answer.offer_id, answer.sdp)), answer.info_hash
        part = encode((ANSWER, key, answer.peer_id, answer.to_peer_id, complete, len(answer.offer_id), text))
        is_sent = False
        for node_id in nodes:
            session = sessions.by_id.get(node_id)
            if session is not None and session.put_traffic(part):
                is_sent = True
                session.traffic.answers_out += 1
                sessions.traffic.answers_out += 1
        if not is_sent:
            sessions.dropped[Dropped.NO_ROUTE] += 1
        return is_sent

    def returned(self, key: str, peer_id: str, offers: list[Offer], age: float, flags: int) -> bool:
        """Send offers back to the node that they came from, because no link takes them; return whether it is known."""
        for node_id in self.routes.find(key, peer_id):
            session = self._sessions.by_id.get(node_id)
            if session is not None:
                age = min(max(0.0, age), 3600.0)
                return session.put_traffic(encode((RETURNED, key, peer_id, LINKED, "", flags, *_joined(offers), age)))
        return False

    def place_again(self, parts: list[bytes], forget_gone: Callable[[str], None]) -> Iterator[bool]:
        """Place offers again that were not sent, because their node is gone. Drop all other encoded messages.

        `forget_gone` removes the peers of nodes that are gone from a swarm.
        """
        for start in range(0, len(parts), SLICE):
            for part in parts[start : start + SLICE]:
                message = message_in(part)
                if isinstance(message, Offers | OffersToEach):
                    offers = self._offers_in(message.key, message.peer_id, message.sizes, message.texts)
                    if offers:
                        forget_gone(message.key)
                        self._peers.place_again(
                            message.key, message.peer_id, offers, None, self._clock(), 0.0, message.flags
                        )
                else:
                    self._sessions.dropped[Dropped.NO_ROUTE] += 1
            yield False

    # From other nodes

    def on_offers(self, session: Session, message: Offers) -> None:
        """Give the offers of another node to local peers, or at the gateway to links; return those that find none."""
        key, peer_id = message.key, message.peer_id
        offers = self._offers_in(key, peer_id, message.sizes, message.texts)
        if not offers:
            return
        count = len(offers)
        session.traffic.offers_in += count
        self._sessions.traffic.offers_in += count
        self.routes.note(key, peer_id, session.node_id)
        kind, flags = message.kind, message.flags
        if kind == LINKED:
            rest = self._peers.deliver_linked(key, peer_id, offers, self._clock(), flags)
        else:
            rest = self._peers.deliver(key, peer_id, offers, self._clock(), kind, message.receiver, flags)
        if rest:
            self._sessions.dropped[Dropped.NO_RECEIVER] += len(rest)
            session.put_traffic(encode((RETURNED, key, peer_id, kind, message.receiver, flags, *_joined(rest), 0.0)))

    def on_offers_to_each(self, session: Session, message: OffersToEach) -> None:
        """Give the offers of another node to the local peers that it names, and return those that are not taken."""
        key, peer_id, receivers = message.key, message.peer_id, message.receivers
        offers = self._offers_in(key, peer_id, message.sizes, message.texts)
        count = len(offers)
        if not count:
            return
        if count != len(receivers):
            # Invalid ones were left out, so it is not known which one is for which peer.
            self._sessions.dropped[Dropped.INVALID] += count
            return
        session.traffic.offers_in += count
        self._sessions.traffic.offers_in += count
        self.routes.note(key, peer_id, session.node_id)
        flags = message.flags
        missing = self._peers.deliver_to_each(key, peer_id, receivers, offers, self._clock(), flags)
        for position in missing:
            self._sessions.dropped[Dropped.NO_RECEIVER] += 1
            sizes, texts = _joined([offers[position]])
            session.put_traffic(encode((RETURNED, key, peer_id, PEER, receivers[position], flags, sizes, texts, 0.0)))

    def on_returned(self, session: Session, message: Returned) -> None:
        """Place offers again that found no receiver at another node."""
        key, peer_id = message.key, message.peer_id
        offers = self._offers_in(key, peer_id, message.sizes, message.texts)
        if offers:
            member = self._peers.get(key, session.node_id, message.kind, message.receiver)
            self._peers.place_again(key, peer_id, offers, member, self._clock(), message.age, message.flags)

    def on_answer(self, session: Session, message: Answered) -> None:
        """Give an answer to the local peer that made the offer, or at the gateway to a linked one."""
        answer = rebuilt_answer(message.key, message.peer_id, message.to_peer_id, message.texts, message.size)
        if answer is None:
            self._sessions.dropped[Dropped.INVALID] += 1
            return
        session.traffic.answers_in += 1
        self._sessions.traffic.answers_in += 1
        if not self._peers.deliver_answer(answer, self._clock(), message.complete):
            self._sessions.dropped[Dropped.NO_RECEIVER] += 1

    def _offers_in(self, key: str, peer_id: str, sizes: list[int], texts: bytes) -> list[Offer]:
        """Return the valid offers of a message, and count the others."""
        offers: list[Offer] = []
        binary = is_id(key)
        if is_id(peer_id) if binary else is_any_id(peer_id):
            offers = rebuilt_offers(texts, sizes, binary)
        invalid = (len(sizes) + 1) // 2 - len(offers)
        if invalid:
            self._sessions.dropped[Dropped.INVALID] += invalid
        return offers


def _joined(offers: list[Offer]) -> tuple[list[int], bytes]:
    """Return the texts of offers as messages contain them, and their sizes."""
    texts: list[RawString] = []
    sizes: list[int] = []
    for offer in offers:
        offer_id, sdp = offer.offer_id, offer.description.sdp
        texts.append(offer_id)
        texts.append(sdp)
        sizes.append(len(offer_id))
        sizes.append(len(sdp))
    return sizes, b"".join(texts)
