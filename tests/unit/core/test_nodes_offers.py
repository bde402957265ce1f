"""Offers and answers that go from one node of a tracker to another."""

import pytest

from tests.client import HASH, announce, answer, offers
from tests.unit.core.cluster import Cluster
from tests.unit.core.one_node import ONE, OTHER, A, B, C, D, OneNode, decode, offered, some
from tests.unit.core.test_hub import Recorder
from tests.unit.fakes import peer_id
from tracker.core.bits import SEEDER
from tracker.core.elsewhere import FOREIGN, FROM_SEEDER, LEECHERS, LINKED, PEER, SEEDERS
from tracker.core.members import MAX_MAKERS
from tracker.reasons import DropReason

KINDS = (SEEDERS, LEECHERS, PEER, LINKED)


def test_offers_for_members_go_to_the_nodes() -> None:
    harness = OneNode()
    a = harness.join(A)
    harness.add(ONE, PEER, 0, who=B)
    harness.add(ONE, SEEDERS, 2)
    harness.add(OTHER, LINKED, 0, 3)
    harness.nodes.take()
    harness.send(a, announce(A, left=0, offers=offers(10), numwant=10))
    assert sorted(harness.nodes.take()) == [
        ("completed", A),
        ("offers", ONE, SEEDERS, "", A, 2, FROM_SEEDER + 4),
        ("offers", ONE, PEER, B, A, 1, FROM_SEEDER + 4),
        ("offers", OTHER, LINKED, "", A, 3, FROM_SEEDER + 4),
    ]
    assert harness.hub.offers.parked.count(harness.now) == 4
    assert harness.hub.counters.offers_to_nodes == 6
    assert harness.hub.counters.offers_relayed == harness.hub.counters.offers_handed_over == 0


def test_an_offer_for_a_peer_is_for_this_peer_only() -> None:
    harness = OneNode()
    a, b = harness.join(A), harness.join(B)
    assert harness.peers.deliver(HASH, C, some(1), harness.now, PEER, A) == []
    assert (offered(a), offered(b)) == ([f"{1:020}"], [])
    harness.hub.close(a)
    assert len(harness.peers.deliver(HASH, C, some(2), harness.now, PEER, A)) == 1
    assert len(harness.peers.deliver("i" * 20, C, some(2), harness.now, PEER, A)) == 1
    assert offered(b) == []


