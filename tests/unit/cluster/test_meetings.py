"""Peers of one swarm at different nodes meet."""

import pytest

from extensions.cluster.envelope import ALL, BROADCAST
from extensions.cluster.nats_connection import MAX_BUFFERED
from extensions.cluster.reasons import Dropped, Left, Refused
from extensions.cluster.telling import FEW
from extensions.cluster.transport import MAX_PAYLOAD, MIN_PAYLOAD
from extensions.cluster.wire import PLAIN
from tests.client import HASH, announce, answer, offers
from tests.unit.cluster.world import World
from tests.unit.fakes import FakeConnection, Json, peer_id
from tracker.protocol.messages import Announce

P, Q, R = peer_id(1), peer_id(2), peer_id(3)


def received(*connections: FakeConnection) -> list[Json]:
    """Return the offers that connections have received since the last call."""
    return [message for connection in connections for message in connection.take() if "offer" in message]


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("needs_mac", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_two_lone_peers_meet_once(count: int, needs_mac: bool, seed: int) -> None:
    """Both have parked offers. The later one's are used, because they are valid for longer."""
    world = World(count, seed=seed, needs_mac=needs_mac)
    first, second = world.stations[seed % count], world.stations[(seed + 1) % count]
    here, there = FakeConnection(), FakeConnection()
    first.send(here, announce(P, offers=offers(3)))
    world.settle()
    second.send(there, announce(Q, offers=offers(3, start=10)))
    world.settle()
    (offer,) = received(here, there)
    assert offer["peer_id"] == Q
    first.send(here, answer(P, Q, offer["offer_id"]))
    world.settle()
    (got,) = there.take()
    assert (got["peer_id"], got["offer_id"]) == (P, offer["offer_id"])
    assert first.view() == second.view() == (0, 2)
    world.check()


@pytest.mark.parametrize("seed", range(5))
def test_two_that_come_at_the_same_time_meet_once(seed: int) -> None:
    world = World(3, seed=seed)
    first, second = world.random.sample(world.stations, 2)
    here, there = FakeConnection(), FakeConnection()
    first.send(here, announce(P, offers=offers(3)))
    second.send(there, announce(Q, offers=offers(3, start=10)))
    world.settle()
    assert len(received(here, there)) == 1


@pytest.mark.parametrize("is_first", [False, True])
@pytest.mark.parametrize("event", ["started", "completed"])
def test_a_peer_without_offers_is_given_one_unless_it_is_about_to_make_some(is_first: bool, event: str) -> None:
    world = World(2)
    first, second = world.stations
    maker, taker = FakeConnection(), FakeConnection()
    joins = [(first, maker, announce(P, offers=offers(3))), (second, taker, announce(Q, event=event))]
    for station, connection, message in joins if is_first else joins[::-1]:
        station.send(connection, message)
        world.settle()
    given = received(taker, maker)
    # A peer that has been here longer than the maker gets an offer in any case.
    assert [message["peer_id"] for message in given] == ([] if is_first and event == "completed" else [P])


def test_a_newcomer_without_offers_in_a_known_swarm_is_given_one_of_each() -> None:
    world = World(2)
    first, second = world.stations
    makers = [first.join(peer_id(number), offers=offers(9, start=10 * number), numwant=9) for number in range(3)]
    second.join(peer_id(8), offers=offers(9, start=90), numwant=9)
    world.settle()
    received(*makers)
    newcomer = FakeConnection()
    second.send(newcomer, announce(peer_id(9)))
    world.settle()
    assert sorted(message["peer_id"] for message in received(newcomer)) == [peer_id(number) for number in (0, 1, 2, 8)]


def test_a_newcomer_in_a_large_swarm_is_given_parked_offers_too() -> None:
    world = World(2)
    first, second = world.stations
    many = [second.join(peer_id(number)) for number in range(10, 11 + FEW)]
    world.settle()
    maker = FakeConnection()
    first.send(maker, announce(P, offers=offers(40), numwant=40))
    world.settle()
    assert len(received(*many)) == len(many)
    newcomer = FakeConnection()
    second.send(newcomer, announce(Q))
    world.pass_time(0.3)
    (offer,) = received(newcomer, *many)
    assert offer["peer_id"] == P


def test_peers_that_come_later_are_told_at_once_and_leave() -> None:
    world = World(3)
    stations = world.stations
    connections = [station.join(peer_id(number)) for number, station in enumerate(stations)]
    world.settle()
    assert [station.view() for station in stations] == [(0, 3)] * 3
    stations[0].send(connections[0], announce(peer_id(0), left=0))
    world.settle()
    assert [station.view() for station in stations] == [(1, 2)] * 3
    stations[1].hub.close(connections[1])
    world.settle()
    assert [station.view() for station in stations] == [(1, 1), (0, 0), (1, 1)]
    assert stations[1].node.parts.shared.by_key == {}


def test_a_peer_that_comes_to_another_node_takes_its_place_over() -> None:
    world = World(2)
    first, second = world.stations
    dead = first.join(P)
    other = first.join(Q)
    world.settle()
    dead.last_received = 0
    alive = second.join(P)
    world.settle()
    assert dead.pings == 1
    world.pass_time(3)
    assert list(first.hub.swarms[HASH].peers) == [Q]
    assert first.view() == second.view() == (0, 2)
    first.send(other, announce(Q, offers=offers(1)))
    world.settle()
    assert len(received(alive)) == 1


def test_a_peer_at_two_nodes_counts_once() -> None:
    world = World(3)
    for station in world.stations:
        station.join(P)
    world.stations[0].join(Q)
    world.settle()
    world.pass_time(3)
    assert [station.view() for station in world.stations] == [(0, 2)] * 3


def test_offers_for_a_peer_that_has_just_left_come_back_and_are_placed_again() -> None:
    world = World(2)
    first, second = world.stations
    maker, left = FakeConnection(), FakeConnection()
    first.send(maker, announce(P))
    second.send(left, announce(Q))
    world.settle()
    second.hub.close(left)
    first.send(maker, announce(P, offers=offers(2), numwant=2))
    world.settle()
    assert second.node.parts.sessions.dropped[Dropped.NO_RECEIVER] == 1
    third = FakeConnection()
    second.send(third, announce(R))
    world.settle()
    assert [message["peer_id"] for message in received(third)] == [P]


def test_answers_find_the_maker_only() -> None:
    world = World(3)
    maker = world.stations[0].join(P)
    world.stations[1].join(Q)
    taker = world.stations[2].join(R)
    world.settle()
    world.stations[0].send(maker, announce(P, offers=offers(2), numwant=2))
    world.settle()
    maker.take()
    (offer,) = received(taker)
    world.stations[2].send(taker, answer(R, P, offer["offer_id"]))
    world.settle()
    (got,) = maker.take()
    assert got["answer"]
    traffic = [station.node.parts.sessions.traffic for station in world.stations]
    assert [(one.answers_in, one.answers_out) for one in traffic] == [(1, 0), (0, 0), (0, 1)]


def test_an_answer_to_a_node_that_is_gone_is_counted() -> None:
    world = World(2)
    maker = world.stations[0].join(P)
    taker = world.stations[1].join(R)
    world.settle()
    world.stations[0].send(maker, announce(P, offers=offers(1)))
    world.settle()
    (offer,) = received(taker)
    world.kill(world.stations[0])
    world.pass_time(5)
    (station,) = world.stations
    assert station.view() == (0, 1)
    station.send(taker, answer(R, P, offer["offer_id"]))
    assert station.node.parts.sessions.dropped == {Dropped.NO_ROUTE: 1}


@pytest.mark.parametrize("payload", [MAX_PAYLOAD, MIN_PAYLOAD])
def test_many_swarms_are_found_when_a_node_comes(payload: int) -> None:
    world = World(2, max_payload=payload)
    hashes = [f"{number:020}" for number in range(1000)]
    for info_hash in hashes:
        for number, station in enumerate(world.stations):
            station.hub.apply(FakeConnection(), joining(peer_id(number), info_hash), world.now, station.outbox)
    world.settle()
    assert {station.view(info_hash) for info_hash in hashes for station in world.stations} == {(0, 2)}
    late = world.bear()
    for info_hash in hashes:
        late.hub.apply(FakeConnection(), joining(peer_id(9), info_hash), world.now, late.outbox)
    world.pass_time(2.5)
    assert {station.view(info_hash) for info_hash in hashes for station in world.stations} == {(0, 3)}
    world.kill(world.stations[0])
    world.pass_time(5)
    assert {station.view(info_hash) for info_hash in hashes for station in world.stations} == {(0, 2)}
    owned = [len(station.node.parts.owners.directory) for station in world.stations]
    assert sum(owned) == 1000
    assert min(owned) > 300
    world.check()


def joining(who: str, info_hash: str) -> Announce:
    """Return the announce of a peer that joins, without the harness's checks of all swarms."""
    return Announce(info_hash, who, False, False, [])


def test_a_swarm_of_one_node_costs_other_nodes_nothing_but_a_record_at_the_owner() -> None:
    world = World(3)
    world.stations[0].join(P)
    world.settle()
    messages = world.bus.messages
    assert sum(len(station.node.parts.owners.directory) for station in world.stations) == 1
    assert all(station.node.parts.shared.by_key == {} for station in world.stations)
    world.stations[0].join(Q)
    world.settle()
    assert world.bus.messages == messages, "nothing is told of further peers"


def test_what_one_turn_has_for_one_node_is_one_message() -> None:
    world = World(2)
    first, second = world.stations
    for number in range(5):
        second.join(peer_id(number))
    first.join(peer_id(9))
    world.settle()
    messages = world.bus.messages
    for number in range(10, 20):
        first.join(peer_id(number), offers=offers(3, start=number * 10), numwant=3)
    first.turn()
    assert world.bus.messages == messages + 1


def test_offers_that_are_too_long_for_one_message_come_in_several() -> None:
    world = World(2, max_payload=MIN_PAYLOAD)
    first, second = world.stations
    takers = [second.join(peer_id(number)) for number in range(10, 12 + FEW)]
    world.pass_time(0.3)
    made = offers(9)
    for offer in made:
        offer["offer"]["sdp"] = "v" * 20_000
    first.send(FakeConnection(), announce(P, offers=made, numwant=9))
    world.settle()
    assert len(received(*takers)) == 9


@pytest.mark.parametrize("works_again", [False, True])
def test_offers_wait_while_the_transport_is_away_and_find_others_if_their_node_is_gone(works_again: bool) -> None:
    world = World(2)
    first, second = world.stations
    maker, taker, late = FakeConnection(), FakeConnection(), FakeConnection()
    first.send(maker, announce(P))
    second.send(taker, announce(Q))
    world.settle()
    world.bus.cut(first.node_id, second.node_id)
    first.transport.buffered[second.node_id] = MAX_BUFFERED
    first.node.connected(False)
    first.send(maker, announce(P, offers=offers(1)))
    world.pass_time(2)
    if works_again:
        first.transport.buffered.clear()
        first.node.connected(True)
        # The other node has no connection yet, and would miss what is sent now.
        world.pass_time(0.5)
        world.bus.mend()
        world.pass_time(1)
        assert len(received(taker)) == 1
        return
    world.pass_time(2)
    assert first.view() == (0, 1)
    first.send(late, announce(R))
    world.settle()
    assert [offer["peer_id"] for offer in received(late)] == [P]
    assert first.node.parts.sessions.dropped == {}
    world.check()


def test_offers_for_several_nodes_find_local_peers_when_all_nodes_are_gone() -> None:
    world = World(3)
    here, *elsewhere = world.stations
    connections = [FakeConnection() for _ in range(5)]
    for number, connection in enumerate(connections):
        here.send(connection, announce(peer_id(number)))
    for number in range(10):
        elsewhere[number % 2].join(peer_id(10 + number))
    world.pass_time(1)
    for station in elsewhere:
        world.bus.cut(here.node_id, station.node_id)
        here.transport.buffered[station.node_id] = MAX_BUFFERED
    here.node.connected(False)
    for number, connection in enumerate(connections):
        here.send(connection, announce(peer_id(number), offers=offers(2, start=10 * number)))
    world.pass_time(5)
    assert here.view() == (0, 5)
    assert len(received(*connections)) == 10
    assert here.node.parts.sessions.dropped == {}


def test_a_node_that_hears_itself_does_not_complain() -> None:
    """A connection to NATS that has ended may deliver broadcasts late, over the server, to the one that follows it."""
    world = World(2)
    first, second = world.stations
    own = first.sealer.seal(BROADCAST, ALL, 0, 1, [])
    first.node.receive(own)
    assert first.node.parts.refused == {Refused.DUPLICATE: 1}
    assert first.log.events == [("joined", second.node_id)]


def test_a_node_that_stops_does_not_say_that_the_others_do() -> None:
    first, second = World(2).stations
    first.node.stop()
    assert first.node.parts.members.others == {}
    assert not any(event[0] == "left" for event in first.log.events)
    first.world.settle()
    assert second.log.events[-1] == ("left", first.node_id, Left.STOPPED)


def test_offers_for_several_peers_that_were_not_sent_find_others_if_their_node_is_gone() -> None:
    world = World(2)
    first, second = world.stations
    maker, late = FakeConnection(), [FakeConnection(), FakeConnection()]
    first.send(maker, announce(P))
    for number in (10, 11):
        second.join(peer_id(number))
    world.settle()
    world.bus.cut(first.node_id, second.node_id)
    first.transport.buffered[second.node_id] = MAX_BUFFERED
    first.send(maker, announce(P, offers=offers(2)))
    world.pass_time(4)
    for number, connection in enumerate(late):
        first.send(connection, announce(peer_id(20 + number)))
    assert len(received(*late)) == 2
    assert first.node.parts.sessions.dropped == {}
    world.check()


def test_all_nodes_hear_of_a_peer_that_joins_many_while_a_further_node_does() -> None:
    """A dead connection of the peer may be at any of them."""
    world = World(2)
    first, second = world.stations
    for number in range(10, 12 + FEW):
        first.join(peer_id(number))
    old = second.join(P)
    old.last_received = 0
    world.pass_time(1)
    first.join(P)
    # Before this is told, a further node that opens the swarm is told of its peers.
    first.node.parts.telling.statement(HASH, first.hub.swarms[HASH], PLAIN)
    world.pass_time(4)
    assert old.peers == set()
    world.check()
