"""The swarms as extensions use them: remote members, and offers and answers of remote peers (sans I/O).

All times are seconds on any monotonic clock.
"""

from typing import Any

from tracker.core.hub import Hub
from tracker.core.outbox import Outbox
from tracker.core.swarm import RemoteMember
from tracker.protocol.messages import Answer, Offer
from tracker.reasons import DropReason


class RemotePeers:
    """Peers that are reached through extensions. All extensions share one object."""

    def __init__(self, hub: Hub, outbox: Outbox) -> None:
        self._hub = hub
        self._outbox = outbox

    def add_remote(self, info_hash: str, owner: Any) -> RemoteMember | None:
        """Return a new remote member of a swarm, or None if the swarm is not open.

        The member counts no peers until `set_remote`.
        """
        swarm = self._hub.swarms.get(info_hash)
        return RemoteMember(swarm, owner) if swarm else None

    def set_remote(self, member: RemoteMember, complete: int, incomplete: int) -> None:
        """Set the numbers of seeders and leechers behind a remote member. If both are 0, the member leaves the swarm.

        If the swarm has closed, do nothing.

        Raises:
            ValueError: if a number is negative.
        """
        if self._is_open(member):
            member.swarm.set_remote(member, complete, incomplete)

    def deliver_offers(
        self, info_hash: str, peer_id: str, offers: list[Offer], now: float, owner: Any = None
    ) -> list[Offer]:
        """Give a remote peer's offers to distinct local peers, and return the offers that found no receiver.

        `owner` is the origin of the offers; see `OfferPlacement.deliver` for its limit.
        """
        swarm = self._hub.swarms.get(info_hash)
        if swarm is None or peer_id in swarm.peers:
            # This peer makes offers here, too, and its client takes an answer only on the socket of the offer.
            return offers
        return self._hub.offers.deliver(swarm, peer_id, offers, now, self._outbox, owner)

    def deliver_answer(self, answer: Answer, now: float) -> bool:
        """Send a remote peer's answer to the local peer that made the offer; return whether that peer is still here."""
        counters = self._hub.counters
        swarm = self._hub.swarms.get(answer.info_hash)
        receiver = swarm.peers.get(answer.to_peer_id) if swarm else None
        if receiver is None:
            counters.dropped[DropReason.UNKNOWN_RECEIVER] += 1
            return False
        self._hub.relay_answer(receiver, answer, now, self._outbox)
        return True

    def place_parked(self, member: RemoteMember, newcomers: int, now: float, owner: Any = None) -> None:
        """Place parked offers on new peers behind a remote member; see `OfferPlacement.place_parked`."""
        if self._is_open(member):
            self._hub.offers.place_parked(member, newcomers, now, owner)

    def place_again(
        self,
        info_hash: str,
        peer_id: str,
        offers: list[Offer],
        refused: RemoteMember | None,
        age: float,
        now: float,
    ) -> None:
        """Place a local peer's offers, made `age` seconds ago, on other members than the one that refused them."""
        swarm = self._hub.swarms.get(info_hash)
        peer = swarm.peers.get(peer_id) if swarm else None
        if swarm is None or peer is None:
            return
        place = self._hub.offers.place
        if refused is not None and refused.swarm is swarm:
            counts = refused.complete, refused.incomplete
            swarm.set_remote(refused, 0, 0)
            place(swarm, peer, offers, now, self._outbox, age=age)
            swarm.set_remote(refused, *counts)
        else:
            place(swarm, peer, offers, now, self._outbox, age=age)

    def _is_open(self, member: RemoteMember) -> bool:
        return self._hub.swarms.get(member.swarm.info_hash) is member.swarm
