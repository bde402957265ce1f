"""Two peers do not make each other an offer at the same time."""

import random
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import permutations
from math import inf

import pytest

from tests.client import HASH, Json, announce, answer, offers
from tests.unit.core.cluster import Cluster
from tests.unit.core.one_node import A, B, C, D
from tests.unit.core.test_hub import Recorder
from tests.unit.core.test_hub_parking import ParkingHarness, newcomer, offered
from tests.unit.fakes import FakeConnection, HubHarness
from tests.unit.federation.links import some_offers
from tracker.core.crossing import WINDOW
from tracker.core.swarm import SMALL, RemoteMember
from tracker.protocol.codec import make_offer
from tracker.protocol.messages import Offer


def makers(connection: FakeConnection) -> set[str]:
    """Return the peer_ids whose offers a connection was given."""
    return {maker for maker, _ in offered(connection)}


# Peers of one tracker


def test_a_seeder_makes_no_offer_to_a_leecher_whose_offer_it_was_just_given() -> None:
    """Webtorrent's seeders make their first offers a moment after they have joined."""
    harness = HubHarness()
    seeder = harness.join(A, event="completed")
    leecher = harness.join(B, left=1, offers=offers(5), numwant=5)
    assert makers(seeder) == {B}
    late = harness.join(C, left=1)
    harness.send(seeder, announce(A, left=0, offers=offers(5, start=5), numwant=5))
    assert (makers(leecher), makers(late)) == (set(), {A})
    harness.now += WINDOW
    harness.send(seeder, announce(A, left=0, offers=offers(5, start=10), numwant=5))
    assert (makers(leecher), makers(late)) == ({A}, {A}), "its answer would have come"
    harness.now += WINDOW
    harness.send(late, announce(C, left=1, offers=offers(5, start=15), numwant=5))
    assert makers(seeder) == makers(leecher) == {C}
    harness.send(seeder, announce(A, left=0, offers=offers(5, start=20), numwant=5))
    assert (makers(leecher), makers(late)) == ({A}, set()), "the offer of B was long ago"


@pytest.mark.parametrize("passive", [False, True])
def test_offers_of_peers_of_one_role_may_cross(passive: bool) -> None:
    """Trystero's clients settle this between them. A passive one is a seeder."""
    harness = HubHarness()
    if passive:
        harness.join(C, left=0)
    one = harness.join(A, left=1)
    other = harness.join(B, left=1, offers=offers(5), numwant=5)
    assert makers(one) == {B}
    harness.send(one, announce(A, left=1, offers=offers(5, start=5), numwant=5))
    assert makers(other) == {A}


def test_a_peer_that_has_answered_may_make_offers_at_once() -> None:
    harness = HubHarness()
    seeder = harness.join(A, left=0)
    leecher = harness.join(B, left=1, offers=offers(5), numwant=5)
    ((_, offer_id),) = offered(seeder)
    harness.send(seeder, answer(A, B, offer_id))
    leecher.take()
    harness.send(seeder, announce(A, left=0, offers=offers(5, start=5), numwant=5))
    assert makers(leecher) == {A}
    assert harness.hub.swarms[HASH].peers[A].unanswered is None


def test_an_answer_is_expected_once() -> None:
    """Trystero's client with the lesser peer_id ignores the offers of the other one, which come again and again."""
    harness = HubHarness()
    seeder = harness.join(A, left=0)
    leecher = harness.join(B, left=1, offers=offers(5), numwant=5)
    assert makers(seeder) == {B}
    for seconds, expected in ((1, set()), (WINDOW, {A}), (1, {A})):
        harness.now += seconds
        harness.send(leecher, announce(B, left=1, offers=offers(5), numwant=5))
        harness.send(seeder, announce(A, left=0, offers=offers(5, start=5), numwant=5))
        assert makers(leecher) == expected


