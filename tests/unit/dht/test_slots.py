"""The state of one slot, whatever values the nodes have."""

from collections import Counter
from typing import Any

import pytest

from extensions.dht.records.keys import MAX_DEPTH, shard_path
from extensions.dht.records.slots import LOCKED, MAX_VALUE, Slot, decode_slot, encode_slot
from extensions.entries import MAX_ENTRY, Rejected, merge
from tests.unit.dht.entries import FULL, HASH, NOW, entry_of, slot_of, slot_value, unsigned, wire

OWN = unsigned(0)


def test_the_values_of_several_nodes_are_merged() -> None:
    slot = Slot(b"r0")
    assert not slot.continues
    values = [encode_slot([entry_of(1), entry_of(2, 60)]), encode_slot([entry_of(2), entry_of(3)])]
    assert slot.add(4, values[0], HASH, NOW) == {}
    assert slot.add(3, values[1], HASH, NOW) == {}
    assert (slot.seq, set(slot.entries)) == (4, {entry_of(1), entry_of(2), entry_of(3)})
    slot.add(2, b"rubbish", HASH, NOW)
    assert not slot.is_spoilt
    assert slot.size == len(values[0])


def test_the_longest_value_decides_whether_a_slot_is_full_even_if_it_is_invalid() -> None:
    room = MAX_VALUE - MAX_ENTRY
    slot = Slot(b"r0")
    slot.add(1, bytes(room), HASH, NOW)
    assert not slot.is_full
    slot.add(1, bytes(room + 1), HASH, NOW)
    slot.add(2, encode_slot([]), HASH, NOW)
    assert slot.is_full
    assert slot.continues


def test_a_slot_is_full_even_if_no_node_has_all_of_its_entries() -> None:
    entries = [entry_of(number) for number in range(1, 7)]
    slot = Slot(b"r0")
    for half in (entries[:3], entries[3:]):
        slot.add(1, encode_slot(half), HASH, NOW)
    # The next writer has no room here, and readers must find its entry in the next slot.
    assert not slot.has_room(OWN)
    assert slot.is_full
    assert slot.is_crowded


@pytest.mark.parametrize("value", [None, 5, [b"x" * 900], {b"e": b"x" * 900}])
def test_a_value_that_is_not_a_string_has_no_size(value: object) -> None:
    slot = Slot(b"r0")
    assert slot.add(1, value, HASH, NOW) == {Rejected.NOT_A_STRING: 1}
    assert (slot.is_spoilt, slot.is_full) == (True, False)


@pytest.mark.parametrize("passed", [30, 150], ids=["some have ended", "all have ended"])
def test_a_slot_that_was_full_leads_to_the_next_until_it_is_written_again(passed: float) -> None:
    ages = [7100, 7110, 7180, 7180, 7180, 7180]
    value = encode_slot([entry_of(number, age) for number, age in enumerate(ages, 1)])
    writers, readers = Slot(b"r0"), Slot(b"r0")
    writers.add(1, value, HASH, NOW)
    assert not writers.has_room(entry_of(7))
    readers.add(1, value, HASH, NOW + passed)
    assert readers.continues
    assert not readers.is_spoilt
    # Its valid entries alone leave room, which the next writer uses.
    assert not readers.is_crowded
    assert readers.has_room(entry_of(7))


def test_our_own_entry_counts_as_replaced() -> None:
    assert not slot_of(0, FULL).has_room(OWN)
    assert slot_of(0, [*FULL[:5], unsigned(0, NOW + 60)]).has_room(OWN)
    assert slot_of(0, FULL).beside(FULL[2]) == [*FULL[:2], *FULL[3:]]
    assert slot_of(0, FULL).entry_of(FULL[2].tracker_id) == FULL[2]
    assert slot_of(0, FULL).entry_of(OWN.tracker_id) is None


