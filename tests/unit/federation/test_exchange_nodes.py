"""The exchange at the gateway of a cluster: other trackers see one tracker, and reach the peers of all nodes."""

from typing import Any

import pytest

from extensions.federation.ledger import REFUSAL_TIMEOUT
from extensions.federation.wire import MAX_PRESENT
from tests.client import HASH, Json, announce, answer, offers
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tests.unit.federation.here import FakeNeighbour, Here
from tests.unit.federation.links import A, B, C, some_offers
from tests.unit.federation.nodes_in_memory import MemoryCluster


class Tracker:
    """A tracker of three nodes, of which the first is the gateway."""

    def __init__(self) -> None:
        self.here = Here()
        self.cluster = MemoryCluster(self.here, 3)
        self.here.park()

    def node(self, number: int) -> HubHarness:
        return self.cluster.nodes[number].harness

    async def settle(self) -> None:
        """Deliver everything that is under way."""
        for _ in range(3):
            self.cluster.settle()
            await self.here.settle()
        assert not self.here.events

    async def join(self, number: int, peer: str, **fields: Any) -> FakeConnection:
        """Have a peer join at a node."""
        connection = self.node(number).join(peer, **fields)
        await self.settle()
        return connection

    async def offer(self, number: int, connection: FakeConnection, peer: str, made: list[Json]) -> None:
        """Have a peer at a node make offers."""
        self.node(number).send(connection, announce(peer, offers=made, numwant=len(made)))
        await self.settle()

    async def tell(self) -> None:
        """Have the gateway tell neighbours of changes."""
        await self.settle()
        await self.here.exchange.tell_changes()
        await self.settle()

    async def neighbour(self, number: int, *peers: str, knows_marks: bool = True) -> FakeNeighbour:
        """Add a listed neighbour with some peers."""
        neighbour = await self.here.neighbour(number)
        neighbour.is_new = knows_marks
        self.here.trusted.add(neighbour)
        neighbour.has_peers(*peers)
        await self.settle()
        return neighbour


@pytest.fixture
async def tracker() -> Tracker:
    return Tracker()


def taken(connection: FakeConnection) -> list[str]:
    """Return the ids of the offers and answers that a peer has received."""
    return [message["offer_id"] for message in connection.take() if "offer_id" in message]


def ids(made: list[Json]) -> list[str]:
    return [offer["offer_id"] for offer in made]


async def test_neighbours_are_told_the_peers_of_all_nodes_as_those_of_one_tracker(tracker: Tracker) -> None:
    old = await tracker.neighbour(1, B, knows_marks=False)
    neighbour = await tracker.neighbour(2, B)
    connections = [await tracker.join(number, peer_id(10 + number), left=number) for number in range(3)]
    await tracker.tell()
    assert old.told[-1] == (HASH, 1, 2)
    _, seeders, leechers = neighbour.told_present[-1]
    assert (len(seeders), len(leechers)) == (1, 2)
    # Linked peers are not told on: one hop. The neighbours' peer is behind both links, and counts once.
    for number in range(3):
        assert tracker.node(number).counts() == (1, 3)
    tracker.node(2).hub.close(connections[2])
    await tracker.tell()
    assert old.told[-1] == (HASH, 1, 1)
    for number in (0, 1):
        tracker.node(number).hub.close(connections[number])
    await tracker.settle()
    assert old.told[-1] == (HASH, 0, 0)
    assert HASH not in tracker.here.hub.swarms


async def test_a_small_swarm_of_which_only_numbers_are_known_is_told_with_marks_that_fit_nobody(
    tracker: Tracker,
) -> None:
    """Other trackers wait for the marks of small swarms."""
    neighbour = await tracker.neighbour(2, B)
    for number in range(MAX_PRESENT - 1):
        tracker.node(1).join(peer_id(100 + number))
    await tracker.join(2, A)
    await tracker.tell()
    (_, seeders, leechers) = neighbour.told_present[-1]
    assert (len(seeders), len(set(leechers))) == (0, MAX_PRESENT)
    before = set(leechers)
    await tracker.join(2, C)
    await tracker.tell()
    assert neighbour.told[-1] == (HASH, 0, MAX_PRESENT + 1)
    tracker.node(1).hub.close(next(iter(tracker.node(1).hub.swarms[HASH].peers.values())).connection)
    await tracker.tell()
    # The marks of peers that stay are the same.
    assert len(before & set(neighbour.told_present[-1][2])) >= MAX_PRESENT - 1