def test_a_client_that_has_reconnected_has_nothing_to_answer() -> None:
    harness = HubHarness()
    harness.join(A, left=0)
    leecher = harness.join(B, left=1, offers=offers(5), numwant=5)
    harness.join(A, left=0, offers=offers(5, start=5), numwant=5)
    assert makers(leecher) == {A}


def test_few_makers_are_remembered() -> None:
    harness = HubHarness()
    harness.join(A, left=0)
    for number in range(100):
        who = f"-LEECH--{number:012}"
        leecher = harness.join(who, left=1, offers=offers(1, start=number), numwant=1)
        harness.send(leecher, announce(who, event="stopped"))
    remembered = harness.hub.swarms[HASH].peers[A].unanswered
    assert remembered is not None
    assert list(remembered) == [f"-LEECH--{number:012}" for number in range(100 - SMALL, 100)]


def test_in_a_large_swarm_no_offers_are_remembered() -> None:
    harness = HubHarness()
    seeder = harness.join(A, left=0)
    leechers = [harness.join(f"-LEECH--{number:012}", left=1) for number in range(SMALL)]
    for number, leecher in enumerate(leechers):
        harness.send(leecher, announce(f"-LEECH--{number:012}", left=1, offers=offers(2, start=2 * number), numwant=2))
    assert harness.hub.swarms[HASH].peers[A].unanswered is None
    assert seeder.take()


def test_a_peer_that_was_given_a_parked_offer_makes_none_to_its_maker() -> None:
    harness = ParkingHarness()
    seeder = harness.join(A, left=0, offers=offers(5), numwant=5)
    late = newcomer(harness, B, left=1)
    assert makers(late) == {A}
    harness.send(late, announce(B, left=1, offers=offers(5, start=5), numwant=5))
    assert makers(seeder) == set()


def test_offers_of_peers_at_two_nodes_do_not_cross() -> None:
    cluster = Cluster(2)
    seeder = cluster.join(A, 0, event="completed")
    leecher = cluster.join(B, 1, left=1, offers=offers(5), numwant=5)
    assert makers(seeder) == {B}
    cluster.send(seeder, announce(A, left=0, offers=offers(5, start=5), numwant=5))
    assert makers(leecher) == set()


# Peers of two trackers


class Linked(ParkingHarness):
    """The peer B here, with a number of peers behind a link."""

    def __init__(self, there: int = 1, left: int = 0) -> None:
        super().__init__()
        self.left = left
        self.here = self.join(B, left=left)
        self.member = self.remote_member("link", there)
        self.next = 0

    def offer(self, count: int = 5) -> int:
        """Have B make offers; return the number of those that were placed behind the link."""
        self.recorder.take()
        self.send(self.here, announce(B, left=self.left, offers=offers(count, start=self.next), numwant=count))
        self.next += count
        return sum(len(event[3]) for event in self.recorder.take() if event[0] == "placed")

    def receive(self, maker: str, member: RemoteMember | None = None) -> bool:
        """Deliver an offer of a peer behind a link; return whether B was given it."""
        self.here.take()
        member = member or self.member
        left = self.remote.deliver_offers(HASH, maker, some_offers(1, start=90), self.now, "origin", member)
        assert len(left) + len(offered(self.here)) == 1
        return not left


def test_of_two_offers_on_a_link_that_of_the_lesser_peer_id_is_given() -> None:
    assert A < B < C
    linked = Linked()
    assert linked.offer() == 1
    assert not linked.receive(C), "the other tracker gives C the offer of B"
    assert linked.receive(A)
    linked.now += WINDOW
    assert linked.receive(C)


def test_an_offer_that_came_back_does_not_cross() -> None:
    linked = Linked()
    assert linked.offer(1) == 1
    assert linked.place_again([0], linked.member, who=B) == []
    assert linked.receive(C)


def test_an_offer_for_one_of_several_peers_may_be_for_another_one() -> None:
    linked = Linked(there=2)
    assert linked.offer(1) == 1
    assert linked.receive(C)


