"""Peers meet over the nodes of one tracker as they do at one node."""

from collections import Counter
from math import sqrt
from random import Random

import pytest

from tests.client import announce, answer, offers, soon
from tests.unit.core.cluster import FEW, Cluster
from tests.unit.core.test_rooms import Room
from tests.unit.fakes import FakeConnection, Json, peer_id


class Client:
    """A client that answers every offer, as webtorrent does."""

    def __init__(self, crowd: "Crowd", who: str, left: int, node: int | None) -> None:
        self.crowd = crowd
        self.who = who
        self.left = left
        self.connection = crowd.cluster.connect(node)
        self.met: set[str] = set()
        self.open: dict[str, None] = {}
        self.next = 0.0
        self.intervals: list[int] = []

    def announce(self, count: int) -> None:
        made = offers(count, start=self.crowd.next_offer)
        self.crowd.next_offer += count
        self.open = dict.fromkeys(offer["offer_id"] for offer in made)
        self.crowd.cluster.send(
            self.connection, announce(self.who, left=self.left, offers=made, numwant=count, event=None)
        )

    def take(self, message: Json) -> None:
        if "interval" in message:
            self.intervals.append(message["interval"])
            self.next = self.crowd.cluster.now + message["interval"]
        elif "offer" in message:
            self.crowd.received[self.who, message["peer_id"]] += 1
            self.crowd.cluster.send(self.connection, answer(self.who, message["peer_id"], message["offer_id"]))
        else:
            assert message["offer_id"] in self.open, "only the maker of an offer gets the answer"
            self.met.add(message["peer_id"])
            self.crowd.clients[message["peer_id"]].met.add(self.who)


class Crowd:
    """Clients of one swarm."""

    def __init__(self, cluster: Cluster, answers: bool = True) -> None:
        self.cluster = cluster
        self.answers = answers
        self.clients: dict[str, Client] = {}
        self.next_offer = 0
        self.received: Counter[tuple[str, str]] = Counter()
        """The offers of each pair of receiver and maker."""

    def join(self, who: str, left: int, count: int, node: int | None = None) -> None:
        client = self.clients[who] = Client(self, who, left, node)
        client.announce(count)
        self.take()

    def take(self) -> None:
        """Let the clients take their messages until there are none."""
        is_busy = True
        while is_busy:
            is_busy = False
            for client in self.clients.values():
                for message in client.connection.take():
                    is_busy = True
                    if self.answers or "offer" not in message:
                        client.take(message)
                    else:
                        self.received[client.who, message["peer_id"]] += 1

    def wait(self, seconds: float, count: int) -> None:
        """Let the clients announce when they have been told to."""
        end = self.cluster.now + seconds
        while (due := min(self.clients.values(), key=lambda client: client.next)).next <= end:
            self.cluster.now = max(self.cluster.now, due.next)
            due.announce(count)
            self.take()
        self.cluster.now = end

    def missing(self) -> int:
        """Return the number of pairs that have not met."""
        return sum(len(self.clients) - 1 - len(client.met) for client in self.clients.values()) // 2


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", range(5))
def test_every_peer_of_a_small_swarm_meets_every_other_one(size: int, seed: int) -> None:
    crowd = Crowd(Cluster(size, seed=seed))
    for number in range(12):
        crowd.join(peer_id(number), left=int(number != seed), count=5)
        crowd.cluster.now += 1
    crowd.wait(90, 5)
    assert crowd.missing() == 0
    assert crowd.cluster.counts() == [(1, 11)] * size
    crowd.wait(130, 5)
    assert {client.intervals[-1] for client in crowd.clients.values()} <= {*soon(90)}, (
        "each peer knows that it has met all"
    )


@pytest.mark.parametrize("size", [1, 2, 4])
def test_newcomers_that_make_no_offers_get_those_of_all_nodes(size: int) -> None:
    cluster = Cluster(size)
    # Each makes one more offer than there are others.
    makers = [cluster.join(peer_id(number), offers=offers(6, start=10 * number), numwant=6) for number in range(6)]
    newcomer = cluster.join(peer_id(9), event="started")
    assert sorted(message["peer_id"] for message in newcomer.take()) == [peer_id(number) for number in range(6)]
    for maker in makers:
        maker.take()
    seeder = cluster.join(peer_id(10), left=0, event="completed")
    assert seeder.take() == [], "it is about to make offers"


