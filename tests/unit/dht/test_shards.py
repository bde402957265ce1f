"""The shards of large records: paths, the search for a depth, and samples."""

from collections import Counter
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.records.keys import MAX_DEPTH, shard_path, shard_salt
from extensions.dht.records.shards import SHALLOW, DepthSearch, ShardMemory, Uniform, depth_above, random_bits
from extensions.dht.records.slots import Slot
from tests.unit.dht.entries import HASH, OTHER_HASH, identity

OWN = identity(1).public_key().public_bytes_raw()
reproducible = settings(derandomize=True)


def test_a_path_is_a_hash_of_infohash_and_tracker_id() -> None:
    number = int.from_bytes(sha256(b"peerservers/1 shard" + HASH + OWN).digest()[:3], "big")
    assert shard_path(HASH, OWN.hex()) == f"{number:024b}"[:MAX_DEPTH]
    assert shard_path(OTHER_HASH, OWN.hex()) != shard_path(HASH, OWN.hex())
    assert [shard_salt(shard_path(HASH, OWN.hex())[:depth]) for depth in (0, 2)] == [
        b"s",
        b"s" + f"{number:024b}"[:2].encode(),
    ]


# The search for a depth


def search(start: int, is_deep_enough: list[bool], tries: int = 100) -> tuple[DepthSearch, list[int]]:
    """Search the first depth that is deep enough. Return the search, and the depths that were looked at."""
    one, looked = DepthSearch(start, tries), []
    while one.depth is not None:
        looked.append(one.depth)
        if is_deep_enough[one.depth]:
            one.shallower()
        else:
            one.deeper()
    return one, looked


@pytest.mark.parametrize("start", [-5, 0, 1, 7, 10, MAX_DEPTH, 99])
@pytest.mark.parametrize("end", range(MAX_DEPTH + 1))
def test_every_depth_is_found_from_everywhere(start: int, end: int) -> None:
    one, looked = search(start, [depth >= end for depth in range(MAX_DEPTH + 1)])
    assert one.found == end
    assert len(looked) == len(set(looked)) <= 9
    if abs(start - end) <= 1:
        assert len(looked) <= 4


def test_close_to_the_start_two_looks_suffice() -> None:
    ends_at_10 = [depth >= 10 for depth in range(MAX_DEPTH + 1)]
    assert search(10, ends_at_10)[1] == [10, 9]
    assert search(9, ends_at_10)[1] == [9, 10]


def test_if_no_depth_is_deep_enough_the_deepest_is_found() -> None:
    one, looked = search(3, [False] * (MAX_DEPTH + 1))
    assert (one.found, looked) == (MAX_DEPTH, [3, 4, 6, 10, 18, 20])


def test_a_search_can_be_stopped() -> None:
    one = DepthSearch(5, 10)
    one.deeper()
    one.stop()
    assert one.depth is None
    assert one.found == 6


@given(st.integers(-3, 30), st.lists(st.booleans(), min_size=MAX_DEPTH + 1, max_size=MAX_DEPTH + 1), st.integers(1, 8))
@reproducible
def test_whatever_the_shards_contain_the_search_is_short(start: int, contents: list[bool], tries: int) -> None:
    one, looked = search(start, contents, tries)
    assert 1 <= len(looked) <= tries
    assert len(set(looked)) == len(looked)
    assert all(0 <= depth <= MAX_DEPTH for depth in [*looked, one.found])


# Samples


def gives(*numbers: float) -> Uniform:
    """Return a source of these random numbers."""
    rest = iter(numbers)
    return lambda _first, _last: next(rest)


def test_the_shards_above_are_read_half_as_often_for_each_step() -> None:
    depths = Counter(depth_above(10, gives((number + 0.5) / 4096)) for number in range(4096))
    assert [depths[depth] for depth in (9, 8, 7, 6)] == [2048, 1024, 512, 256]
    assert sum(depths.values()) == 4096
    assert min(depths) == 0
    # The most extreme random numbers, too.
    assert [depth_above(3, gives(number)) for number in (0.0, 1.0)] == [2, 0]


def test_bits_are_random() -> None:
    assert random_bits(4, gives(0.1, 0.9, 0.5, 0.4)) == "1001"
    assert random_bits(0, gives()) == ""


# Memory


def test_a_record_with_room_in_its_slots_needs_no_shards() -> None:
    memory = ShardMemory()
    memory.note_slots(None)
    assert (memory.depth, memory.is_large) == (None, False)
    memory.note_slots(Slot(b"r2", depth=7))
    assert (memory.depth, memory.is_large) == (7, True)
    # The own experience counts more than anything that can be written to the window.
    memory.note_slots(Slot(b"r2", depth=20))
    assert memory.depth == 7
    memory.note_slots(None)
    assert memory.depth is None
    memory.note_slots(Slot(b"r2"))
    assert memory.depth == 0


def test_our_own_shard_is_a_part_of_the_tree() -> None:
    memory = ShardMemory()
    memory.note_own(4, 20000)
    assert (memory.depth, memory.own_depth, memory.own_day) == (4, 4, 20000)
    memory.depth = 9
    memory.note_own(3, 20000)
    assert (memory.depth, memory.own_depth) == (9, 3)


@pytest.mark.parametrize("depth", [None, *range(MAX_DEPTH + 1)])
def test_all_trackers_together_read_the_slots_equally_often_at_any_depth(depth: int | None) -> None:
    memory = ShardMemory(depth)
    steps = 2**12
    skipped = sum(memory.skips_slots(gives((number + 0.5) / steps)) for number in range(steps))
    read = (steps - skipped) / steps
    assert read == (1.0 if depth is None or depth <= SHALLOW else max(0, round(steps * 2 ** (SHALLOW - depth))) / steps)
