"""Adds and removes the members of a swarm at other nodes of this tracker (sans I/O).

One peer_id may be present at several nodes: a client whose list names the tracker under two URLs, or one that has
reconnected while its old connection still seems to be open. Such a peer counts once. It is the local peer, unless this
one is challenged (`tracker.core.challenges`), otherwise the member that came first: a stranger that announces a peer_id
which it has seen must not receive the offers for this peer. The others are *hidden*.

Invariants, checked by `check_members`:

1. Each member counts at least one peer, of its kind only; one of the kind PEER counts exactly one.
2. `ids` leads to each member of the kind PEER, by way of `twin` in the order in which they came, if several have one
   peer_id. All but the first one are hidden.
3. `seeders`, `leechers` and `counted` of `SwarmNodes` hold each member that is not hidden once. `pool[member.index] is
   member`. The index of a hidden member is -1.
4. The counts of `SwarmNodes` are the sums over the members that are not hidden, without linked peers.
5. A swarm without members that is not held has no `SwarmNodes`.
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


def find_other(swarm: Swarm, peer_id: str, refused: frozenset[str]) -> NodeMember | None:
    """Return a member with a peer_id that has not refused offers (`refusal_of`)."""
    nodes = swarm.nodes
    member = nodes.ids.get(peer_id) if nodes is not None else None
    while member is not None and refusal_of(member) in refused:
        member = member.twin
    return member


def add_peer(swarm: Swarm, node: str, peer_id: str, complete: bool) -> NodeMember:
    """Add a peer at another node, which is not there yet. `settle` must follow."""
    nodes = nodes_of(swarm)
    member = NodeMember(swarm, node, PEER, peer_id, swarm.next_bit())
    member.complete, member.incomplete = int(complete), int(not complete)
    last = nodes.ids.get(peer_id)
    if last is None:
        nodes.ids[peer_id] = member
    else:
        while last.twin is not None:
            last = last.twin
        last.twin = member
    return member


def set_role(member: NodeMember, complete: bool) -> None:
    """Make a peer at another node a seeder or a leecher."""
    if (member.complete == 1) is not complete:
        is_hidden = member.index < 0
        if not is_hidden:
            _leave(member)
        member.complete, member.incomplete = int(complete), int(not complete)
        if not is_hidden:
            _enter(member)


def remove_peer(member: NodeMember) -> None:
    """Remove a peer at another node. `settle` must follow."""
    nodes = nodes_of(member.swarm)
    if member.index >= 0:
        _leave(member)
    first = nodes.ids[member.peer_id]
    if first is not member:
        while first.twin is not None and first.twin is not member:
            first = first.twin
        first.twin = member.twin
    elif member.twin is not None:
        nodes.ids[member.peer_id] = member.twin
    else:
        del nodes.ids[member.peer_id]
    member.twin = None
    member.complete = member.incomplete = 0


def settle(swarm: Swarm, peer_id: str, is_here: bool) -> None:
    """Hide or show the members with a peer_id, which is that of a local peer if `is_here`."""
    nodes = swarm.nodes
    if nodes is not None:
        member = nodes.ids.get(peer_id)
        if member is not None:
            if is_here:
                if member.index >= 0:
                    _leave(member)
            elif member.index < 0:
                _enter(member)


def set_counts(member: NodeMember, complete: int, incomplete: int) -> None:
    """Set the numbers of seeders and leechers of a member of another kind. If both are 0, it leaves its swarm."""
    swarm = member.swarm
    nodes = nodes_of(swarm)
    was_there = member.complete + member.incomplete > 0
    change, other_change = complete - member.complete, incomplete - member.incomplete
    member.complete, member.incomplete = complete, incomplete
    _count(member, change, other_change)
    if complete + incomplete == 0:
        if was_there:
            nodes.counted.remove(member)
    elif not was_there:
        nodes.counted.append(member)
        if swarm.overlap is not None and member.kind != LINKED:
            swarm.overlap.give_up()


def fits(member: NodeMember, complete: int, incomplete: int) -> bool:
    """Return whether a member of its kind may have these numbers of seeders and leechers."""
    kind = member.kind
    if complete < 0 or incomplete < 0:
        return False
    if kind == PEER:
        return complete + incomplete <= 1
    return not (kind == SEEDERS and incomplete) and not (kind == LEECHERS and complete)


def refusal_of(member: NodeMember) -> str:
    """Return a key for the peers of a member that refuses offers: all linked ones, one, or those of a node."""
    if member.kind == LINKED:
        return ""
    return f"{member.node} {member.peer_id}" if member.kind == PEER else member.node


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
    found = [member for member in nodes.counted if member.node == node]
    for first in nodes.ids.values():
        member: NodeMember | None = first
        while member is not None:
            if member.node == node:
                found.append(member)
            member = member.twin
    return found


def clear_members(swarm: Swarm) -> None:
    """Remove all members at other nodes, because the swarm has closed."""
    nodes = swarm.nodes
    if nodes is not None:
        for pool in (nodes.leechers, nodes.seeders, nodes.counted):
            for member in pool:
                swarm.remote_complete -= member.complete
                swarm.remote_incomplete -= member.incomplete
        for first in nodes.ids.values():
            one: NodeMember | None = first
            while one is not None:
                twin = one.twin
                one.index, one.twin = -1, None
                one = twin
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


def known_peers(swarm: Swarm) -> list[Peer | NodeMember]:
    """Return the own peers of a swarm that are known one by one: all local ones, and some at other nodes."""
    nodes = swarm.nodes
    known: list[Peer | NodeMember] = [*swarm.seeders, *swarm.leechers]
    return known if nodes is None else [*known, *nodes.seeders, *nodes.leechers]


def linked_counts(swarm: Swarm) -> tuple[int, int]:
    """Return the numbers of seeders and leechers behind the remote members that extensions of this node have added.

    A peer behind two of them may count twice, as long as nothing vouches for one of them.
    """
    if swarm.overlap is not None:
        return swarm.overlap.linked_counts()
    complete, incomplete = 0, 0
    for remote in swarm.remotes:
        complete += remote.complete
        incomplete += remote.incomplete
    return complete, incomplete


def meet_linked(swarm: Swarm, peer_id: str, linked_id: str) -> None:
    """Note that a peer at another node meets a peer of another tracker, because one has answered the other."""
    nodes = swarm.nodes
    member = nodes.ids.get(peer_id) if nodes is not None else None
    if member is not None:
        member.meet(remote_bit(linked_id), False)


def own_peer(swarm: Swarm, peer_id: str) -> Member | None:
    """Return the peer of a swarm with a peer_id: the local one, or that which is known one by one at another node."""
    nodes = swarm.nodes
    member = nodes.ids.get(peer_id) if nodes is not None else None
    if member is not None and member.index >= 0:
        return member
    return swarm.peers.get(peer_id)


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
        if nodes.makers is not None and peer_id in nodes.makers:
            peer.meet(remote_bit(peer_id), True)
            return
    peer.meet(remote_bit(peer_id), False)


def note_maker(swarm: Swarm, peer_id: str) -> None:
    """Note that a seeder at another node, of which only the number is known, has made offers to local peers."""
    nodes = swarm.nodes
    if nodes is not None and peer_id not in nodes.ids:
        if nodes.makers is None:
            nodes.makers = {}
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
            assert member.index == index
            assert member.complete == is_seeder
            assert nodes.ids[member.peer_id] is member
        complete += len(pool) * is_seeder
        incomplete += len(pool) * (1 - is_seeder)
    for peer_id, first in nodes.ids.items():
        one: NodeMember | None = first
        while one is not None:
            assert one.kind == PEER
            assert one.swarm is swarm
            assert one.peer_id == peer_id
            assert one.complete + one.incomplete == 1
            assert find_member(swarm, one.node, PEER, peer_id) is one
            assert one is first or one.index == -1
            assert swarm in shared[one.node]
            one = one.twin
        assert first.index >= 0 or peer_id in swarm.peers
    for member in nodes.counted:
        assert member.kind != PEER
        assert member.swarm is swarm
        assert fits(member, member.complete, member.incomplete)
        assert member.complete + member.incomplete > 0
        assert find_member(swarm, member.node, member.kind, "") is member
        assert swarm in shared[member.node]
        if member.kind != LINKED:
            complete += member.complete
            incomplete += member.incomplete
    assert (nodes.complete, nodes.incomplete) == (complete, incomplete)
    assert nodes.held or nodes.ids or nodes.counted
    assert nodes.makers is None or len(nodes.makers) <= MAX_MAKERS


def _enter(member: NodeMember) -> None:
    nodes = nodes_of(member.swarm)
    pool = nodes.seeders if member.complete else nodes.leechers
    member.index = len(pool)
    pool.append(member)
    _count(member, member.complete, member.incomplete)
    if member.swarm.overlap is not None:
        member.swarm.overlap.joined(member)


def _leave(member: NodeMember) -> None:
    nodes = nodes_of(member.swarm)
    pool = nodes.seeders if member.complete else nodes.leechers
    last = pool.pop()
    if last is not member:
        pool[member.index] = last
        last.index = member.index
    member.index = -1
    _count(member, -member.complete, -member.incomplete)
    if member.swarm.overlap is not None:
        member.swarm.overlap.left(member)


def _count(member: NodeMember, complete: int, incomplete: int) -> None:
    """Add the peers of a member, or a change of their numbers, to the counts of its swarm."""
    swarm = member.swarm
    swarm.remote_complete += complete
    swarm.remote_incomplete += incomplete
    if member.kind != LINKED:
        nodes = nodes_of(swarm)
        nodes.complete += complete
        nodes.incomplete += incomplete
