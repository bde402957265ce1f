"""Swarms, their peers, and the choice of receivers for offers (sans I/O).

Invariants of one swarm, checked by `Swarm.check_invariants`:

1. `peers` and the two pools hold the same peers, each once: seeders are `complete`, leechers are not.
2. `pool[peer.index] is peer` for every peer, so that removing a peer is O(1).
3. Every peer points back to this swarm, and the `peers` of each of its connections contain it.
4. The remote counts are the sums over `remotes`; none is negative.
5. `places`, unless None, has a place for each peer, in the order of the pools.
"""

from collections.abc import Callable, Collection, Iterator
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from tracker.core.bits import LOCAL, NUMBERED, REMOTE, SEEDER, numbered_bit
from tracker.core.elsewhere import PEER, SwarmNodes
from tracker.core.nearby import Nearby, Place, SwarmPlaces
from tracker.core.presence import Presences, Reachable

if TYPE_CHECKING:
    from mypy_extensions import i64

Random = Callable[[], float]
"""A source of uniform floats in [0, 1), as `random.Random(seed).random`."""

SMALL: Final = 16
"""Members up to which a swarm is small: a peer of a small swarm may meet every other one."""

Unanswered = dict[str, float]
"""The makers of offers, and the times at which the first offer of each was given to a peer."""

_MAX_SEARCHED: Final = 1000
"""Peers among which the one of a connection is searched."""


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


class Member:
    """A receiver of offers: a local peer, or remote peers behind an extension."""

    __slots__ = ("bit", "last_seen", "met", "swarm")

    def __init__(self, swarm: "Swarm", bit: "i64", last_seen: float) -> None:
        self.swarm = swarm
        self.bit: i64 = bit
        """The bit that stands for it in `met` of other members. Members of a swarm may share one."""
        self.met: i64 = 0
        """The bits of the members that it has met: one has answered the other."""
        self.last_seen = last_seen
        """The time of its last announce or answer."""


class Peer(Member):
    """One peer_id in one swarm."""

    __slots__ = (
        "answered",
        "answered_at",
        "complete",
        "connection",
        "index",
        "met_count",
        "offers_due",
        "peer_id",
        "presences",
        "unanswered",
    )

    def __init__(
        self, swarm: "Swarm", peer_id: str, connection: Connection, complete: bool, now: float, bit: "i64" = 1
    ) -> None:
        super().__init__(swarm, bit, now)
        self.peer_id: Final = peer_id
        self.connection = connection
        """The connection that receives offers."""
        self.presences: Presences[Connection] | None = None
        """All connections of a peer that has several; None for an ordinary peer."""
        self.complete = complete
        self.answered = b""
        """In a small swarm, hashes of its last offers that were answered."""
        self.answered_at = -inf
        """The time of the last answer to one of its offers."""
        self.met_count: i64 = 0
        """The number of bits in `met`, without `SEEDER`."""
        self.offers_due = 0.0
        """The time until which the first offers of a peer that joined with `completed` are expected; otherwise 0."""
        self.unanswered: Unanswered | None = None
        """In a small swarm, the offers that it was given and has not answered; None if there are none."""
        self.index = -1

    @property
    def connections(self) -> list[Connection]:
        """All connections on which the peer is present."""
        presences = self.presences
        return [self.connection] if presences is None else [presence.connection for presence in presences]

    def meet(self, bit: "i64", complete: bool) -> None:
        """Note that the peer meets a member, of which `bit` and `complete` are given."""
        if not self.met & bit:
            self.met |= bit
            self.met_count += 1
        if complete:
            self.met |= SEEDER

    def forget_met(self) -> None:
        """Forget which members it has met, and the offers that it has not answered."""
        self.met = 0
        self.met_count = 0
        self.answered_at = -inf
        self.unanswered = None


class RemoteMember(Member):
    """Peers of a swarm that are reached through an extension, such as those of one other tracker.

    Offers are placed on these peers as on local ones, in proportion to their numbers. `owner` is an object of the
    extension. The core does not use it.
    """

    __slots__ = ("complete", "incomplete", "owner")

    def __init__(self, swarm: "Swarm", owner: Any) -> None:
        # Remote members never count as silent, because their own tracker removes silent peers.
        super().__init__(swarm, REMOTE, inf)
        # Its peers may have met any local one.
        self.met = LOCAL
        self.owner: Final = owner
        self.complete = 0
        self.incomplete = 0


