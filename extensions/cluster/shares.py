"""The swarms that this node shares with others, and the peers of these nodes in them (sans I/O)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from extensions.cluster.session import Session
from extensions.cluster.work import SLICE, Work
from tracker.extension import LEECHERS, PEER, SEEDERS, NodeMember, NodePeers, Swarm


class Share:
    """One other node's part of a swarm."""

    __slots__ = (
        "epoch",
        "has_met",
        "is_newcomer",
        "is_placed",
        "is_told",
        "leechers",
        "peers",
        "seeders",
        "session",
    )

    def __init__(self, session: Session) -> None:
        self.session = session
        self.epoch = session.heard_epoch
        """The other node's epoch in which it has told of the swarm last."""
        self.is_told = False
        """Whether the other node was told of the peers here."""
        self.has_met = False
        """Whether it has told of its peers."""
        self.is_newcomer = False
        """Whether this node has opened the swarm later than the other one."""
        self.is_placed = False
        """Whether parked offers have been placed on its peers, or need not be."""
        self.seeders: NodeMember | None = None
        self.leechers: NodeMember | None = None
        """Its peers that are known by number."""
        self.peers: list[NodeMember] | None = None
        """Its peers that are known one by one; None instead of an empty list, because most swarms are small."""


class Shared:
    """A swarm that is shared with other nodes."""

    __slots__ = ("key", "linked", "shares")

    def __init__(self, key: str) -> None:
        self.key: Final = key
        self.shares: list[Share] = []
        """One for each of these nodes."""
        self.linked: NodeMember | None = None
        """The linked peers, if the gateway is another node and has told of some."""


