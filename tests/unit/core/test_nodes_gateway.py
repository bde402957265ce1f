"""The node at which links to other trackers end: what comes over a link is of use to peers of all nodes."""

from collections import Counter
from math import sqrt
from typing import Any

import pytest

from tests.client import HASH, announce, answer, offers
from tests.unit.core.cluster import Cluster
from tests.unit.core.one_node import decode, offered, some
from tests.unit.fakes import FakeConnection, peer_id
from tracker.core.bits import remote_bit
from tracker.core.crossing import WINDOW
from tracker.core.elsewhere import LINKED
from tracker.core.overlap import UNKNOWN, marks_of
from tracker.core.swarm import Peer, RemoteMember, Swarm
from tracker.protocol.messages import Answer, Offer
from tracker.reasons import DropReason

FAR = "-FAR000-"


def far_id(number: int) -> str:
    """The peer_id of a peer of another tracker."""
    return f"{FAR}{number:012}"


class Links:
    """The extension with links to other trackers, at the gateway."""

    def __init__(self) -> None:
        self.offers: list[tuple[str, str, str]] = []
        """The link, the maker and the offer_id of each offer that left."""
        self.answers: list[tuple[str, str]] = []
        self.changed = 0

    def swarm_opened(self, swarm: Swarm) -> None: ...
    def swarm_closed(self, swarm: Swarm) -> None: ...

    def swarm_changed(self, swarm: Swarm) -> None:
        self.changed += 1

    def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        self.offers += [(member.owner, peer_id, offer.id) for offer in offers]

    def offers_unplaced(self, swarm: Swarm, peer: Peer, offers: list[Offer]) -> None: ...

    def answer_unplaced(self, answer: Answer) -> bool:
        self.answers.append((answer.peer_id, answer.to_peer_id))
        return answer.to_peer_id.startswith(FAR)

    def offers_returned(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> bool:
        return False

    def take(self) -> list[tuple[str, str, str]]:
        taken, self.offers = self.offers, []
        return taken


class Linked(Cluster):
    """A tracker of several nodes, whose first node is linked with other trackers."""

    def __init__(self, size: int = 3, **options: Any) -> None:
        self.links = Links()
        super().__init__(size, gateway=True, observer=self.links, **options)
        self.remote = self.nodes[0].remote

    def link(self, owner: str, complete: int, incomplete: int) -> RemoteMember:
        """Add a link by which peers are reached, and tell all nodes."""
        member = self.remote.add_remote(HASH, owner)
        assert member
        self.remote.set_remote(member, complete, incomplete)
        self.tell_linked(HASH)
        self.run()
        return member

    def deliver(self, maker: str, offers: list[Offer], owner: str | None = None, **more: Any) -> list[Offer]:
        rest = self.remote.deliver_offers(HASH, maker, offers, self.now, owner, **more)
        self.run()
        return rest


def test_the_gateway_holds_the_swarms_of_all_nodes() -> None:
    cluster = Linked()
    a = cluster.join(peer_id(1), 1)
    b = cluster.join(peer_id(2), 2, left=0)
    swarm = cluster.nodes[0].hub.swarms[HASH]
    assert (swarm.own_complete, swarm.own_incomplete) == (1, 1)
    assert cluster.nodes[0].hub.empty == 1
    before = cluster.links.changed
    cluster.link("link", 4, 5)
    assert cluster.counts() == [(5, 6)] * 3
    assert (swarm.own_complete, swarm.own_incomplete) == (1, 1)
    assert cluster.links.changed == before
    cluster.close(a)
    assert cluster.links.changed > before
    cluster.close(b)
    assert [node.hub.swarms for node in cluster.nodes] == [{}] * 3


def test_offers_from_a_link_go_to_peers_of_all_nodes_in_proportion() -> None:
    cluster = Linked(max_foreign_offers=10_000)
    sizes = (10, 40, 50)
    connections = {}
    for number in range(100):
        node = 0 if number < sizes[0] else 1 if number < 50 else 2
        connections[peer_id(number)] = cluster.join(peer_id(number), node, left=number % 2)
    for number in range(400):
        assert cluster.deliver(far_id(number), some(*range(5))) == []
    got = [len(offered(one)) for one in connections.values()]
    assert sum(got) == 2000
    for node, start in enumerate((0, 10, 50)):
        share = sum(got[start : start + sizes[node]])
        assert abs(share - 20 * sizes[node]) < 4 * sqrt(20 * sizes[node])
    expected = 20
    assert sum((one - expected) ** 2 / expected for one in got) < 99 + 4 * sqrt(2 * 99)


def test_an_answer_to_an_offer_from_a_link_goes_back_over_the_link() -> None:
    cluster = Linked()
    a = cluster.join(peer_id(1), 1)
    assert cluster.deliver(far_id(1), some(1)) == []
    (offer,) = offered(a)
    cluster.send(a, answer(peer_id(1), far_id(1), offer))
    assert cluster.links.answers == [(peer_id(1), far_id(1))]
    peer = cluster.nodes[1].hub.swarms[HASH].peers[peer_id(1)]
    assert peer.met == remote_bit(far_id(1))


def test_offers_of_all_nodes_go_over_links_and_answers_come_back() -> None:
    cluster = Linked()
    maker = cluster.join(peer_id(1), 1)
    members = [cluster.link("one", 0, 2), cluster.link("other", 0, 3)]
    cluster.send(maker, announce(peer_id(1), offers=offers(10), numwant=10))
    placed = cluster.links.take()
    assert Counter(owner for owner, _, _ in placed) == {"one": 2, "other": 3}
    assert {who for _, who, _ in placed} == {peer_id(1)}
    maker.take()
    assert cluster.remote.deliver_answer(decode(answer(far_id(1), peer_id(1), placed[0][2])), cluster.now)
    cluster.run()
    assert [message["offer_id"] for message in maker.take()] == [placed[0][2]]
    assert not cluster.remote.deliver_answer(decode(answer(far_id(1), peer_id(7), "o" * 20)), cluster.now)
    assert members[0].complete + members[0].incomplete == 2


def test_the_first_offers_of_a_peer_go_over_all_links() -> None:
    cluster = Linked()
    maker = cluster.join(peer_id(1), 1)
    for owner, count in (("huge", 100_000), ("small", 1), ("tiny", 1)):
        cluster.link(owner, 0, count)
    cluster.send(maker, announce(peer_id(1), offers=offers(5)))
    assert {owner for owner, _, _ in cluster.links.take()} == {"huge", "small", "tiny"}


@pytest.mark.parametrize("others", [0, 1])
def test_offers_that_a_link_refuses_are_placed_again_wherever_their_maker_is(others: int) -> None:
    cluster = Linked()
    maker = cluster.join(peer_id(1), 1)
    member = cluster.link("one", 0, 1)
    cluster.send(maker, announce(peer_id(1), offers=offers(1), numwant=1))
    ((_, _, offer_id),) = cluster.links.take()
    newcomer = cluster.join(peer_id(2), 2) if others else None
    cluster.remote.place_again(HASH, peer_id(1), some(int(offer_id)), member, 2.0, cluster.now)
    cluster.run()
    assert cluster.links.take() == []
    if newcomer:
        assert offered(newcomer) == [offer_id]
    else:
        assert cluster.nodes[1].hub.offers.parked.count(cluster.now) == 1
        cluster.now += 44
        assert cluster.nodes[1].hub.offers.parked.count(cluster.now) == 0, "it was made 2 seconds before"


def test_offers_that_one_link_refuses_go_over_another_one() -> None:
    cluster = Linked()
    maker = cluster.join(peer_id(1), 1)
    members = {owner: cluster.link(owner, 0, 5) for owner in ("one", "other")}
    cluster.send(maker, announce(peer_id(1), offers=offers(1), numwant=1))
    ((owner, _, offer_id),) = cluster.links.take()
    cluster.remote.place_again(HASH, peer_id(1), some(int(offer_id)), members[owner], 0.0, cluster.now)
    ((other, who, again),) = cluster.links.take()
    assert (who, again) == (peer_id(1), offer_id)
    assert other != owner


def test_refused_offers_of_a_peer_that_no_node_knows_are_dropped() -> None:
    cluster = Linked()
    cluster.join(peer_id(1), 1)
    cluster.remote.place_again(HASH, peer_id(5), some(1, 2), None, 0.0, cluster.now)
    assert cluster.nodes[0].hub.counters.dropped[DropReason.UNPLACED_OFFER] == 2
    cluster.remote.place_again("i" * 20, peer_id(5), some(1, 2), None, 0.0, cluster.now)


def test_foreign_offers_that_a_node_returns_go_to_others_or_nowhere() -> None:
    cluster = Linked(size=2)
    cluster.join(peer_id(1), 1)
    gone = cluster.nodes[1].hub.swarms[HASH].peers[peer_id(1)].connection
    here = cluster.join(peer_id(2), 0)
    # The peer leaves before the offers arrive.
    assert cluster.remote.deliver_offers(HASH, far_id(1), some(1, 2), cluster.now) == []
    assert isinstance(gone, FakeConnection)
    cluster.nodes[1].hub.close(gone)
    cluster.run()
    assert len(offered(here)) == 2
    assert cluster.nodes[0].hub.counters.dropped[DropReason.UNPLACED_OFFER] == 0
    cluster.close(here)
    cluster.join(peer_id(3), 1)
    gone = cluster.nodes[1].hub.swarms[HASH].peers[peer_id(3)].connection
    assert isinstance(gone, FakeConnection)
    assert cluster.remote.deliver_offers(HASH, far_id(1), some(5), cluster.now) == []
    cluster.nodes[1].hub.close(gone)
    cluster.run()
    assert sum(node.hub.counters.dropped[DropReason.UNPLACED_OFFER] for node in cluster.nodes) == 1


def test_peers_behind_a_link_that_make_no_offers_get_parked_ones_of_all_nodes() -> None:
    cluster = Linked()
    for number in (1, 2):
        cluster.join(peer_id(number), number, offers=offers(5, start=10 * number), numwant=5)
    member = cluster.link("one", 0, 3)
    cluster.remote.place_parked(member, [UNKNOWN] * 3, cluster.now, "one")
    cluster.run()
    assert Counter(who for _, who, _ in cluster.links.take()) == {peer_id(1): 3, peer_id(2): 3}


def test_a_peer_that_was_made_offers_over_a_link_makes_fewer_itself() -> None:
    cluster = Linked()
    a = cluster.join(peer_id(1), 1, offers=offers(5), numwant=5)
    member = cluster.link("one", 0, 3)
    cluster.deliver(far_id(1), some(1), "one")
    assert len(offered(a)) == 1
    cluster.remote.place_parked(member, [UNKNOWN] * 3, cluster.now, "one")
    cluster.run()
    assert len(cluster.links.take()) == 2


def test_a_room_gets_offers_from_a_link_in_the_same_order_at_all_nodes() -> None:
    def received(size: int) -> list[list[str]]:
        cluster = Linked(size=size)
        connections = [cluster.join(peer_id(number), number) for number in range(6)]
        for _ in range(3):
            cluster.deliver(far_id(1), some(1, 2))
        return [sorted(offered(one)) for one in connections]

    alone = received(1)
    assert sorted(len(one) for one in alone) == [0, 0, 0, 0, 3, 3], "a repeated offer goes to the same peer"
    assert received(2) == received(3) == alone


# Peers that are here and at the other tracker, too


def marks(*ids: str) -> list[str]:
    return marks_of(HASH, ids)


def test_own_peers_at_any_node_count_once_if_they_are_at_the_other_tracker_too() -> None:
    cluster = Linked()
    a = cluster.join(peer_id(1), 1)
    b = cluster.join(peer_id(2), 2)
    member = cluster.link("one", 0, 1)
    newcomers = cluster.remote.set_remote_peers(member, [], marks(peer_id(1), far_id(1), far_id(2)), ("1", "2"))
    cluster.tell_linked(HASH)
    cluster.run()
    assert len(newcomers) == 1, "one was counted before"
    assert cluster.counts() == [(0, 4)] * 3
    # The first one meets both there.
    cluster.send(a, announce(peer_id(1), offers=offers(5), numwant=5))
    assert offered(b) != []
    assert cluster.links.take() == []
    cluster.send(b, announce(peer_id(2), offers=offers(5, start=10), numwant=5))
    assert len(offered(a)) == 1
    assert len(cluster.links.take()) == 2
    # Nor does it get offers from there.
    cluster.remote.deliver_offers(HASH, far_id(1), some(1, 2), cluster.now, "one", member)
    cluster.run()
    assert (offered(a), len(offered(b))) == ([], 1)
    cluster.close(a)
    cluster.tell_linked(HASH)
    assert cluster.counts() == [(0, 4)] * 2, "it is still at the other tracker"


def test_marks_are_not_compared_if_own_peers_are_known_by_number() -> None:
    cluster = Linked()
    cluster.join(peer_id(1), 1)
    member = cluster.link("one", 0, 1)
    cluster.remote.set_remote_peers(member, [], marks(peer_id(1), far_id(1)), ("1", "2"))
    assert (member.complete, member.incomplete) == (0, 1)
    for number in range(2, 25):
        cluster.join(peer_id(number), 1)
    assert (member.complete, member.incomplete) == (0, 2)
    cluster.remote.set_remote_peers(member, [], marks(peer_id(1), far_id(1)), ("1", "2"))
    assert (member.complete, member.incomplete) == (0, 2)
    cluster.run()


def test_offers_of_a_peer_elsewhere_are_kept_from_a_link_where_it_is_present() -> None:
    cluster = Linked()
    a = cluster.join(peer_id(1), 1)
    member = cluster.link("one", 0, 2)
    cluster.remote.keep_apart(member, peer_id(1), 30, cluster.now)
    cluster.send(a, announce(peer_id(1), offers=offers(1), numwant=1))
    assert cluster.links.take() == []
    assert cluster.nodes[1].hub.offers.parked.count(cluster.now) == 1
    cluster.now += 31
    cluster.send(a, announce(peer_id(1), offers=offers(1), numwant=1))
    assert len(cluster.links.take()) == 1


def test_the_members_of_links_are_not_told_round() -> None:
    cluster = Linked()
    cluster.join(peer_id(1), 1)
    cluster.link("one", 1, 2)
    members = [node.peers.get(HASH, cluster.nodes[0].name, LINKED) for node in cluster.nodes]
    assert [(one.complete, one.incomplete) if one else None for one in members] == [None, (1, 2), None]
    cluster.join(peer_id(2), 2)
    assert cluster.counts() == [(1, 4)] * 3


def test_offers_of_a_peer_at_another_node_do_not_cross_those_of_a_linked_peer() -> None:
    cluster = Linked()
    seeder = cluster.join(peer_id(1), 1, left=0)
    member = cluster.link("link", 0, 1)
    assert peer_id(1) > far_id(1)
    assert cluster.deliver(far_id(1), some(1), member=member) == []
    assert offered(seeder) == [f"{1:020}"]
    cluster.send(seeder, announce(peer_id(1), left=0, offers=offers(5, start=10), numwant=5))
    assert cluster.links.take() == [], "its answer is on its way"
    cluster.send(seeder, answer(peer_id(1), far_id(1), f"{1:020}"))
    cluster.send(seeder, announce(peer_id(1), left=0, offers=offers(1, start=20), numwant=1))
    assert cluster.links.take() == [("link", peer_id(1), f"{20:020}")]
    cluster.now += WINDOW
    assert cluster.deliver(far_id(1), some(4), member=member) == []
    assert offered(seeder) == [f"{4:020}"]
    cluster.send(seeder, announce(peer_id(1), left=0, offers=offers(5, start=30), numwant=5))
    assert cluster.links.take() == [], "the next answer is awaited, too"
    cluster.now += WINDOW
    cluster.send(seeder, announce(peer_id(1), left=0, offers=offers(1, start=20), numwant=1))
    assert len(cluster.links.take()) == 1
    assert cluster.deliver("~" * 20, some(2), member=member) != [], "its offer is on its way"
    cluster.remote.place_again(HASH, peer_id(1), some(20), member, 0.0, cluster.now)
    assert cluster.deliver("~" * 20, some(3), member=member) == []
    cluster.run()
    assert offered(seeder) == [f"{3:020}"]
