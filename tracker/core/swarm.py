"""Swarms, their peers, and who gets which offer (sans I/O).

Invariants, all checked by `Swarm.check` (and `tracker.hub.Hub.check` for what spans swarms):

1. `peers` and the two pools hold the same peers, each once: seeders are `complete`, leechers are not.
2. `pool[peer.index] is peer` for every peer, so that leaving is O(1).
3. Every peer points back to this swarm, and its connection's `peers` contains it.
4. The remote counts are the sums over `remotes`, none negative.
"""

from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from tracker.protocol.codec import to_json

if TYPE_CHECKING:
    from tracker.access.addresses import Quota

Random = Callable[[], float]
"""A source of uniform floats in [0, 1), as `random.Random(seed).random`."""


class Connection(Protocol):
    """What the core needs of a client's connection: a place to remember its peers and its offences, and whose it is.

    `address` is the client's numeric one, `quota` what that may use.
    """

    peers: "set[Peer]"
    strikes: int
    quota: "Quota | None"
    address: str


class Peer:
    """One peer_id in one swarm, owned by the connection that last announced it."""

    __slots__ = ("complete", "connection", "index", "met", "offers_by", "peer_id", "seen", "swarm", "token")

    def __init__(self, swarm: "Swarm", peer_id: str, connection: Connection, complete: bool, seen: float) -> None:
        self.swarm = swarm
        self.peer_id: Final = peer_id
        self.token: Final = to_json(peer_id)
        self.connection = connection
        self.complete = complete
        self.seen = seen
        self.met = False
        """Whether it has answered somebody, or somebody has answered it."""
        self.offers_by = 0.0
        """When it will have made its first offers, if it has joined with an announce that comes just before; else 0."""
        self.index = -1


class RemoteMember:
    """Peers of a swarm that are reached through an extension, such as those of one other tracker.

    The swarm places offers among them as among its own, in proportion to their numbers.
    `owner` is whatever the extension wants back with an offer; the core does not look at it.
    """

    __slots__ = ("complete", "incomplete", "owner", "swarm")

    seen: Final = inf
    """How silent its peers are is for those to know that they are connected to."""

    def __init__(self, swarm: "Swarm", owner: Any) -> None:
        self.swarm = swarm
        self.owner: Final = owner
        self.complete = 0
        self.incomplete = 0


Member = Peer | RemoteMember


