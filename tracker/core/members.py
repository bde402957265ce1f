"""Adds and removes the members of a swarm at other nodes of this tracker (sans I/O).

Invariants, checked by `check_members`:

1. Each member counts at least one peer, of its kind only; one of the kind PEER counts exactly one.
2. `seeders`, `leechers` and `counted` of `SwarmNodes` hold each member once, and `pool[member.index] is member`.
3. `ids` leads to each member of the kind PEER, by way of `twin` if several have one peer_id.
4. The counts of `SwarmNodes` are the sums over its members, without linked peers.
5. A swarm without such members that is not held has no `SwarmNodes`.
"""

from typing import TYPE_CHECKING, Final

from tracker.core.bits import NUMBERED, remote_bit
from tracker.core.elsewhere import LEECHERS, LINKED, PEER, SEEDERS, SwarmNodes
from tracker.core.swarm import Member, NodeMember, Peer, Swarm

if TYPE_CHECKING:
    from mypy_extensions import i64


MAX_MAKERS: Final = 256
"""Seeders at other nodes that are remembered in one swarm, because they made offers to local peers."""


def find_member(swarm: Swarm, node: str, kind: int, peer_id: str) -> NodeMember | None:
    """Return the member of a node in a swarm, of a kind. `peer_id` is that of a member of the kind PEER."""
    nodes = swarm.nodes
    if nodes is None:
        return None
    if kind == PEER:
        member = nodes.ids.get(peer_id)
        while member is not None and member.node != node:
            member = member.twin
        return member
    for counted in nodes.counted:
        if counted.node == node and counted.kind == kind:
            return counted
    return None


def add_peer(swarm: Swarm, node: str, peer_id: str, complete: bool) -> NodeMember:
    """Add a peer at another node, which is not there yet."""
    nodes = nodes_of(swarm)
    member = NodeMember(swarm, node, PEER, peer_id, swarm.next_bit())
    member.twin = nodes.ids.get(peer_id)
    nodes.ids[peer_id] = member
    _enter(swarm, nodes, member, complete)
    return member


def set_counts(member: NodeMember, complete: int, incomplete: int) -> None:
    """Set the numbers of a member's seeders and leechers. If both are 0, it leaves its swarm.

    Raises:
        ValueError: if a number is negative, or does not fit the kind of the member.
    """
    kind = member.kind
    if (
        complete < 0
        or incomplete < 0
        or (kind == SEEDERS and incomplete)
        or (kind == LEECHERS and complete)
        or (kind == PEER and complete + incomplete > 1)
    ):
        raise ValueError("these counts do not fit the kind of the member")
    if complete == member.complete and incomplete == member.incomplete:
        return
    swarm = member.swarm
    if kind == PEER:
        if member.index < 0:
            return
        nodes = nodes_of(swarm)
        _leave(swarm, nodes, member)
        if complete + incomplete:
            _enter(swarm, nodes, member, complete == 1)
        else:
            _forget_id(nodes, member)
    else:
        nodes = nodes_of(swarm)
        known = member.complete + member.incomplete > 0
        _count(swarm, nodes, member, complete - member.complete, incomplete - member.incomplete)
        if complete + incomplete == 0:
            nodes.counted.remove(member)
        elif not known:
            nodes.counted.append(member)
    release_if_empty(swarm)


def id_of(member: Member) -> str:
    """Return the peer_id of a member, empty if it stands for several peers."""
    if isinstance(member, Peer):
        return member.peer_id
    return member.peer_id if isinstance(member, NodeMember) else ""


def join_order(member: Member) -> int:
    """Return a number by which the members with bits of their own are in the order in which they have joined.

    It is right for the last peers that have joined a swarm, as many as there are bits.
    """
    bit: int = member.bit
    return (bit.bit_length() - 1 - member.swarm.joins) % NUMBERED


def bit_of(swarm: Swarm, peer_id: str) -> "i64":
    """Return the bit that stands for a remote peer: of its own if it is known one by one at another node."""
    nodes = swarm.nodes
    if nodes is not None:
        member = nodes.ids.get(peer_id)
        if member is not None:
            return member.bit
    return remote_bit(peer_id)


def numbered_elsewhere(swarm: Swarm) -> int:
    """Return the number of remote peers of which only the number is known."""
    nodes, remote = swarm.nodes, swarm.remote_complete + swarm.remote_incomplete
    return remote if nodes is None else remote - len(nodes.seeders) - len(nodes.leechers)


def members_of(swarm: Swarm, node: str) -> list[NodeMember]:
    """Return all members of a node in a swarm."""
    nodes = swarm.nodes
    if nodes is None:
        return []
    return [member for pool in (nodes.leechers, nodes.seeders, nodes.counted) for member in pool if member.node == node]


def clear_members(swarm: Swarm) -> None:
    """Remove all members at other nodes, because the swarm has closed."""
    nodes = swarm.nodes
    if nodes is not None:
        for pool in (nodes.leechers, nodes.seeders, nodes.counted):
            for member in pool:
                swarm.remote_complete -= member.complete
                swarm.remote_incomplete -= member.incomplete
                member.index = -1
        swarm.nodes = None


def nodes_of(swarm: Swarm) -> SwarmNodes[NodeMember]:
    """Return the `SwarmNodes` of a swarm, which are empty at first."""
    nodes = swarm.nodes
    if nodes is None:
        nodes = swarm.nodes = SwarmNodes()
    return nodes


def release_if_empty(swarm: Swarm) -> None:
    """Remove the `SwarmNodes` of a swarm if they are of no use."""
    nodes = swarm.nodes
    if nodes is not None and not nodes.held and not nodes.ids and not nodes.counted:
        swarm.nodes = None