class NodeMember(RemoteMember):
    """Peers of a swarm at another node of this tracker. `kind` is one of those in `tracker.core.elsewhere`.

    A member of the kind PEER has a bit of its own, as a local peer has. Its node watches whether it is silent. After it
    has left and joined again, it is another member.
    """

    __slots__ = ("index", "kind", "node", "peer_id", "twin")

    def __init__(self, swarm: "Swarm", node: str, kind: int, peer_id: str, bit: "i64") -> None:
        super().__init__(swarm, None)
        if kind == PEER:
            self.bit = bit
            self.met = 0
        self.node: Final = node
        """The id of the node."""
        self.kind: Final = kind
        self.peer_id: Final = peer_id
        """The peer_id of a member of the kind PEER, otherwise empty."""
        self.index = -1
        """The index of a member of the kind PEER in its list, otherwise -1."""
        self.twin: NodeMember | None = None
        """The next member of the swarm with the same peer_id."""

    def meet(self, bit: "i64", complete: bool) -> None:
        """Note that the member, of the kind PEER, meets a local peer, of which `bit` and `complete` are given."""
        self.met |= bit
        if complete:
            self.met |= SEEDER


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
    def keep_apart(self, peer: Member, member: RemoteMember, seconds: float, now: float) -> None: ...
    def joined(self, peer: Member) -> None: ...
    def left(self, peer: Member) -> None: ...
    def give_up(self) -> None: ...
    def hide(self, peer: Member, given: list[Member], refused: RemoteMember | None, now: float) -> None: ...
    def show(self) -> None: ...
    def linked_counts(self) -> tuple[int, int]: ...
    def sharing(self, member: RemoteMember, peer_id: str) -> list[Member]: ...
    def members_with(self, peer_id: str) -> list[RemoteMember]: ...
    def newcomers_for(self, peer: Member, member: RemoteMember, marks: Collection[str], now: float) -> int: ...
    def check_invariants(self) -> None: ...


