"""Offers that would cross those of their receivers (sans I/O; times are seconds on any monotonic clock).

If two of webtorrent's clients make each other an offer at the same time, both connections fail: each client answers the
other's offer, and closes its own connection when the answer to it arrives. So in a small swarm, between a seeder and a
leecher:

1. A peer that was given an offer is expected to answer it within a few seconds. Until then, its own offers go to other
   members.
2. Offers of two peers of different trackers may pass each other on the link. Each tracker sees it when the other's
   offer arrives. They give only one of the two to its receiver: that of the peer with the lesser peer_id.

Trystero ignores offers of peers with a greater peer_id while it makes some itself. So a peer is expected to answer the
offers of a maker only once: if it has not, it may make offers to this maker at any time.
"""

from typing import Final

from tracker.core.members import id_of
from tracker.core.swarm import SMALL, Member, NodeMember, Peer, RemoteMember, Swarm, Unanswered
from tracker.expiring import ExpiringMap

WINDOW: Final = 5.0
"""Seconds within which a peer is expected to answer an offer."""

_REMEMBERED: Final = 120.0
_MAX_PAIRS: Final = 10_000
"""Seconds, and number of own peers with a remote member, for which offers that were not answered are remembered."""


def note_given(receivers: list[Peer], maker: str, complete: bool, now: float) -> None:
    """Note that local peers of a small swarm are given offers of another own peer, which is a seeder if `complete`."""
    for peer in receivers:
        if peer.complete is not complete:
            if peer.unanswered is None:
                peer.unanswered = {}
            _note(peer.unanswered, maker, now)


def note_answered(peer: Peer, maker: str) -> None:
    """Note that a local peer has answered an offer."""
    unanswered = peer.unanswered
    if unanswered is not None:
        unanswered.pop(maker, None)
        if not unanswered:
            peer.unanswered = None


def awaited(unanswered: Unanswered, now: float) -> list[str]:
    """Return the makers of the offers that may still be answered."""
    return [maker for maker, since in unanswered.items() if now < since + WINDOW]


class Crossings:
    """The last offers between own peers and the peers behind remote members that extensions have added."""

    def __init__(self) -> None:
        self._made: ExpiringMap[tuple[str, RemoteMember], int] = ExpiringMap(WINDOW, _MAX_PAIRS)
        """The number of offers of a peer that were placed on a member."""
        self._given: ExpiringMap[tuple[str, RemoteMember], Unanswered] = ExpiringMap(_REMEMBERED, _MAX_PAIRS)
        """The offers of the peers behind a member that a peer was given and has not answered."""

    def note_made(self, peer_id: str, member: RemoteMember, count: int, now: float) -> None:
        """Note that offers of an own peer were placed on a member, or, if `count` is negative, that they came back."""
        if member.swarm.is_small:
            key = (peer_id, member)
            self._made.put(key, (self._made.get(key, now) or 0) + count, now)

    def note_given(self, receivers: list[Member], member: RemoteMember, maker: str, now: float) -> None:
        """Note that own peers of a small swarm are given offers of a peer behind a member."""
        for one in receivers:
            if _are_opposite(one, member):
                key = (id_of(one), member)
                unanswered = self._given.get(key, now) or {}
                _note(unanswered, maker, now)
                self._given.put(key, unanswered, now)

    def note_answered(self, swarm: Swarm, peer_id: str, maker: str, now: float) -> None:
        """Note that an own peer has answered an offer of a peer of another tracker."""
        if len(self._given):
            for member in swarm.remotes:
                unanswered = self._given.get((peer_id, member), now)
                if unanswered is not None:
                    unanswered.pop(maker, None)

    def leave_out(self, peer_id: str, chosen: list[Member], now: float) -> list[Member]:
        """Return the members chosen for a peer's offers without as many as have just made it offers themselves."""
        if not len(self._given):
            return chosen
        left: dict[Member, int] = {}
        kept: list[Member] = []
        for member in chosen:
            if isinstance(member, RemoteMember) and not isinstance(member, NodeMember):
                if member not in left:
                    unanswered = self._given.get((peer_id, member), now) or {}
                    left[member] = member.complete + member.incomplete - len(awaited(unanswered, now))
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
            if made <= 0 or not _are_opposite(one, member):
                first.append(one)
            elif made < behind or maker < peer_id:
                last.append(one)
        return first + last

    def expire(self, now: float) -> None:
        """Forget offers that were made long ago."""
        self._made.expire(now)
        self._given.expire(now)


def _note(unanswered: Unanswered, maker: str, now: float) -> None:
    if maker not in unanswered:
        unanswered[maker] = now
        if len(unanswered) > SMALL:
            # Members that have left are among them.
            del unanswered[next(iter(unanswered))]


def _are_opposite(one: Member, member: RemoteMember) -> bool:
    """Return whether an own peer and one behind a remote member may be a seeder and a leecher."""
    complete: int = one.complete if isinstance(one, RemoteMember) else int(isinstance(one, Peer) and one.complete)
    return (member.incomplete if complete else member.complete) > 0
