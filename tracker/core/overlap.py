"""The peers of one swarm that are connected to several trackers at the same time (sans I/O).

A remote member may be known peer by peer instead of by numbers: by the *marks* of its peers. Equal marks mean the same
peer. A pair of peers that share a tracker is introduced there, and nowhere else:

1. A peer that is here, too, is not counted behind a remote member. A peer behind several members counts once.
2. No offer of a local peer is placed on a remote member where this peer is present, too.
3. An offer from a remote member is not given to a local peer that is present there, too.
4. If a third tracker has both peers, they meet there.
5. A peer that shares no tracker with a local one is reached through the tracker with the least rank that it is at.

Rules 4 and 5 use the marks of one member to keep offers from others. Therefore they apply only to members with a rank,
which are vouched for: otherwise any tracker could keep the peers of others apart.

All times are seconds on any monotonic clock.
"""

from collections.abc import Collection, Iterable
from hashlib import sha256
from typing import Final

from tracker.core.members import id_of
from tracker.core.swarm import Member, NodeMember, RemoteMember, Swarm
from tracker.protocol.ids import swarm_key

MARK_CONTEXT: Final = b"peerservers/1 mark"
MARK_LENGTH: Final = 16
"""Hexadecimal digits of a mark."""

MARKS_WITHIN: Final = 10.0
"""Seconds within which trackers tell marks that have changed."""

UNKNOWN: Final = ""
"""Stands for the mark of a peer of which only the number is known."""

MAX_LOCAL: Final = 256
"""Own peers up to which marks are compared. In larger swarms, few offers are lost to peers that are the same."""


class Known:
    """The peers behind one remote member, by their marks."""

    __slots__ = ("leechers", "peers", "precedes", "rank", "seeders")

    def __init__(self, seeders: frozenset[str], leechers: frozenset[str], ranks: tuple[str, str] | None) -> None:
        self.seeders = seeders
        self.leechers = leechers - seeders
        self.peers = seeders | leechers
        self.rank = ranks[0] if ranks else None
        self.precedes = ranks is not None and ranks[0] < ranks[1]