def test_a_peer_makes_as_many_fewer_offers_as_it_was_given() -> None:
    linked = Linked(there=2)
    assert linked.receive(C)
    assert linked.receive(C), "another offer of the same peer"
    assert linked.offer() == 1
    assert linked.receive(D)
    assert linked.offer() == 0
    linked.now += WINDOW
    assert linked.offer() == 2


def test_an_answer_over_a_link_is_expected_until_it_comes_and_once_if_it_does_not() -> None:
    linked = Linked()
    assert linked.receive(C)
    assert linked.offer() == 0
    linked.send(linked.here, answer(B, C, f"{90:020}"))
    assert linked.offer() == 1
    linked.now += WINDOW
    assert linked.receive(C)
    assert linked.offer() == 0
    linked.now += WINDOW
    assert linked.receive(C), "it has ignored the last one"
    assert linked.offer() == 1


@pytest.mark.parametrize("left", [0, 1])
def test_offers_of_peers_of_one_role_may_cross_on_a_link(left: int) -> None:
    linked = Linked(left=left)
    linked.remote.set_remote(linked.member, int(left == 0), int(left > 0))
    assert linked.offer() == 1
    assert linked.receive(C)
    assert linked.offer() == 1


def test_offers_that_come_over_another_link_make_no_difference() -> None:
    linked = Linked()
    other = linked.remote_member("other link", 1)
    assert linked.receive(C, other)
    assert linked.offer() == 1
    assert linked.receive(C, other)


def test_offers_go_first_to_the_peers_that_have_made_none() -> None:
    for seed in range(10):
        harness = HubHarness(Recorder(), seed=seed)
        here = [harness.join(peer_id, left=0) for peer_id in (B, C)]
        member = harness.remote.add_remote(HASH, "link")
        assert member
        harness.remote.set_remote(member, 0, 1)
        harness.send(here[0], announce(B, left=0, offers=offers(2), numwant=2))
        for connection in here:
            connection.take()
        assert harness.remote.deliver_offers(HASH, A, some_offers(1), harness.now, "origin", member) == []
        assert [makers(connection) for connection in here] == [set(), {A}]


# Webtorrent's clients at linked trackers


class Web:
    """Linked trackers, each with one client. Each message takes its time, but none overtakes another on its way."""

    def __init__(self, seed: int, latency: float) -> None:
        self.random = random.Random(seed)
        self.latency = latency
        self.now = 1000.0
        self.clients: list[Client] = []
        self.next = 0
        self._calls: list[tuple[float, int, Callable[[], object]]] = []
        self._last: dict[object, float] = {}

    def carry(self, way: object, call: Callable[[], object]) -> None:
        """Call a function when a message has arrived."""
        self.next += 1
        arrival = max(self._last.get(way, 0.0), self.now + self.random.random() * self.latency)
        self._last[way] = arrival
        heappush(self._calls, (arrival, self.next, call))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        until = self.now + seconds
        while self._calls and self._calls[0][0] <= until:
            self.now, _, call = heappop(self._calls)
            call()
        self.now = until


