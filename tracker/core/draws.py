"""Samples of the members of a swarm, drawn without replacement (sans I/O).

Members have positions: leechers from 0, then seeders. In both groups, local peers come first, then peers at other nodes
that are known one by one, then members that stand for several peers, with a position for each of them.
"""

from typing import TYPE_CHECKING, Final

from tracker.core.elsewhere import LINKED, PEER
from tracker.core.members import refusal_of
from tracker.core.nearby import SwarmPlaces
from tracker.core.swarm import Member, NodeMember, Peer, Random, Swarm

if TYPE_CHECKING:
    from mypy_extensions import i64

_NONE: Final[list[int]] = []

HERE: Final = 0
ALL: Final = 1
OWN: Final = 2
"""The members that positions stand for: local peers, all members, or all but those of other trackers."""

_SKIPS: Final = 2
_DAMPED_SKIPS: Final = 16
"""Members that are put aside or left out, for each one that is wanted, in the search for better ones."""


class Draw:
    """A sample of a swarm's members without replacement, drawn in one or more steps."""

    __slots__ = (
        "bit",
        "chosen",
        "fresh_since",
        "is_damped",
        "later",
        "met",
        "random",
        "scope",
        "served",
        "stale",
        "swarm",
        "taken",
    )

    def __init__(self, swarm: Swarm, scope: int, fresh_since: float, random: Random) -> None:
        self.swarm = swarm
        self.scope = scope
        self.fresh_since = fresh_since
        self.random = random
        self.bit: i64 = 0
        """The bit of the peer that makes the offers."""
        self.met: i64 = 0
        """The bits of members that come later."""
        self.is_damped = False
        """Whether those of them that have met the peer, too, are left out."""
        self.served: i64 = 0
        """Bits in `met` of other members that come later."""
        self.taken: set[int] = set()
        """The positions that have been drawn, or must not be."""
        self.chosen: list[Member] = []
        self.later: list[Member] = []
        self.stale: list[Member] = []

    def take(self, start: int, stop: int, count: int) -> None:
        """Choose up to `count` members at the positions from `start` to before `stop`.

        Members that come later are put aside. In a large group, the search for better ones is limited.
        """
        if count <= 0:
            return
        enough = len(self.chosen) + count
        random, size, taken, chosen = self.random, stop - start, self.taken, self.chosen
        spare = size - len(taken) - count
        if spare <= count:
            self.take_of([position for position in range(start, stop) if position not in taken], enough)
        else:
            # Drawing until a position is free is cheaper than listing all free ones.
            draws = self.draws(spare, count)
            while len(chosen) < enough and draws > 0:
                position = start + int(random() * size)
                if position not in taken:
                    self.judge(position)
                    draws -= 1

    def take_of(self, free: list[int], enough: int) -> None:
        """Choose members at some free positions until `enough` are chosen."""
        random = self.random
        while free and len(self.chosen) < enough:
            # A Fisher-Yates shuffle that stops as soon as there are enough.
            pick = int(random() * len(free))
            free[pick], free[-1] = free[-1], free[pick]
            self.judge(free.pop())

    def draws(self, spare: int, count: int) -> int:
        """Return the number of members that are examined in the search for `count`, if there are `spare` more."""
        return min(spare, (_DAMPED_SKIPS if self.is_damped else _SKIPS) * count) + count

    def fill(self, count: int) -> None:
        """Complete the choice to `count` members, as far as possible, with those that were put aside."""
        for rest in (self.later, self.stale):
            missing = count - len(self.chosen)
            if missing > 0 and rest:
                self.chosen += rest[:missing]
                del rest[:missing]

    def judge(self, position: int) -> None:
        """Choose the member at a position, or put it aside, or leave it out."""
        swarm = self.swarm
        self.taken.add(position)
        member: Member
        if self.scope == HERE:
            member = swarm.local_at(position)
        else:
            member = swarm.member_at(position) if self.scope == ALL else _own_at(swarm, position)
        if self.is_damped and member.bit & self.met and member.met & self.bit:
            return
        if member.last_seen < self.fresh_since:
            self.stale.append(member)
        elif member.bit & self.met or member.met & self.served:
            self.later.append(member)
        else:
            self.chosen.append(member)