class PeerOverlap:
    """Which peers of one swarm are the same, here and behind the remote members that are known peer by peer."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm
        self._known: dict[RemoteMember, Known] = {}
        self._marks: dict[Member, str] = {}
        """The marks of all own peers, at all nodes, unless `_known` was not filled since the swarm was too large."""
        self._is_exact = False
        self._is_contested = False
        """Whether a peer is behind several members."""
        self._apart: dict[Member, dict[RemoteMember, float]] = {}
        """The times until which own peers are taken to be present at remote members that are not known by marks."""
        self._hidden: list[tuple[RemoteMember, int, int]] = []

    def know(
        self,
        member: RemoteMember,
        seeders: Collection[str],
        leechers: Collection[str],
        ranks: tuple[str, str] | None,
    ) -> list[str]:
        """Set the peers behind a remote member by their marks.

        `ranks` are the rank of the member's tracker and of this one, or None if it is not vouched for.

        Return the marks of the newcomers: peers that were neither here nor behind any member before. If the swarm is
        too large here, the peers are only counted.
        """
        known = Known(frozenset(seeders), frozenset(leechers), ranks)
        before = member.complete + member.incomplete
        if not self._is_exact:
            if not self._are_known():
                self._swarm.set_remote(member, len(known.seeders), len(known.leechers))
                return [UNKNOWN] * max(0, len(known.peers) - before)
            self._is_exact = True
            peers = self._own()
            marks = marks_of(self._swarm.info_hash, [id_of(peer) for peer in peers])
            self._marks = dict(zip(peers, marks, strict=True))
        seen = set(self._marks.values()).union(*(other.peers for other in self._known.values()))
        unknown = 0 if member in self._known else before
        former = self._known.get(member)
        self._known[member] = known
        self._forget_apart(member, known.peers ^ former.peers if former else known.peers)
        self._count()
        newcomers = sorted(known.peers - seen)
        # Of the peers of which only the number was known, any may be among those that are known now.
        return newcomers[: max(0, len(newcomers) - unknown)]

    def discard(self, member: RemoteMember) -> None:
        """Forget the peers behind a remote member, because it has none, or because only their number is known."""
        known = self._known.pop(member, None)
        self._forget_apart(member, known.peers if known else frozenset())
        if known:
            self._count()

    def keep_apart(self, peer: Member, member: RemoteMember, seconds: float, now: float) -> None:
        """Take a local peer to be present at a remote member for some seconds.

        If the member is known by marks, and no other one that precedes this tracker has the peer, there is no lasting
        reason for that. Then it is kept apart until the next marks must have come.
        """
        if member in self._known:
            mark = self._marks[peer]
            others = (known for other, known in self._known.items() if other is not member)
            if not any(known.precedes and mark in known.peers for known in others):
                seconds = min(seconds, MARKS_WITHIN)
        self._apart.setdefault(peer, {})[member] = now + seconds

    def joined(self, peer: Member) -> None:
        """Take notice of a new own peer, before its first offers are placed."""
        if not self._is_exact:
            return
        (mark,) = marks_of(self._swarm.info_hash, [id_of(peer)])
        self._marks[peer] = mark
        if len(self._marks) > MAX_LOCAL:
            self.give_up()
        elif self._is_known(mark):
            self._count()

    def give_up(self) -> None:
        """Only count peers from now on, because there are too many own ones, or not all of these are known."""
        known, self._known = self._known, {}
        self._marks.clear()
        self._is_exact = self._is_contested = False
        for member, peers in known.items():
            self._swarm.set_remote(member, len(peers.seeders), len(peers.leechers))

    def left(self, peer: Member) -> None:
        """Take notice that an own peer has left."""
        self._apart.pop(peer, None)
        mark = self._marks.pop(peer, UNKNOWN)
        if self._is_known(mark):
            self._count()

    def hide(self, peer: Member, given: list[Member], refused: RemoteMember | None, now: float) -> None:
        """Have the remote members of the swarm count only peers that an offer of an own peer may be placed on.

        Leave out `refused`, and as many peers as there are offers in `given`. Members without a rank count all their
        peers, also those of other members, so that they cannot take the offers for these. `show` ends this.
        """
        # In their order, so that the same calls have the same results.
        away = {member: None for member in (*self._swarm.remotes, *self._known) if self._shares(peer, member, now)}
        if refused is not None:
            away[refused] = None
        reduced = {
            member: None for member in given if isinstance(member, RemoteMember) and not isinstance(member, NodeMember)
        }
        if not away and not reduced and not self._is_contested:
            return
        self._hidden = [(member, member.complete, member.incomplete) for member in {**self._known, **away, **reduced}]
        if away or self._is_contested:
            met = self._met_elsewhere(peer, away)
            for member, known in sorted(self._known.items(), key=lambda item: _order(item[1])):
                self._swarm.set_remote(member, len(known.seeders - met), len(known.leechers - met))
                if known.rank is not None:
                    met |= known.peers
            for member in away:
                self._swarm.set_remote(member, 0, 0)
        for member in reduced:
            placed = given.count(member)
            incomplete = max(0, member.incomplete - placed)
            placed -= member.incomplete - incomplete
            self._swarm.set_remote(member, max(0, member.complete - placed), incomplete)

    def show(self) -> None:
        """Have the remote members of the swarm count all their peers again."""
        for member, complete, incomplete in self._hidden:
            self._swarm.set_remote(member, complete, incomplete)
        self._hidden = []

    def linked_counts(self) -> tuple[int, int]:
        """Return the numbers of remote seeders and leechers on which a peer that is at no other tracker makes offers.

        Members without a rank count all their peers, as for `hide`.
        """
        complete = sum(member.complete for member in self._swarm.remotes if member not in self._known)
        incomplete = sum(member.incomplete for member in self._swarm.remotes if member not in self._known)
        seen = set(self._marks.values())
        for known in sorted(self._known.values(), key=_order):
            complete += len(known.seeders - seen)
            incomplete += len(known.leechers - seen)
            if known.rank is not None:
                seen |= known.peers
        return complete, incomplete

    def sharing(self, member: RemoteMember, peer_id: str) -> list[Member]:
        """Return the own peers that a peer behind a remote member meets otherwise than through an offer to here."""
        (mark,) = marks_of(self._swarm.info_hash, [peer_id]) if self._known else (UNKNOWN,)
        shared: set[str] = set()
        for other, known in self._known.items():
            if other is member or known.precedes or (known.rank is not None and mark in known.peers):
                shared |= known.peers
        return [peer for peer, local in self._marks.items() if local in shared] if shared else []

    def members_with(self, peer_id: str) -> list[RemoteMember]:
        """Return the remote members with a rank that have a remote peer."""
        (mark,) = marks_of(self._swarm.info_hash, [peer_id]) if self._known else (UNKNOWN,)
        return [member for member, known in self._known.items() if known.rank is not None and mark in known.peers]

    def newcomers_for(self, peer: Member, member: RemoteMember, marks: Collection[str], now: float) -> int:
        """Return the number of new peers behind a remote member that a local peer meets at no other tracker."""
        if self._shares(peer, member, now):
            return 0
        known = self._known.get(member)
        away = {other for other in self._known if self._shares(peer, other, now)}
        met = self._met_elsewhere(peer, away)
        return sum(mark == UNKNOWN or (known is not None and mark in known.peers and mark not in met) for mark in marks)

    def check_invariants(self) -> None:
        """Raise `AssertionError` if the counts are wrong, or if peers are kept that have left; for tests."""
        assert not self._hidden
        assert self._apart.keys() <= set(self._own())
        if not self._is_exact:
            assert not self._known
            assert not self._marks
            return
        assert self._are_known()
        assert self._marks.keys() == set(self._own())
        behind = set[str]().union(*(known.peers for known in self._known.values())) - set(self._marks.values())
        assert sum(member.complete + member.incomplete for member in self._known) == len(behind)

    def _forget_apart(self, member: RemoteMember, changed: frozenset[str]) -> None:
        """Forget which local peers are apart from a member, because its marks tell it better.

        `changed` are the marks of the peers that have come to the member, or have left it. Of two trackers with the
        same peer, others refuse the offers of one. Which one may be another now.
        """
        for peer, members in self._apart.items():
            members.pop(member, None)
            if self._marks.get(peer) in changed:
                for other in self._known.keys() & members.keys():
                    del members[other]

    def _count(self) -> None:
        """Count each remote peer once."""
        here = set(self._marks.values())
        seen = here.copy()
        self._is_contested = False
        for member, known in self._known.items():
            self._is_contested = self._is_contested or not known.peers.isdisjoint(seen - here)
            self._swarm.set_remote(member, len(known.seeders - seen), len(known.leechers - seen))
            seen |= known.peers

    def _own(self) -> list[Member]:
        """Return the own peers that are known one by one."""
        swarm = self._swarm
        own: list[Member] = list(swarm.peers.values())
        return own if swarm.nodes is None else [*own, *swarm.nodes.seeders, *swarm.nodes.leechers]

    def _are_known(self) -> bool:
        """Return whether all own peers are known one by one, and are few."""
        swarm = self._swarm
        own = swarm.own_complete + swarm.own_incomplete
        return own <= MAX_LOCAL and own == len(self._own())

    def _met_elsewhere(self, peer: Member, away: Iterable[RemoteMember]) -> set[str]:
        """Return the marks of the peers that a local peer meets here, or at a member of `away` with a rank."""
        seen = set(self._marks.values())
        mark = self._marks.get(peer, UNKNOWN)
        for member in away:
            known = self._known.get(member)
            if known and known.rank is not None and mark in known.peers:
                seen |= known.peers
        return seen

    def _shares(self, peer: Member, member: RemoteMember, now: float) -> bool:
        known = self._known.get(member)
        return (known is not None and self._marks[peer] in known.peers) or self._is_apart(peer, member, now)

    def _is_apart(self, peer: Member, member: RemoteMember, now: float) -> bool:
        return self._apart.get(peer, {}).get(member, now) > now

    def _is_known(self, mark: str) -> bool:
        return any(mark in known.peers for known in self._known.values())


def _order(known: Known) -> tuple[bool, str]:
    return known.rank is None, known.rank or ""


def marks_of(info_hash: str, peer_ids: Iterable[str]) -> list[str]:
    """Return the marks of peers in a swarm.

    A mark is a hash. It reveals nothing without the infohash and the peer_id, and differs between swarms.
    """
    context = MARK_CONTEXT + swarm_key(info_hash)
    return [sha256(context + peer_id.encode()).hexdigest()[:MARK_LENGTH] for peer_id in peer_ids]