class SharedSwarms:
    """All shared swarms."""

    def __init__(self, peers: NodePeers, swarms: Mapping[str, Swarm], work: Work) -> None:
        self.by_key: dict[str, Shared] = {}
        """By infohash."""
        self.is_gateway = False
        """Whether this node hears of all swarms. It holds those that it shares."""
        self.on_dropped: Callable[[str], None] = _ignore
        """Called with each swarm that is no longer shared."""
        self._peers = peers
        self._swarms = swarms
        self._work = work
        self._of: dict[str, dict[str, Share]] = {}
        """The shares of each node by infohash."""
        self._may_hold = False
        """Whether this node has ever been the gateway."""

    def become_gateway(self) -> None:
        """Hear of all swarms from now on, and hold them."""
        self.is_gateway = self._may_hold = True
        for key in self.by_key:
            self._peers.hold(key)

    def resign(self) -> None:
        """Hear only of swarms with local peers from now on, and hold no more."""
        self.is_gateway = False
        self._work.add(self._release())

    def of(self, session: Session) -> dict[str, Share]:
        """Return the shares of a node by infohash. Read only."""
        return self._of.get(session.node_id, {})

    def find(self, key: str, session: Session) -> Share | None:
        """Return a node's share of a swarm."""
        shares = self._of.get(session.node_id)
        return None if shares is None else shares.get(key)

    def add(self, key: str, session: Session) -> Share:
        """Return a node's new share of a swarm, which the gateway holds."""
        if self.is_gateway:
            self._peers.hold(key)
        shared = self.record(key)
        node_id = session.node_id
        for former in shared.shares:
            if former.session.node_id == node_id:
                # The node is back before all of what it has told before its end is forgotten.
                shared.shares.remove(former)
                self._clear(shared, former)
                break
        share = Share(session)
        shared.shares.append(share)
        self._of.setdefault(node_id, {})[shared.key] = share
        return share

    def record(self, key: str) -> Shared:
        """Return the record of a swarm, which may be new."""
        shared = self.by_key.get(key)
        if shared is None:
            swarm = self._swarms.get(key)
            # Not a copy of the text, which a message has.
            key = key if swarm is None else swarm.info_hash
            shared = self.by_key[key] = Shared(key)
        return shared

    def tidy(self, shared: Shared) -> None:
        """Remove the record of a swarm that is no longer shared, and do not hold the swarm any more."""
        if shared.shares or shared.linked is not None:
            return
        if self.by_key.get(shared.key) is shared:
            del self.by_key[shared.key]
            self.on_dropped(shared.key)
        if self._may_hold:
            self._peers.release(shared.key)

    def end(self, key: str, share: Share) -> None:
        """End the sharing of a swarm with a node."""
        shared = self.by_key.get(key)
        if shared is not None and share in shared.shares:
            shared.shares.remove(share)
            self._forget(key, share)
            self._clear(shared, share)
            self.tidy(shared)

    def closed(self, key: str) -> list[Session]:
        """Take notice that the last local peer has left a swarm. Return the nodes that share it."""
        shared = self.by_key.get(key)
        if shared is None:
            return []
        sessions = [share.session for share in shared.shares]
        if key in self._swarms:
            # The gateway keeps what it hears.
            for share in shared.shares:
                share.is_told = False
        else:
            self._drop(shared)
        return sessions

    def sweep(self, session: Session) -> None:
        """End the sharing of swarms of which a node has not told in its epoch."""
        self._work.add(self._sweep(session, session.heard_epoch))

    def forget(self, session: Session) -> None:
        """Forget a node, in slices."""
        shares = self._of.pop(session.node_id, {})
        # Also without shares: the hub may have an index of the swarms with linked peers behind it.
        self._work.add(self._end_all(session.node_id, shares))

    def forget_gone(self, key: str) -> None:
        """Forget the nodes of one swarm that are gone, before its turn comes."""
        shared = self.by_key.get(key)
        for share in list(shared.shares) if shared is not None else ():
            if share.session.is_over:
                self.end(key, share)

    # The peers in one swarm

    def set_counts(self, key: str, share: Share, seeders: int, leechers: int) -> None:
        """Set the numbers of a node's peers that are known by number only."""
        share.seeders = self._set_count(key, share, share.seeders, SEEDERS, seeders)
        share.leechers = self._set_count(key, share, share.leechers, LEECHERS, leechers)

    def add_peer(self, key: str, share: Share, peer_id: str, is_seeder: bool) -> NodeMember | None:
        """Add a peer of a node, which is not there yet. Return None if the swarm is not open."""
        member = self._peers.add(key, share.session.node_id, PEER, peer_id, is_seeder)
        if member is not None:
            if share.peers is None:
                share.peers = [member]
            else:
                share.peers.append(member)
        return member

    def remove_peer(self, share: Share, member: NodeMember) -> None:
        """Remove a peer of a node."""
        peers = share.peers
        if peers is not None:
            peers.remove(member)
            if not peers:
                share.peers = None
        self._peers.set(member, 0, 0)

    def check_invariants(self) -> None:
        """Raise `AssertionError` if the indexes differ, also from the hub; for tests."""
        for key, shared in self.by_key.items():
            assert shared.key == key
            assert shared.shares or shared.linked is not None
            nodes = [share.session.node_id for share in shared.shares]
            assert len(set(nodes)) == len(nodes)
            for share in shared.shares:
                if not share.session.is_over:
                    node_id = share.session.node_id
                    assert self._of[node_id][key] is share
                    assert share.peers is None or share.peers
                    for member in share.peers or ():
                        assert self._peers.get(key, node_id, PEER, member.peer_id) is member
        for shares in self._of.values():
            assert all(share in self.by_key[key].shares for key, share in shares.items())

    def _clear(self, shared: Shared, share: Share) -> None:
        peers, share.peers = share.peers, None
        if peers is not None:
            for member in peers:
                self._peers.set(member, 0, 0)
        self.set_counts(shared.key, share, 0, 0)

    def _drop(self, shared: Shared) -> None:
        """Forget a swarm that is not open any more."""
        for share in shared.shares:
            self._forget(shared.key, share)
        del self.by_key[shared.key]
        self.on_dropped(shared.key)

    def _forget(self, key: str, share: Share) -> None:
        shares = self._of.get(share.session.node_id)
        if shares is not None and shares.get(key) is share:
            del shares[key]

    def _release(self) -> Iterator[bool]:
        keys = list(self.by_key)
        for start in range(0, len(keys), SLICE):
            for key in keys[start : start + SLICE]:
                shared = self.by_key.get(key)
                if shared is not None and not self.is_gateway:
                    self._release_one(shared)
            yield False

    def _release_one(self, shared: Shared) -> None:
        """End the sharing of a swarm with nodes that told of it only because this node was the gateway."""
        key = shared.key
        swarm = self._swarms.get(key)
        if swarm is None or not swarm.peers:
            self._drop(shared)
        else:
            for share in list(shared.shares):
                if not share.is_told:
                    self.end(key, share)
        self._peers.release(key)

    def _sweep(self, session: Session, epoch: int) -> Iterator[bool]:
        shares = self.of(session)
        keys = list(shares)
        for start in range(0, len(keys), SLICE):
            for key in keys[start : start + SLICE]:
                share = shares.get(key)
                if share is not None and share.epoch < epoch and share.session is session:
                    self.end(key, share)
            yield False

    def _end_all(self, node_id: str, shares: dict[str, Share]) -> Iterator[bool]:
        while shares:
            for _ in range(min(SLICE, len(shares))):
                key, share = shares.popitem()
                self.end(key, share)
            yield False
        # The hub has an index of the swarms. Unless the node is back, it is of no more use.
        while node_id not in self._of and not self._peers.forget_node(node_id, SLICE):
            yield False

    def _set_count(self, key: str, share: Share, member: NodeMember | None, kind: int, count: int) -> NodeMember | None:
        if member is None:
            if not count:
                return None
            member = self._peers.add(key, share.session.node_id, kind)
            if member is None:
                return None
        self._peers.set(member, count if kind == SEEDERS else 0, count if kind == LEECHERS else 0)
        return member if count else None


def _ignore(_key: str) -> None:
    """Do nothing."""
