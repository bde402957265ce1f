"""The gateway: which node it is, what it hears, and what it tells of linked peers."""

import pytest

from extensions.cluster.wire import Linked
from extensions.cluster.work import SLICE
from tests.client import HASH
from tests.unit.cluster.world import Station, World
from tests.unit.core.one_node import some
from tests.unit.fakes import FakeConnection, peer_id
from tracker.core.swarm import RemoteMember
from tracker.protocol.messages import Announce
from tracker.reasons import DropReason

P, Q = peer_id(1), peer_id(2)


def elected(world: World) -> Station:
    """Let the nodes find a gateway, and return it."""
    world.pass_time(5)
    (gateway,) = [station for station in world.stations if station.node.parts.gateway.is_here]
    return gateway


def others(world: World, gateway: Station) -> list[Station]:
    return [station for station in world.stations if station is not gateway]


def link(gateway: Station, info_hash: str = HASH, complete: int = 0, incomplete: int = 1) -> RemoteMember:
    """Add linked peers at the gateway, as an extension does."""
    member = gateway.remote.add_remote(info_hash, "a link")
    assert member
    gateway.remote.set_remote(member, complete, incomplete)
    return member


@pytest.fixture
def world() -> World:
    return World(3, is_capable=True)


def test_all_agree_about_one_gateway(world: World) -> None:
    gateway = elected(world)
    for station in world.stations:
        events = [event for event in station.log.events if event[0] == "gateway"]
        assert events == [("gateway", station is gateway, gateway.node_id)]


def test_a_node_is_not_the_gateway_before_it_can_know_the_others() -> None:
    world = World(1, is_capable=True)
    elected(world)
    late = [world.bear() for _ in range(6)]
    world.pass_time(0.5)
    assert not any(station.node.parts.gateway.is_here for station in late)
    world.pass_time(5)
    assert sum(station.node.parts.gateway.is_here for station in world.stations) == 1


def test_a_node_that_comes_does_not_move_the_gateway(world: World) -> None:
    gateway = elected(world)
    for _ in range(8):
        world.bear()
        assert elected(world) is gateway
    assert [event for event in gateway.log.events if event[0] == "gateway"] == [("gateway", True, gateway.node_id)]


def test_only_nodes_that_can_be_it_are_candidates() -> None:
    world = World(4)
    able = world.stations[2]
    able.load.is_capable = able.node.parts.members.is_capable = True
    assert elected(world) is able


def test_without_a_candidate_there_is_none() -> None:
    world = World(2)
    world.pass_time(10)
    assert not any(event[0] == "gateway" for station in world.stations for event in station.log.events)


@pytest.mark.parametrize("by", ["death", "stop"])
def test_another_node_takes_over(world: World, by: str) -> None:
    gateway = elected(world)
    rest = others(world, gateway)
    rest[0].join(P)
    (world.kill if by == "death" else world.stop)(gateway)
    world.pass_time(0.2)
    new = elected(world)
    assert new in rest
    assert new.view() == (0, 1)


def test_the_gateway_holds_the_swarms_of_all_nodes(world: World) -> None:
    one, other = others(world, world.stations[0])
    one.join(P, left=0)
    gateway = elected(world)
    connection = other.join(Q)
    world.settle()
    for station in (gateway, one, other):
        assert station.view() == (1, 1)
    other.hub.close(connection)
    world.settle()
    assert gateway.view() == (1, 0)
    for peer in list(one.hub.swarms[HASH].peers.values()):
        one.hub.close(peer.connection)
    world.settle()
    assert all(station.hub.swarms == {} for station in world.stations)
    assert all(station.node.parts.shared.by_key == {} for station in world.stations)


def test_a_node_that_is_no_longer_the_gateway_holds_nothing(world: World) -> None:
    gateway = elected(world)
    one, other = others(world, gateway)
    one.join(P)
    gateway.join(Q, "b" * 20)
    other.join(P, "b" * 20)
    world.settle()
    gateway.node.parts.members.is_capable = gateway.load.is_capable = False
    new = elected(world)
    assert new is not gateway
    assert list(gateway.hub.swarms) == ["b" * 20]
    assert gateway.node.parts.shared.by_key.keys() == {"b" * 20}
    assert new.view() == (0, 1)
    assert new.view("b" * 20) == gateway.view("b" * 20) == (0, 2)
    world.check()


