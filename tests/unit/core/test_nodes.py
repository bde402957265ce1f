"""The members of swarms at other nodes of one tracker."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client import HASH, announce, answer, offers, soon
from tests.unit.core.cluster import Cluster
from tests.unit.core.one_node import ONE, OTHER, A, B, C, Nodes, OneNode, decode, offered, some
from tests.unit.core.test_hub import Recorder
from tests.unit.fakes import FakeConnection, peer_id
from tracker.core.elsewhere import LEECHERS, LINKED, PEER, SEEDERS
from tracker.core.members import join_order, own_peers
from tracker.core.nodes import NodePeers
from tracker.core.swarm import NodeMember

KINDS = (SEEDERS, LEECHERS, PEER, LINKED)


def test_the_hub_tells_the_nodes_of_its_peers() -> None:
    harness = OneNode()
    a = harness.join(A)
    b = harness.join(B, offers=offers(1))
    c = harness.join(C, event="completed")
    assert harness.nodes.take() == [
        ("opened", HASH),
        ("joined", A, True),
        ("joined", B, False),
        ("joined", C, False),
    ], "who is about to make offers needs none"
    harness.send(a, announce(A))
    harness.send(a, announce(A, left=0))
    harness.send(a, announce(A, left=0))
    assert harness.nodes.take() == [("completed", A)]
    for connection in (c, b, a):
        harness.hub.close(connection)
    assert harness.nodes.take() == [("left", C), ("left", B), ("left", A), ("closed", HASH)]


def test_one_extension_connects_the_nodes() -> None:
    harness = OneNode()
    with pytest.raises(ValueError, match="already"):
        harness.peers.attach(Nodes())
    with pytest.raises(ValueError, match="already"):
        NodePeers(harness.hub, harness.outbox).attach(Nodes())


def test_members_count_in_the_swarm() -> None:
    harness = OneNode()
    assert harness.peers.add(HASH, ONE, PEER, B) is None, "the swarm is not open"
    harness.join(A)
    harness.add(ONE, SEEDERS, 3)
    harness.add(ONE, LEECHERS, 0, 4)
    harness.add(OTHER, PEER, 1, who=B)
    linked = harness.add(OTHER, LINKED, 10, 20)
    swarm = harness.hub.swarms[HASH]
    assert harness.counts_here() == harness.counts() == (14, 25)
    assert (swarm.own_complete, swarm.own_incomplete) == (4, 5)
    harness.peers.set(linked, 0, 0)
    assert harness.counts_here() == (4, 5)
    assert own_peers(swarm) is None, "some are not known"
    harness.peers.remove_all(HASH, ONE)
    harness.hub.check_invariants()
    assert harness.counts_here() == (1, 1)
    assert own_peers(swarm) == ([B], [A])
    assert harness.peers.forget_node(OTHER)
    assert harness.peers.forget_node("unknown")
    harness.hub.check_invariants()
    assert harness.counts_here() == (0, 1)
    assert swarm.nodes is None
    assert own_peers(swarm) == ([], [A])


def test_the_same_member_is_added_once() -> None:
    harness = OneNode()
    harness.join(A)
    one = harness.add(ONE, PEER, 0, who=B)
    assert harness.add(ONE, PEER, 1, who=B) is one
    assert harness.counts_here() == (1, 1), "it is a seeder now"
    assert harness.peers.get(HASH, ONE, PEER, B) is one
    assert harness.peers.get(HASH, OTHER, PEER, B) is None
    assert harness.peers.get("i" * 20, ONE, PEER, B) is None
    two = [harness.peers.add(HASH, ONE, LEECHERS) for _ in range(2)]
    for number, member in enumerate(two):
        assert member
        harness.peers.set(member, 0, number + 2)
        harness.hub.check_invariants()
    assert harness.counts_here() == (1, 4)


def test_a_node_is_forgotten_in_slices() -> None:
    harness = OneNode()
    hashes = [f"{number:020}" for number in range(5)]
    connection = FakeConnection()
    for info_hash in hashes:
        harness.send(connection, announce(A, info_hash))
        for node in (ONE, OTHER):
            harness.peers.add(info_hash, node, PEER, B if node == ONE else C)
    left = [5]
    while not harness.peers.forget_node(ONE, 2):
        harness.hub.check_invariants()
        left.append(sum(harness.peers.get(info_hash, ONE, PEER, B) is not None for info_hash in hashes))
    assert left == [5, 3, 1]
    harness.hub.check_invariants()
    assert all(harness.counts(info_hash) == (0, 2) for info_hash in hashes)


@pytest.mark.parametrize(
    ("kind", "complete", "incomplete"),
    [(SEEDERS, 1, 1), (LEECHERS, 1, 0), (PEER, 1, 1), (PEER, 0, 2), (LINKED, -1, 0), (SEEDERS, 0, -1)],
)
def test_counts_must_fit_the_kind(kind: int, complete: int, incomplete: int) -> None:
    harness = OneNode()
    harness.join(A)
    member = harness.peers.add(HASH, ONE, kind, B if kind == PEER else "")
    assert member
    with pytest.raises(ValueError, match="kind"):
        harness.peers.set(member, complete, incomplete)


def test_members_of_a_swarm_that_has_closed_are_of_no_use() -> None:
    harness = OneNode()
    a = harness.join(A)
    members = [harness.add(ONE, PEER, 0, who=B), harness.add(ONE, LEECHERS, 0, 3)]
    harness.hub.close(a)
    assert harness.hub.swarms == {}
    again = harness.join(A)
    for member in members:
        harness.peers.set(member, 0, 0)
        harness.peers.set(member, 0, 1)
        harness.peers.give_parked(member, 1, harness.now)
        harness.peers.place_parked(member, 1, harness.now)
    harness.hub.check_invariants()
    assert harness.counts_here() == (0, 1)
    assert again.peers
    gone = harness.add(ONE, PEER, 0, who=B)
    harness.peers.set(gone, 0, 0)
    harness.peers.set(gone, 0, 1)
    assert harness.counts_here() == (0, 1), "it has left"


STEPS = (
    *("add", "set", "remove_all", "forget", "join", "leave", "announce"),
    *("deliver", "return", "hold", "release", "challenge", "time"),
)
steps = st.lists(
    st.tuples(
        st.sampled_from(STEPS),
        st.sampled_from([ONE, OTHER]),
        st.sampled_from(KINDS),
        st.integers(0, 3),
        st.integers(0, 3),
    ),
    max_size=40,
)


@given(steps)
def test_the_invariants_hold_whatever_the_nodes_tell(wild: list[tuple[str, str, int, int, int]]) -> None:
    harness = OneNode(Recorder())
    connections: dict[str, FakeConnection] = {}
    members: list[NodeMember] = []
    for step, node, kind, number, other in wild:
        who = peer_id(number)
        if step == "add":
            member = harness.peers.add(HASH, node, kind, who if kind == PEER else "", other > 1)
            members += [member] if member else []
        elif step == "set" and members:
            member = members[number % len(members)]
            fitting = {SEEDERS: (other, 0), LEECHERS: (0, other), PEER: (other // 2 % 2, 0), LINKED: (number, other)}
            harness.peers.set(member, *fitting[member.kind])
        elif step == "remove_all":
            harness.peers.remove_all(HASH, node)
        elif step == "forget":
            harness.peers.forget_node(node)
        elif step == "join":
            connections[who] = harness.join(who, left=other)
            connections[who].last_received = float(harness.now + other % 2)
        elif step == "leave" and who in connections:
            harness.hub.close(connections.pop(who))
        elif step == "hold":
            harness.peers.hold(HASH)
        elif step == "release":
            harness.peers.release(HASH)
        elif step == "challenge":
            harness.peers.challenge(HASH, who, harness.now)
        elif step == "announce" and who in connections:
            harness.send(connections[who], announce(who, offers=offers(other, start=10 * number), numwant=other))
        elif step == "deliver":
            made = some(*range(other))
            rest = harness.peers.deliver(HASH, who, made, harness.now, kind, peer_id(other), number)
            assert len(rest) <= other
            assert harness.peers.deliver_linked(HASH, who, made, harness.now, number) == made, "there are no links"
            harness.peers.deliver_answer(decode(answer(peer_id(9), who, f"{other:020}")), harness.now, other > 1)
        elif step == "return" and members:
            member = members[number % len(members)]
            harness.peers.place_again(HASH, who, some(*range(other)), member, harness.now, other, number)
            harness.peers.give_parked(member, other, harness.now)
        elif step == "time":
            harness.now += other
            harness.expire()
        harness.hub.check_invariants()
    swarm = harness.hub.swarms.get(HASH)
    if swarm and swarm.nodes:
        ids = {peer.peer_id for peer in swarm.peers.values() if not harness.hub.challenges.has(peer)}
        shown = [member.peer_id for member in (*swarm.nodes.seeders, *swarm.nodes.leechers)]
        assert len(set(shown)) == len(shown)
        assert not ids & set(shown), "each peer counts once"


# Swarms that are held


def test_a_held_swarm_stays_open_and_the_extensions_hear_of_its_own_peers() -> None:
    recorder = Recorder()
    harness = OneNode(recorder)
    harness.peers.hold(HASH)
    harness.peers.hold(HASH)
    harness.hub.check_invariants()
    assert recorder.take() == [("opened", HASH), ("changed", 0, 0)]
    assert harness.hub.empty == 1
    peer = harness.add(ONE, PEER, 0, who=B)
    harness.add(ONE, PEER, 1, who=B)
    harness.add(OTHER, SEEDERS, 3)
    assert len(recorder.take()) == 3
    harness.add(OTHER, SEEDERS, 3)
    harness.add(OTHER, LINKED, 3, 2)
    assert recorder.take() == [], "nothing has changed for other trackers"
    a = harness.join(A)
    assert recorder.take() == [("changed", 0, 1)], "it is open already"
    assert harness.nodes.take() == [("opened", HASH), ("joined", A, True)]
    assert harness.hub.empty == 0
    harness.peers.set(peer, 0, 0)
    harness.peers.set(peer, 0, 0)
    harness.peers.forget_node(OTHER)
    assert len(recorder.take()) == 2
    harness.hub.close(a)
    harness.hub.check_invariants()
    assert recorder.take() == [("changed", 0, 0)]
    assert harness.nodes.take() == [("left", A), ("closed", HASH)]
    harness.peers.release(HASH)
    harness.peers.release(HASH)
    harness.hub.check_invariants()
    assert recorder.take() == [("closed", HASH)]
    assert harness.hub.swarms == {}


def test_a_swarm_with_local_peers_is_released_when_they_leave() -> None:
    recorder = Recorder()
    harness = OneNode(recorder)
    a = harness.join(A)
    harness.peers.hold(HASH)
    harness.peers.release(HASH)
    assert harness.hub.swarms[HASH].nodes is None
    recorder.take()
    harness.add(ONE, PEER, 0, who=B)
    assert recorder.take() == [], "changes elsewhere are told of held swarms only"
    harness.hub.close(a)
    assert recorder.take() == [("closed", HASH)]
    harness.hub.check_invariants()


def test_a_swarm_that_is_not_served_is_not_held() -> None:
    recorder = Recorder()
    harness = OneNode(recorder, serves=lambda _: False)
    harness.peers.hold(HASH)
    assert harness.hub.swarms == {}
    assert recorder.take() == []
    harness = OneNode(recorder)
    harness.peers.hold(HASH)
    harness.add(ONE, PEER, 0, who=B)
    recorder.take()
    harness.hub.restrict(lambda _: False, harness.outbox)
    harness.hub.check_invariants()
    assert recorder.take() == [("closed", HASH)]


def test_members_and_peers_have_bits_in_the_order_in_which_they_have_joined() -> None:
    harness = OneNode()
    harness.join(B)
    peer_connection = harness.join(A)
    ids = [peer_id(number) for number in range(2, 70)]
    swarm = harness.hub.swarms[HASH]
    for who in ids:
        harness.add(ONE, PEER, 0, who=who)
    last = [member for member in (harness.peers.get(HASH, ONE, PEER, who) for who in ids[-53:]) if member]
    assert sorted(last, key=join_order) == last
    assert len({member.bit for member in last}) == 53
    peer = swarm.peers[A]
    peer.meet(last[0].bit, complete=False)
    last[5].meet(peer.bit, complete=False)
    bit = last[0].bit
    harness.add(ONE, PEER, 0, who=peer_id(70))
    assert not peer.met & bit, "it has met an earlier peer with this bit"
    # The same holds for what the peers elsewhere have met.
    last[-1].meet(peer.bit, complete=False)
    bit = peer.bit
    harness.hub.close(peer_connection)
    while harness.add(ONE, PEER, 0, who=peer_id(100 + swarm.joins)).bit != bit:
        pass
    assert not last[-1].met & bit


def test_a_newly_opened_swarm_may_have_other_peers() -> None:
    """At the first announce, its peers elsewhere are not known yet."""
    cluster = Cluster(2)
    a = cluster.connect(0)
    (reply,) = cluster.send(a, announce(A))
    assert reply["interval"] in soon(30)
    a.take()
    (reply,) = cluster.send(a, announce(A))
    assert reply["interval"] == 120, "it is alone"
    a.take()
    cluster.join(B, 1)
    (reply,) = cluster.send(a, announce(A))
    assert reply["interval"] in soon(30), "it has not met the other one"


def test_a_node_that_ends_takes_its_peers_along() -> None:
    cluster = Cluster(3)
    connections = [cluster.join(peer_id(number), number % 3) for number in range(9)]
    assert cluster.counts() == [(0, 9)] * 3
    cluster.end(1)
    assert cluster.counts() == [(0, 6)] * 2
    connections[0].take()
    cluster.send(connections[0], announce(peer_id(0), offers=offers(10), numwant=10))
    got = [len(offered(connections[number])) for number in (2, 3, 5, 6, 8)]
    assert got == [1] * 5
