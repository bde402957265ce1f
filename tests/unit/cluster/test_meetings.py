"""Peers of one swarm at different nodes meet."""

import pytest

from tests.client import announce, answer, offers
from tests.unit.cluster.world import World
from tests.unit.fakes import FakeConnection, peer_id

P, Q = peer_id(1), peer_id(2)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_lone_peers_meet_once(order: tuple[int, int]) -> None:
    world = World(2)
    first, second = world.stations[order[0]], world.stations[order[1]]
    here, there = FakeConnection(), FakeConnection()
    first.send(here, announce(P, offers=offers(3)))
    world.settle()
    second.send(there, announce(Q, offers=offers(3, start=10)))
    world.settle()
    offered = [message for message in here.take() + there.take() if "offer" in message]
    assert len(offered) == 1
    (offer,) = offered
    assert offer["peer_id"] == Q
    first.send(here, answer(P, Q, offer["offer_id"]))
    world.settle()
    (got,) = there.take()
    assert got["answer"]
    assert got["peer_id"] == P
    assert first.view() == second.view() == (0, 2)
    world.check()
