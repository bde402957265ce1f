"""The swarms as the other nodes of this tracker use them (sans I/O).

A tracker may consist of several nodes; see `tracker.core.elsewhere` for the terms. Each node serves its local peers at
once from its own hub, where the peers of other nodes are *members*. The nodes tell each other their peers one by one
while they are few, otherwise by number. The hub calls `Nodes` to tell them, and they call `NodePeers` to tell the hub.

The messages between nodes may be lost, doubled or late: none of that harms a hub.

All times are seconds on any monotonic clock.
"""

from itertools import islice
from typing import Final

from tracker.core.elsewhere import FOREIGN, LINKED, PEER
from tracker.core.hub import Hub
from tracker.core.members import (
    add_peer,
    find_member,
    find_other,
    fits,
    members_of,
    refusal_of,
    release_if_empty,
    remove_peer,
    set_counts,
    set_role,
    settle,
)
from tracker.core.observers import Nodes
from tracker.core.outbox import Outbox
from tracker.core.swarm import NodeMember, Peer, Swarm
from tracker.expiring import ExpiringMap
from tracker.protocol.messages import Answer, Offer
from tracker.reasons import DropReason

_REFUSED_FOR: Final = 2.0
_MAX_REFUSED: Final = 10_000
"""Seconds, and number of peers, for which the nodes that have returned offers are left out.

Otherwise two nodes that know each other's peers late could return the same offers for ever.
"""

_NO_LIMIT: Final = 1 << 30