class Client:
    """A client and its tracker.

    The client takes each offer. When an answer comes and it has another connection with the peer, it gives up its own.
    """

    def __init__(self, web: Web, peer_id: str, left: int) -> None:
        self.web, self.peer_id, self.left = web, peer_id, left
        self.tracker = ParkingHarness(seed=len(web.clients))
        self.connection = self.tracker.join(peer_id, left=left)
        self.members: dict[Client, RemoteMember] = {}
        self.offers: set[str] = set()
        self.kept: dict[str, set[str]] = defaultdict(set)
        """The offer_ids of its connections, by peer."""
        web.clients.append(self)

    def link(self, other: "Client") -> None:
        """Tell its tracker of the client of another one."""
        member = self.tracker.remote.add_remote(HASH, other)
        assert member
        self.tracker.remote.set_remote(member, int(not other.left), int(other.left > 0))
        self.members[other] = member

    def is_connected(self, other: "Client") -> bool:
        """Return whether both have kept the same connection."""
        return bool(self.kept[other.peer_id] & other.kept[self.peer_id])

    def announce(self) -> None:
        """Make five offers."""
        made = offers(5, start=self.web.next)
        self.web.next += 5
        self.offers |= {offer["offer_id"] for offer in made}
        self.send(announce(self.peer_id, left=self.left, offers=made, numwant=5))

    def send(self, message: Json) -> None:
        """Send a message to the tracker."""
        self.web.carry((self, "up"), partial(self.apply, message))

    def apply(self, message: Json) -> None:
        """Have the tracker apply a message."""
        self.tracker.now = self.web.now
        self.tracker.send(self.connection, message)
        for event in self.tracker.recorder.take():
            if event[0] == "placed":
                _, other, maker, offer_ids = event
                self.web.carry((self, other), partial(other.deliver, self, maker, some_offers_with(offer_ids)))
            elif event[0] == "answer":
                (to,) = (client for client in self.web.clients if client.peer_id == message["to_peer_id"])
                self.web.carry((self, to), partial(to.inbox, message))
        self.deliver_inbox()

    def deliver(self, other: "Client", maker: str, batch: list[Offer]) -> None:
        """Have the tracker give its client offers of the client of another tracker; those that are left come back."""
        left = self.tracker.remote.deliver_offers(HASH, maker, batch, self.web.now, other, self.members[other])
        if left:
            again = other.tracker.remote.place_again
            self.web.carry((self, other), lambda: again(HASH, maker, left, other.members[self], 0.0, self.web.now))
        self.deliver_inbox()

    def deliver_inbox(self) -> None:
        """Send the client all messages of its tracker."""
        for message in self.connection.take():
            self.inbox(message)

    def inbox(self, message: Json) -> None:
        """Send the client a message of its tracker."""
        self.web.carry((self, "down"), partial(self.receive, message))

    def receive(self, message: Json) -> None:
        """Answer an offer, unless the peer is connected already, or take an answer."""
        if "offer" in message:
            if not self.kept[message["peer_id"]]:
                self.kept[message["peer_id"]].add(message["offer_id"])
                self.send(answer(self.peer_id, message["peer_id"], message["offer_id"]))
        elif message.get("offer_id") in self.offers and not self.kept[message["peer_id"]]:
            self.kept[message["peer_id"]].add(message["offer_id"])


def some_offers_with(offer_ids: list[str]) -> list[Offer]:
    """Return offers with these ids."""
    return [make_offer(offer_id, "v=0") for offer_id in offer_ids]


def announce_at_once(ids: list[str], seed: int, latency: float, forgets: bool = False) -> bool:
    """Have a seeder and leechers announce at the same time; return whether all leechers are connected with it.

    If `forgets`, the trackers remember no offers.
    """
    web = Web(seed, latency)
    clients = [Client(web, peer_id, left) for left, peer_id in enumerate(ids)]
    for one, other in permutations(clients, 2):
        one.link(other)
    for client in clients:
        client.announce()
    for _ in range(5000):
        web.run(WINDOW / 5000)
        for client in clients if forgets else ():
            client.tracker.hub.offers.linked.crossings.expire(inf)
    return all(clients[0].is_connected(leecher) for leecher in clients[1:])


@pytest.mark.parametrize("ids", [[A, B], [B, A], [A, B, C], [C, A, B]])
@pytest.mark.parametrize("latency", [0.05, 0.5])
def test_peers_of_linked_trackers_that_announce_at_the_same_time_connect(ids: list[str], latency: float) -> None:
    assert all(announce_at_once(ids, seed, latency) for seed in range(20))


def test_without_the_rule_both_connections_fail() -> None:
    """Otherwise the test above would say nothing."""
    assert sum(announce_at_once([A, B], seed, 0.05, forgets=True) for seed in range(20)) < 15
