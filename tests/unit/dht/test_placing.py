"""What is written to a slot: that it fits, that no entry is lost, and that readers find it."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.records import placing
from extensions.dht.records.keys import WINDOW
from extensions.dht.records.placing import REST, carry_over, fitting, with_own, with_own_in_window
from extensions.dht.records.slots import LOCKED, MAX_VALUE, Slot, encode_slot, fits
from extensions.entries import LIFETIME, merge
from extensions.trackers import MAX_URL, TrackerEntry
from tests.unit.dht.entries import FULL, NOW, SECOND, slot_of, unsigned

OWN = unsigned(0)
reproducible = settings(derandomize=True)


def test_our_own_entry_joins_the_others() -> None:
    assert with_own([slot_of(0, FULL[:2])], 0, OWN) == [*FULL[:2], OWN]
    # In place of an older one.
    assert with_own([slot_of(0, [*FULL[:2], unsigned(0, NOW + 60)])], 0, OWN) == [*FULL[:2], OWN]


def test_the_entries_of_later_slots_are_carried_over() -> None:
    # Readers stop at the first slot.
    slots = [slot_of(0, []), slot_of(1, SECOND[:2]), slot_of(2, FULL[:2])]
    assert with_own(slots, 0, OWN) == [OWN, *FULL[:2], *SECOND[:2]]


def test_entries_that_do_not_fit_stay_in_their_slot_behind_a_full_one() -> None:
    entries = with_own([slot_of(0, FULL[:2]), slot_of(1, SECOND)], 0, OWN)
    assert entries == [*FULL[:2], OWN, *SECOND[:3]]
    assert slot_of(0, entries).continues


def test_a_short_entry_is_carried_over_where_a_longer_one_does_not_fit() -> None:
    one, other = (unsigned(number, NOW + 9000, "wss://".ljust(MAX_URL, "a")) for number in (20, 21))
    slots = [slot_of(0, [one, *FULL[:3]]), slot_of(1, [other, SECOND[0]])]
    assert with_own(slots, 0, OWN) == [one, *FULL[:3], OWN, SECOND[0]]


def test_no_tracker_is_carried_over_twice() -> None:
    newer = unsigned(11, NOW + 8000)
    slots = [slot_of(0, FULL[:1]), slot_of(1, [FULL[0], SECOND[0], OWN]), slot_of(2, [newer])]
    assert with_own(slots, 0, OWN) == [FULL[0], OWN, newer]


def test_the_entries_of_earlier_and_locked_slots_are_not_carried_over() -> None:
    slots = [slot_of(0, FULL), slot_of(1, SECOND[:1]), slot_of(2, SECOND[1:2], LOCKED)]
    assert with_own(slots, 1, OWN) == [SECOND[0], OWN]
    assert carry_over(slots, 0, []) == SECOND[:1]


urls = st.integers(6, MAX_URL).map(lambda length: "wss://".ljust(length, "a"))
entries_of_trackers = st.builds(unsigned, st.integers(0, 30), st.integers(NOW, NOW + 9), urls)
entries_of_slots = st.lists(entries_of_trackers, max_size=7, unique_by=lambda entry: entry.tracker_id).filter(fits)


@given(st.lists(entries_of_slots, min_size=1, max_size=3), entries_of_trackers, st.integers(0, 2))
@settings(reproducible, max_examples=200)
def test_where_there_is_room_nothing_is_lost_and_readers_find_everything(
    written: list[list[TrackerEntry]], own: TrackerEntry, index: int
) -> None:
    slots = [slot_of(number, merge(entries)) for number, entries in enumerate(written)]
    index = min(index, len(slots) - 1)
    if not slots[index].has_room(own):
        return
    entries = with_own(slots, index, own)
    assert len(encode_slot(entries)) <= MAX_VALUE
    assert len({entry.tracker_id for entry in entries}) == len(entries)
    assert own in entries
    assert {*slots[index].beside(own)} <= {*entries}
    assert {*entries} - {own} <= {entry for slot in slots[index:] for entry in slot.entries}
    if not slot_of(0, entries).is_full:
        # Readers stop here.
        later = {entry.tracker_id for slot in slots[index:] for entry in slot.entries}
        assert later <= {entry.tracker_id for entry in entries}


@dataclass
class Shelf:
    """The slots before the window, of which all nodes have the same values."""

    values: list[tuple[int, list[TrackerEntry]]]

    def read(self, now: int) -> list[Slot]:
        read: list[Slot] = []
        for index, (seq, entries) in enumerate(self.values):
            read.append(replace(slot_of(index, entries, seq), entries=[one for one in entries if one.expires > now]))
            if not read[-1].continues:
                break
        return read

    def write(self, now: int, own: TrackerEntry) -> bool:
        slots = self.read(now)
        for index, slot in enumerate(slots):
            if slot.has_room(own):
                self.values[index] = (slot.seq + 1, merge(with_own(slots, index, own)))
                return True
        return False

    def found(self, now: int) -> dict[str, int]:
        """Return the trackers that a reader finds, each with the end of its entry."""
        entries = merge(entry for slot in self.read(now) for entry in slot.entries)
        return {entry.tracker_id: entry.expires for entry in entries}


writings = st.lists(st.tuples(st.integers(0, 24), st.integers(0, 900)), min_size=15, max_size=60)


@given(writings, st.lists(st.integers(6, MAX_URL), min_size=25, max_size=25))
@settings(reproducible, max_examples=60)
def test_every_entry_is_found_until_it_ends(happened: list[tuple[int, int]], lengths: list[int]) -> None:
    shelf = Shelf([(0, []), (0, []), (0, [])])
    now = NOW
    for number, later in happened:
        now += later
        before = shelf.found(now)
        own = unsigned(number, now + LIFETIME, "wss://".ljust(lengths[number], "a"))
        if shelf.write(now, own):
            assert shelf.found(now) == {**before, own.tracker_id: own.expires}
        else:
            assert shelf.found(now) == before


def test_two_slots_have_room_for_twelve_trackers() -> None:
    shelf = Shelf([(0, []), (0, [])])
    assert [shelf.write(NOW, unsigned(number)) for number in range(13)] == [True] * 12 + [False]
    assert len(shelf.found(NOW)) == 12


# The window


def signed_before(seconds: float, *numbers: int) -> list[TrackerEntry]:
    return [unsigned(number, int(NOW + LIFETIME - seconds)) for number in numbers]


def window_of(*entries: TrackerEntry) -> Slot:
    return slot_of(2, merge(entries))


@pytest.mark.parametrize("age", [0, 1, 3, 7000])
def test_while_the_window_has_room_nothing_is_replaced(age: float) -> None:
    others = signed_before(age, 1, 2, 3, 4, 5)
    assert with_own_in_window(window_of(*others), OWN, 4, NOW) == [*others, OWN]


def test_in_a_full_window_the_entry_that_ends_first_makes_room() -> None:
    others = [entry for number in range(1, 7) for entry in signed_before(10 * number, number)]
    assert with_own_in_window(window_of(*others), OWN, 4, NOW) == [*others[:5], OWN]
    # As many as are necessary.
    longest = [unsigned(number, NOW + 7000 + number, "wss://".ljust(MAX_URL, "a")) for number in range(11, 13)]
    full = [*longest[::-1], *others[:3]]
    assert with_own_in_window(window_of(*others[:3], *longest), OWN, 4, NOW) == [*others[:3], longest[1], OWN]
    assert not fits([*full, OWN])


@pytest.mark.parametrize(("age", "rests"), [(0, True), (2.9, True), (REST, False), (100, False), (-2.9, True)])
def test_the_window_rests_after_each_write(age: float, rests: bool) -> None:
    others = [*signed_before(500, 1, 2, 3, 4, 5), replace(unsigned(6), expires=NOW + LIFETIME)]
    assert (with_own_in_window(window_of(*others), OWN, 4, NOW + age) is None) is rests


@pytest.mark.parametrize("ahead", [-REST, -10, -900])
def test_a_clock_that_is_ahead_does_not_stop_the_window(ahead: float) -> None:
    others = [*signed_before(500, 1, 2, 3, 4, 5), *signed_before(ahead, 6)]
    assert with_own_in_window(window_of(*others), OWN, 4, NOW) is not None


def test_our_own_entry_does_not_make_the_window_rest() -> None:
    others = signed_before(500, 1, 2, 3, 4, 5, 6)
    fresh = unsigned(0, NOW + LIFETIME - 1)
    assert with_own_in_window(window_of(*others[:5], fresh), OWN, 4, NOW) == [*others[:5], OWN]


def test_a_locked_window_is_not_written() -> None:
    assert with_own_in_window(slot_of(2, [], LOCKED), OWN, 4, NOW) is None


@given(entries_of_slots, entries_of_trackers, st.integers(0, 20))
@settings(reproducible, max_examples=100)
def test_what_is_written_to_the_window_fits(written: list[TrackerEntry], own: TrackerEntry, depth: int) -> None:
    slot = window_of(*written)
    entries = with_own_in_window(slot, own, depth, NOW + LIFETIME)
    assert entries is not None
    assert len(encode_slot(entries, depth)) <= MAX_VALUE
    assert own in entries
    assert {*entries} - {own} <= {*slot.beside(own)}
    lost = {*slot.beside(own)} - {*entries}
    assert max((one.expires for one in lost), default=0) <= min(
        (e.expires for e in entries if e != own), default=NOW + 9
    )


def test_the_choice_among_the_entries_of_very_many_values_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each node near the slot may have another value. No task of the tracker can run during the choice."""
    others = [replace(unsigned(1, NOW + 7000 - number), tracker_id=f"{number:064x}") for number in range(1, 1401)]
    encoded = []

    def counted(entries: list[TrackerEntry], depth: int | None = None) -> bool:
        encoded.extend(entries)
        return fits(entries, depth)

    monkeypatch.setattr(placing, "fits", counted)
    window = Slot(WINDOW, 1, others)
    assert with_own_in_window(window, OWN, 4, NOW) == [*others[:5], OWN]
    assert fitting(others) == others[:6]
    assert len(encoded) < 2 * len(others)