class NodePeers:
    """The peers at other nodes of this tracker. One extension, which connects the nodes, uses it.

    An info_hash and a peer_id are as in `tracker.protocol.ids`. Offers and answers must be valid, as from the codec.
    A node is known by any text that is not empty.
    """

    def __init__(self, hub: Hub, outbox: Outbox) -> None:
        self._hub = hub
        self._outbox = outbox
        self._refused: ExpiringMap[tuple[str, str], frozenset[str]] = ExpiringMap(_REFUSED_FOR, _MAX_REFUSED)
        """The nodes that have returned offers of a peer of late, by infohash and peer_id."""

    def attach(self, nodes: Nodes) -> None:
        """Tell `nodes` of peers, offers and answers from now on, and park offers that find no receiver.

        Call this before the first peer joins, in the `__init__` of an extension.

        Raises:
            ValueError: if there is one already.
        """
        hub = self._hub
        if hub.nodes is not None:
            raise ValueError("the tracker is connected with its other nodes already")
        hub.nodes = hub.offers.nodes = hub.answers.nodes = hub.scrapes.nodes = nodes
        hub.offers.parked.keep()

    # Members

    def add(self, info_hash: str, node: str, kind: int, peer_id: str = "", complete: bool = False) -> NodeMember | None:
        """Return the member of a node in a swarm, or None if the swarm is neither open nor held here.

        A member of the kind PEER counts one peer, `peer_id`, which is a seeder if `complete`. If it is there already,
        its role is set. A new member of another kind counts no peers until `set`.
        """
        swarm = self._hub.swarms.get(info_hash)
        if swarm is None:
            return None
        member = find_member(swarm, node, kind, peer_id)
        if member is not None:
            if kind == PEER and (member.complete == 1) is not complete:
                self._set(member, int(complete), int(not complete))
            return member
        if kind != PEER:
            return NodeMember(swarm, node, kind, "", 0)
        member = add_peer(swarm, node, peer_id, complete)
        self._note(swarm, node)
        settle(swarm, peer_id, self._is_here(swarm, peer_id))
        self._hub.members_changed(swarm)
        return member

    def get(self, info_hash: str, node: str, kind: int, peer_id: str = "") -> NodeMember | None:
        """Return the member of a node in a swarm if it counts any peers."""
        swarm = self._hub.swarms.get(info_hash)
        return None if swarm is None else find_member(swarm, node, kind, peer_id)

    def set(self, member: NodeMember, complete: int, incomplete: int) -> None:
        """Set the numbers of seeders and leechers of a member. If both are 0, the member leaves the swarm.

        A member of the kind SEEDERS has no leechers, one of the kind LEECHERS no seeders, and one of the kind PEER is
        one peer. If the swarm has closed, or a member of the kind PEER has left, do nothing.

        Raises:
            ValueError: if a number is negative or does not fit the kind.
        """
        if not fits(member, complete, incomplete):
            raise ValueError("these counts do not fit the kind of the member")
        if not self._is_open(member):
            return
        if member.kind != PEER:
            # The member may be there again under another object.
            member = find_member(member.swarm, member.node, member.kind, "") or member
        elif not member.complete and not member.incomplete:
            return
        if (complete, incomplete) != (member.complete, member.incomplete):
            self._set(member, complete, incomplete)

    def remove_all(self, info_hash: str, node: str) -> None:
        """Remove all members of a node from a swarm, because it has none of its peers any more."""
        swarm = self._hub.swarms.get(info_hash)
        if swarm is not None:
            self._remove_from(swarm, node)

    def forget_node(self, node: str, most: int | None = None) -> bool:
        """Remove all members of a node, because it has ended: those in `most` swarms, or in all.

        Return whether there are no more. Thousands of swarms take so long that other tasks would wait.
        """
        swarms = self._hub.shared.get(node)
        if swarms is None:
            return True
        for swarm in list(islice(swarms, most)):
            swarms.discard(swarm)
            self._remove_from(swarm, node)
        if not swarms:
            self._hub.shared.pop(node, None)
        return not swarms

    def hold(self, info_hash: str) -> None:
        """Keep a swarm open without local peers; open it if it is not open. For the gateway.

        The extensions then are told of the swarm, as of one with local peers, and of changes in the numbers of its own
        peers at all nodes. A swarm that this tracker does not serve is not opened.
        """
        self._hub.hold(info_hash)

    def release(self, info_hash: str) -> None:
        """End `hold`: the swarm closes if it has no local peers."""
        swarm = self._hub.swarms.get(info_hash)
        if swarm is not None:
            self._hub.release(swarm)

    # Offers

    def deliver(
        self,
        info_hash: str,
        peer_id: str,
        offers: list[Offer],
        now: float,
        kind: int,
        receiver: str = "",
        flags: int = 0,
    ) -> list[Offer]:
        """Give offers of a peer at another node to as many distinct local peers; return those that found no receiver.

        `kind` is the kind of the member that they were placed on. PEER: only `receiver` may get the offer. If this peer
        has left, the other node knows best which of the few others have no offer yet: `place_again`. SEEDERS and
        LEECHERS: peers of this role come first, then others; in each role, those that have met the maker and silent
        ones come last. `flags` are those of `Nodes.offers`. For foreign offers, which came over a link of the gateway,
        each peer has a limit, `max_foreign_offers`.
        """
        hub = self._hub
        if not offers:
            return offers
        if kind == PEER:
            return offers if self.deliver_to_each(info_hash, peer_id, [receiver], offers, now, flags) else offers[1:]
        swarm = hub.swarms.get(info_hash)
        if swarm is None or not swarm.peers:
            return offers
        return hub.offers.deliver_from(swarm, peer_id, offers, now, self._outbox, kind, flags)

    def deliver_to_each(
        self, info_hash: str, peer_id: str, receivers: list[str], offers: list[Offer], now: float, flags: int = 0
    ) -> list[int]:
        """Give each local peer in `receivers` one of the offers of a peer at another node, in order.

        Return the positions of those that cannot be given one: `deliver` for the kind PEER.
        """
        hub = self._hub
        swarm = hub.swarms.get(info_hash)
        if swarm is None:
            return list(range(len(receivers)))
        found: list[Peer] = []
        given: list[Offer] = []
        missing: list[int] = []
        nodes = swarm.nodes
        for position, who in enumerate(receivers):
            peer = swarm.peers.get(who)
            if (
                peer is None
                # It has probably left this node for another one.
                or (nodes is not None and who in nodes.ids and hub.challenges.has(peer))
                or (flags & FOREIGN and not hub.offers.linked.foreign.may_be_given(peer, None, now))
            ):
                missing.append(position)
            else:
                found.append(peer)
                given.append(offers[position])
        if found:
            hub.offers.deliver_to_each(swarm, peer_id, found, given, now, self._outbox, flags)
        return missing

    def deliver_linked(
        self, info_hash: str, peer_id: str, offers: list[Offer], now: float, flags: int = 0
    ) -> list[Offer]:
        """Place offers of a peer at another node on remote members of extensions; return those that found none.

        For the gateway.
        """
        swarm = self._hub.swarms.get(info_hash)
        return offers if swarm is None else self._hub.offers.linked.place(swarm, peer_id, offers, now, None, flags)

    def deliver_answer(self, answer: Answer, now: float, complete: bool = False) -> bool:
        """Give an answer from another node to the local peer that made the offer; return whether there is a receiver.

        `complete`: the peer that answers is a seeder. If the peer that made the offer is not here, it may be a linked
        one: then the extensions get the answer.
        """
        return self._hub.answers.relay_from_node(answer, complete, now, self._outbox)

    def give_parked(self, member: NodeMember, count: int, now: float) -> None:
        """Place parked offers on `count` new peers of a member, which make no offers: one of each local peer on each.

        As for a local newcomer, at most `max_offers` peers make an offer to each.
        """
        self._give_parked(member, count, self._hub.rules.max_offers, now)

    def place_parked(self, member: NodeMember, count: int, now: float) -> None:
        """Place parked offers on `count` peers of a member, which were found just now: one of each local peer on each.

        Of two nodes that find each other, only one does this. Otherwise two peers, each alone at its node, would make
        each other an offer at the same time.
        """
        self._give_parked(member, count, _NO_LIMIT, now)

    def place_again(
        self,
        info_hash: str,
        peer_id: str,
        offers: list[Offer],
        refused: NodeMember | None,
        now: float,
        age: float = 0.0,
        flags: int = 0,
    ) -> None:
        """Place offers that a node has returned on members of other nodes, or local peers; park those that find none.

        `refused` is the member that they were placed on, `age` the seconds since they were made, and `flags` are those
        of `Nodes.offers`. If the local peer has left, its offers are dropped.
        """
        hub = self._hub
        swarm = hub.swarms.get(info_hash)
        peer = None if swarm is None else swarm.peers.get(peer_id)
        if swarm is None or (peer is None and not flags & FOREIGN):
            hub.counters.dropped[DropReason.UNPLACED_OFFER] += len(offers)
            return
        refused_by: frozenset[str] = frozenset()
        if refused is not None:
            refused_by = (self._refused.get((info_hash, peer_id), now) or refused_by) | {refusal_of(refused)}
            self._refused.put((info_hash, peer_id), refused_by, now)
            if refused.kind == PEER and self._give_to_twin(refused, peer_id, offers, now, refused_by, flags):
                return
        if peer is not None and not flags & FOREIGN:
            hub.offers.place(swarm, peer, offers, now, self._outbox, age=age, refused_by=refused_by)
        else:
            rest = hub.offers.linked.deliver(swarm, peer_id, offers, now, self._outbox, None, refused_by=refused_by)
            if rest and hub.return_offers(swarm, peer_id, rest):
                return
            hub.counters.dropped[DropReason.UNPLACED_OFFER] += len(rest)

    def challenge(self, info_hash: str, peer_id: str, now: float) -> None:
        """Ping the local peer with a peer_id that has joined at another node, if there is one.

        If none of its connections answers within `PING_TIMEOUT`, it leaves: its client has come to the other node.
        Until then it comes last for offers.
        """
        swarm = self._hub.swarms.get(info_hash)
        peer = swarm.peers.get(peer_id) if swarm is not None else None
        if peer is not None:
            self._hub.challenges.challenge(peer, now)

    def _set(self, member: NodeMember, complete: int, incomplete: int) -> None:
        swarm = member.swarm
        if member.kind == PEER:
            if complete + incomplete:
                set_role(member, complete == 1)
            else:
                self._remove(member)
        else:
            self._note(swarm, member.node)
            set_counts(member, complete, incomplete)
        self._tidy(swarm)
        if member.kind != LINKED:
            self._hub.members_changed(swarm)

    def _remove(self, member: NodeMember) -> None:
        if member.kind == PEER:
            swarm, peer_id = member.swarm, member.peer_id
            remove_peer(member)
            settle(swarm, peer_id, self._is_here(swarm, peer_id))
        else:
            set_counts(member, 0, 0)

    def _remove_from(self, swarm: Swarm, node: str) -> None:
        members = members_of(swarm, node)
        for member in members:
            self._remove(member)
        self._tidy(swarm)
        if members:
            self._hub.members_changed(swarm)

    def _give_parked(self, member: NodeMember, count: int, most: int, now: float) -> None:
        # A hidden member is no new peer.
        if self._is_open(member) and (member.kind != PEER or member.index >= 0):
            self._hub.offers.give_parked_to(member, count, most, now)

    def _is_here(self, swarm: Swarm, peer_id: str) -> bool:
        """Return whether a peer is a local one that is not challenged."""
        peer = swarm.peers.get(peer_id)
        return peer is not None and not self._hub.challenges.has(peer)

    def _give_to_twin(
        self,
        refused: NodeMember,
        maker: str,
        offers: list[Offer],
        now: float,
        refused_by: frozenset[str],
        flags: int,
    ) -> bool:
        """Place an offer that was returned because a peer has left its node on the same peer, here or at another node.

        Return whether it is there.
        """
        swarm, peer_id = refused.swarm, refused.peer_id
        if not self._is_open(refused) or peer_id == maker or len(offers) != 1:
            return False
        if self._is_here(swarm, peer_id):
            return not self.deliver_to_each(swarm.info_hash, maker, [peer_id], offers, now, flags)
        twin = find_other(swarm, peer_id, refused_by)
        if twin is None:
            return False
        self._hub.offers.send_to_node(twin, maker, offers, flags)
        return True

    def _note(self, swarm: Swarm, node: str) -> None:
        """Note that a node has members in a swarm."""
        swarms = self._hub.shared.get(node)
        if swarms is None:
            swarms = self._hub.shared[node] = set()
        swarms.add(swarm)

    def _tidy(self, swarm: Swarm) -> None:
        """Forget that nodes have had members in a swarm, if none has any."""
        release_if_empty(swarm)
        nodes = swarm.nodes
        if nodes is None or (not nodes.ids and not nodes.counted):
            for swarms in self._hub.shared.values():
                swarms.discard(swarm)

    def _is_open(self, member: NodeMember) -> bool:
        return self._hub.swarms.get(member.swarm.info_hash) is member.swarm
