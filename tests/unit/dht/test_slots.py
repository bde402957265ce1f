"""Slots: where an entry is written, and that readers find it and the entries of other trackers."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.records.slots import LOCKED, MAX_VALUE, Slot, encode_slot, place
from extensions.entries import MAX_ENTRY, Rejected, merge
from extensions.trackers import MAX_URL, TrackerEntry
from tests.unit.dht.entries import FULL, HASH, NOW, SECOND, entry_of, slot_of, slot_value, unsigned, wire

OWN = unsigned(0)
reproducible = settings(derandomize=True)


# The state of one slot


def test_the_values_of_several_nodes_are_merged() -> None:
    slot = Slot(0)
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
    slot = Slot(0)
    slot.add(1, bytes(room), HASH, NOW)
    assert not slot.is_full
    slot.add(1, bytes(room + 1), HASH, NOW)
    slot.add(2, encode_slot([]), HASH, NOW)
    assert slot.is_full
    assert slot.continues


def test_a_slot_is_full_even_if_no_node_has_all_of_its_entries() -> None:
    entries = [entry_of(number) for number in range(1, 7)]
    slot = Slot(0)
    for half in (entries[:3], entries[3:]):
        slot.add(1, encode_slot(half), HASH, NOW)
    # The next writer has no room here, and readers must find its entry in the next slot.
    assert place([slot, Slot(1)], OWN) == (1, [OWN])
    assert slot.is_full


@pytest.mark.parametrize("value", [None, 5, [b"x" * 900], {b"e": b"x" * 900}])
def test_a_value_that_is_not_a_string_has_no_size(value: object) -> None:
    slot = Slot(0)
    assert slot.add(1, value, HASH, NOW) == {Rejected.NOT_A_STRING: 1}
    assert (slot.is_spoilt, slot.is_full) == (True, False)


@pytest.mark.parametrize("passed", [30, 150], ids=["some have ended", "all have ended"])
def test_a_slot_that_was_full_leads_to_the_next_until_it_is_written_again(passed: float) -> None:
    ages = [7100, 7110, 7180, 7180, 7180, 7180]
    value = encode_slot([entry_of(number, age) for number, age in enumerate(ages, 1)])
    writers, readers = Slot(0), Slot(0)
    writers.add(1, value, HASH, NOW)
    placed = place([writers, Slot(1)], entry_of(7))
    assert placed == (1, [entry_of(7)])
    readers.add(1, value, HASH, NOW + passed)
    assert readers.continues
    assert not readers.is_spoilt


# The slot to write


def test_the_first_slot_with_room_is_written() -> None:
    assert place([Slot(0)], OWN) == (0, [OWN])
    written = [slot_of(0, FULL), slot_of(1, SECOND[:2]), Slot(2)]
    assert place(written, OWN) == (1, [*SECOND[:2], OWN])


def test_the_entries_of_later_slots_are_carried_over() -> None:
    # Readers stop at the first slot.
    assert place([slot_of(0, []), slot_of(1, SECOND[:2]), slot_of(2, FULL[:2])], OWN) == (
        0,
        [OWN, *FULL[:2], *SECOND[:2]],
    )


def test_entries_that_do_not_fit_stay_in_their_slot_behind_a_full_one() -> None:
    placed = place([slot_of(0, FULL[:2]), slot_of(1, SECOND)], OWN)
    assert placed == (0, [*FULL[:2], OWN, *SECOND[:3]])
    assert slot_of(*placed).continues


def test_a_short_entry_is_carried_over_where_a_longer_one_does_not_fit() -> None:
    one, other = (unsigned(number, NOW + 9000, "wss://".ljust(MAX_URL, "a")) for number in (20, 21))
    written = [slot_of(0, [one, *FULL[:3]]), slot_of(1, [other, SECOND[0]])]
    assert place(written, OWN) == (0, [one, *FULL[:3], OWN, SECOND[0]])


def test_no_tracker_is_carried_over_twice() -> None:
    newer = unsigned(11, NOW + 8000)
    placed = place([slot_of(0, FULL[:1]), slot_of(1, [FULL[0], SECOND[0], OWN]), slot_of(2, [newer])], OWN)
    assert placed == (0, [FULL[0], OWN, newer])


def test_the_entries_of_earlier_and_locked_slots_are_not_carried_over() -> None:
    written = [slot_of(0, FULL), slot_of(1, SECOND[:1]), slot_of(2, SECOND[1:2], LOCKED)]
    assert place(written, OWN) == (1, [SECOND[0], OWN])


def test_our_own_entry_is_replaced() -> None:
    written = [slot_of(0, [*FULL[:5], unsigned(0, NOW + 60)]), Slot(1)]
    assert place(written, OWN) == (0, [*FULL[:5], OWN])


def test_a_spoilt_slot_is_overwritten() -> None:
    spoilt = Slot(0)
    assert spoilt.add(7, b"rubbish", HASH, NOW) == {Rejected.NOT_BENCODE: 1}
    assert spoilt.is_spoilt
    assert spoilt.continues
    assert place([spoilt, slot_of(1, SECOND)], OWN) == (0, [OWN, *SECOND[:5]])


def test_locked_slots_are_not_written() -> None:
    assert place([Slot(0, LOCKED), Slot(1, LOCKED - 1), Slot(2)], OWN) == (1, [OWN])
    assert place([Slot(0, LOCKED), Slot(1, 2**63), Slot(2, LOCKED)], OWN) is None


def test_when_all_slots_are_full_the_entry_that_ends_first_makes_room() -> None:
    written = [slot_of(0, FULL), slot_of(1, SECOND), slot_of(2, [unsigned(9, NOW + 1)], LOCKED)]
    assert place(written, OWN) == (1, [*SECOND[:5], OWN])


urls = st.integers(6, MAX_URL).map(lambda length: "wss://".ljust(length, "a"))
unsigned_entries = st.builds(unsigned, st.integers(0, 30), st.integers(NOW, NOW + 9), urls)
entries_of_slots = st.lists(unsigned_entries, max_size=7, unique_by=lambda entry: entry.tracker_id)
states = st.tuples(
    st.integers(-1, 3) | st.sampled_from([LOCKED - 1, LOCKED, 2**70]),
    entries_of_slots,
    st.integers(0, MAX_VALUE),
    st.booleans(),
)
records = st.lists(states, min_size=1, max_size=3).map(
    lambda made: [
        Slot(n, seq, merge(entries), max(size, len(slot_value(*map(wire, entries)))), faults)
        for n, (seq, entries, size, faults) in enumerate(made)
    ]
)


@given(records, unsigned_entries)
@settings(reproducible, max_examples=200)
def test_a_written_entry_fits_and_is_found(written: list[Slot], own: TrackerEntry) -> None:
    usable = [slot for slot in written if not slot.is_locked]
    chosen = place(written, own)
    if chosen is None:
        assert not usable
        return
    index, entries = chosen
    assert written[index] in usable
    assert len(encode_slot(entries)) <= MAX_VALUE
    assert len({entry.tracker_id for entry in entries}) == len(entries)
    assert [entry for entry in entries if entry.tracker_id == own.tracker_id] == [own]
    others_in = {slot.index: [e for e in slot.entries if e.tracker_id != own.tracker_id] for slot in usable}
    assert {*entries} - {own} <= {entry for at, others in others_in.items() if at >= index for entry in others}
    if lost := {*others_in[index]} - {*entries}:
        # No slot had room, and no entry is lost that ends later than one that stays.
        assert all(len(slot_value(*map(wire, [*others, own]))) > MAX_VALUE for others in others_in.values())
        assert min(entry.expires for entry in lost) == min(e.expires for others in others_in.values() for e in others)
        assert max(e.expires for e in lost) <= min((e.expires for e in entries if e != own), default=NOW + 9)
    elif not slot_of(*chosen).is_full:
        # Readers stop here.
        later = {entry.tracker_id for at, others in others_in.items() if at > index for entry in others}
        assert later <= {entry.tracker_id for entry in entries}
    assert all(slot.continues for slot in written[:index]), "readers do not get there"


@dataclass
class Shelf:
    """A record of which all nodes have the same values."""

    values: list[tuple[int, list[TrackerEntry]]]

    def read(self, now: int) -> list[Slot]:
        read: list[Slot] = []
        for index, (seq, entries) in enumerate(self.values):
            read.append(replace(slot_of(index, entries, seq), entries=[one for one in entries if one.expires > now]))
            if not read[-1].continues:
                break
        return read

    def found(self, now: int) -> dict[str, int]:
        """Return the trackers that a reader finds, each with the end of its entry."""
        entries = merge(entry for slot in self.read(now) for entry in slot.entries)
        return {entry.tracker_id: entry.expires for entry in entries}


writings = st.lists(st.tuples(st.integers(0, 24), st.integers(0, 900)), min_size=15, max_size=60)


@given(writings, st.lists(st.integers(6, MAX_URL), min_size=25, max_size=25))
@settings(reproducible, max_examples=60)
def test_while_there_is_room_every_entry_is_found_until_it_ends(
    happened: list[tuple[int, int]], lengths: list[int]
) -> None:
    shelf = Shelf([(0, []), (0, []), (0, [])])
    now = NOW
    for number, later in happened:
        now += later
        before = shelf.found(now)
        own = unsigned(number, now + 7200, "wss://".ljust(lengths[number], "a"))
        placed = place(shelf.read(now), own)
        assert placed
        index, entries = placed
        lost = {one.tracker_id for one in shelf.read(now)[index].entries} - {one.tracker_id for one in entries}
        shelf.values[index] = (shelf.values[index][0] + 1, merge(entries))
        expected = {**before, own.tracker_id: own.expires}
        assert {one: end for one, end in shelf.found(now).items() if one not in lost} == {
            one: end for one, end in expected.items() if one not in lost
        }


def test_a_record_has_room_for_three_full_slots() -> None:
    shelf = Shelf([(0, []), (0, []), (0, [])])
    for number in range(18):
        placed = place(shelf.read(NOW), unsigned(number))
        assert placed
        shelf.values[placed[0]] = (1, merge(placed[1]))
    assert len(shelf.found(NOW)) == 18