class Swarm:
    """The peers of one infohash."""

    __slots__ = (
        "info_hash",
        "leechers",
        "peers",
        "remote_complete",
        "remote_incomplete",
        "remotes",
        "seeders",
        "token",
    )

    def __init__(self, info_hash: str) -> None:
        self.info_hash: Final = info_hash
        self.token: Final = to_json(info_hash)
        self.peers: dict[str, Peer] = {}
        self.seeders: list[Peer] = []
        self.leechers: list[Peer] = []
        self.remotes: list[RemoteMember] = []
        self.remote_complete = 0
        self.remote_incomplete = 0

    @property
    def complete(self) -> int:
        """Seeders, remote ones included."""
        return len(self.seeders) + self.remote_complete

    @property
    def incomplete(self) -> int:
        """Leechers, remote ones included."""
        return len(self.leechers) + self.remote_incomplete

    def join(self, peer_id: str, connection: Connection, complete: bool, now: float) -> Peer:
        """Add a peer that is not a member yet."""
        peer = Peer(self, peer_id, connection, complete, now)
        self.peers[peer_id] = peer
        self._enter_pool(peer)
        connection.peers.add(peer)
        return peer

    def leave(self, peer: Peer) -> None:
        """Remove a member."""
        del self.peers[peer.peer_id]
        self._leave_pool(peer)
        peer.connection.peers.discard(peer)

    def become_seeder(self, peer: Peer) -> None:
        """A leecher has all pieces now; it stays a seeder until it leaves."""
        self._leave_pool(peer)
        peer.complete = True
        self._enter_pool(peer)

    def set_remote(self, member: RemoteMember, complete: int, incomplete: int) -> None:
        """Set a remote member's counts; with none left, it is no member any more. Raises `ValueError` if negative."""
        if complete < 0 or incomplete < 0:
            raise ValueError("counts cannot be negative")
        self.remote_complete += complete - member.complete
        self.remote_incomplete += incomplete - member.incomplete
        known = member.complete or member.incomplete
        member.complete, member.incomplete = complete, incomplete
        if complete or incomplete:
            if not known:
                self.remotes.append(member)
        elif known:
            self.remotes.remove(member)

    def choose(self, peer: Peer, count: int, fresh_since: float, random: Random) -> list[Member]:
        """Up to `count` other members for a peer's offers, a remote member once for each of its peers chosen.

        A uniform sample without replacement of peers with complementary needs first: all of it leechers for a seeder,
        half of it seeders for a leecher, since leechers that only know seeders never trade with each other. The rest
        is drawn from everybody. Local peers not heard of since `fresh_since` come last.
        """
        leechers, seeders = self.incomplete, self.complete
        total = leechers + seeders
        # Members are numbered: leechers from 0, seeders behind them, the remote ones at the end of each group.
        own = leechers + peer.index if peer.complete else peer.index
        draw = _Draw(self.member_at if self.remotes else self._local_at, {own}, fresh_since, random)
        if count < total - 1:
            if peer.complete:
                draw.take(0, leechers, min(count, leechers))
            else:
                draw.take(leechers, total, min((count + 1) // 2, seeders))
        draw.take(0, total, min(count, total - 1) - len(draw.chosen))
        return draw.chosen

    def choose_local(self, count: int, not_peer_id: str, fresh_since: float, random: Random) -> list[Peer]:
        """Up to `count` local peers, a uniform sample without replacement, for offers from elsewhere.

        A local peer with the peer_id `not_peer_id`, the one that made the offers, is left out.
        """
        same = self.peers.get(not_peer_id)
        taken: set[int] = set()
        if same:
            taken.add(len(self.leechers) + same.index if same.complete else same.index)
        draw = _Draw(self._local_at, taken, fresh_since, random)
        draw.take(0, len(self.peers), min(count, len(self.peers) - len(taken)))
        return cast("list[Peer]", draw.chosen)

    def member_at(self, position: int) -> Member:
        """The member with this number, counted as `choose` does."""
        local = self.leechers
        if position >= self.incomplete:
            position -= self.incomplete
            local = self.seeders
        if position < len(local):
            return local[position]
        position -= len(local)
        for remote in self.remotes:
            size = remote.incomplete if local is self.leechers else remote.complete
            if position < size:
                return remote
            position -= size
        raise IndexError(position)

    def _local_at(self, position: int) -> Peer:
        leechers = self.leechers
        size = len(leechers)
        return leechers[position] if position < size else self.seeders[position - size]

    def check_invariants(self) -> None:
        """Raise `AssertionError` if an invariant of this module is broken."""
        assert len(self.peers) == len(self.seeders) + len(self.leechers)
        for pool, complete in ((self.seeders, True), (self.leechers, False)):
            for index, peer in enumerate(pool):
                assert peer.complete is complete
                assert peer.index == index
                assert peer.swarm is self
                assert self.peers[peer.peer_id] is peer
                assert peer in peer.connection.peers
        assert self.remote_complete == sum(remote.complete for remote in self.remotes)
        assert self.remote_incomplete == sum(remote.incomplete for remote in self.remotes)
        for remote in self.remotes:
            assert remote.swarm is self
            assert remote.complete >= 0
            assert remote.incomplete >= 0
            assert remote.complete + remote.incomplete > 0

    def _enter_pool(self, peer: Peer) -> None:
        pool = self.seeders if peer.complete else self.leechers
        peer.index = len(pool)
        pool.append(peer)

    def _leave_pool(self, peer: Peer) -> None:
        pool = self.seeders if peer.complete else self.leechers
        last = pool.pop()
        if last is not peer:
            pool[peer.index] = last
            last.index = peer.index


class _Draw:
    """One sample of a swarm's members, drawn in one or more steps."""

    __slots__ = ("chosen", "fresh_since", "member_at", "random", "stale", "taken")

    def __init__(self, member_at: Callable[[int], Member], taken: set[int], fresh_since: float, random: Random) -> None:
        self.member_at = member_at
        self.taken = taken
        self.fresh_since = fresh_since
        self.random = random
        self.chosen: list[Member] = []
        self.stale: list[Member] = []

    def take(self, start: int, stop: int, count: int) -> None:
        """Add `count` members numbered `start` to `stop`, of which at least as many are not taken yet."""
        if count <= 0:
            return
        enough = len(self.chosen) + count
        random, size, taken = self.random, stop - start, self.taken
        spare = size - len(taken) - count
        if spare <= count:
            free = [position for position in range(start, stop) if position not in taken]
            while free and len(self.chosen) < enough:
                # A shuffle (Fisher-Yates) that goes only as far as needed.
                pick = int(random() * len(free))
                free[pick], free[-1] = free[-1], free[pick]
                position = free.pop()
                taken.add(position)
                member = self.member_at(position)
                (self.stale if member.seen < self.fresh_since else self.chosen).append(member)
        else:
            # Cheaper to draw until a free one comes than to list them all. Stale ones are passed over only so often, or
            # a swarm of silent peers would be searched through and through.
            patience = min(spare, 8 * count)
            chosen, member_at, fresh_since = self.chosen, self.member_at, self.fresh_since
            while len(chosen) < enough:
                position = start + int(random() * size)
                if position in taken:
                    continue
                taken.add(position)
                member = member_at(position)
                if member.seen < fresh_since and patience > 0:
                    self.stale.append(member)
                    patience -= 1
                else:
                    chosen.append(member)
        missing = enough - len(self.chosen)
        if missing:
            self.chosen += self.stale[:missing]
            del self.stale[:missing]
