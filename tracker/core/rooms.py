"""The receivers of offers in a room: a small swarm whose peers all have one role (sans I/O).

Trystero connects all members of a room. It repeats an offer until it is answered, and makes the same one on several
trackers. If two members answer one offer, only the first is connected, and the second one ignores the maker for 23
seconds. It also ignores offers of a member with a greater peer_id while its own are open. So when a room has more
members than an announce has offers:

1. Members that the maker has not met come first; of these, those with a greater peer_id. So the same side of a pair
   makes the offer each time.
2. An offer goes to the same member each time that it is made, at every tracker: to the one with the greatest rank,
   which is computed from the offer_id and the peer_id (rendezvous hashing).
"""

import sys
from typing import Final
from zlib import crc32

from tracker.core.elsewhere import PEER
from tracker.core.members import bit_of, id_of, join_order
from tracker.core.swarm import SMALL, Member, NodeMember, Peer, Swarm
from tracker.protocol.messages import Answer, Offer

_HASH_LENGTH: Final = 4
_REMEMBERED: Final = 16
"""Bytes of the hash of an answered offer, and the number of them that are remembered for each peer."""

_MIXER: Final = 0x9E3779B1
_MASK: Final = 0xFFFFFFFF


def is_room(swarm: Swarm) -> bool:
    """Return whether a swarm is a room."""
    seeders, leechers = swarm.complete, swarm.incomplete
    return seeders + leechers <= SMALL and (seeders == 0 or leechers == 0)


def is_first_answer(receiver: Peer, answer: Answer) -> bool:
    """Return whether this is the first answer to its offer, as far as is remembered of a small swarm.

    The maker of the offer ignores further ones, so the two peers do not meet.
    """
    if len(receiver.swarm.peers) > SMALL:
        return True
    code = crc32(answer.offer_id).to_bytes(_HASH_LENGTH, "big")
    # `in` would first try whether the bytes are a number, which takes longer than all the rest.
    if receiver.answered.find(code) >= 0:
        return False
    receiver.answered = (receiver.answered + code)[-_REMEMBERED * _HASH_LENGTH :]
    return True


class Receivers:
    """The members of a room that may receive offers of one peer."""

    __slots__ = ("_members", "_ranks")

    def __init__(self) -> None:
        self._members: list[Member] = []
        self._ranks: list[tuple[int, int]] = []
        """For each member its class, of which the least comes first, and a hash."""

    def add(self, member: Member, order: int, key: str) -> None:
        """Add a member. `key` is its peer_id, or another text that tells it from others."""
        self._members.append(member)
        self._ranks.append((order, crc32(key.encode())))

    def assign(self, offers: list[Offer]) -> list[Member]:
        """Return a member for each offer, as long as there are any."""
        left = list(range(len(self._members)))
        chosen: list[Member] = []
        for offer in offers:
            if not left:
                break
            code = crc32(offer.offer_id)
            best, best_order, best_rank = -1, 0, 0
            for index in left:
                order, key = self._ranks[index]
                rank = ((code ^ key) * _MIXER) & _MASK
                if best < 0 or order < best_order or (order == best_order and rank > best_rank):
                    best, best_order, best_rank = index, order, rank
            left.remove(best)
            chosen.append(self._members[best])
        return chosen


def receivers_of(swarm: Swarm, maker: Peer, fresh_since: float) -> Receivers:
    """Return the members of a room that may receive a local peer's offers."""
    found = Receivers()
    for peer in swarm.peers.values():
        if peer is not maker:
            if peer.last_seen < fresh_since:
                order = 3
            elif peer.bit & maker.met:
                order = 2
            else:
                order = 0 if peer.peer_id > maker.peer_id else 1
            found.add(peer, order, peer.peer_id)
    others = swarm.remotes
    nodes = swarm.nodes
    if nodes is not None:
        for member in nodes.leechers or nodes.seeders:
            if member.peer_id != maker.peer_id:
                order = 2 if member.bit & maker.met else 0 if member.peer_id > maker.peer_id else 1
                found.add(member, order, member.peer_id)
        others = [*nodes.counted, *others]
    for number, other in enumerate(others):
        for place in range(other.complete + other.incomplete):
            # Their ids are not known.
            found.add(other, place & 1, f"{number} {place}")
    return found


def own_receivers_of(swarm: Swarm, peer_id: str, candidates: list[Member]) -> Receivers:
    """Order the members of a room that may receive a remote peer's offers: those of this tracker."""
    found = Receivers()
    bit = bit_of(swarm, peer_id)
    for number, member in enumerate(candidates):
        key = id_of(member)
        order = 2 if key and member.met & bit else 0 if key > peer_id else 1
        found.add(member, order, key or f"{number}")
    return found


def stable_order(member: Member) -> int:
    """Return a number by which members are in the order in which they have joined, as far as it is known.

    If all members get an offer, each mostly gets the same one when the offers are repeated.
    """
    nodes = member.swarm.nodes
    if nodes is None:
        if isinstance(member, Peer):
            return member.index + (len(member.swarm.leechers) if member.complete else 0)
    elif isinstance(member, Peer) or (isinstance(member, NodeMember) and member.kind == PEER):
        return join_order(member)
    return sys.maxsize
