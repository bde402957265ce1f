"""The owners of keys, and silent nodes."""

import random
from collections import Counter
from math import sqrt

from extensions.cluster.members import DEAD_AFTER, Members, Ring

KEYS = [f"key {number}" for number in range(5000)]


def ring_of(nodes: list[str]) -> Ring:
    ring = Ring()
    for node in nodes:
        ring.add(node)
    return ring


def some_nodes(count: int) -> list[str]:
    chance = random.Random(4)
    return [f"{chance.getrandbits(64):016x}" for _ in range(count)]


def test_keys_are_spread_evenly() -> None:
    nodes = some_nodes(8)
    ring = ring_of(nodes)
    owned = Counter(ring.owner(key) for key in KEYS)
    expected = len(KEYS) / 8
    chi_square = sum((owned[node] - expected) ** 2 / expected for node in nodes)
    assert chi_square < 7 + 4 * sqrt(14)


def test_ids_that_differ_in_few_bits_are_spread_evenly() -> None:
    """The ranks of close numbers are not close."""
    nodes = [f"{number:08x}{'0' * 8}" for number in range(4)]
    owned = Counter(ring_of(nodes).owner(key) for key in KEYS)
    assert all(abs(owned[node] - 1250) < 5 * sqrt(1250) for node in nodes)


def test_only_keys_of_a_node_that_comes_or_goes_change_their_owner() -> None:
    nodes = some_nodes(6)
    ring = ring_of(nodes)
    before = {key: ring.owner(key) for key in KEYS}
    gone = nodes[2]
    assert {key: ring.owner_without(key, {gone}) for key in KEYS if before[key] != gone} == {
        key: owner for key, owner in before.items() if owner != gone
    }
    ring.remove(gone)
    assert {key for key in KEYS if ring.owner(key) != before[key]} == {key for key in KEYS if before[key] == gone}
    assert {key for key in KEYS if ring.was_owned(key, {gone})} == {key for key in KEYS if before[key] == gone}
    ring.add(gone)
    assert {key: ring.owner(key) for key in KEYS} == before


def test_all_nodes_return_the_same_owner_in_whichever_order_they_know_them() -> None:
    nodes = some_nodes(5)
    assert all(ring_of(nodes).owner(key) == ring_of(nodes[::-1]).owner(key) for key in KEYS[:200])


def test_nodes_whose_numbers_are_equal_are_told_apart() -> None:
    one, other = "00000000" + "0" * 8, "00000000" + "1" * 8
    assert {ring_of([one, other]).owner(key) for key in KEYS[:50]} == {one}
    assert {ring_of([other, one]).owner(key) for key in KEYS[:50]} == {one}
    assert ring_of([other]).was_owned(KEYS[0], {one})


def test_without_a_node_there_is_no_owner() -> None:
    assert Ring().owner("key") == ""
    assert ring_of(["0" * 16]).owner_without("key", {"0" * 16}) == ""


def test_a_silent_node_is_found_after_a_while() -> None:
    members = Members("0" * 16, False)
    member = members.add("1" * 16, 100.0)
    now = 100.0
    while now < 100 + DEAD_AFTER - 0.2:
        now += 0.1
        assert members.silent(now, 0.1) == []
    for _ in range(4):
        now += 0.1
        silent = members.silent(now, 0.1)
    assert silent == [member.node_id]


def test_nodes_are_not_silent_because_this_process_was_stopped() -> None:
    members = Members("0" * 16, False)
    members.add("1" * 16, 100.0)
    assert members.silent(100.1, 0.1) == []
    assert members.silent(200.0, 0.1) == [], "what they have said meanwhile was not read yet"
    assert members.silent(200.1, 0.1) == []
    assert members.silent(204.0, 3.9) == ["1" * 16]


def test_only_a_capable_node_is_the_gateway() -> None:
    members = Members("0" * 16, False)
    assert members.gateway() == ""
    able = [members.add(f"{number}" * 16, 0.0) for number in range(1, 4)]
    assert members.gateway() == ""
    able[1].is_capable = True
    assert members.gateway() == "", "perhaps it has ended"
    for member in able:
        member.is_certain = True
    assert members.gateway() == able[1].node_id