class NearDraw(Draw):
    """A sample that begins with the members nearest to the peer that makes the offers, but for the random share."""

    __slots__ = ("limit", "place", "places")

    def __init__(
        self, swarm: Swarm, places: SwarmPlaces, peer: Peer, limit: int, fresh_since: float, random: Random
    ) -> None:
        scope = ALL if swarm.remote_complete + swarm.remote_incomplete else HERE
        super().__init__(swarm, scope, fresh_since, random)
        self.places = places
        self.place = swarm.place_of(peer)
        self.limit = limit

    def take(self, start: int, stop: int, count: int) -> None:
        """Choose up to `count` members at the positions from `start` to before `stop`, as many as possible nearby."""
        if count <= 0:
            return
        enough = len(self.chosen) + count
        # Rounded up or down at random, so that the share is right on average.
        self._take_near(start, stop, int(count * (1 - self.places.nearby.random_share) + self.random()))
        super().take(start, stop, enough - len(self.chosen))

    def _take_near(self, start: int, stop: int, count: int) -> None:
        """Choose up to `count` members that have a key in common with the peer, the nearest first."""
        random, taken, chosen = self.random, self.taken, self.chosen
        border, total = self.swarm.incomplete, self.swarm.incomplete + self.swarm.complete
        enough, lot = len(chosen) + count, random()
        for key in self.place:
            missing = enough - len(chosen)
            if missing <= 0:
                return
            leechers: list[int] = self.places.leechers.groups.get(key, _NONE)
            seeders: list[int] = self.places.seeders.groups.get(key, _NONE)
            makers = 0
            if stop - start < total:
                if start:
                    makers, leechers = len(leechers), _NONE
                else:
                    makers, seeders = len(seeders), _NONE
            size = len(leechers) + len(seeders)
            if lot * makers * missing > self.limit * size:
                # If all their peers near this one did the same, these members would be given too many offers.
                continue
            spare = size - len(taken) - missing
            if spare <= missing:
                free = [position for position in leechers if position not in taken]
                free += [border + index for index in seeders if border + index not in taken]
                self.take_of(free, enough)
            else:
                draws = self.draws(spare, missing)
                while len(chosen) < enough and draws > 0:
                    pick = int(random() * size)
                    position = leechers[pick] if pick < len(leechers) else border + seeders[pick - len(leechers)]
                    if position not in taken:
                        self.judge(position)
                        draws -= 1


class SecondDraw(Draw):
    """A sample for offers that were returned, by those that `refused` stands for (`refusal_of`)."""

    __slots__ = ("given", "refused")

    def __init__(
        self, swarm: Swarm, given: list[Member], refused: frozenset[str], fresh_since: float, random: Random
    ) -> None:
        super().__init__(swarm, ALL, fresh_since, random)
        self.given = given
        self.refused = refused

    def draws(self, spare: int, count: int) -> int:
        """Return the number of members that are examined in the search for `count`, if there are `spare` more."""
        return min(spare, _DAMPED_SKIPS * count) + count

    def judge(self, position: int) -> None:
        """Choose the member at a position, or put it aside, or leave it out."""
        member = self.swarm.member_at(position)
        if isinstance(member, NodeMember):
            if refusal_of(member) in self.refused or (member.kind == PEER and member in self.given):
                self.taken.add(position)
                return
        elif isinstance(member, Peer) and member in self.given:
            self.taken.add(position)
            return
        super().judge(position)


def _own_at(swarm: Swarm, position: int) -> Member:
    """Return the peer at a position in the order of `Swarm.member_at`, without those of other trackers.

    Raises:
        IndexError: if there are fewer.
    """
    local, nodes = swarm.leechers, swarm.nodes
    if position >= swarm.own_incomplete:
        position -= swarm.own_incomplete
        local = swarm.seeders
    if position < len(local):
        return local[position]
    position -= len(local)
    if nodes is not None:
        pool = nodes.leechers if local is swarm.leechers else nodes.seeders
        if position < len(pool):
            return pool[position]
        position -= len(pool)
        for counted in nodes.counted:
            size = counted.incomplete if local is swarm.leechers else counted.complete
            if counted.kind != LINKED:
                if position < size:
                    return counted
                position -= size
    raise IndexError(position)


def leave_out(draw: Draw, swarm: Swarm, peer_id: str, border: int) -> None:
    """Do not draw the members with a peer_id, here or at other nodes. The positions of seeders begin at `border`."""
    same = swarm.peers.get(peer_id)
    if same is not None:
        draw.taken.add(border + same.index if same.complete else same.index)
    nodes = swarm.nodes
    member = nodes.ids.get(peer_id) if nodes is not None else None
    if member is not None and member.index >= 0:
        if member.complete:
            draw.taken.add(border + len(swarm.seeders) + member.index)
        else:
            draw.taken.add(len(swarm.leechers) + member.index)
