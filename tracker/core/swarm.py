"""Swarms, their peers, and the choice of receivers for offers (sans I/O).

Invariants of one swarm, checked by `Swarm.check_invariants`:

1. `peers` and the two pools hold the same peers, each once: seeders are `complete`, leechers are not.
2. `pool[peer.index] is peer` for every peer, so that removing a peer is O(1).
3. Every peer points back to this swarm, and the `peers` of each of its connections contain it.
4. The remote counts are the sums over `remotes`; none is negative.
"""

from collections.abc import Callable, Collection
from math import inf
from typing import Any, Final, Protocol, cast

from tracker.core.presence import Presences, Reachable

Random = Callable[[], float]
"""A source of uniform floats in [0, 1), as `random.Random(seed).random`."""


class Connection(Reachable, Protocol):
    """A client's connection, as the core sees it: the owner of peers."""

    peers: "set[Peer]"
    """The peers that are present on the connection. Only the core changes them."""
    address: str
    """The client's numeric IP address."""
    handshake: bytes
    """The head of the request that opened the connection, kept for extensions that admit peers; otherwise empty."""

    @property
    def client(self) -> object:
        """An object that all connections of one client share. Limits are counted for it."""

    @property
    def is_full(self) -> bool:
        """Whether the client may have no more peers on this connection."""


class Peer:
    """One peer_id in one swarm."""

    __slots__ = ("complete", "connection", "index", "last_seen", "met", "offers_due", "peer_id", "presences", "swarm")

    def __init__(self, swarm: "Swarm", peer_id: str, connection: Connection, complete: bool, now: float) -> None:
        self.swarm = swarm
        self.peer_id: Final = peer_id
        self.connection = connection
        """The connection that receives offers."""
        self.presences: Presences[Connection] | None = None
        """All connections of a peer that has several; None for an ordinary peer."""
        self.complete = complete
        self.last_seen = now
        """The time of its last announce or answer."""
        self.met = False
        """Whether it has answered a peer, or a peer has answered it."""
        self.offers_due = 0.0
        """The time until which the first offers of a peer that joined with `completed` are expected; otherwise 0."""
        self.index = -1

    @property
    def connections(self) -> list[Connection]:
        """All connections on which the peer is present."""
        presences = self.presences
        return [self.connection] if presences is None else [presence.connection for presence in presences]


class RemoteMember:
    """Peers of a swarm that are reached through an extension, such as those of one other tracker.

    Offers are placed on these peers as on local ones, in proportion to their numbers. `owner` is an object of the
    extension. The core does not use it.
    """

    __slots__ = ("complete", "incomplete", "owner", "swarm")

    last_seen: Final = inf
    """Remote members never count as silent, because their own tracker removes silent peers."""

    def __init__(self, swarm: "Swarm", owner: Any) -> None:
        self.swarm = swarm
        self.owner: Final = owner
        self.complete = 0
        self.incomplete = 0


Member = Peer | RemoteMember


class Overlap(Protocol):
    """Which peers are here and behind remote members at the same time (`tracker.core.overlap`)."""

    def know(
        self,
        member: RemoteMember,
        seeders: Collection[str],
        leechers: Collection[str],
        ranks: tuple[str, str] | None,
    ) -> list[str]: ...
    def discard(self, member: RemoteMember) -> None: ...
    def keep_apart(self, peer: Peer, member: RemoteMember, until: float) -> None: ...
    def joined(self, peer: Peer) -> None: ...
    def left(self, peer: Peer) -> None: ...
    def hide(self, peer: Peer, given: list[Member], refused: RemoteMember | None, now: float) -> None: ...
    def show(self) -> None: ...
    def sharing(self, member: RemoteMember, peer_id: str) -> list[Peer]: ...
    def members_with(self, peer_id: str) -> list[RemoteMember]: ...
    def newcomers_for(self, peer: Peer, member: RemoteMember, marks: Collection[str], now: float) -> int: ...
    def check_invariants(self) -> None: ...


