"""The swarms as extensions use them: remote members, and offers and answers of remote peers (sans I/O).

All times are seconds on any monotonic clock.
"""

from collections.abc import Collection
from typing import Any

from tracker.core.hub import Hub
from tracker.core.members import own_peer
from tracker.core.outbox import Outbox
from tracker.core.overlap import PeerOverlap
from tracker.core.swarm import Overlap, RemoteMember, Swarm
from tracker.protocol.messages import Answer, Offer
from tracker.reasons import DropReason


class RemotePeers:
    """Peers that are reached through extensions. All extensions share one object."""

    def __init__(self, hub: Hub, outbox: Outbox) -> None:
        self.outbox = outbox
        self._hub = hub

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
            if member.swarm.overlap is not None:
                member.swarm.overlap.discard(member)
            member.swarm.set_remote(member, complete, incomplete)
            self._hub.linked_changed(member.swarm)

    def set_remote_peers(
        self,
        member: RemoteMember,
        seeders: Collection[str],
        leechers: Collection[str],
        ranks: tuple[str, str] | None,
    ) -> list[str]:
        """Set the peers behind a remote member by their marks, and return the marks of the newcomers.

        See `PeerOverlap.know`. If the swarm has closed, do nothing.
        """
        if not self._is_open(member):
            return []
        newcomers = self._overlap_of(member.swarm).know(member, seeders, leechers, ranks)
        self._hub.linked_changed(member.swarm)
        return newcomers

    def keep_apart(self, member: RemoteMember, peer_id: str, seconds: float, now: float) -> None:
        """Place no offers of a local peer on a remote member for some time."""
        peer = own_peer(member.swarm, peer_id)
        if peer is not None and self._is_open(member):
            self._overlap_of(member.swarm).keep_apart(peer, member, seconds, now)

    def deliver_offers(
        self,
        info_hash: str,
        peer_id: str,
        offers: list[Offer],
        now: float,
        owner: Any = None,
        member: RemoteMember | None = None,
    ) -> list[Offer]:
        """Give a remote peer's offers to distinct local peers, and return the offers that found no receiver.

        `owner` is the origin of the offers, and `member` the remote member with the peer; see `LinkedOffers.deliver`.
        """
        swarm = self._hub.swarms.get(info_hash)
        if swarm is None or peer_id in swarm.peers or (swarm.nodes is not None and peer_id in swarm.nodes.ids):
            # This peer makes offers here, too, and its client takes an answer only on the socket of the offer.
            return offers
        return self._hub.offers.linked.deliver(swarm, peer_id, offers, now, self.outbox, owner, member)

    def deliver_answer(self, answer: Answer, now: float) -> bool:
        """Send a remote peer's answer to the own peer that made the offer; return whether that peer is still here."""
        return self._hub.answers.relay_from_link(answer, now, self.outbox)

    def place_parked(self, member: RemoteMember, newcomers: Collection[str], now: float, owner: Any = None) -> None:
        """Place parked offers on new peers behind a remote member; see `LinkedOffers.place_parked`."""
        if self._is_open(member):
            self._hub.offers.linked.place_parked(member, newcomers, now, owner)
            nodes = self._hub.nodes
            if nodes is not None and newcomers:
                nodes.newcomers(member.swarm, len(newcomers))

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
        if swarm is not None and peer is None:
            self._place_again_elsewhere(swarm, peer_id, offers, refused, age, now)
        if swarm is None or peer is None:
            return
        if refused is not None and refused.swarm is not swarm:
            refused = None
        if refused is not None:
            self._overlap_of(swarm)
        self._hub.offers.place(swarm, peer, offers, now, self.outbox, age=age, refused=refused)

    def _place_again_elsewhere(
        self, swarm: Swarm, peer_id: str, offers: list[Offer], refused: RemoteMember | None, age: float, now: float
    ) -> None:
        """Place refused offers of a peer of another node on other remote members, or return them to its node."""
        nodes = self._hub.nodes
        if nodes is None:
            return
        rest = self._hub.offers.linked.place(swarm, peer_id, offers, now, refused)
        if rest and not nodes.returned(swarm, peer_id, rest, age, 0):
            self._hub.counters.dropped[DropReason.UNPLACED_OFFER] += len(rest)

    def _overlap_of(self, swarm: Swarm) -> Overlap:
        if swarm.overlap is None:
            swarm.overlap = PeerOverlap(swarm)
        return swarm.overlap

    def _is_open(self, member: RemoteMember) -> bool:
        return self._hub.swarms.get(member.swarm.info_hash) is member.swarm
