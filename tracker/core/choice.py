"""The choice of the members of a swarm that receive offers (sans I/O).

Every other member is as likely as any other, but for these preferences:

1. Leechers need seeders. A leecher's offers go to seeders first for one half, all of a seeder's go to leechers first.
2. The seeders of a swarm, and its leechers, are given a limited number of offers for this reason: for each of them,
   `max_offers_received` in an announce interval, and one more for every two that they answer or make themselves.
   Otherwise a lone seeder would get an offer of every leecher at every announce. Of scarce seeders, each leecher that
   has met none gets one.
3. Members that the peer has not met yet come before the ones that it has.
4. Peers that have been silent for two announce intervals come last.
5. With the option `nearby`, the nearest local peers come before others, for seeders, for leechers and for any members.
   Only a random share of the offers goes to members near and far, so that the swarm stays connected. The second rule
   also holds for those near a peer: of scarce seeders near many leechers, only some of the leechers get one.
6. For `DAMPING` seconds after an answer to its offers, a peer that announces with one offer is not introduced again to
   peers that it has met. anacrolix/torrent announces again at every answer, with one fresh offer: two such clients
   would meet again for ever.

`tracker.core.rooms` has other rules for small swarms of one role.

If the tracker has several nodes, each one uses a part of the budgets of rule 2: that of its peers that make the offers.

A few bits of each peer tell which members it has met. Of more than a few dozen, two may be taken for one.

All times are seconds on any monotonic clock.
"""

from typing import Final, cast

from tracker.core.bits import REMOTE, SEEDER
from tracker.core.crossing import awaited
from tracker.core.draws import ALL, HERE, OWN, Draw, NearDraw, SecondDraw, leave_out
from tracker.core.elsewhere import FROM_SEEDER, LEECHERS, SEEDERS
from tracker.core.members import bit_of, numbered_elsewhere
from tracker.core.nearby import OTHER, SwarmPlaces, nearness
from tracker.core.rules import Rules
from tracker.core.swarm import SMALL, Member, Peer, Random, RemoteMember, Swarm

DAMPING: Final = 10.0
"""Seconds after an answer for which the peer that receives it is not introduced again to those that it has met.

They are at most half an announce interval.
"""

_AT_ONCE: Final = 0.25
"""The share of an interval's offers that the peers of a swarm may be given at once."""

_MAX_MET: Final = 32
"""Members that a peer of a larger swarm has met until it forgets them: otherwise too many would share their bits."""

_FEW_SWARMS: Final = 16
"""Swarms of a client that announces sooner in small ones: a client that seeds thousands makes enough announces."""