class Swarm:
    """The peers of one infohash."""

    __slots__ = (
        "info_hash",
        "leechers",
        "overlap",
        "peers",
        "remote_complete",
        "remote_incomplete",
        "remotes",
        "seeders",
    )

    def __init__(self, info_hash: str) -> None:
        self.info_hash: Final = info_hash
        self.peers: dict[str, Peer] = {}
        self.seeders: list[Peer] = []
        self.leechers: list[Peer] = []
        self.remotes: list[RemoteMember] = []
        self.remote_complete = 0
        self.remote_incomplete = 0
        self.overlap: Overlap | None = None
        """None until an extension knows more of remote peers than their number."""

    @property
    def complete(self) -> int:
        """Number of seeders, including remote ones."""
        return len(self.seeders) + self.remote_complete

    @property
    def incomplete(self) -> int:
        """Number of leechers, including remote ones."""
        return len(self.leechers) + self.remote_incomplete

    def join(self, peer_id: str, connection: Connection, complete: bool, now: float) -> Peer:
        """Add a peer with a new peer_id, and return it."""
        peer = Peer(self, peer_id, connection, complete, now)
        self.peers[peer_id] = peer
        self._enter_pool(peer)
        connection.peers.add(peer)
        if self.overlap is not None:
            self.overlap.joined(peer)
        return peer

    def leave(self, peer: Peer) -> None:
        """Remove a local peer, from all its connections."""
        del self.peers[peer.peer_id]
        self._leave_pool(peer)
        for connection in peer.connections:
            connection.peers.discard(peer)
        if self.overlap is not None:
            self.overlap.left(peer)

    def become_seeder(self, peer: Peer) -> None:
        """Make a leecher a seeder. It stays one until it leaves."""
        self._leave_pool(peer)
        peer.complete = True
        self._enter_pool(peer)

    def set_remote(self, member: RemoteMember, complete: int, incomplete: int) -> None:
        """Set the counts of a remote member. If both are 0, the member leaves the swarm.

        Raises:
            ValueError: if a count is negative.
        """
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
        """Choose up to `count` other members to receive a peer's offers.

        The result contains a remote member once for each of its peers that is chosen. Receivers are a uniform sample
        without replacement, by need: a seeder's receivers are leechers first. Of a leecher's receivers, half are
        seeders first, because leechers that only know seeders never trade with each other. The rest is drawn from all
        members. Local peers that have been silent since `fresh_since` come last in each draw.
        """
        leechers, seeders = self.incomplete, self.complete
        total = leechers + seeders
        # Members have positions: leechers from 0, then seeders. In each group, remote members come after local peers.
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
        """Choose up to `count` local peers to receive a remote peer's offers, as a uniform sample without replacement.

        A local peer with the peer_id `not_peer_id` is left out, because this peer made the offers.
        """
        same = self.peers.get(not_peer_id)
        taken: set[int] = set()
        if same:
            taken.add(len(self.leechers) + same.index if same.complete else same.index)
        draw = _Draw(self._local_at, taken, fresh_since, random)
        draw.take(0, len(self.peers), min(count, len(self.peers) - len(taken)))
        return cast("list[Peer]", draw.chosen)

    def member_at(self, position: int) -> Member:
        """Return the member at a position, in the order that `choose` uses.

        Raises:
            IndexError: if there are fewer members.
        """
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
                assert peer.connection in peer.connections
                assert all(peer in connection.peers for connection in peer.connections)
                assert peer.presences is None or len(peer.presences) > 1
        assert self.remote_complete == sum(remote.complete for remote in self.remotes)
        assert self.remote_incomplete == sum(remote.incomplete for remote in self.remotes)
        for remote in self.remotes:
            assert remote.swarm is self
            assert remote.complete >= 0
            assert remote.incomplete >= 0
            assert remote.complete + remote.incomplete > 0
        if self.overlap is not None:
            self.overlap.check_invariants()

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
    """A sample of a swarm's members, drawn in one or more steps."""

    __slots__ = ("chosen", "fresh_since", "member_at", "random", "stale", "taken")

    def __init__(self, member_at: Callable[[int], Member], taken: set[int], fresh_since: float, random: Random) -> None:
        self.member_at = member_at
        self.taken = taken
        self.fresh_since = fresh_since
        self.random = random
        self.chosen: list[Member] = []
        self.stale: list[Member] = []

    def take(self, start: int, stop: int, count: int) -> None:
        """Draw `count` members from the positions from `start` to before `stop`, of which at least `count` are free."""
        if count <= 0:
            return
        enough = len(self.chosen) + count
        random, size, taken = self.random, stop - start, self.taken
        spare = size - len(taken) - count
        if spare <= count:
            free = [position for position in range(start, stop) if position not in taken]
            while free and len(self.chosen) < enough:
                # A Fisher-Yates shuffle that stops as soon as there are enough.
                pick = int(random() * len(free))
                free[pick], free[-1] = free[-1], free[pick]
                position = free.pop()
                taken.add(position)
                member = self.member_at(position)
                (self.stale if member.last_seen < self.fresh_since else self.chosen).append(member)
        else:
            # Drawing until a position is free is cheaper than listing all free ones. The number of stale members that
            # are skipped is bounded, because a large swarm of silent peers would otherwise be searched completely.
            skips = min(spare, 8 * count)
            chosen, member_at, fresh_since = self.chosen, self.member_at, self.fresh_since
            while len(chosen) < enough:
                position = start + int(random() * size)
                if position in taken:
                    continue
                taken.add(position)
                member = member_at(position)
                if member.last_seen < fresh_since and skips > 0:
                    self.stale.append(member)
                    skips -= 1
                else:
                    chosen.append(member)
        missing = enough - len(self.chosen)
        if missing:
            self.chosen += self.stale[:missing]
            del self.stale[:missing]
