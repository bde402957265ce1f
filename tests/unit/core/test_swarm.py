"""The members of a swarm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.core.swarms import FRESH, swarm_of
from tests.unit.fakes import FakeConnection, peer_id
from tracker.core.bits import LOCAL, REMOTE, SEEDER
from tracker.core.swarm import SMALL, RemoteMember, Swarm


def test_remote_counts() -> None:
    swarm, _ = swarm_of(1, 2)
    member = RemoteMember(swarm, None)
    swarm.set_remote(member, 0, 0)
    assert swarm.remotes == []
    swarm.set_remote(member, 3, 4)
    swarm.set_remote(member, 2, 5)
    assert (swarm.complete, swarm.incomplete) == (3, 7)
    swarm.check_invariants()
    with pytest.raises(ValueError, match="negative"):
        swarm.set_remote(member, -1, 0)
    swarm.set_remote(member, 0, 0)
    assert (swarm.complete, swarm.incomplete, swarm.remotes) == (1, 2, [])
    swarm.check_invariants()


@given(st.lists(st.tuples(st.sampled_from("jls"), st.integers(0, 9))))
def test_the_pools_stay_in_order(steps: list[tuple[str, int]]) -> None:
    swarm = Swarm("h" * 20)
    for what, number in steps:
        peer = swarm.peers.get(peer_id(number))
        if what == "j" and peer is None:
            swarm.join(peer_id(number), FakeConnection(), number % 2 == 0, FRESH)
        elif what == "l" and peer is not None:
            swarm.leave(peer)
        elif what == "s" and peer is not None and not peer.complete:
            swarm.become_seeder(peer)
        swarm.check_invariants()


def test_each_of_many_peers_has_a_bit_of_its_own() -> None:
    swarm, peers = swarm_of(0, 53)
    bits = {peer.bit for peer in peers}
    assert (len(bits), sum(bits), min(bits)) == (53, LOCAL, 1)
    assert swarm.join("n" * 20, FakeConnection(), False, FRESH).bit == 1


def test_a_newcomer_to_a_small_swarm_is_not_taken_for_a_peer_that_has_left() -> None:
    swarm, (stays, leaves, *_) = swarm_of(0, 2)
    stays.meet(leaves.bit, complete=False)
    swarm.leave(leaves)
    for number in range(2, 54):
        swarm.leave(swarm.join(peer_id(number), FakeConnection(), False, FRESH))
    newcomer = swarm.join(peer_id(99), FakeConnection(), False, FRESH)
    assert newcomer.bit == leaves.bit
    assert (stays.met, stays.met_count) == (0, 0)


def test_meeting_again_counts_once() -> None:
    _, (peer, other) = swarm_of(1, 1)
    for _ in range(3):
        peer.meet(other.bit, complete=True)
    assert (peer.met, peer.met_count) == (other.bit | SEEDER, 1)
    peer.forget_met()
    assert (peer.met, peer.met_count) == (0, 0)


@pytest.mark.parametrize(("peers", "elsewhere"), [(3, 0), (SMALL, 2000), (2000, 5)])
def test_the_peer_on_a_connection_is_found(peers: int, elsewhere: int) -> None:
    swarm, members = swarm_of(0, peers)
    connection = members[-1].connection
    for number in range(elsewhere):
        Swarm(f"{number:020}").join(members[-1].peer_id, connection, False, FRESH)
    assert swarm.peer_on(connection) is members[-1]
    assert swarm.peer_on(FakeConnection()) is None


def test_a_search_that_takes_too_long_is_not_made() -> None:
    swarm, members = swarm_of(0, 2000)
    for number in range(2000):
        Swarm(f"{number:020}").join(members[0].peer_id, members[0].connection, False, FRESH)
    assert swarm.peer_on(members[0].connection) is None


def test_the_bits_of_remote_peers_are_apart() -> None:
    assert (LOCAL & REMOTE, LOCAL & SEEDER, REMOTE & SEEDER) == (0, 0, 0)
