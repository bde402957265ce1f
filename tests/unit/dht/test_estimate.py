"""The estimate of the DHT's size, from lookups of random ids."""

import random
from heapq import nsmallest

import pytest

from extensions.dht.krpc.estimate import SAMPLES, SizeEstimate, distances_from


def nearest(target: bytes, ids: list[bytes], number: int = 8) -> list[bytes]:
    wanted = int.from_bytes(target, "big")
    return nsmallest(number, ids, key=lambda node_id: int.from_bytes(node_id, "big") ^ wanted)


@pytest.mark.parametrize("size", [100, 5000])
def test_the_size_of_a_network_is_estimated(size: int) -> None:
    source = random.Random(1)
    ids = [source.randbytes(20) for _ in range(size)]
    estimate = SizeEstimate()
    for _ in range(SAMPLES):
        target = source.randbytes(20)
        estimate.note(target, nearest(target, ids))
    assert estimate.nodes == pytest.approx(size, rel=0.25)
    within = [sum(d <= estimate.reach for d in distances_from(source.randbytes(20), ids)) for _ in range(50)]
    assert 5 < sum(within) / 50 < 11


def test_nothing_is_known_at_first_or_of_fewer_than_eight_nodes() -> None:
    estimate = SizeEstimate()
    estimate.note(bytes(20), [bytes([number]) * 20 for number in range(7)])
    assert (estimate.nodes, estimate.reach) == (None, 0)
    assert not estimate.is_dense(bytes(20), [bytes(19) + bytes([number]) for number in range(8)])


def test_nodes_that_crowd_round_some_targets_do_not_spoil_it() -> None:
    source = random.Random(1)
    ids = [source.randbytes(20) for _ in range(1000)]
    estimate = SizeEstimate()
    for number in range(SAMPLES):
        target = source.randbytes(20)
        crowd = [target[:-1] + bytes([other]) for other in range(8)]
        estimate.note(target, crowd if number % 4 == 0 else nearest(target, ids))
    assert estimate.nodes == pytest.approx(1000, rel=0.4)


def test_old_lookups_are_forgotten() -> None:
    source = random.Random(1)
    estimate = SizeEstimate()
    for size in (10, 2000):
        ids = [source.randbytes(20) for _ in range(size)]
        for _ in range(SAMPLES):
            target = source.randbytes(20)
            estimate.note(target, nearest(target, ids))
    assert estimate.nodes == pytest.approx(2000, rel=0.25)


def test_eight_nodes_within_a_tenth_of_the_reach_are_dense() -> None:
    source = random.Random(1)
    ids = [source.randbytes(20) for _ in range(3000)]
    estimate = SizeEstimate()
    for _ in range(8):
        target = source.randbytes(20)
        estimate.note(target, nearest(target, ids))
    for _ in range(100):
        target = source.randbytes(20)
        assert not estimate.is_dense(target, nearest(target, ids))

    def crowd(distance: int, size: int) -> list[bytes]:
        return [(distance + number).to_bytes(20, "big") for number in range(size)]

    assert estimate.is_dense(bytes(20), crowd(estimate.reach // 10 - 9, 8))
    assert not estimate.is_dense(bytes(20), crowd(estimate.reach // 10 + 1, 8))
    assert not estimate.is_dense(bytes(20), crowd(1, 7))


def test_nodes_that_crowd_round_every_target_do_not_spoil_it_if_others_have_fitting_ids() -> None:
    source = random.Random(1)
    ids = [source.randbytes(20) for _ in range(1000)]
    estimate = SizeEstimate()
    for _ in range(SAMPLES):
        target = source.randbytes(20)
        crowd = [target[:-1] + bytes([other]) for other in range(8)]
        fitting = nearest(target, ids)
        estimate.note(target, [*crowd, *fitting], fitting)
    assert estimate.nodes == pytest.approx(1000, rel=0.25)


def test_if_only_some_ids_fit_all_count() -> None:
    source = random.Random(1)
    ids = [source.randbytes(20) for _ in range(1000)]
    estimate = SizeEstimate()
    for _ in range(SAMPLES):
        target = source.randbytes(20)
        estimate.note(target, nearest(target, ids), nearest(target, ids[:300]))
    assert estimate.nodes == pytest.approx(1000, rel=0.25)