async def test_offers_of_a_peer_at_another_node_go_over_a_link_and_the_answer_comes_back(tracker: Tracker) -> None:
    neighbour = await tracker.neighbour(2, B)
    a = await tracker.join(1, A)
    made = offers(2)
    await tracker.offer(1, a, A, made)
    (placed,) = neighbour.take()
    assert placed in ids(made)
    a.take()
    neighbour.answers_for_b(placed)
    await tracker.settle()
    assert taken(a) == [placed]
    assert neighbour.account.answered == 1


async def test_offers_over_a_link_go_to_peers_of_all_nodes_and_their_answers_back(tracker: Tracker) -> None:
    neighbour = await tracker.neighbour(2, B)
    connections = [await tracker.join(number, peer_id(10 + number)) for number in range(3)]
    neighbour.makes_offers(some_offers(3))
    await tracker.settle()
    assert neighbour.refused == []
    received = [taken(connection) for connection in connections]
    assert sorted(offer_id for one in received for offer_id in one) == [f"{number:020}" for number in range(3)]
    assert [len(one) for one in received] == [1, 1, 1]
    for number, connection in enumerate(connections):
        tracker.node(number).send(connection, answer(peer_id(10 + number), B, received[number][0]))
    await tracker.settle()
    assert sorted(one.peer_id for one in neighbour.answers) == [peer_id(10 + number) for number in range(3)]


async def test_parked_offers_at_another_node_are_placed_on_newcomers_behind_a_link(tracker: Tracker) -> None:
    a = await tracker.join(1, A)
    made = offers(3)
    await tracker.offer(1, a, A, made)
    neighbour = await tracker.neighbour(2, B)
    (first,) = neighbour.take()
    neighbour.has_peers(B, C)
    await tracker.settle()
    (second,) = neighbour.take()
    assert {first, second} < set(ids(made))


async def test_a_peer_at_another_node_that_gets_an_offer_of_the_newcomer_makes_none(tracker: Tracker) -> None:
    """If two clients make each other an offer at the same time, both connections fail."""
    timers = tracker.here.timers = []
    # This tracker has the greater id: it waits for the offers of the other one.
    tracker.here.exchange = tracker.here.exchange_of("f" * 64)
    a = await tracker.join(1, A)
    await tracker.offer(1, a, A, offers(3))
    neighbour = await tracker.neighbour(2, B)
    assert neighbour.take() == []
    a.take()
    neighbour.makes_offers(some_offers(1, start=50))
    await tracker.settle()
    assert taken(a) == [f"{50:020}"]
    for _, end in timers:
        end()
    await tracker.settle()
    assert neighbour.take() == []
    # Without an offer of the other side, the offer is made late.
    neighbour.has_peers(B, C)
    for _, end in timers[1:]:
        end()
    await tracker.settle()
    assert len(neighbour.take()) == 1


async def test_refused_offers_of_a_peer_at_another_node_go_back_to_it_and_to_another_link(tracker: Tracker) -> None:
    neighbours = [await tracker.neighbour(2, B), await tracker.neighbour(3, C)]
    a = await tracker.join(1, A)
    await tracker.offer(1, a, A, offers(1))
    (placed,) = (offer_id for neighbour in neighbours for offer_id in neighbour.given)
    first, second = neighbours if neighbours[0].take() else neighbours[::-1]
    first.refuses(placed)
    await tracker.settle()
    assert second.take() == [placed]
    second.refuses(placed)
    await tracker.settle()
    # It has no receiver now, and waits for one at its node.
    d = tracker.node(2).join(peer_id(4))
    await tracker.settle()
    assert taken(d) == [placed]


async def test_a_neighbour_that_has_the_peer_itself_gets_no_more_of_its_offers(tracker: Tracker) -> None:
    neighbour = await tracker.neighbour(2, B, knows_marks=False)
    a = await tracker.join(1, A)
    made = offers(1)
    await tracker.offer(1, a, A, made)
    assert neighbour.take() == ids(made)
    neighbour.refuses(*ids(made), known=True)
    await tracker.settle()
    await tracker.offer(1, a, A, offers(1, start=7))
    assert neighbour.take() == []