@pytest.mark.parametrize(("kind", "first"), [(SEEDERS, (0, 1)), (LEECHERS, (2, 3))])
def test_offers_for_a_role_go_to_this_role_first_and_then_to_others(kind: int, first: tuple[int, int]) -> None:
    harness = OneNode()
    connections = [harness.join(peer_id(number), left=number // 2) for number in range(4)]
    assert harness.peers.deliver(HASH, peer_id(9), some(1, 2), harness.now, kind) == []
    assert [len(offered(one)) for one in connections] == [int(number in first) for number in range(4)]
    assert [offer.id for offer in harness.peers.deliver(HASH, peer_id(0), some(1, 2, 3, 4), harness.now, kind)] == [
        f"{4:020}"
    ], "each receiver gets one, and the maker none, which has come to another node"
    assert [len(offered(one)) for one in connections] == [0, 1, 1, 1]


def test_peers_that_have_met_the_maker_come_last() -> None:
    harness = OneNode()
    connections = [harness.join(peer_id(number)) for number in range(3)]
    for number in (0, 1):
        harness.peers.deliver(HASH, peer_id(9), some(number), harness.now, PEER, peer_id(number))
        harness.nodes.routed = True
        harness.send(connections[number], answer(peer_id(number), peer_id(9), f"{number:020}"))
        connections[number].take()
    assert harness.hub.counters.answers_to_nodes == 2
    for _ in range(10):
        harness.peers.deliver(HASH, peer_id(9), some(5), harness.now, LEECHERS)
        assert [len(offered(one)) for one in connections] == [0, 0, 1]


def test_leechers_that_have_met_a_seeder_come_later_for_seeders_at_other_nodes() -> None:
    harness = OneNode()
    seeder, *leechers = (harness.join(peer_id(number), left=number) for number in range(3))
    harness.send(leechers[0], answer(peer_id(1), peer_id(0), "o" * 20))
    seeder.take()
    for _ in range(10):
        harness.peers.deliver(HASH, peer_id(9), some(5), harness.now, LEECHERS, flags=FROM_SEEDER)
        assert [len(offered(one)) for one in leechers] == [0, 1]


def test_a_leecher_that_answers_a_seeder_at_another_node_has_met_one() -> None:
    harness = OneNode()
    a = harness.join(A)
    harness.nodes.routed = True
    harness.add(ONE, SEEDERS, 20)
    harness.add(ONE, LEECHERS, 0, 20)
    peer = harness.hub.swarms[HASH].peers[A]
    for who, flags in ((B, 0), (C, FROM_SEEDER)):
        assert not peer.met & SEEDER
        harness.peers.deliver(HASH, who, some(1), harness.now, LEECHERS, flags=flags)
        harness.send(a, answer(A, who, f"{1:020}"))
    assert peer.met & SEEDER
    for number in range(10, 2 * MAX_MAKERS):
        harness.peers.deliver(HASH, peer_id(number), some(1), harness.now, LEECHERS, flags=FROM_SEEDER)
        harness.hub.check_invariants()


def test_returned_offers_of_one_announce_go_to_different_peers() -> None:
    harness = OneNode()
    a = harness.join(A)
    gone = [harness.add(ONE, PEER, 0, who=who) for who in (B, C)]
    harness.send(a, announce(A, offers=offers(2), numwant=2))
    harness.add(OTHER, PEER, 0, who=D)
    harness.nodes.take()
    for number, member in enumerate(gone):
        harness.peers.place_again(HASH, A, some(number), member, harness.now)
    assert harness.nodes.take() == [("offers", OTHER, PEER, D, A, 1, 4)]
    assert harness.hub.offers.parked.count(harness.now) == 1


@pytest.mark.parametrize("is_gone", [False, True])
def test_receivers_are_soon_forgotten(is_gone: bool) -> None:
    harness = OneNode()
    a, b = harness.join(A), harness.join(B)
    gone = harness.add(ONE, PEER, 0, who=C)
    harness.send(a, announce(A, offers=offers(2), numwant=2))
    assert len(offered(b)) == 1
    if is_gone:
        harness.hub.close(a)
        a = harness.join(A)
    else:
        harness.now += 2
        harness.expire()
    harness.peers.place_again(HASH, A, some(7), gone, harness.now)
    assert offered(b) == [f"{7:020}"]


def test_offers_from_a_link_are_for_own_peers_only() -> None:
    """Also at a node that has just become the gateway."""
    harness = OneNode(max_foreign_offers=1000)
    harness.join(A)
    harness.add(ONE, LINKED, 50, 50)
    harness.add(OTHER, PEER, 0, who=B)
    harness.add(OTHER, LEECHERS, 0, 2)
    harness.nodes.take()
    for number in range(20):
        assert len(harness.remote.deliver_offers(HASH, peer_id(20 + number), some(*range(5)), harness.now)) == 1
    assert {event[1:4] for event in harness.nodes.take()} == {(OTHER, PEER, B), (OTHER, LEECHERS, "")}


def test_foreign_offers_have_a_limit_and_others_none() -> None:
    harness = OneNode(max_foreign_offers=3)
    a = harness.join(A)
    for number in range(5):
        harness.peers.deliver(HASH, C, some(number), harness.now, LEECHERS, flags=FOREIGN)
    assert len(offered(a)) == 3
    assert len(harness.peers.deliver(HASH, C, some(6), harness.now, PEER, A, FOREIGN)) == 1
    for number in range(5):
        harness.peers.deliver(HASH, C, some(number), harness.now, LEECHERS)
    assert len(offered(a)) == 5
    harness.now += 61
    assert harness.peers.deliver(HASH, C, some(6), harness.now, PEER, A, FOREIGN) == []


def test_returned_offers_go_to_others_but_not_to_those_that_have_one() -> None:
    harness = OneNode()
    a, b, c = (harness.join(who) for who in (A, B, C))
    gone = harness.add(ONE, PEER, 0, who=D)
    harness.nodes.take()
    harness.send(a, announce(A, offers=offers(3), numwant=3))
    assert [len(offered(one)) for one in (b, c)] == [1, 1]
    harness.peers.place_again(HASH, A, some(7), gone, harness.now)
    assert [len(offered(one)) for one in (b, c)] == [0, 0]
    assert harness.hub.offers.parked.count(harness.now) == 1
    other = harness.add(OTHER, PEER, 0, who=peer_id(7))
    harness.nodes.take()
    harness.peers.place_again(HASH, A, some(8), gone, harness.now)
    assert harness.nodes.take() == [("offers", OTHER, PEER, peer_id(7), A, 1, 4)]
    harness.peers.place_again(HASH, A, some(8), other, harness.now)
    assert harness.nodes.take() == [], "it does not go round"
    assert harness.hub.offers.parked.count(harness.now) == 2
    harness.hub.close(a)
    harness.peers.place_again(HASH, A, some(9), other, harness.now)
    harness.peers.place_again("i" * 20, A, some(9), None, harness.now)
    assert harness.hub.counters.dropped[DropReason.UNPLACED_OFFER] >= 2
    assert [offered(one) for one in (b, c)] == [[], []]


def test_an_offer_returned_by_one_node_goes_to_the_same_peer_at_another() -> None:
    harness = OneNode()
    a, b = harness.join(A), harness.join(B)
    first = harness.add(ONE, PEER, 0, who=D)
    harness.add(OTHER, PEER, 0, who=D)
    assert harness.counts_here() == (0, 3)
    harness.nodes.take()
    harness.peers.place_again(HASH, A, some(7), first, harness.now, flags=4)
    assert harness.nodes.take() == [("offers", OTHER, PEER, D, A, 1, 4)]
    d = harness.join(D)
    assert harness.counts_here() == (0, 3)
    harness.peers.place_again(HASH, A, some(7), first, harness.now)
    assert (offered(d), offered(b), offered(a)) == ([f"{7:020}"], [], [])


def test_nodes_that_return_offers_of_many_peers_get_none_of_them_again() -> None:
    harness = OneNode()
    a = harness.join(A)
    for node in (ONE, OTHER):
        harness.add(node, LEECHERS, 0, 100)
    harness.nodes.take()
    refused = harness.peers.get(HASH, ONE, LEECHERS)
    harness.peers.place_again(HASH, A, some(1, 2), refused, harness.now)
    assert harness.nodes.take() == [("offers", OTHER, LEECHERS, "", A, 2, 4)]
    harness.peers.place_again(HASH, A, some(1, 2), harness.peers.get(HASH, OTHER, LEECHERS), harness.now)
    assert harness.nodes.take() == []
    assert harness.hub.offers.parked.count(harness.now) == 2
    harness.now += 3
    harness.peers.place_again(HASH, A, some(3), refused, harness.now)
    assert len(harness.nodes.take()) == 1, "that is long ago"
    assert a.take() == []


def test_parked_offers_for_newcomers_elsewhere() -> None:
    harness = OneNode(max_offers=2)
    for number in range(3):
        harness.join(peer_id(number), offers=offers(2, start=10 * number), numwant=2)
    newcomer = harness.add(ONE, PEER, 0, who=peer_id(9))
    parked = harness.hub.offers.parked
    before = parked.count(harness.now)
    harness.nodes.take()
    harness.peers.give_parked(newcomer, 1, harness.now)
    given = harness.nodes.take()
    assert len(given) == 2, "as many as the newcomer would make itself, at most"
    assert {event[3] for event in given} == {peer_id(9)}
    assert parked.count(harness.now) == before - 2
    hidden = harness.add(ONE, PEER, 0, who=peer_id(1))
    harness.peers.place_parked(hidden, 1, harness.now)
    assert harness.nodes.take() == [], "it is here"
    many = harness.add(OTHER, LEECHERS, 0, 50)
    harness.peers.place_parked(many, 50, harness.now)
    assert sum(event[5] for event in harness.nodes.take()) == before - 2
    assert parked.count(harness.now) == 0


@pytest.mark.parametrize("at_node", [True, False])
def test_too_few_peers_here_may_be_enough_at_all_nodes(at_node: bool) -> None:
    cluster = Cluster(2, min_peers=2)
    a = cluster.join(A, 0, offers=offers(2), numwant=2)
    cluster.join(B, 1 if at_node else 0)
    b = next(one for one in cluster.home if one is not a)
    assert len(offered(b)) == 1
    assert cluster.nodes[0].hub.counters.dropped[DropReason.FEW_PEERS] == 0
    cluster = Cluster(2, min_peers=3)
    cluster.join(A, 0, offers=offers(2), numwant=2)
    assert offered(cluster.join(B, 1)) == []


def test_an_answer_from_another_node() -> None:
    recorder = Recorder()
    harness = OneNode(recorder)
    a = harness.join(A)
    member = harness.add(ONE, PEER, 1, who=B)
    recorder.take()
    harness.nodes.take()
    assert harness.peers.deliver_answer(decode(answer(B, A, "o" * 20)), harness.now, complete=True)
    assert [message["peer_id"] for message in a.take()] == [B]
    peer = harness.hub.swarms[HASH].peers[A]
    assert peer.met & member.bit
    assert member.met & peer.bit
    assert harness.peers.deliver_answer(decode(answer(B, C, "o" * 20)), harness.now)
    assert recorder.take() == [("answer", HASH, C)], "C may be a peer of another tracker"


def test_an_answer_that_has_no_receiver_is_counted() -> None:
    harness = OneNode()
    assert not harness.peers.deliver_answer(decode(answer(B, C, "o" * 20)), harness.now)
    assert harness.hub.counters.dropped[DropReason.UNKNOWN_RECEIVER] == 1


def test_an_answer_goes_to_the_nodes_and_to_a_local_peer() -> None:
    """The maker has made its offer at another node, and come here since."""
    harness = OneNode()
    a, b = harness.join(A), harness.join(B)
    harness.nodes.take()
    harness.send(b, answer(B, A, "o" * 20))
    assert harness.nodes.take() == [], "no node shares the swarm"
    harness.add(ONE, PEER, 0, who=A)
    harness.nodes.routed = True
    harness.send(b, answer(B, A, "p" * 20))
    assert harness.nodes.take() == [("answer", A, False)]
    assert [message["offer_id"] for message in a.take()] == ["o" * 20, "p" * 20]