def test_parked_offers_go_to_peers_at_a_node_that_opens_the_swarm() -> None:
    cluster = Cluster(2)
    first = cluster.join(peer_id(1), 0, offers=offers(2), numwant=2)
    second = cluster.join(peer_id(2), 1, offers=offers(2, start=2), numwant=2)
    assert [message["peer_id"] for message in first.take()] == [peer_id(2)]
    assert second.take() == [], "two peers must not make each other offers at the same time"
    third = cluster.join(peer_id(3), 1)
    assert sorted(message["peer_id"] for message in third.take()) == [peer_id(1), peer_id(2)]


def test_an_answer_goes_back_to_the_maker() -> None:
    cluster = Cluster(3)
    maker = cluster.join(peer_id(1), 0)
    receivers = [cluster.join(peer_id(number), number) for number in (2, 4)]
    cluster.send(maker, announce(peer_id(1), offers=offers(2)))
    maker.take()
    for number, receiver in zip((2, 4), receivers, strict=True):
        (offer,) = receiver.take()
        cluster.send(receiver, answer(peer_id(number), peer_id(1), offer["offer_id"]))
        (got,) = maker.take()
        assert (got["peer_id"], got["offer_id"]) == (peer_id(number), offer["offer_id"])


def _mixing(size: int, rounds: int) -> tuple[float, Counter[tuple[str, str]], Cluster]:
    """Return chi-square of the offers that 200 peers receive, against equal numbers."""
    crowd = Crowd(Cluster(size, seed=7, max_offers=20), answers=False)
    for number in range(200):
        crowd.join(peer_id(number), left=1, count=0)
    crowd.received.clear()
    for _ in range(rounds):
        for client in crowd.clients.values():
            client.announce(10)
        crowd.take()
        crowd.cluster.now += 120
        for client in crowd.clients.values():
            client.connection.take()
    by_receiver: Counter[str] = Counter()
    for (receiver, _), count in crowd.received.items():
        by_receiver[receiver] += count
    expected = sum(by_receiver.values()) / 200
    return sum((by_receiver[who] - expected) ** 2 / expected for who in crowd.clients), crowd.received, crowd.cluster


@pytest.mark.parametrize("size", [1, 5])
def test_one_swarm_of_200_mixes_over_nodes_as_at_one_node(size: int) -> None:
    chi_square, received, cluster = _mixing(size, 10)
    assert cluster.counts() == [(0, 200)] * size
    assert sum(received.values()) == 200 * 10 * 10, "none is lost"
    # 199 degrees of freedom; drawing without replacement makes the spread a little smaller.
    assert 199 - 5 * sqrt(2 * 199) < chi_square < 199 + 4 * sqrt(2 * 199)
    # Within one node as across nodes.
    of = {f"{peer_id(number)}": (number + 1) % size for number in range(200)}
    same = sum(count for (one, other), count in received.items() if of[one] == of[other])
    expected = 20_000 * (200 / size - 1) / 199
    assert abs(same - expected) < 4 * sqrt(expected)
    assert all(node.returned_offers == 0 for node in cluster.nodes)


def _given_to_seeders(
    size: int, leechers: int, answers: bool, is_apart: bool = False, seeders: int = 1, rounds: int = 5
) -> int:
    """Return the offers that scarce seeders receive from leechers in some intervals.

    `is_apart`: the seeders are at the first node, and the leechers at the other ones.
    """
    crowd = Crowd(Cluster(size, seed=3), answers=answers)
    crowd.cluster.by_role = True
    for number in range(seeders):
        crowd.join(peer_id(number), left=0, count=0, node=0 if is_apart else None)
    for number in range(seeders, leechers + seeders):
        crowd.join(peer_id(number), left=1, count=0, node=1 + number % (size - 1) if is_apart else None)
    for _ in range(rounds):
        for client in crowd.clients.values():
            client.announce(4 if client.left else 0)
            crowd.cluster.now += 120 / (leechers + seeders)
        crowd.take()
    return sum(count for (receiver, _), count in crowd.received.items() if crowd.clients[receiver].left == 0)


