"""The choice of the worker that serves a swarm."""

from collections import Counter

from tracker.net.placement import SPARE, Placement

ROOM = 100_000
SWARMS = [f"swarm {number}" for number in range(4000)]


def test_all_workers_choose_the_same_and_each_has_its_share() -> None:
    placements = [Placement(own, 4) for own in range(4)]
    chosen = [[placement.choose(swarm, ROOM) for swarm in SWARMS] for placement in placements]
    assert all(one == chosen[0] for one in chosen)
    shares = Counter(chosen[0])
    # The standard deviation of a share is 27.
    assert all(abs(shares[place] - 1000) < 150 for place in range(4))


def test_only_the_swarms_of_a_dead_worker_move() -> None:
    placement = Placement(0, 4)
    before = [placement.choose(swarm, ROOM) for swarm in SWARMS]
    placement.set_live(2, False)
    meanwhile = [placement.choose(swarm, ROOM) for swarm in SWARMS]
    assert all(one == other for one, other in zip(before, meanwhile, strict=True) if one != 2)
    assert 2 not in meanwhile
    placement.set_live(2, True)
    assert [placement.choose(swarm, ROOM) for swarm in SWARMS] == before


def test_without_a_live_worker_a_connection_stays() -> None:
    placement = Placement(1, 2)
    for place in range(2):
        placement.set_live(place, False)
    assert placement.choose("x", ROOM) == 1


def test_an_overloaded_worker_is_not_chosen() -> None:
    placement = Placement(0, 4)
    first = placement.choose("x", ROOM)
    loads = [1000] * 4
    loads[first] = 3000
    placement.set_loads(loads)
    second = placement.choose("x", ROOM)
    assert second != first
    assert Placement(3, 4).choose("x", ROOM) == first
    placement.set_loads([1000] * 4)
    assert placement.choose("x", ROOM) == first
    # Of another number of workers.
    placement.set_loads([0])
    assert placement.choose("x", ROOM) == first


def test_connections_that_were_handed_count_until_the_loads_are_told() -> None:
    placement = Placement(0, 2)
    first = placement.choose("x", ROOM)
    moved = 0
    while placement.choose("x", ROOM) == first:
        placement.moved(first)
        moved += 1
        assert moved < 10 * SPARE
    assert moved > SPARE


def test_a_worker_that_is_almost_full_is_not_chosen_and_hands_its_own_connections_to_others() -> None:
    placements = [Placement(own, 2) for own in range(2)]
    first = placements[0].choose("x", 100)
    for placement in placements:
        loads = [10, 10]
        loads[first] = 94
        placement.set_loads(loads)
        assert placement.choose("x", 100) == first
        placement.moved(first)
        assert placement.choose("x", 100) == 1 - first
    for own, placement in enumerate(placements):
        placement.set_loads([100, 100])
        assert placement.choose("x", 100) == own


def test_the_connections_of_this_worker_count_before_the_loads_are_told() -> None:
    placement = Placement(0, 2)
    swarm = next(swarm for swarm in SWARMS if placement.choose(swarm, ROOM) == 1)
    for _ in range(1000):
        placement.moved(1)
    assert placement.choose(swarm, ROOM) == 0
    placement.set_own(1000)
    assert placement.choose(swarm, ROOM) == 1
