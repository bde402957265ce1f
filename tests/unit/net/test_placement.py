"""The choice of the worker that serves a swarm."""

from collections import Counter

from tracker.net.placement import SPARE, Placement

SWARMS = [f"swarm {number}" for number in range(4000)]


def test_all_workers_choose_the_same_and_each_has_its_share() -> None:
    placements = [Placement(own, 4) for own in range(4)]
    chosen = [[placement.choose(swarm) for swarm in SWARMS] for placement in placements]
    assert all(one == chosen[0] for one in chosen)
    shares = Counter(chosen[0])
    # The standard deviation of a share is 27.
    assert all(abs(shares[place] - 1000) < 150 for place in range(4))


def test_only_the_swarms_of_a_dead_worker_move() -> None:
    placement = Placement(0, 4)
    before = [placement.choose(swarm) for swarm in SWARMS]
    placement.set_live(2, False)
    meanwhile = [placement.choose(swarm) for swarm in SWARMS]
    assert all(one == other for one, other in zip(before, meanwhile, strict=True) if one != 2)
    assert 2 not in meanwhile
    placement.set_live(2, True)
    assert [placement.choose(swarm) for swarm in SWARMS] == before


def test_without_a_live_worker_a_connection_stays() -> None:
    placement = Placement(1, 2)
    for place in range(2):
        placement.set_live(place, False)
    assert placement.choose("x") == 1


def test_an_overloaded_worker_is_not_chosen() -> None:
    placement = Placement(0, 4)
    first = placement.choose("x")
    loads = [1000] * 4
    loads[first] = 3000
    placement.set_loads(loads)
    second = placement.choose("x")
    assert second != first
    assert Placement(3, 4).choose("x") == first
    placement.set_loads([1000] * 4)
    assert placement.choose("x") == first
    # Of another number of workers.
    placement.set_loads([0])
    assert placement.choose("x") == first


def test_connections_that_were_handed_count_until_the_loads_are_told() -> None:
    placement = Placement(0, 2)
    first = placement.choose("x")
    moved = 0
    while placement.choose("x") == first:
        placement.moved(first)
        moved += 1
        assert moved < 10 * SPARE
    assert moved > SPARE