def own_peers(swarm: Swarm) -> tuple[list[str], list[str]] | None:
    """Return the peer_ids of the own seeders and leechers of a swarm at all nodes; None if only their number is known.

    A peer that is present at several nodes is contained once, as a seeder if it is one at any of them.
    """
    nodes = swarm.nodes
    seeders = dict.fromkeys([peer.peer_id for peer in swarm.seeders])
    leechers = dict.fromkeys([peer.peer_id for peer in swarm.leechers])
    if nodes is not None:
        if len(nodes.seeders) < nodes.complete or len(nodes.leechers) < nodes.incomplete:
            return None
        seeders.update(dict.fromkeys([member.peer_id for member in nodes.seeders]))
        leechers.update(dict.fromkeys([member.peer_id for member in nodes.leechers]))
    return list(seeders), [peer_id for peer_id in leechers if peer_id not in seeders]


def is_held(swarm: Swarm) -> bool:
    """Return whether a swarm stays open without local peers."""
    nodes = swarm.nodes
    return nodes is not None and nodes.held


def meet_answerer(peer: Peer, peer_id: str, complete: bool) -> None:
    """Note that a local peer meets a peer at another node, because this peer, a seeder or not, answers its offer."""
    nodes = peer.swarm.nodes
    member = nodes.ids.get(peer_id) if nodes is not None else None
    if member is None:
        peer.meet(remote_bit(peer_id), complete)
    else:
        peer.meet(member.bit, complete)
        member.meet(peer.bit, peer.complete)


def meet_maker(peer: Peer, peer_id: str) -> None:
    """Note that a local peer meets a peer at another node, because it answers an offer of this peer."""
    nodes = peer.swarm.nodes
    if nodes is not None:
        member = nodes.ids.get(peer_id)
        if member is not None:
            peer.meet(member.bit, member.complete > 0)
            member.meet(peer.bit, peer.complete)
            return
        if peer_id in nodes.makers:
            peer.meet(remote_bit(peer_id), True)
            return
    peer.meet(remote_bit(peer_id), False)


def note_maker(swarm: Swarm, peer_id: str) -> None:
    """Note that a seeder at another node, of which only the number is known, has made offers to local peers."""
    nodes = swarm.nodes
    if nodes is not None and peer_id not in nodes.ids:
        nodes.makers.pop(peer_id, None)
        nodes.makers[peer_id] = None
        if len(nodes.makers) > MAX_MAKERS:
            del nodes.makers[next(iter(nodes.makers))]


def check_members(swarm: Swarm, shared: dict[str, set[Swarm]]) -> None:
    """Raise `AssertionError` if an invariant of this module is broken; for tests."""
    nodes = swarm.nodes
    if nodes is None:
        return
    complete, incomplete = 0, 0
    for pool, is_seeder in ((nodes.seeders, 1), (nodes.leechers, 0)):
        for index, member in enumerate(pool):
            assert member.kind == PEER
            assert member.index == index
            assert (member.complete, member.incomplete) == (is_seeder, 1 - is_seeder)
            assert find_member(swarm, member.node, PEER, member.peer_id) is member
        complete += len(pool) * is_seeder
        incomplete += len(pool) * (1 - is_seeder)
    chained = 0
    for peer_id, first in nodes.ids.items():
        one: NodeMember | None = first
        while one is not None:
            assert one.peer_id == peer_id
            chained += 1
            one = one.twin
    assert chained == complete + incomplete
    for member in nodes.counted:
        assert member.kind != PEER
        assert member.swarm is swarm
        assert find_member(swarm, member.node, member.kind, "") is member
        assert member.complete >= 0
        assert member.incomplete >= 0
        assert member.complete + member.incomplete > 0
        assert not (member.kind == SEEDERS and member.incomplete)
        assert not (member.kind == LEECHERS and member.complete)
        if member.kind != LINKED:
            complete += member.complete
            incomplete += member.incomplete
    for member in (*nodes.seeders, *nodes.leechers, *nodes.counted):
        assert swarm in shared[member.node]
    assert len(nodes.makers) <= MAX_MAKERS
    assert (nodes.complete, nodes.incomplete) == (complete, incomplete)
    assert nodes.held or nodes.ids or nodes.counted


def _enter(swarm: Swarm, nodes: SwarmNodes[NodeMember], member: NodeMember, complete: bool) -> None:
    pool = nodes.seeders if complete else nodes.leechers
    member.index = len(pool)
    pool.append(member)
    if complete:
        _count(swarm, nodes, member, 1, 0)
    else:
        _count(swarm, nodes, member, 0, 1)


def _leave(swarm: Swarm, nodes: SwarmNodes[NodeMember], member: NodeMember) -> None:
    pool = nodes.seeders if member.complete else nodes.leechers
    last = pool.pop()
    if last is not member:
        pool[member.index] = last
        last.index = member.index
    member.index = -1
    _count(swarm, nodes, member, -member.complete, -member.incomplete)


def _count(swarm: Swarm, nodes: SwarmNodes[NodeMember], member: NodeMember, complete: int, incomplete: int) -> None:
    """Add to the numbers of seeders and leechers of a member, which may be negative."""
    member.complete += complete
    member.incomplete += incomplete
    swarm.remote_complete += complete
    swarm.remote_incomplete += incomplete
    if member.kind != LINKED:
        nodes.complete += complete
        nodes.incomplete += incomplete


def _forget_id(nodes: SwarmNodes[NodeMember], member: NodeMember) -> None:
    first = nodes.ids[member.peer_id]
    if first is member:
        if member.twin is None:
            del nodes.ids[member.peer_id]
        else:
            nodes.ids[member.peer_id] = member.twin
    else:
        while first.twin is not None and first.twin is not member:
            first = first.twin
        first.twin = member.twin
    member.twin = None