class Chooser:
    """Chooses the receivers of offers."""

    def __init__(self, rules: Rules, random: Random) -> None:
        self._rules = rules
        self._random = random
        self._interval = float(rules.announce_interval)
        self._limit = rules.max_offers_received
        self._cost = self._interval / self._limit
        self._damping = min(DAMPING, self._interval / 2)

    def choose(self, swarm: Swarm, peer: Peer, count: int, now: float) -> list[Member]:
        """Choose up to `count` other members to receive a peer's offers.

        The result contains a remote member once for each of its peers that is chosen.
        """
        leechers, seeders = swarm.incomplete, swarm.complete
        total = leechers + seeders
        if peer.met_count > _MAX_MET and total > SMALL:
            peer.met &= SEEDER
            peer.met_count = 0
        # Members have positions: leechers from 0, then seeders. In each group, remote members come after local peers.
        fresh_since = now - 2 * self._interval
        if swarm.places is None:
            scope = ALL if swarm.remote_complete + swarm.remote_incomplete else HERE
            draw = Draw(swarm, scope, fresh_since, self._random)
        else:
            draw = NearDraw(swarm, swarm.places, peer, self._limit, fresh_since, self._random)
        draw.taken.add(leechers + peer.index if peer.complete else peer.index)
        if swarm.nodes is not None:
            leave_out(draw, swarm, peer.peer_id, leechers)
        if peer.unanswered is not None and total <= SMALL:
            for maker in awaited(peer.unanswered, now):
                leave_out(draw, swarm, maker, leechers)
        draw.bit = peer.bit
        draw.met = peer.met & ~REMOTE
        if count == 1 and now < peer.answered_at + self._damping:
            draw.is_damped = True
            remote = numbered_elsewhere(swarm)
            if remote and _count_remote(peer) >= remote:
                draw.met |= REMOTE
        if count < total - 1:
            if peer.complete:
                self._take_leechers(draw, swarm, min(count, leechers), now)
            else:
                self._take_seeders(draw, swarm, min((count + 1) // 2, seeders), not peer.met & SEEDER, now)
        draw.take(0, total, count - len(draw.chosen))
        draw.fill(count)
        if swarm.places is not None:
            _note_nearness(swarm.places, peer, draw.chosen)
        return draw.chosen

    def choose_local(self, swarm: Swarm, count: int, not_peer_id: str, now: float) -> list[Peer]:
        """Choose up to `count` local peers to receive a remote peer's offers.

        A local peer with the peer_id `not_peer_id` is left out, because this peer made the offers.
        """
        draw = self._draw_here(swarm, not_peer_id, now)
        draw.take(0, len(swarm.peers), count)
        draw.fill(count)
        return cast("list[Peer]", draw.chosen)

    def choose_own(self, swarm: Swarm, count: int, not_peer_id: str, now: float) -> list[Member]:
        """Choose up to `count` peers of all nodes to receive a linked peer's offers.

        The result contains a member that stands for several peers once for each of them.
        """
        border = swarm.own_incomplete
        draw = Draw(swarm, OWN, now - 2 * self._interval, self._random)
        leave_out(draw, swarm, not_peer_id, border)
        draw.take(0, border + swarm.own_complete, count)
        draw.fill(count)
        return draw.chosen

    def choose_for(self, swarm: Swarm, kind: int, count: int, maker: str, flags: int, now: float) -> list[Peer]:
        """Choose up to `count` local peers to receive offers of the peer `maker` at another node.

        Those of the role `kind`, SEEDERS or LEECHERS, come first, and in each role those that have not met the maker.
        """
        draw = self._draw_here(swarm, maker, now)
        draw.served = bit_of(swarm, maker)
        border, total = len(swarm.leechers), len(swarm.peers)
        if kind == SEEDERS:
            draw.take(border, total, min(count, total - border))
            draw.fill(count)
        elif kind == LEECHERS:
            if flags & FROM_SEEDER:
                draw.served |= SEEDER
            draw.take(0, border, min(count, border))
            draw.fill(count)
        if len(draw.chosen) < count:
            draw.take(0, total, count - len(draw.chosen))
            draw.fill(count)
        return cast("list[Peer]", draw.chosen)

    def choose_linked(
        self, swarm: Swarm, count: int, refused: RemoteMember | None, given: list[Member]
    ) -> list[Member]:
        """Choose up to `count` peers behind remote members that extensions have added, but for those behind `refused`.

        As many peers as there are offers in `given` have received one. The result contains a remote member once for
        each of its peers that is chosen.
        """
        remotes = [remote for remote in swarm.remotes if remote is not refused]
        left = [max(0, remote.complete + remote.incomplete - given.count(remote)) for remote in remotes]
        total = sum(left)
        chosen: list[Member] = []
        while total and len(chosen) < count:
            position = int(self._random() * total)
            for index, size in enumerate(left):
                if position < size:
                    chosen.append(remotes[index])
                    left[index] -= 1
                    break
                position -= size
            total -= 1
        return chosen

    def choose_again(
        self, swarm: Swarm, peer: Peer, count: int, given: list[Member], refused: frozenset[str], now: float
    ) -> list[Member]:
        """Choose up to `count` other members for a peer's offers that were returned by those in `refused`.

        `given` are the members that received others of the peer's offers at the same time.
        """
        draw = SecondDraw(swarm, given, refused, now - 2 * self._interval, self._random)
        leechers = swarm.incomplete
        draw.taken.add(leechers + peer.index if peer.complete else peer.index)
        leave_out(draw, swarm, peer.peer_id, leechers)
        draw.met = peer.met & ~REMOTE
        draw.take(0, leechers + swarm.complete, count)
        draw.fill(count)
        return draw.chosen

    def _draw_here(self, swarm: Swarm, not_peer_id: str, now: float) -> Draw:
        """Return a draw of local peers but for one."""
        draw = Draw(swarm, HERE, now - 2 * self._interval, self._random)
        same = swarm.peers.get(not_peer_id)
        if same is not None:
            draw.taken.add(len(swarm.leechers) + same.index if same.complete else same.index)
        return draw

    def interval(self, peer: Peer, parks: bool) -> int:
        """Return the seconds from an announce of a peer to the next one.

        They are fewer for a peer of a small swarm, unless its client is in many swarms: at its next announce, it meets
        the members that it has missed, and newcomers that cannot use an offer of their own. `parks`: offers are kept
        until a remote peer comes, so that the same holds for a peer that is alone. Peers that have joined at the same
        time do not announce at the same time again: offers that cross may fail (`tracker.core.crossing`).
        """
        swarm, interval = peer.swarm, self._rules.announce_interval
        members = swarm.complete + swarm.incomplete
        if (
            members > SMALL
            or len(peer.connection.peers) > _FEW_SWARMS
            or (swarm.own_complete + swarm.own_incomplete == 1 and not parks)
        ):
            return interval
        lonely = self._rules.lonely_interval
        interval = min(interval, max(lonely, interval * members // SMALL) if _has_met_all(peer) else lonely)
        return interval - int(self._random() * interval / 4)

    def note_wanted(self, peer: Peer, count: int) -> None:
        """Note that a peer has answered or made some offers."""
        self.note_wanted_by(peer.swarm, peer.complete, count)

    def note_wanted_by(self, swarm: Swarm, complete: bool, count: int) -> None:
        """Note that a seeder, or a leecher, of a swarm has answered or made some offers."""
        if complete:
            share = _seeders_share(swarm)
            if share:
                swarm.seeders_busy_until -= self._cost / 2 * count / share
        else:
            share = _leechers_share(swarm)
            if share:
                swarm.leechers_busy_until -= self._cost / 2 * count / share

    def _take_leechers(self, draw: Draw, swarm: Swarm, count: int, now: float) -> None:
        """Choose the leechers that a seeder's offers go to first."""
        if swarm.leechers_busy_until > now + _AT_ONCE * self._interval:
            return
        draw.served = SEEDER
        draw.take(0, swarm.incomplete, count)
        draw.fill(count)
        draw.served = 0
        if draw.chosen:
            busy_until = max(now, swarm.leechers_busy_until)
            swarm.leechers_busy_until = busy_until + self._cost * len(draw.chosen) / _leechers_share(swarm)

    def _take_seeders(self, draw: Draw, swarm: Swarm, count: int, is_first: bool, now: float) -> None:
        """Choose the seeders that a leecher's offers go to first. `is_first`: it has met none yet."""
        if swarm.seeders_busy_until > now:
            if not is_first or swarm.seeders_busy_until > now + _AT_ONCE * self._interval:
                return
            count = min(count, 1)
        draw.take(swarm.incomplete, swarm.incomplete + swarm.complete, count)
        if draw.chosen:
            busy_until = max(now, swarm.seeders_busy_until)
            swarm.seeders_busy_until = busy_until + self._cost * len(draw.chosen) / _seeders_share(swarm)


def _seeders_share(swarm: Swarm) -> float:
    """Return the number of seeders whose budget for offers of leechers this node may use."""
    nodes, seeders = swarm.nodes, swarm.complete
    if nodes is None or not nodes.incomplete:
        return seeders
    local = len(swarm.leechers)
    return seeders * local / (local + nodes.incomplete)


def _leechers_share(swarm: Swarm) -> float:
    """Return the number of leechers whose budget for offers of seeders this node may use."""
    nodes, leechers = swarm.nodes, swarm.incomplete
    if nodes is None or not nodes.complete:
        return leechers
    local = len(swarm.seeders)
    return leechers * local / (local + nodes.complete)


def _note_nearness(places: SwarmPlaces, peer: Peer, chosen: list[Member]) -> None:
    """Count the receivers of a peer's offers by their nearness."""
    swarm = peer.swarm
    place, offers = swarm.place_of(peer), places.nearby.offers
    for member in chosen:
        offers[nearness(place, swarm.place_of(member)) if isinstance(member, Peer) else OTHER] += 1


def _has_met_all(peer: Peer) -> bool:
    """Return whether a peer of a small swarm has met all other members, of which there is at least one."""
    swarm = peer.swarm
    met = peer.met | peer.bit
    for other in swarm.peers.values():
        if not other.bit & met:
            return False
    nodes = swarm.nodes
    known = 0
    if nodes is not None:
        for members in (nodes.leechers, nodes.seeders):
            for member in members:
                if not member.bit & met and member.peer_id != peer.peer_id:
                    return False
            known += len(members)
    remote = swarm.remote_complete + swarm.remote_incomplete - known
    return len(swarm.peers) + known + remote > 1 and (remote == 0 or _count_remote(peer) >= remote)


def _count_remote(peer: Peer) -> int:
    bits: int = peer.met & REMOTE
    return bits.bit_count()
