"""Single messages that are lost, and nodes that forget each other: what each part of the protocol repairs, and when."""

import pytest

from extensions.cluster.reasons import Left, Resync
from extensions.cluster.telling import FEW
from extensions.cluster.work import SLICE
from tests.client import HASH, offers
from tests.unit.cluster.test_gateway import elected, link, others
from tests.unit.cluster.test_meetings import joining
from tests.unit.cluster.world import Station, World
from tests.unit.fakes import FakeConnection, peer_id

P, Q, R = peer_id(1), peer_id(2), peer_id(3)


@pytest.fixture
def world() -> World:
    return World(2)


def lose(world: World, station: Station) -> None:
    """Lose everything that a node has to send now."""
    while station.turn():
        pass
    assert world.bus.waiting
    world.bus.waiting.clear()


def resyncs(world: World) -> int:
    return sum(station.node.parts.sessions.resyncs.total() for station in world.stations)


def test_a_lost_opening_is_repaired(world: World) -> None:
    first, second = world.stations
    first.join(P)
    world.settle()
    owner = next(station for station in world.stations if station.node.parts.owners.ring.owner(HASH) == station.node_id)
    opener = second if owner is first else first
    for peer in list(first.hub.swarms[HASH].peers.values()):
        first.hub.close(peer.connection)
    world.settle()
    owner.join(P)
    world.settle()
    opener.join(Q)
    lose(world, opener)
    assert opener.view() == (0, 1)
    world.pass_time(2.5)
    assert [station.view() for station in world.stations] == [(0, 2)] * 2
    assert owner.node.parts.sessions.resyncs == {}, "only the one whose message was lost tells again"
    assert opener.node.parts.sessions.resyncs == {Resync.GAP: 1}


def test_a_lost_closing_is_repaired(world: World) -> None:
    first, second = world.stations
    connection = first.join(P)
    second.join(Q)
    world.settle()
    first.hub.close(connection)
    lose(world, first)
    assert second.view() == (0, 2)
    world.pass_time(2.5)
    assert second.view() == (0, 1)
    assert second.node.parts.shared.by_key == {}
    assert resyncs(world) == 1


def test_a_lost_roster_is_repaired_and_parked_offers_are_not_placed_again(world: World) -> None:
    first, second = world.stations
    connections = [first.join(P), second.join(Q)]
    world.settle()
    connections.append(first.join(R, offers=offers(5), numwant=5))
    lose(world, first)
    world.pass_time(2.5)
    assert [station.view() for station in world.stations] == [(0, 3)] * 2
    world.pass_time(1)
    received = [message for connection in connections for message in connection.take() if "offer" in message]
    assert len(received) == 1, "that for the local peer; the other one was lost"


def test_a_node_that_was_forgotten_tells_everything_again_at_once(world: World) -> None:
    first, second = world.stations
    first.join(P)
    second.join(Q)
    world.pass_time(3)
    first.node.lost(second.node_id)
    world.settle()
    assert (first.view(), second.view()) == ((0, 1), (0, 2))
    world.pass_time(1.3)
    assert first.view() == second.view() == (0, 2)
    assert second.node.parts.sessions.resyncs == {Resync.FORGOTTEN: 1}
    assert first.log.events[-2:] == [("left", second.node_id, Left.LOST), ("joined", second.node_id)]


def test_two_nodes_that_meet_again_find_their_swarms_with_the_help_of_the_owner() -> None:
    world = World(3)
    owner = next(station for station in world.stations if station.node.parts.owners.ring.owner(HASH) == station.node_id)
    one, other = others(world, owner)
    one.join(P)
    other.join(Q)
    world.pass_time(10)
    assert one.view() == other.view() == (0, 2)
    world.bus.cut(one.node_id, other.node_id)
    world.pass_time(400)
    assert one.view() == other.view() == (0, 1)
    assert owner.node.parts.members.others.keys() == {one.node_id, other.node_id}
    world.bus.mend()
    world.pass_time(2)
    assert one.view() == other.view() == (0, 2)


def test_a_node_is_told_again_although_it_had_no_peers_when_it_was_told(world: World) -> None:
    first, second = world.stations
    first.join(P)
    world.settle()
    # Its owner had a record that was void already.
    first.node.parts.hearing.on_shares(HASH, [second.node_id], False)
    while first.turn():
        pass
    world.bus.run()
    assert second.view() == (0, 0)
    lose(world, second)
    second.join(Q)
    world.settle()
    assert first.view() == second.view() == (0, 2)


def test_swarms_that_close_while_a_new_owner_is_told_are_forgotten_by_the_former_one() -> None:
    world = World(2)
    first, second = world.stations
    connections = []
    for number in range(3 * SLICE):
        connections.append(FakeConnection())
        first.hub.apply(connections[-1], joining(P, f"{number:020}"), world.now, first.outbox)
    world.settle()
    late = world.bear()
    world.now += 0.1
    late.node.tick()
    while late.node_id not in first.node.parts.owners.ring:
        world.turn()
        world.bus.run()
    assert len(first.node.parts.work) > 0, "not all swarms are visited yet"
    for connection in connections:
        first.hub.close(connection)
    world.settle()
    world.pass_time(1)
    assert [len(station.node.parts.owners.directory) for station in (first, second, late)] == [0, 0, 0]


def test_a_large_swarm_is_told_ten_times_in_a_second_at_most_and_the_last_state_at_last(world: World) -> None:
    first, second = world.stations
    second.join(Q)
    for number in range(10, 11 + FEW):
        first.join(peer_id(number))
    world.settle()
    world.pass_time(0.2)
    messages = world.bus.messages
    for number in range(50, 60):
        first.join(peer_id(number))
        world.settle()
    assert world.bus.messages == messages + 1
    assert second.view() == (0, FEW + 3)
    world.pass_time(0.1)
    assert second.view() == (0, FEW + 12)


def test_a_lost_message_about_linked_peers_is_repaired() -> None:
    world = World(2, is_capable=True)
    gateway = elected(world)
    (one,) = others(world, gateway)
    one.join(P)
    world.settle()
    member = link(gateway)
    world.pass_time(0.3)
    assert one.view() == (0, 2)
    gateway.remote.set_remote(member, 0, 0)
    gateway.node.parts.links.tick()
    lose(world, gateway)
    world.pass_time(2.5)
    assert one.view() == (0, 1)


def test_the_gateway_holds_a_swarm_that_was_shared_with_local_peers() -> None:
    world = World(2, is_capable=True)
    gateway = elected(world)
    (one,) = others(world, gateway)
    connection = gateway.join(P)
    world.settle()
    one.join(Q)
    world.settle()
    gateway.hub.close(connection)
    world.settle()
    assert gateway.view() == (0, 1)


@pytest.mark.parametrize("is_late", [False, True])
def test_a_message_that_comes_twice_changes_nothing(world: World, is_late: bool) -> None:
    first, second = world.stations
    first.join(P)
    second.join(Q)
    world.settle()
    first.join(R)
    while first.turn():
        pass
    again = list(world.bus.waiting)
    world.settle()
    if is_late:
        for peer in list(first.hub.swarms[HASH].peers.values()):
            if peer.peer_id == R:
                first.hub.close(peer.connection)
        world.settle()
    for _, _, payload in again:
        second.node.receive(payload)
    assert second.view() == ((0, 2) if is_late else (0, 3))
    assert resyncs(world) == 0