async def test_offers_that_a_link_does_not_answer_are_placed_again_if_their_maker_has_met_no_peer(
    tracker: Tracker,
) -> None:
    neighbour = await tracker.neighbour(2, B)
    a = await tracker.join(1, A)
    await tracker.offer(1, a, A, offers(1))
    (placed,) = neighbour.take()
    tracker.here.later += REFUSAL_TIMEOUT + 1
    other = await tracker.neighbour(3, C)
    await tracker.tell()
    assert other.take() == [placed]
    # After an answer, the peer is not in need.
    other.answers_for_b(placed)
    await tracker.settle()
    await tracker.offer(1, a, A, offers(2, start=5))
    other.take()
    tracker.here.later += REFUSAL_TIMEOUT + 1
    await tracker.tell()
    assert other.take() == []


async def test_offers_over_a_link_that_no_peer_at_another_node_takes_are_refused_over_it(tracker: Tracker) -> None:
    neighbour = await tracker.neighbour(2, B)
    # This peer is about to make offers itself.
    await tracker.join(0, C, left=0, event="completed")
    connection = await tracker.join(1, A)
    neighbour.makes_offers(some_offers(1))
    await tracker.here.settle()
    assert neighbour.refused == []
    # The peer leaves before the offer arrives.
    tracker.node(1).hub.close(connection)
    await tracker.settle()
    assert neighbour.refused == [f"{0:020}"]


async def test_a_peer_at_another_node_that_is_at_the_neighbour_too_counts_once_and_is_known(tracker: Tracker) -> None:
    neighbour = await tracker.neighbour(2, A, B)
    a = await tracker.join(1, A)
    assert tracker.node(1).counts() == (0, 2)
    await tracker.tell()
    neighbour.makes_offers(some_offers(1), maker=A)
    await tracker.settle()
    assert (neighbour.refused, neighbour.said_known) == ([f"{0:020}"], [True])
    # Its own offers meet the other peer there, and so they do not go over the link.
    await tracker.offer(1, a, A, offers(1))
    assert neighbour.take() == []


async def test_a_swarm_is_lonely_until_a_peer_of_any_node_has_met_another_one(tracker: Tracker) -> None:
    exchange = tracker.here.exchange
    neighbour = await tracker.neighbour(2, B)
    assert not exchange.is_lonely(HASH)
    a = await tracker.join(1, A)
    assert exchange.is_lonely(HASH)
    await tracker.offer(1, a, A, offers(1))
    (placed,) = neighbour.take()
    neighbour.answers_for_b(placed)
    await tracker.settle()
    assert not exchange.is_lonely(HASH)


async def test_a_peer_of_another_node_that_answers_an_offer_over_a_link_is_not_lonely(tracker: Tracker) -> None:
    neighbour = await tracker.neighbour(2, B)
    a = await tracker.join(1, A)
    neighbour.makes_offers(some_offers(1))
    await tracker.settle()
    tracker.node(1).send(a, answer(A, B, f"{0:020}"))
    await tracker.settle()
    assert not tracker.here.exchange.is_lonely(HASH)


async def test_the_end_of_a_link_takes_its_peers_from_all_nodes(tracker: Tracker) -> None:
    neighbour = await tracker.neighbour(2, B)
    await tracker.join(1, A)
    assert tracker.node(1).counts() == (0, 2)
    tracker.here.exchange.remove(neighbour)
    await tracker.settle()
    assert tracker.node(1).counts() == (0, 1)


async def test_a_swarm_that_is_kept_open_without_peers_is_closed_for_neighbours(tracker: Tracker) -> None:
    neighbour = await tracker.neighbour(2, B)
    # As for a node that is about to tell of its peers.
    tracker.here.hub.hold(HASH)
    swarm = tracker.here.hub.swarms[HASH]
    await tracker.settle()
    assert neighbour.told_present == []
    for _ in range(2):
        connection = await tracker.join(0, A)
        neighbour.has_peers(B)
        await tracker.settle()
        assert len(swarm.remotes) == 1
        tracker.here.hub.close(connection)
        await tracker.settle()
        assert swarm.remotes == []
        assert neighbour.told[-1] == (HASH, 0, 0)
    assert tracker.here.hub.swarms[HASH] is swarm