@pytest.mark.parametrize("seq", [LOCKED, LOCKED + 1, 2**63 - 1, 2**70])
def test_a_locked_slot_has_no_room(seq: int) -> None:
    assert not Slot(b"r0", seq).has_room(OWN)
    assert Slot(b"r0", LOCKED - 1).has_room(OWN)


def test_a_spoilt_slot_has_room() -> None:
    slot = Slot(b"r0")
    assert slot.add(7, b"rubbish", HASH, NOW) == {Rejected.NOT_BENCODE: 1}
    assert slot.is_spoilt
    assert slot.continues
    assert slot.has_room(OWN)


# Shards


def decoded(value: object, salt: bytes) -> tuple[list[Any], int | None, dict[Rejected, int]]:
    rejected: Counter[Rejected] = Counter()
    return *decode_slot(value, salt, HASH, NOW, rejected), dict(rejected)


def test_a_shard_has_only_entries_of_trackers_on_whose_path_it_is() -> None:
    entries = merge(entry_of(number) for number in range(1, 7))
    value = encode_slot(entries)
    assert decoded(value, b"s") == (entries, None, {})
    for bit in "01":
        own = [entry for entry in entries if shard_path(HASH, entry.tracker_id).startswith(bit)]
        assert 0 < len(own) < 6, "choose other trackers"
        assert decoded(value, b"s" + bit.encode()) == (own, None, {Rejected.WRONG_SHARD: 6 - len(own)})
    path = shard_path(HASH, entries[0].tracker_id).encode()
    assert decoded(encode_slot(entries[:1]), b"s" + path) == (entries[:1], None, {})


def test_a_shard_with_entries_of_others_only_is_spoilt() -> None:
    path = shard_path(HASH, entry_of(1).tracker_id)
    other = "".join("10"[int(bit)] for bit in path)
    slot = Slot(b"s" + other[:3].encode())
    slot.add(1, encode_slot([entry_of(1)]), HASH, NOW)
    assert (slot.entries, slot.is_spoilt) == ([], True)


@pytest.mark.parametrize("depth", [0, 1, MAX_DEPTH])
def test_a_value_can_name_the_depth_of_shards(depth: int) -> None:
    value = encode_slot([entry_of(1)], depth)
    assert value == slot_value(wire(entry_of(1)), d=depth)
    assert decoded(value, b"r2") == ([entry_of(1)], depth, {})


@pytest.mark.parametrize("depth", [-1, MAX_DEPTH + 1, 2**70, b"5", [5], {b"a": 5}])
def test_a_depth_that_makes_no_sense_is_ignored(depth: object) -> None:
    assert decoded(slot_value(wire(entry_of(1)), d=depth), b"r2") == ([entry_of(1)], None, {})


def test_the_depth_of_the_newest_value_counts() -> None:
    slot = Slot(b"r2")
    for seq, depth in ((5, 3), (7, 4), (6, 9)):
        slot.add(seq, encode_slot([], depth), HASH, NOW)
    slot.add(8, encode_slot([]), HASH, NOW)
    slot.add(9, b"rubbish", HASH, NOW)
    assert slot.depth == 4


@pytest.mark.parametrize(
    ("seqs", "seq"),
    [
        ([LOCKED], LOCKED),
        ([LOCKED, 0], 0),
        ([LOCKED, 3, 4, 0], 4),
        ([LOCKED, LOCKED + 5, 4, 4], 4),
        ([LOCKED, LOCKED, LOCKED, 4, 4], LOCKED),
        ([], LOCKED),
    ],
)
def test_only_a_lock_at_most_nodes_counts(seqs: list[int], seq: int) -> None:
    slot = Slot(b"r0", LOCKED)
    slot.ignore_few_locks(seqs)
    assert (slot.seq, slot.is_locked) == (seq, seq == LOCKED)


def test_without_locks_the_greatest_number_counts() -> None:
    slot = Slot(b"r0", 7)
    slot.ignore_few_locks([0, 3, 3])
    assert slot.seq == 7
