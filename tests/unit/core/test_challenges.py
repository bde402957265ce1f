"""Peers that have joined at another node: do they leave this one?"""

import pytest

from tests.client import HASH, announce, answer, offers
from tests.unit.core.cluster import Cluster
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.core.challenges import MAX_JUDGED
from tracker.core.presence import PING_TIMEOUT
from tracker.core.swarm import Peer
from tracker.protocol.messages import Announce
from tracker.reasons import DropReason

A, B, C, D = (peer_id(number) for number in range(4))


def offered(connection: FakeConnection) -> list[str]:
    """The makers of the offers that a connection has received."""
    return [message["peer_id"] for message in connection.take() if "offer" in message]


def member(cluster: Cluster, number: int, who: str = A) -> Peer:
    return cluster.nodes[number].hub.swarms[HASH].peers[who]


def two_homes() -> tuple[Cluster, FakeConnection, FakeConnection]:
    """A client whose peer has joined at the first node and then at the second one, and other peers at all three."""
    cluster = Cluster(3)
    old = cluster.join(A, 0)
    for number, who in enumerate((B, C, D)):
        cluster.join(who, number)
    old.take()
    old.last_received = cluster.now
    cluster.now += 10
    return cluster, old, cluster.join(A, 1)


def test_a_dead_connection_loses_its_peer_to_the_node_that_it_has_come_to() -> None:
    cluster, old, new = two_homes()
    assert old.pings == 1
    assert new.pings == 0
    assert cluster.counts() == [(0, 5), (0, 4), (0, 4)], "only its first node cannot tell"
    cluster.now += PING_TIMEOUT / 2
    cluster.expire()
    assert old.peers
    cluster.now += PING_TIMEOUT / 2
    cluster.expire()
    assert not old.peers
    assert cluster.counts() == [(0, 4)] * 3
    assert cluster.nodes[0].hub.counters.dropped[DropReason.TAKEN_OVER] == 1
    assert new.peers == {member(cluster, 1)}


@pytest.mark.parametrize("who", [B, C, D])
def test_meanwhile_the_new_connection_gets_the_offers_from_all_nodes(who: str) -> None:
    cluster, old, new = two_homes()
    connection = next(one for one in cluster.home if any(peer.peer_id == who for peer in one.peers))
    cluster.send(connection, announce(who, offers=offers(3), numwant=3))
    assert (offered(old), offered(new)) == ([], [who])


def test_a_peer_whose_connection_answers_stays_and_counts_once() -> None:
    cluster, old, new = two_homes()
    connection = next(one for one in cluster.home if any(peer.peer_id == D for peer in one.peers))
    seen = cluster.now - 10
    old.last_received = cluster.now + 0.1
    cluster.now += PING_TIMEOUT
    cluster.expire()
    assert member(cluster, 0).last_seen == seen
    assert cluster.counts() == [(0, 4)] * 3
    cluster.send(connection, announce(D, offers=offers(3), numwant=3))
    assert (offered(old), offered(new)) == ([D], []), (
        "a stranger must not get the offers for a peer_id that it has seen"
    )
    cluster.close(old)
    cluster.send(connection, announce(D, offers=offers(3, start=5), numwant=3))
    assert offered(new) == [D]
    assert cluster.counts() == [(0, 4)] * 3


@pytest.mark.parametrize("is_alive", [True, False])
def test_a_client_with_a_connection_to_two_nodes_is_one_peer_until_both_end(is_alive: bool) -> None:
    cluster, old, new = two_homes()
    old.last_received = cluster.now + 0.1 if is_alive else 0
    cluster.now += PING_TIMEOUT
    cluster.expire()
    cluster.close(new)
    assert cluster.counts() == [(0, 4 if is_alive else 3)] * 3
    if is_alive:
        cluster.close(old)
    assert cluster.counts() == [(0, 3)] * 3