@pytest.mark.parametrize("answers", [False, True])
@pytest.mark.parametrize(("size", "is_apart"), [(2, False), (4, False), (2, True), (3, True)])
def test_the_budget_of_scarce_seeders_is_the_same_over_nodes(size: int, is_apart: bool, answers: bool) -> None:
    alone = _given_to_seeders(1, 100, answers)
    over_nodes = _given_to_seeders(size, 100, answers, is_apart)
    assert 0.8 * alone < over_nodes < 1.2 * alone
    assert alone < 5 * 100 / 2, "without a budget every leecher would make one an offer at every announce"


class RoomOfNodes(Room):
    """A room whose members are at several nodes in turn."""

    def __init__(self, size: int, seed: int, nodes: int = 2) -> None:
        super().__init__(size, seed)
        self.harness = Cluster(nodes, seed=seed)  # type: ignore[assignment]


@pytest.mark.parametrize(("size", "missing"), [(4, 0.0), (6, 0.65), (8, 1.8)])
def test_few_pairs_of_a_room_have_to_wait_for_the_next_interval(size: int, missing: float) -> None:
    """As many as at one node."""
    rooms = [RoomOfNodes(size, seed).meet() for seed in range(40)]
    assert sum(rooms) / len(rooms) <= missing


@pytest.mark.parametrize("size", [6, 8])
def test_rooms_are_complete_after_the_next_interval(size: int) -> None:
    assert [RoomOfNodes(size, seed).meet(30) for seed in range(40)] == [0] * 40


def _first_offers(cluster: Cluster, maker: FakeConnection, takers: dict[str, FakeConnection]) -> dict[str, str]:
    cluster.send(maker, announce(peer_id(5), offers=offers(4), numwant=4))
    return {message["offer_id"]: who for who, taker in takers.items() for message in taker.take() if "offer" in message}


def test_a_repeated_offer_goes_to_the_same_member_after_others_have_joined() -> None:
    cluster = Cluster(2)
    maker = cluster.join(peer_id(5), 0)
    takers = {peer_id(number): cluster.join(peer_id(number), number) for number in (1, 2)}
    before = _first_offers(cluster, maker, takers)
    assert len(before) == 2
    takers |= {peer_id(number): cluster.join(peer_id(number), number) for number in (3, 4)}
    for taker in takers.values():
        taker.take()
    after = _first_offers(cluster, maker, takers)
    assert {offer: after[offer] for offer in before} == before
    assert sorted(after.values()) == [peer_id(number) for number in (1, 2, 3, 4)]


def test_a_swarm_that_grows_and_shrinks_is_told_by_number_and_then_one_by_one() -> None:
    cluster = Cluster(2)
    few = cluster.join(peer_id(0), 0)
    many = [cluster.join(peer_id(number), 1, left=number % 2) for number in range(1, FEW + 5)]
    assert cluster.counts() == [(10, 11)] * 2
    cluster.send(few, announce(peer_id(0), offers=offers(20), numwant=20))
    assert sum("offer" in message for one in many for message in one.take()) == 20
    for one in many[5:]:
        cluster.close(one)
    assert cluster.counts() == [(2, 4)] * 2
    few.take()
    cluster.send(few, announce(peer_id(0), offers=offers(20, start=20), numwant=20))
    assert [sum("offer" in message for message in one.take()) for one in many[:5]] == [1] * 5


def test_peers_meet_whichever_role_is_where() -> None:
    """All seeders at one node, all leechers at another."""
    random = Random(5)
    cluster = Cluster(2)
    seeders = [cluster.join(peer_id(number), 0, left=0) for number in range(20)]
    leechers = [cluster.join(peer_id(number), 1, left=1) for number in range(20, 60)]
    leecher = random.choice(leechers)
    cluster.send(leecher, announce(peer_id(20 + leechers.index(leecher)), left=1, offers=offers(10), numwant=10))
    to_seeders = sum("offer" in message for one in seeders for message in one.take())
    to_leechers = sum("offer" in message for one in leechers for message in one.take())
    assert to_seeders + to_leechers == 10
    assert to_seeders >= 5, "half of a leecher's offers, at least"
    cluster.send(seeders[0], announce(peer_id(0), left=0, offers=offers(10, start=10), numwant=10))
    assert sum("offer" in message for one in leechers for message in one.take()) == 10, "all of a seeder's"