class Swarm:
    """The peers of one infohash."""

    __slots__ = (
        "info_hash",
        "joins",
        "leechers",
        "leechers_busy_until",
        "nodes",
        "overlap",
        "peers",
        "places",
        "remote_complete",
        "remote_incomplete",
        "remotes",
        "seeders",
        "seeders_busy_until",
    )

    def __init__(self, info_hash: str) -> None:
        self.info_hash: Final = info_hash
        self.peers: dict[str, Peer] = {}
        self.seeders: list[Peer] = []
        self.leechers: list[Peer] = []
        self.remotes: list[RemoteMember] = []
        self.remote_complete = 0
        self.remote_incomplete = 0
        self.nodes: SwarmNodes[NodeMember] | None = None
        """The members at other nodes of this tracker; None if there are none."""
        self.joins = 0
        """The number of peers that have joined so far, here and, if they are known one by one, at other nodes."""
        self.leechers_busy_until = -inf
        self.seeders_busy_until = -inf
        """The time at which they are given further offers that prefer them; see `tracker.core.choice`."""
        self.overlap: Overlap | None = None
        """None until an extension knows more of remote peers than their number."""
        self.places: SwarmPlaces | None = None
        """None while offers do not prefer nearby peers."""

    @property
    def complete(self) -> int:
        """Number of seeders, including remote ones."""
        return len(self.seeders) + self.remote_complete

    @property
    def incomplete(self) -> int:
        """Number of leechers, including remote ones."""
        return len(self.leechers) + self.remote_incomplete

    @property
    def is_small(self) -> bool:
        """Whether each peer may meet every other one."""
        return self.complete + self.incomplete <= SMALL

    @property
    def own_complete(self) -> int:
        """Number of seeders at all nodes of this tracker, without those of other trackers."""
        nodes = self.nodes
        return len(self.seeders) if nodes is None else len(self.seeders) + nodes.complete

    @property
    def own_incomplete(self) -> int:
        """Number of leechers at all nodes of this tracker, without those of other trackers."""
        nodes = self.nodes
        return len(self.leechers) if nodes is None else len(self.leechers) + nodes.incomplete

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """The numbers above: `complete`, `incomplete`, `own_complete`, `own_incomplete`."""
        return self.complete, self.incomplete, self.own_complete, self.own_incomplete

    def join(self, peer_id: str, connection: Connection, complete: bool, now: float) -> Peer:
        """Add a peer with a new peer_id, and return it."""
        bit = self.next_bit()
        peer = Peer(self, peer_id, connection, complete, now, bit)
        self.peers[peer_id] = peer
        self._enter_pool(peer)
        connection.peers.add(peer)
        if self.overlap is not None:
            self.overlap.joined(peer)
        return peer

    def next_bit(self) -> "i64":
        """Return the bit for a peer that joins, which others may have met under the same bit as an earlier peer."""
        bit = numbered_bit(self.joins)
        self.joins += 1
        if self.joins > NUMBERED and len(self.peers) < SMALL:
            for peer in self.peers.values():
                if peer.met & bit:
                    peer.met -= bit
                    peer.met_count -= 1
            if self.nodes is not None:
                for members in (self.nodes.leechers, self.nodes.seeders):
                    for member in members:
                        member.met &= ~bit
        return bit

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

    def prefer_nearby(self, nearby: Nearby) -> None:
        """Keep the places of the peers from now on, so that offers prefer nearby peers."""
        places = self.places = SwarmPlaces(nearby)
        for peer in (*self.leechers, *self.seeders):
            places.pool(peer.complete).append(nearby.locate(peer.connection.address))

    def place_of(self, peer: Peer) -> Place:
        """Return the place of a peer, of a swarm that keeps places."""
        assert self.places is not None
        return self.places.pool(peer.complete).places[peer.index]

    def moved(self, peer: Peer) -> None:
        """Take notice that a peer has another connection."""
        if self.places is not None:
            place = self.places.nearby.locate(peer.connection.address)
            self.places.pool(peer.complete).move(peer.index, place)

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

    def member_at(self, position: int) -> Member:
        """Return the member at a position, in this order: leechers, then seeders.

        In both, local peers come first, then peers at other nodes that are known one by one.

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
        nodes = self.nodes
        if nodes is not None:
            pool = nodes.leechers if local is self.leechers else nodes.seeders
            if position < len(pool):
                return pool[position]
            position -= len(pool)
            for counted in nodes.counted:
                size = counted.incomplete if local is self.leechers else counted.complete
                if position < size:
                    return counted
                position -= size
        for remote in self.remotes:
            size = remote.incomplete if local is self.leechers else remote.complete
            if position < size:
                return remote
            position -= size
        raise IndexError(position)

    def peer_on(self, connection: Connection) -> Peer | None:
        """Return a peer that is present on a connection, or None if there is none or the search would take too long."""
        if len(self.peers) <= min(len(connection.peers), _MAX_SEARCHED):
            return next((peer for peer in self.peers.values() if peer in connection.peers), None)
        if len(connection.peers) <= _MAX_SEARCHED:
            return next((peer for peer in connection.peers if peer.swarm is self), None)
        return None

    def local_at(self, position: int) -> Peer:
        """Return the local peer at a position, in the same order."""
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
        remotes: list[RemoteMember] = [*self.remotes]
        if self.nodes is not None:
            remotes += [*self.nodes.leechers, *self.nodes.seeders, *self.nodes.counted]
        assert self.remote_complete == sum(remote.complete for remote in remotes)
        assert self.remote_incomplete == sum(remote.incomplete for remote in remotes)
        for remote in self.remotes:
            assert remote.swarm is self
            assert remote.complete >= 0
            assert remote.incomplete >= 0
            assert remote.complete + remote.incomplete > 0
        if self.overlap is not None:
            self.overlap.check_invariants()
        if self.places is not None:
            for pool, complete in ((self.seeders, True), (self.leechers, False)):
                assert len(self.places.pool(complete).places) == len(pool)
                self.places.pool(complete).check_invariants()

    def _enter_pool(self, peer: Peer) -> None:
        pool = self.seeders if peer.complete else self.leechers
        peer.index = len(pool)
        pool.append(peer)
        if self.places is not None:
            self.places.pool(peer.complete).append(self.places.nearby.locate(peer.connection.address))

    def _leave_pool(self, peer: Peer) -> None:
        pool = self.seeders if peer.complete else self.leechers
        if self.places is not None:
            self.places.pool(peer.complete).remove(peer.index)
        last = pool.pop()
        if last is not peer:
            pool[peer.index] = last
            last.index = peer.index


def each_peer(swarms: dict[str, Swarm]) -> Iterator[Peer]:
    """Yield the peers of all swarms, also if peers and swarms come and go meanwhile."""
    # A round takes a minute. It remembers ids, because a list of peers would keep those that leave meanwhile in
    # memory until its end, with their connections.
    for info_hash in list(swarms):
        swarm = swarms.get(info_hash)
        if swarm is None:
            continue
        for peer_id in list(swarm.peers):
            peer = swarm.peers.get(peer_id)
            if peer is not None:
                yield peer
