"""A record's slots together: where one writes to be found, and that everybody else still is."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.krpc import messages
from extensions.dht.krpc.client import Client, Found, Stored
from extensions.dht.krpc.messages import Item
from extensions.dht.krpc.schedule import Job
from extensions.dht.records import record, slots
from extensions.dht.records.record import LOCKED, MAX_ENTRY, MAX_URL, MAX_VALUE, SALTS, Entry, Rejected, Slot
from extensions.dht.records.slots import Reading
from tests.unit.dht.entries import HASH, NOW, entry_of, identity, slot_value, unsigned, wire

DAY = record.day_of(NOW)
OWN = unsigned(0)
FULL = [unsigned(number, NOW + 7200 - number) for number in range(1, 7)]
LATER = [unsigned(number, NOW + 7200 - number) for number in range(11, 17)]

reproducible = settings(derandomize=True)


def slot_of(index: int, entries: list[Entry], seq: int = 1) -> Slot:
    """What is read of a slot that has these."""
    return Slot(index, seq, entries, len(record.encode_slot(entries)))


# One slot, as it was read


def test_what_several_nodes_have_of_a_slot_counts_together() -> None:
    slot = Slot(0)
    assert not slot.says_go_on
    values = [record.encode_slot([entry_of(1), entry_of(2, 60)]), record.encode_slot([entry_of(2), entry_of(3)])]
    assert slot.add(4, values[0], HASH, NOW) == {}
    assert slot.add(3, values[1], HASH, NOW) == {}
    assert (slot.seq, set(slot.entries)) == (4, {entry_of(1), entry_of(2), entry_of(3)})
    slot.add(2, b"rubbish", HASH, NOW)
    assert not slot.is_spoilt
    assert slot.size == len(values[0])


def test_a_slot_is_full_by_the_longest_value_whatever_that_is() -> None:
    room = MAX_VALUE - MAX_ENTRY
    slot = Slot(0)
    slot.add(1, bytes(room), HASH, NOW)
    assert not slot.is_full
    slot.add(1, bytes(room + 1), HASH, NOW)
    slot.add(2, record.encode_slot([]), HASH, NOW)
    assert slot.is_full
    assert slot.says_go_on


def test_a_slot_is_full_also_if_no_node_has_all_that_is_in_it() -> None:
    entries = [entry_of(number) for number in range(1, 7)]
    slot = Slot(0)
    for half in (entries[:3], entries[3:]):
        slot.add(1, record.encode_slot(half), HASH, NOW)
    # Whoever writes next has no room here, and what it writes elsewhere must be read.
    assert record.place([slot, Slot(1)], OWN) == (1, [OWN])
    assert slot.is_full


@pytest.mark.parametrize("value", [None, 5, [b"x" * 900], {b"e": b"x" * 900}])
def test_what_is_no_string_has_no_length(value: object) -> None:
    slot = Slot(0)
    assert slot.add(1, value, HASH, NOW) == {Rejected.NOT_A_STRING: 1}
    assert (slot.is_spoilt, slot.is_full) == (True, False)


@pytest.mark.parametrize("passed", [30, 150], ids=["some have ended", "all have ended"])
def test_a_slot_that_was_full_leads_to_the_next_until_it_is_written_again(passed: float) -> None:
    ages = [7100, 7110, 7180, 7180, 7180, 7180]
    value = record.encode_slot([entry_of(number, age) for number, age in enumerate(ages, 1)])
    writers, readers = Slot(0), Slot(0)
    writers.add(1, value, HASH, NOW)
    place = record.place([writers, Slot(1)], entry_of(7))
    assert place == (1, [entry_of(7)])
    readers.add(1, value, HASH, NOW + passed)
    assert readers.says_go_on
    assert not readers.is_spoilt


# Where to write


def test_the_first_slot_with_room_is_written() -> None:
    assert record.place([Slot(0)], OWN) == (0, [OWN])
    written = [slot_of(0, FULL), slot_of(1, LATER[:2]), Slot(2)]
    assert record.place(written, OWN) == (1, [*LATER[:2], OWN])


def test_what_later_slots_have_comes_along() -> None:
    # Readers will go no further than to the first slot.
    assert record.place([slot_of(0, []), slot_of(1, LATER[:2]), slot_of(2, FULL[:2])], OWN) == (
        0,
        [OWN, *FULL[:2], *LATER[:2]],
    )


def test_what_does_not_fit_stays_behind_a_full_slot() -> None:
    place = record.place([slot_of(0, FULL[:2]), slot_of(1, LATER)], OWN)
    assert place == (0, [*FULL[:2], OWN, *LATER[:3]])
    assert slot_of(*place).says_go_on


def test_a_shorter_one_comes_along_where_a_longer_does_not_fit() -> None:
    one, other = (unsigned(number, NOW + 9000, "wss://".ljust(MAX_URL, "a")) for number in (20, 21))
    written = [slot_of(0, [one, *FULL[:3]]), slot_of(1, [other, LATER[0]])]
    assert record.place(written, OWN) == (0, [one, *FULL[:3], OWN, LATER[0]])


def test_nobody_comes_along_twice() -> None:
    newer = unsigned(11, NOW + 8000)
    place = record.place([slot_of(0, FULL[:1]), slot_of(1, [FULL[0], LATER[0], OWN]), slot_of(2, [newer])], OWN)
    assert place == (0, [FULL[0], OWN, newer])


def test_what_earlier_slots_and_locked_ones_have_is_left_there() -> None:
    written = [slot_of(0, FULL), slot_of(1, LATER[:1]), slot_of(2, LATER[1:2], LOCKED)]
    assert record.place(written, OWN) == (1, [LATER[0], OWN])


def test_ones_own_entry_is_replaced() -> None:
    written = [slot_of(0, [*FULL[:5], unsigned(0, NOW + 60)]), Slot(1)]
    assert record.place(written, OWN) == (0, [*FULL[:5], OWN])


def test_a_spoilt_slot_is_healed() -> None:
    spoilt = Slot(0)
    assert spoilt.add(7, b"rubbish", HASH, NOW) == {Rejected.NOT_BENCODE: 1}
    assert spoilt.is_spoilt
    assert spoilt.says_go_on
    assert record.place([spoilt, slot_of(1, LATER)], OWN) == (0, [OWN, *LATER[:5]])


def test_locked_slots_are_left_alone() -> None:
    assert record.place([Slot(0, LOCKED), Slot(1, LOCKED - 1), Slot(2)], OWN) == (1, [OWN])
    assert record.place([Slot(0, LOCKED), Slot(1, 2**63), Slot(2, LOCKED)], OWN) is None


def test_when_all_slots_are_full_the_entry_that_ends_first_makes_room() -> None:
    written = [slot_of(0, FULL), slot_of(1, LATER), slot_of(2, [unsigned(9, NOW + 1)], LOCKED)]
    assert record.place(written, OWN) == (1, [*LATER[:5], OWN])


urls = st.integers(6, MAX_URL).map(lambda length: "wss://".ljust(length, "a"))
unsigned_ones = st.builds(unsigned, st.integers(0, 30), st.integers(NOW, NOW + 9), urls)
entries_of_slots = st.lists(unsigned_ones, max_size=7, unique_by=lambda entry: entry.tracker_id)
states = st.tuples(
    st.integers(-1, 3) | st.sampled_from([LOCKED - 1, LOCKED, 2**70]),
    entries_of_slots,
    st.integers(0, MAX_VALUE),
    st.booleans(),
)
slots_of_records = st.lists(states, min_size=1, max_size=3).map(
    lambda made: [
        Slot(n, seq, record.merge(entries), max(size, len(slot_value(*map(wire, entries)))), faults)
        for n, (seq, entries, size, faults) in enumerate(made)
    ]
)


@given(slots_of_records, unsigned_ones)
@settings(reproducible, max_examples=200)
def test_what_is_written_fits_and_is_found(written: list[Slot], own: Entry) -> None:
    usable = [slot for slot in written if not slot.is_locked]
    chosen = record.place(written, own)
    if chosen is None:
        assert not usable
        return
    index, entries = chosen
    assert written[index] in usable
    assert len(record.encode_slot(entries)) <= MAX_VALUE
    assert len({entry.tracker_id for entry in entries}) == len(entries)
    assert [entry for entry in entries if entry.tracker_id == own.tracker_id] == [own]
    foreign = {slot.index: [e for e in slot.entries if e.tracker_id != own.tracker_id] for slot in usable}
    assert {*entries} - {own} <= {entry for at, others in foreign.items() if at >= index for entry in others}
    if lost := {*foreign[index]} - {*entries}:
        # Nobody had room, and nobody is lost who lasts longer than who stays.
        assert all(len(slot_value(*map(wire, [*others, own]))) > MAX_VALUE for others in foreign.values())
        assert min(entry.expires for entry in lost) == min(e.expires for others in foreign.values() for e in others)
        assert max(e.expires for e in lost) <= min((e.expires for e in entries if e != own), default=NOW + 9)
    elif not slot_of(*chosen).is_full:
        # Readers go no further.
        later = {entry.tracker_id for at, others in foreign.items() if at > index for entry in others}
        assert later <= {entry.tracker_id for entry in entries}
    assert all(slot.says_go_on for slot in written[:index]), "readers do not get there"


@dataclass
class Shelf:
    """A record of which every node has the same, at any time."""

    values: list[tuple[int, list[Entry]]]

    def read(self, now: int) -> list[Slot]:
        read: list[Slot] = []
        for index, (seq, entries) in enumerate(self.values):
            read.append(replace(slot_of(index, entries, seq), entries=[one for one in entries if one.expires > now]))
            if not read[-1].says_go_on:
                break
        return read

    def found(self, now: int) -> dict[str, int]:
        """Who is found, and until when."""
        return {entry.tracker_id: entry.expires for entry in Reading(HASH, DAY, self.read(now)).entries}


writings = st.lists(st.tuples(st.integers(0, 24), st.integers(0, 900)), min_size=15, max_size=60)


@given(writings, st.lists(st.integers(6, MAX_URL), min_size=25, max_size=25))
@settings(reproducible, max_examples=60)
def test_while_there_is_room_whoever_has_written_is_found_to_the_end(
    happened: list[tuple[int, int]], lengths: list[int]
) -> None:
    shelf = Shelf([(0, []), (0, []), (0, [])])
    now = NOW
    for who, later in happened:
        now += later
        before = shelf.found(now)
        own = unsigned(who, now + 7200, "wss://".ljust(lengths[who], "a"))
        place = record.place(shelf.read(now), own)
        assert place
        index, entries = place
        lost = {one.tracker_id for one in shelf.read(now)[index].entries} - {one.tracker_id for one in entries}
        shelf.values[index] = (shelf.values[index][0] + 1, record.merge(entries))
        expected = {**before, own.tracker_id: own.expires}
        assert {one: end for one, end in shelf.found(now).items() if one not in lost} == {
            one: end for one, end in expected.items() if one not in lost
        }


def test_a_record_has_room_for_three_full_slots() -> None:
    shelf = Shelf([(0, []), (0, []), (0, [])])
    for who in range(18):
        place = record.place(shelf.read(NOW), unsigned(who))
        assert place
        shelf.values[place[0]] = (1, record.merge(place[1]))
    assert len(shelf.found(NOW)) == 18


# What a reading says


def test_a_healthy_record_is_no_trouble() -> None:
    assert not Reading(HASH, DAY, []).is_troubled
    assert not Reading(HASH, DAY, [Slot(0)]).is_troubled
    assert not Reading(HASH, DAY, [slot_of(0, FULL), slot_of(1, LATER), slot_of(2, FULL[:5])]).is_troubled


@pytest.mark.parametrize("bad", [Slot(1, LOCKED), Slot(1, 1, has_faults=True)], ids=["locked", "spoilt"])
def test_a_slot_that_somebody_has_made_unusable_is_trouble(bad: Slot) -> None:
    assert Reading(HASH, DAY, [slot_of(0, FULL), bad, Slot(2)]).is_troubled


def test_a_crowded_record_is_trouble() -> None:
    assert Reading(HASH, DAY, [slot_of(index, FULL) for index in range(3)]).is_troubled
    # There may be more than was read, or not: with one slot unread nobody knows.
    assert not Reading(HASH, DAY, [slot_of(index, FULL) for index in range(2)]).is_troubled


def test_a_reading_has_the_freshest_entry_of_each_tracker() -> None:
    newer = replace(FULL[3], expires=NOW + 9000)
    assert Reading(HASH, DAY, [slot_of(0, FULL), slot_of(1, [newer])]).entries == [newer, *FULL[:3], *FULL[4:]]


class Store:
    """In place of a client: one node for each slot."""

    def __init__(self, *values: bytes, seq: int = 1) -> None:
        self.items: dict[bytes, list[Item]] = {salt: [] for salt in SALTS}
        self.key = record.record_key(HASH, DAY)
        self.asked: list[bytes] = []
        for salt, value in zip(SALTS, values, strict=False):
            self.add(salt, seq, value)

    def add(self, salt: bytes, seq: int, value: bytes) -> None:
        signature = messages.sign_item(self.key, salt, seq, value)
        self.items[salt].append(Item(self.key.public_key().public_bytes_raw(), signature, seq, value))

    async def get(self, public_key: bytes, salt: bytes, job: Job, on_item: Callable[[Item], None]) -> Found:
        assert public_key == self.key.public_key().public_bytes_raw()
        self.asked.append(salt)
        for item in self.items[salt]:
            # Most nodes have the same.
            on_item(item)
            on_item(item)
        return Found()

    async def put(self, found: Found, key: Ed25519PrivateKey, salt: bytes, seq: int, value: bytes) -> Stored:
        assert key is self.key
        self.items[salt] = []
        self.add(salt, seq, value)
        return Stored(taken=1)

    async def read(self, now: float = NOW) -> tuple[Reading, dict[Rejected, int], list[tuple[Entry, str]]]:
        """The reading, what was ignored, and who was told of."""
        rejected: Counter[Rejected] = Counter()
        told: list[tuple[Entry, str]] = []
        reading = await slots.read(
            self.client, HASH, DAY, Job(), lambda: now, rejected, lambda entry, where: told.append((entry, where))
        )
        return reading, dict(rejected), told

    @property
    def client(self) -> Client:
        return cast(Client, self)


async def test_an_empty_record_is_read_and_written() -> None:
    store = Store()
    reading, rejected, told = await store.read()
    assert (store.asked, reading.entries, rejected, told) == ([b"r0"], [], {}, [])
    assert await slots.write(store.client, reading, entry_of(1)) == Stored(taken=1)
    assert [item.seq for item in store.items[b"r0"]] == [1]
    assert (await store.read())[2] == [(entry_of(1), "r0")]


async def test_each_entry_is_told_once_with_the_slot_it_is_in() -> None:
    six = [entry_of(number) for number in range(1, 7)]
    store = Store(record.encode_slot(six), record.encode_slot([entry_of(7)]))
    store.add(b"r0", 2, record.encode_slot(six[1:]))
    reading, rejected, told = await store.read()
    assert store.asked == [b"r0", b"r1"]
    assert sorted(told, key=lambda one: int(one[0].tracker_id, 16)) == sorted(
        [*((entry, "r0") for entry in six), (entry_of(7), "r1")], key=lambda one: int(one[0].tracker_id, 16)
    )
    assert (rejected, reading.slots[0].seq) == ({}, 2)


async def test_a_record_of_strangers_is_read_to_the_end_and_is_trouble() -> None:
    store = Store(*(record.encode_slot([entry_of(10 * slot + n) for n in range(6)]) for slot in range(3)))
    reading, _, told = await store.read()
    assert (store.asked, len(told), reading.is_troubled) == ([*SALTS], 18, True)
    # It still is when all of them have ended.
    assert (await store.read(NOW + 7200))[0].is_troubled


async def test_a_locked_record_is_not_written() -> None:
    store = Store(b"x", b"x", b"x", seq=LOCKED)
    reading, rejected, _ = await store.read()
    assert (reading.is_troubled, rejected) == (True, {Rejected.NOT_BENCODE: 3})
    assert await slots.write(store.client, reading, entry_of(1)) is None
    assert all(item.seq == LOCKED for items in store.items.values() for item in items)


async def test_an_entry_is_erased_from_wherever_it_is() -> None:
    six = [entry_of(number) for number in range(1, 7)]
    store = Store(record.encode_slot(six), record.encode_slot([entry_of(1, 60), entry_of(7)]))
    own = identity(1).public_key().public_bytes_raw().hex()
    await slots.erase(store.client, (await store.read())[0], own)
    assert [item.seq for items in store.items.values() for item in items] == [2, 2]
    assert own not in {entry.tracker_id for entry in (await store.read())[0].entries}
