"""Offers that would cross those of their receivers (sans I/O; times are seconds on any monotonic clock).

If two of webtorrent's clients make each other an offer at the same time, both connections fail: each client answers the
other's offer, and closes its own connection when the answer to it arrives. So in a small swarm of seeders and leechers:

1. A peer that has just been given an offer is expected to answer it. Its own next offers go to other members.
2. Offers of two peers of different trackers may pass each other on the link. Each tracker sees it when the other's
   offer arrives. They give only one of the two to its receiver: that of the peer with the lesser peer_id.

The peers of a room all have one role, and settle this between them (`tracker.core.rooms`).
"""

from typing import Final

from tracker.core.members import bit_of, id_of
from tracker.core.rooms import is_room
from tracker.core.swarm import SMALL, Member, NodeMember, Peer, RemoteMember, Swarm
from tracker.expiring import ExpiringMap

WINDOW: Final = 5.0
"""Seconds within which a peer is expected to answer an offer. A slow one may then be given another offer as well."""

_MAX_PAIRS: Final = 10_000
"""Own peers with a remote member for which offers are remembered."""

_NONE: Final[frozenset[str]] = frozenset()


def may_cross(swarm: Swarm) -> bool:
    """Return whether offers of the peers of a swarm should not cross."""
    return swarm.complete + swarm.incomplete <= SMALL and not is_room(swarm)


def note_given(receivers: list[Peer], swarm: Swarm, maker: str, now: float) -> None:
    """Note that local peers have just been given offers of another own peer."""
    same = swarm.peers.get(maker)
    bit = bit_of(swarm, maker) if same is None else same.bit
    for peer in receivers:
        if peer.offered_until <= now:
            peer.offered = 0
        peer.offered |= bit
        peer.offered_until = now + WINDOW


class Crossings:
    """The last offers between own peers and the peers behind remote members that extensions have added."""

    def __init__(self) -> None:
        self._made: ExpiringMap[tuple[str, RemoteMember], int] = ExpiringMap(WINDOW, _MAX_PAIRS)
        """The number of offers of a peer that were placed on a member."""
        self._given: ExpiringMap[tuple[str, RemoteMember], frozenset[str]] = ExpiringMap(WINDOW, _MAX_PAIRS)
        """The makers of the offers that a peer was given, among the peers behind a member."""

    def __len__(self) -> int:
        return len(self._made) + len(self._given)

    def note_made(self, peer_id: str, member: RemoteMember, count: int, now: float) -> None:
        """Note that offers of an own peer were placed on a member, or, if `count` is negative, that they came back."""
        if may_cross(member.swarm):
            key = (peer_id, member)
            self._made.put(key, (self._made.get(key, now) or 0) + count, now)

    def note_given(self, receivers: list[Member], member: RemoteMember, maker: str, now: float) -> None:
        """Note that own peers were given offers of a peer behind a member."""
        if may_cross(member.swarm):
            for one in receivers:
                key = (id_of(one), member)
                self._given.put(key, (self._given.get(key, now) or _NONE) | {maker}, now)

    def leave_out(self, peer_id: str, chosen: list[Member], now: float) -> list[Member]:
        """Return the members chosen for a peer's offers without as many as have just made it offers themselves."""
        if not len(self._given):
            return chosen
        left: dict[Member, int] = {}
        kept: list[Member] = []
        for member in chosen:
            if isinstance(member, RemoteMember) and not isinstance(member, NodeMember):
                if member not in left:
                    makers = self._given.get((peer_id, member), now) or _NONE
                    left[member] = member.complete + member.incomplete - len(makers)
                left[member] -= 1
                if left[member] < 0:
                    continue
            kept.append(member)
        return kept

    def admit(self, candidates: list[Member], member: RemoteMember, maker: str, now: float) -> list[Member]:
        """Return the candidates for offers of a peer behind a member that should be given one.

        Those come last that may have made an offer to the peer themselves.
        """
        if not len(self._made):
            return candidates
        behind = member.complete + member.incomplete
        first: list[Member] = []
        last: list[Member] = []
        for one in candidates:
            peer_id = id_of(one)
            made = self._made.get((peer_id, member), now) or 0
            if made <= 0:
                first.append(one)
            elif made < behind or maker < peer_id:
                last.append(one)
        return first + last

    def expire(self, now: float) -> None:
        """Forget offers that are no longer expected to be answered."""
        self._made.expire(now)
        self._given.expire(now)