@pytest.mark.parametrize("in_order", [False, True])
def test_a_new_gateway_may_have_linked_peers_before_the_others_believe_it(world: World, in_order: bool) -> None:
    """Its heartbeat, which says that it is the gateway, may also come later, over another subscription of NATS."""
    gateway = elected(world)
    rest = others(world, gateway)
    for number, station in enumerate(rest):
        station.join(peer_id(number))
    world.settle()
    world.kill(gateway)
    while not any(station.node.parts.gateway.is_here for station in rest):
        world.pass_time(0.1, settles=False)
        if in_order:
            world.settle()
    [new] = [station for station in rest if station.node.parts.gateway.is_here]
    [other] = others(world, new)
    world.bus.waiting.sort(key=lambda message: message[0] == new.node_id)
    if not in_order:
        late, world.bus.waiting[:] = list(world.bus.waiting), []
    link(new, complete=2, incomplete=3)
    new.node.tick()
    world.settle()
    if not in_order:
        world.bus.waiting += late
    world.pass_time(2)
    assert other.view() == new.view() == (2, 5)


def test_linked_peers_count_at_all_nodes_with_peers(world: World) -> None:
    gateway = elected(world)
    one, other = others(world, gateway)
    connection = one.join(P)
    world.settle()
    member = link(gateway, complete=2, incomplete=3)
    world.pass_time(0.3)
    assert one.view() == (2, 4)
    assert other.view() == (0, 0)
    other.join(Q)
    world.settle()
    assert other.view() == one.view() == (2, 5), "told with the first message"
    gateway.remote.set_remote(member, 0, 1)
    world.pass_time(0.3)
    assert other.view() == one.view() == (0, 3)
    one.hub.close(connection)
    one.join(P)
    world.settle()
    assert one.view() == (0, 3)
    gateway.remote.set_remote(member, 0, 0)
    world.pass_time(0.3)
    assert other.view() == one.view() == gateway.view() == (0, 2)


def test_linked_peers_are_forgotten_with_the_gateway(world: World) -> None:
    gateway = elected(world)
    one, _ = others(world, gateway)
    one.join(P)
    world.settle()
    link(gateway)
    world.pass_time(0.3)
    assert one.view() == (0, 2)
    world.kill(gateway)
    world.pass_time(6)
    assert one.view() == (0, 1)
    world.check()


def test_offers_over_a_link_that_a_peer_may_not_be_given_do_not_go_to_and_fro() -> None:
    world = World(2, is_capable=True, max_foreign_offers=2)
    gateway = elected(world)
    (other,) = others(world, gateway)
    connection = other.join(P)
    world.settle()
    for number in range(4):
        gateway.remote.deliver_offers(HASH, Q, some(number), gateway.now, number)
        world.settle()
    assert sum("offer" in message for message in connection.take()) == 2
    assert gateway.hub.counters.dropped[DropReason.UNPLACED_OFFER] == 2


def test_a_swarm_that_the_gateway_no_longer_serves_is_not_shared(world: World) -> None:
    gateway = elected(world)
    one, other = others(world, gateway)
    for station in world.stations:
        station.join(P if station is one else peer_id(7), "b" * 20)
    connection = one.join(P)
    other.join(Q)
    world.settle()
    gateway.hub.restrict(lambda _: False, gateway.outbox)
    world.check()
    assert gateway.node.parts.shared.by_key == {}
    one.join(peer_id(3))
    one.hub.close(connection)
    other.join(peer_id(4))
    world.settle()
    assert one.view() == other.view() == (0, 3)
    assert gateway.hub.swarms == {}
    assert gateway.node.parts.shared.by_key == {}
    gateway.hub.restrict(lambda _: True, gateway.outbox)
    other.join(peer_id(5))
    one.join(peer_id(5))
    world.pass_time(1)
    assert gateway.view() == (0, 4)
    world.check()


def test_many_linked_peers_of_a_former_gateway_are_forgotten_in_slices(world: World) -> None:
    gateway = elected(world)
    one, other = others(world, gateway)
    hashes = [f"{number:020}" for number in range(3 * SLICE)]
    for info_hash in hashes:
        one.hub.apply(FakeConnection(), Announce(info_hash, P, False, False, []), world.now, one.outbox)
    world.pass_time(1)
    for info_hash in hashes:
        link(gateway, info_hash)
    world.pass_time(1)
    assert {one.view(info_hash) for info_hash in hashes} == {(0, 2)}
    for station in (one, other):
        station.node.lost(gateway.node_id)
    world.kill(gateway)
    assert sum(one.view(info_hash) == (0, 2) for info_hash in hashes) >= SLICE
    # Meanwhile another gateway tells of some of the swarms.
    new = one.node.parts.sessions.by_id[other.node_id]
    one.node.parts.links.set_gateway(new)
    one.node.parts.links.on_linked(new, Linked(hashes[-1], 0, 4))
    assert one.view(hashes[-1]) == (0, 5)
    one.node.parts.links.set_gateway(None)
    world.settle()
    assert {one.view(info_hash) for info_hash in hashes} == {(0, 1)}
    one.node.parts.links.set_gateway(new)
    one.node.parts.links.on_linked(new, Linked(HASH, 0, 4))
    world.settle()
    one.hub.check_invariants()
