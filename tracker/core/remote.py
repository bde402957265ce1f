"""What reaches a hub's swarms from elsewhere, and goes there, by way of the extensions (sans I/O).

Remote members, the offers and answers of foreign peers, and what was parked or refused and is placed again.
Times as in `tracker.hub`.
"""

from collections import Counter
from typing import Any

from tracker.core.hub import Hub, Outgoing
from tracker.core.swarm import Peer, RemoteMember
from tracker.protocol.codec import is_id, relayed_answer, relayed_offers, to_json
from tracker.protocol.messages import Answer, Offer
from tracker.reasons import DropReason


class RemotePeers:
    """One for all extensions: what a peer is given from other trackers is limited in all."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._given: Counter[tuple[Peer, Any]] = Counter()
        """Offers given to each peer since `_given_since`, in all (None) and by each owner."""
        self._given_since = 0.0

    def add_remote(self, info_hash: str, owner: Any) -> RemoteMember | None:
        """A new remote member of a swarm, without peers until `set_remote`; None if the swarm is not open."""
        swarm = self._hub.swarms.get(info_hash)
        return RemoteMember(swarm, owner) if swarm else None

    def set_remote(self, member: RemoteMember, complete: int, incomplete: int) -> None:
        """Set how many seeders and leechers are behind a remote member; none, and it is a member no more.

        Raises `ValueError` for negative numbers. Does nothing once the swarm has closed.
        """
        if self._is_open(member):
            member.swarm.set_remote(member, complete, incomplete)

    def deliver_offers(
        self, info_hash: str, peer_id: str, offers: list[Offer], now: float, owner: Any = None
    ) -> tuple[Outgoing, list[Offer]]:
        """Give a foreign peer's offers to as many distinct local peers; what to send, and the offers left over.

        `owner` is where they come from: of any one, no peer is given more than half of what it is given at most.
        Raises `ValueError` if `peer_id` is no id.
        """
        if not is_id(peer_id):
            raise ValueError("peer_id must be 20 latin-1 characters")
        hub = self._hub
        swarm = hub.swarms.get(info_hash)
        if swarm is None or peer_id in swarm.peers:
            # Whoever is here too makes offers here too, and knows each only on the socket that it was made on.
            return [], offers
        if now - self._given_since > 60:
            self._given.clear()
            self._given_since = now
        limit = hub.rules.max_foreign_offers
        chosen = [
            peer
            for peer in swarm.choose_local(len(offers), peer_id, hub.fresh_since(now), hub.random)
            if self._given[peer, None] < limit
            and (owner is None or self._given[peer, owner] < limit / 2)
            and peer.offers_by <= now
        ]
        for peer in chosen:
            self._given[peer, None] += 1
            if owner is not None:
                self._given[peer, owner] += 1
            if hub.parking:
                hub.parking.met(peer, owner)
        frames = relayed_offers(swarm.token, to_json(peer_id), offers[: len(chosen)])
        hub.tally.offers_relayed += len(frames)
        return [(peer.connection, frame) for peer, frame in zip(chosen, frames, strict=True)], offers[len(chosen) :]

    def deliver_answer(self, answer: Answer) -> Outgoing:
        """Give a foreign peer's answer to the local peer that made the offer; nothing to send if it is gone."""
        tally = self._hub.tally
        swarm = self._hub.swarms.get(answer.info_hash)
        receiver = swarm.peers.get(answer.to_peer_id) if swarm else None
        if swarm is None or receiver is None:
            tally.dropped[DropReason.UNKNOWN_RECEIVER] += 1
            return []
        receiver.met = True
        tally.answers_relayed += 1
        return [(receiver.connection, relayed_answer(swarm.token, to_json(answer.peer_id), answer))]

    def place_parked(self, member: RemoteMember, newcomers: int, now: float, owner: Any = None) -> None:
        """Place what waits in a swarm on peers that have come behind a remote member: one of each peer's on each.

        Whoever was given offers from there meanwhile (`owner`, as for `deliver_offers`) makes so many less, since most
        likely it is theirs.
        """
        parking, observer = self._hub.parking, self._hub.observer
        if parking and observer and self._is_open(member):
            for parked in parking.of(member.swarm, now):
                theirs = min(parked.met[owner], newcomers)
                parked.met[owner] -= theirs
                offers = parking.take(parked, newcomers - theirs, now)
                if offers:
                    self._hub.tally.offers_handed_over += len(offers)
                    observer.offers_placed(member, parked.peer, offers)

    def place_again(
        self, info_hash: str, peer_id: str, offers: list[Offer], refused: RemoteMember | None, age: float, now: float
    ) -> Outgoing:
        """Place a local peer's offers, made `age` seconds ago, elsewhere than where they were refused."""
        swarm = self._hub.swarms.get(info_hash)
        peer = swarm.peers.get(peer_id) if swarm else None
        out: Outgoing = []
        if swarm is None or peer is None:
            return out
        if refused is not None and refused.swarm is swarm:
            counts = refused.complete, refused.incomplete
            swarm.set_remote(refused, 0, 0)
            self._hub.place(swarm, peer, offers, now, out, age)
            swarm.set_remote(refused, *counts)
        else:
            self._hub.place(swarm, peer, offers, now, out, age)
        return out

    def _is_open(self, member: RemoteMember) -> bool:
        return self._hub.swarms.get(member.swarm.info_hash) is member.swarm