def test_a_challenged_peer_comes_last_for_offers() -> None:
    harness, connections = challenged(5)
    maker = harness.join(peer_id(9), offers=offers(4), numwant=4)
    assert [len(offered(one)) for one in connections] == [0, 1, 1, 1, 1]
    assert maker.take() == []


def challenged(count: int = 1) -> tuple[HubHarness, list[FakeConnection]]:
    """A node with some peers. The first one is challenged, and its connection does not answer yet."""
    cluster = Cluster(1)
    node = cluster.nodes[0]
    connections = [node.join(peer_id(number)) for number in range(count)]
    connections[0].last_received = node.now
    node.now += 1
    node.peers.challenge(HASH, A, node.now)
    assert connections[0].pings == 1
    return node, connections


def judge(harness: HubHarness) -> None:
    harness.now += PING_TIMEOUT
    harness.expire()


def test_a_challenge_of_a_peer_that_has_left_or_never_was_does_nothing() -> None:
    harness, (connection,) = challenged()
    harness.hub.close(connection)
    assert len(harness.hub.challenges) == 0
    again = harness.join(A)
    again.last_received = 0
    judge(harness)
    assert again.peers, "it is another peer"
    cluster = Cluster(1)
    cluster.nodes[0].peers.challenge(HASH, A, cluster.now)
    cluster.join(B, 0)
    cluster.nodes[0].peers.challenge(HASH, A, cluster.now)
    assert len(cluster.nodes[0].hub.challenges) == 0


def test_a_peer_that_reconnects_to_the_same_node_stays() -> None:
    harness, (connection,) = challenged()
    again = FakeConnection()
    again.last_received = harness.now
    harness.send(again, announce(A))
    judge(harness)
    assert again.peers
    assert connection.peers == again.peers, "it is silent, and that is known elsewhere"


@pytest.mark.parametrize("message", [announce(A), answer(A, B, "o" * 20)])
def test_a_peer_that_says_anything_stays(message: object) -> None:
    harness, (connection,) = challenged()
    harness.send(connection, message)
    judge(harness)
    assert connection.peers
    assert next(iter(connection.peers)).last_seen == harness.now - PING_TIMEOUT


def test_one_connection_with_many_peers_gets_one_ping() -> None:
    node = Cluster(1).nodes[0]
    connection = FakeConnection()
    connection.last_received = 0
    hashes = [f"{number:020}" for number in range(3)]
    for info_hash in hashes:
        node.send(connection, announce(A, info_hash))
    for _ in range(5):
        for info_hash in hashes:
            node.peers.challenge(info_hash, A, node.now)
    assert connection.pings == 1
    node.now += PING_TIMEOUT / 2
    node.peers.challenge(hashes[0], A, node.now)
    judge(node)
    assert connection.peers == set()
    assert node.hub.counters.dropped[DropReason.TAKEN_OVER] == 3


def test_a_short_timeout_for_silent_peers_does_not_end_a_challenged_one() -> None:
    cluster = Cluster(1, announce_interval=120, peer_timeout=60)
    node = cluster.nodes[0]
    connection = node.join(A)
    node.peers.challenge(HASH, A, node.now)
    node.now += 0.5
    node.expire()
    assert connection.peers
    judge(node)
    assert connection.peers
    assert next(iter(connection.peers)).last_seen == node.now - PING_TIMEOUT - 0.5


def test_a_call_judges_a_limited_number_of_peers() -> None:
    node = Cluster(1).nodes[0]
    connection = FakeConnection()
    connection.last_received = 0
    for number in range(MAX_JUDGED + 7):
        node.hub.apply(connection, Announce(f"{number:020}", A, False, False, []), node.now, node.outbox)
        node.peers.challenge(f"{number:020}", A, node.now)
    node.now += PING_TIMEOUT
    node.hub.expire(node.now, 0)
    assert len(connection.peers) == 7
    node.hub.expire(node.now, 0)
    assert connection.peers == set()
